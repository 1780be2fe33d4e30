//! A job that loses its coordinator, as real processes: the workers train on, the next coordinator
//! takes the run over, and the weights are those of a quiet run.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[expect(dead_code, reason = "the other tests use the rest")]
mod job;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use convoy_common::exit;
use job::{Job, Place, convoy};
use rustix::process::{Pid, Signal, kill_process};

/// One process of a job without a launcher.
struct Process {
    child: Child,
    stderr: PathBuf,
}

impl Process {
    /// Starts a program whose lines go to a file of that name.
    fn start(place: &Place, name: &str, program: &Path, arguments: &[&str]) -> Self {
        let stderr = place.path(&format!("stderr-{name}"));
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(fs::File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        Self { child, stderr }
    }

    fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// Waits until it has told this.
    fn tells(&mut self, what: &str) {
        self.tells_so_often(what, 1);
    }

    /// The same so many times.
    fn tells_so_often(&mut self, what: &str, times: usize) {
        let start = Instant::now();
        while self.stderr().matches(what).count() < times {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < job::SOON,
                "never told '{what}' ({ended:?}):\n{}",
                self.stderr()
            );
            sleep(Duration::from_millis(10));
        }
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// It ends with this exit code; none if a signal ended it.
    fn ends_with(&mut self, code: Option<u8>) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < job::SOON, "it does not end:\n{}", self.stderr());
            sleep(Duration::from_millis(10));
        };
        assert_eq!(status.code(), code.map(i32::from), "{}", self.stderr());
    }
}

/// A test that fails leaves nobody.
impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// More than any test waits for.
const LONG: [&str; 2] = ["--set", "train.epochs=50000"];

/// The child of the launcher whose command line names that, which there is one of.
fn child(job: &Job, name: &str) -> Pid {
    let found = job.children(name);
    assert_eq!(found.len(), 1, "{found:?}");
    Pid::from_raw(i32::try_from(found[0]).unwrap()).unwrap()
}

/// The run's last checkpoint is that of a run of one worker to which nothing happened.
fn is_like_a_quiet_run(place: &Place, run: &str) {
    let rough = place.checkpoint(run);
    assert!(rough["step"].as_u64().unwrap() > 0);
    let steps = format!("train.max_steps={}", rough["step"]);
    let options = ["--workers", "1", LONG[0], LONG[1], "--set", &steps];
    let mut quiet = place.launch(&place.config("quiet"), &options);
    quiet.ends_with(exit::OK);
    let quiet = place.checkpoint("quiet");
    assert_eq!((&quiet["step"], &quiet["state_digest"]), (&rough["step"], &rough["state_digest"]));
    place.convoy(&["checkpoints", "verify", &place.url(run)]);
}

/// A coordinator of the run, once it listens.
fn serve(place: &Place, config: &Path, name: &str, options: &[&str]) -> (Process, String) {
    let file = place.path(&format!("address-{name}"));
    let mut arguments = vec!["serve", config.to_str().unwrap(), LONG[0], LONG[1]];
    arguments.extend(["--address-file", file.to_str().unwrap()]);
    arguments.extend(options);
    let process = Process::start(place, name, &convoy(), &arguments);
    (process, listens(&file))
}

fn listens(file: &PathBuf) -> String {
    let start = Instant::now();
    loop {
        if let Ok(text) = fs::read_to_string(file) {
            return format!("http://{}", text.trim());
        }
        assert!(start.elapsed() < job::SOON, "the coordinator does not come up");
        sleep(Duration::from_millis(10));
    }
}

fn join(place: &Place, url: &str, name: &str) -> Process {
    let arguments = ["join", "--coordinator", url, "--name", name, "--lanes", "1"];
    Process::start(place, name, Path::new(env!("CARGO_BIN_EXE_convoy-worker")), &arguments)
}

#[test]
fn a_coordinator_that_is_killed_is_started_again_and_training_does_not_pause() {
    let place = Place::new();
    let config = place.config("killed");
    let often = ["--set", "checkpoint.every_steps=20"];
    let mut job = place.launch(&config, &[LONG, often].concat());
    job.tells("progress");
    for times in 1..=2 {
        kill_process(child(&job, "serve"), Signal::KILL).unwrap();
        job.tells_so_often("coordinator died and is started again", times);
        job.tells_so_often("adopted the running generation", times);
        // It publishes again.
        let before = job.stderr().matches("checkpoint published").count();
        job.tells_so_often("checkpoint published", before + 1);
    }
    assert_eq!(job.stderr().matches("generation formed").count(), 1, "{}", job.stderr());
    job.send(Signal::INT);
    job.ends_with(exit::STOPPED);
    is_like_a_quiet_run(&place, "killed");
}

#[test]
fn the_coordinator_and_a_worker_lost_together_cost_no_step() {
    let place = Place::new();
    let config = place.config("both");
    let mut job = place.launch(&config, &LONG);
    job.tells("progress");
    for name in ["serve", "worker-1"] {
        kill_process(child(&job, name), Signal::KILL).unwrap();
    }
    job.tells("what is left of the running generation");
    // It is back, and has the state of the one that was left.
    job.tells("took over the state of a peer");
    let before = job.stderr().matches("progress").count();
    job.tells_so_often("progress", before + 1);
    assert!(!job.stderr().contains("restored the state"), "{}", job.stderr());
    job.send(Signal::INT);
    job.ends_with(exit::STOPPED);
    is_like_a_quiet_run(&place, "both");
}

#[test]
fn a_coordinator_that_comes_back_finds_that_it_has_been_replaced() {
    let place = Place::new();
    let config = place.config("paused");
    let (mut old, url) = serve(&place, &config, "old", &["--set", "cluster.liveness_timeout=3s"]);
    let mut workers = ["a", "b"].map(|name| join(&place, &url, name));
    old.tells("progress");
    old.send(Signal::STOP);
    let (mut new, address) =
        serve(&place, &config, "new", &["--set", "cluster.liveness_timeout=3s"]);
    new.tells("adopted the running generation");
    new.tells("progress");
    old.send(Signal::CONT);
    old.ends_with(Some(exit::SUPERSEDED));
    let told = old.stderr();
    assert!(told.contains(address.trim_start_matches("http://")), "{told}");
    assert!(told.contains("convoy status"), "{told}");
    // A third one finds that the second lives.
    let third = ["serve", config.to_str().unwrap(), LONG[0], LONG[1]];
    Process::start(&place, "third", &convoy(), &third).ends_with(Some(exit::SUPERSEDED));

    // The new one is lost in its turn, and there is none for a while.
    new.send(Signal::KILL);
    new.ends_with(None);
    workers.iter_mut().for_each(|it| it.tells("the coordinator is gone"));
    let (mut last, _) = serve(&place, &config, "last", &["--set", "cluster.liveness_timeout=3s"]);
    last.tells("adopted the running generation");
    last.tells("progress");
    last.send(Signal::INT);
    last.ends_with(Some(exit::STOPPED));
    workers.iter_mut().for_each(|it| it.ends_with(Some(exit::STOPPED)));
    is_like_a_quiet_run(&place, "paused");
}

#[test]
fn workers_that_no_coordinator_comes_for_stop_together_and_one_that_is_asked_to_go_goes() {
    let place = Place::new();
    let config = place.config("deserted");
    let liveness = ["--set", "cluster.liveness_timeout=2s"];
    let short = [&liveness[..], &["--set", "cluster.coordinator_timeout=4s"]].concat();
    let (mut first, url) = serve(&place, &config, "first", &short);
    let mut workers = ["a", "b"].map(|name| join(&place, &url, name));
    first.tells("progress");
    first.send(Signal::KILL);
    first.ends_with(None);
    for worker in &mut workers {
        worker.ends_with(Some(exit::UNAVAILABLE));
        let told = worker.stderr();
        assert!(told.contains("no coordinator came in place of the one at"), "{told}");
        assert!(told.contains("hint: start a coordinator with the same config"), "{told}");
    }
    // By the ring's agreement, and not because it broke.
    let all = workers.each_ref().map(Process::stderr).concat();
    assert!(all.contains("all workers stopped at") && !all.contains("is broken"), "{all}");

    let alone = [&liveness[..], &["--set", "cluster.workers=1"]].concat();
    let (mut second, url) = serve(&place, &config, "second", &alone);
    let mut worker = join(&place, &url, "c");
    second.tells("progress");
    second.send(Signal::KILL);
    second.ends_with(None);
    worker.tells("the coordinator is gone");
    worker.send(Signal::TERM);
    worker.ends_with(Some(exit::UNAVAILABLE));
    assert!(worker.stderr().contains("leaves without a checkpoint"), "{}", worker.stderr());
}

#[test]
fn a_pause_outlives_its_coordinator_and_a_job_that_is_started_twice_goes_on_with_its_old_workers() {
    let place = Place::new();
    let config = place.config("rest");
    let (mut first, url) = serve(&place, &config, "first", &[]);
    let mut workers = ["a", "b"].map(|name| join(&place, &url, name));
    first.tells("progress");
    place.convoy(&["pause", &url, "--reason", "maintenance"]);
    first.send(Signal::KILL);
    first.ends_with(None);

    let (mut second, url) = serve(&place, &config, "second", &[]);
    let mut stranger = Process::start(
        &place,
        "stranger",
        Path::new(env!("CARGO_BIN_EXE_convoy-worker")),
        &["join", "--coordinator", &url, "--name", "a", "--lanes", "1"],
    );
    stranger.ends_with(Some(exit::UNAVAILABLE));
    second.tells("job paused");
    let status = place.convoy(&["status", &url]);
    let told = second.stderr();
    assert!(status.contains("paused") && status.contains("maintenance"), "{status}\n{told}");
    place.convoy(&["resume", &url]);
    second.tells("progress");
    let told = second.stderr();
    assert!(!told.contains("was lost") && !told.contains("took over the state"), "{told}");
    second.send(Signal::INT);
    second.ends_with(Some(exit::STOPPED));
    workers.iter_mut().for_each(|it| it.ends_with(Some(exit::STOPPED)));
    is_like_a_quiet_run(&place, "rest");
}

#[test]
fn when_everything_is_lost_at_once_the_run_goes_on_from_its_newest_checkpoint() {
    let place = Place::new();
    let config = place.config("all");
    let options = [LONG, ["--set", "checkpoint.every_steps=6"]].concat();
    let mut job = place.launch(&config, &options);
    job.tells_so_often("checkpoint published", 2);
    let children = [job.children("serve"), job.children("join")].concat();
    job.send(Signal::KILL);
    job.wait();
    job::all_gone(&children, Duration::from_secs(5));
    let step = place.checkpoint("all")["step"].as_u64().unwrap();
    let mut again = place.launch(&config, &options);
    again.tells("restored the state");
    again.tells("progress");
    again.send(Signal::INT);
    again.ends_with(exit::STOPPED);
    assert!(place.checkpoint("all")["step"].as_u64().unwrap() > step);
    is_like_a_quiet_run(&place, "all");
}
