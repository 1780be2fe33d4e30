//! `convoy serve` as a process: its options, its signals and its exit codes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[expect(dead_code, reason = "the other tests use the rest")]
mod support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use convoy_common::exit;
use convoy_common::ids::Position;
use convoy_common::pb::FinishCause;
use convoy_common::rpc::Address;
use pb::coordinator_message::Kind as Out;
use rustix::process::{Pid, Signal, kill_process};
use support::{Place, SOON, Worker, training};

use convoy_common::pb;

/// A process that is killed when the test is over.
struct Process {
    child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already, as a rule.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(place: &Place, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_convoy"));
    command.arg("serve").arg(place.config_file()).args(options);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Runs to the end, which must come soon.
fn fails(place: &Place, options: &[&str]) -> (i32, String) {
    let mut process = Process { child: command(place, options).spawn().unwrap() };
    let code = process.ends();
    (code, process.said())
}

impl Process {
    /// Starts and waits for the address.
    fn start(place: &Place, options: &[&str]) -> (Self, Address) {
        let file = place.path().join("address");
        let _ = std::fs::remove_file(&file);
        let mut command = command(place, options);
        command.arg("--address-file").arg(&file);
        let mut process = Self { child: command.spawn().unwrap() };
        let due = Instant::now() + SOON;
        loop {
            if let Ok(text) = std::fs::read_to_string(&file) {
                return (process, text.trim().parse().unwrap());
            }
            let ended = process.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < due, "{ended:?}: {}", process.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ends(&mut self) -> i32 {
        let due = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().expect("an exit code");
            }
            assert!(Instant::now() < due, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn said(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = self.child.kill();
            stderr.read_to_string(&mut text).unwrap();
        }
        text
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_stops_the_job_after_a_checkpoint_and_the_log_tells_the_story() {
    let place = Place::new().await;
    let (mut process, address) = Process::start(&place, &[]);
    let (mut a, mut b) = training(&address, "start").await;
    a.step(Position { epoch: 0, step: 1 }).await;
    process.signal(Signal::TERM);
    let last = Position { epoch: 0, step: 2 };
    for worker in [&mut a, &mut b] {
        assert!(matches!(worker.order().await, Some(Out::StopAfterStep(_))));
        worker.checkpoint(&place, last, 1.0).await;
        worker.finish(last, FinishCause::Stopped).await;
    }
    assert_eq!(a.dismissed().await, u32::from(exit::STOPPED));
    drop((a, b));
    assert_eq!(process.ends(), i32::from(exit::STOPPED));
    let said = process.said();
    for text in [
        "run opened",
        "listening",
        "worker joined",
        "generation formed",
        "training begins",
        "loss=0.7",
        "images_per_second=16",
        "SIGTERM",
        "checkpoint published",
        "000000000002/manifest.json",
        "job stopped",
    ] {
        assert!(said.contains(text), "{text} is missing:\n{said}");
    }
    let file = std::fs::read_to_string(place.path().join("logs/coordinator.log")).unwrap();
    assert!(file.contains("run opened") && file.contains("job stopped"), "{file}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_job_at_once() {
    let place = Place::new().await;
    let (mut process, address) = Process::start(&place, &[]);
    let (mut a, _b) = training(&address, "start").await;
    process.signal(Signal::INT);
    assert!(matches!(a.order().await, Some(Out::StopAfterStep(_))));
    let start = Instant::now();
    process.signal(Signal::INT);
    assert_eq!(a.dismissed().await, u32::from(exit::INTERRUPTED));
    assert_eq!(process.ends(), i32::from(exit::INTERRUPTED));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_before_training_just_ends() {
    let place = Place::new().await;
    let (mut process, address) = Process::start(&place, &["--log-format", "json"]);
    let mut a = Worker::join(&address, "a").await;
    process.signal(Signal::HUP);
    assert_eq!(a.dismissed().await, u32::from(exit::STOPPED));
    drop(a);
    assert_eq!(process.ends(), i32::from(exit::STOPPED));
    let said = process.said();
    for line in said.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|_| panic!("{line}"));
    }
    assert!(!place.path().join("logs").exists(), "whoever reads JSON keeps it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_run_has_one_coordinator_at_a_time() {
    let place = Place::new().await;
    let (mut process, address) = Process::start(&place, &[]);
    let (code, said) = fails(&place, &[]);
    assert_eq!(code, i32::from(exit::SUPERSEDED));
    assert!(said.contains(&format!("a coordinator at {address} works on the run")), "{said}");
    assert!(said.contains("hint: it needs no other"), "{said}");
    process.signal(Signal::TERM);
    assert_eq!(process.ends(), i32::from(exit::STOPPED));
    // Its address answers no more, so the next one may begin.
    let (_process, _) = Process::start(&place, &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_started_at_once_exactly_one_stays() {
    let place = Place::new().await;
    for _ in 0..3 {
        let mut all: Vec<Process> =
            (0..3).map(|_| Process { child: command(&place, &[]).spawn().unwrap() }).collect();
        let due = Instant::now() + SOON;
        let mut ended = Vec::new();
        while ended.len() < 2 {
            assert!(Instant::now() < due, "they do not come to terms: {ended:?}");
            std::thread::sleep(Duration::from_millis(20));
            all.retain_mut(|it| match it.child.try_wait().unwrap() {
                Some(status) => {
                    ended.push(status.code());
                    false
                }
                None => true,
            });
        }
        assert_eq!(ended, [Some(i32::from(exit::SUPERSEDED)); 2]);
        // The other one does not give way.
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(all[0].child.try_wait().unwrap(), None);
        all[0].signal(Signal::TERM);
        assert_eq!(all[0].ends(), i32::from(exit::STOPPED));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_told_with_a_hint_and_leaves_no_run() {
    let place = Place::new().await;
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let taken = format!("127.0.0.1:{port}");
    let nothing = format!("data.url={}/nothing", place.path().display());
    let (bad, unavailable) = (i32::from(exit::BAD_INPUT), i32::from(exit::UNAVAILABLE));
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--bind", &taken], unavailable, "is taken"),
        (&["--bind", "0.0.0.0:0"], bad, "--insecure"),
        (&["--bind", "nonsense"], bad, "`nonsense` is not a valid address"),
        (&["--set", "train.nonsense=1"], bad, "nonsense"),
        (&["--set", &nothing], bad, "nothing"),
        (&["--from", "12"], bad, "there is no run at"),
    ];
    for (options, code, text) in cases {
        let (found, said) = fails(&place, options);
        assert!(said.contains(text), "{options:?}: {said}");
        assert!(said.contains("hint: "), "{options:?}: {said}");
        assert_eq!(found, code, "{options:?}: {said}");
        assert!(!place.path().join("run/run.json").exists(), "{options:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_exists_is_refused_when_a_fresh_or_another_one_is_wanted() {
    let place = Place::new().await;
    let (mut process, _) = Process::start(&place, &["--fresh"]);
    process.signal(Signal::TERM);
    assert_eq!(process.ends(), i32::from(exit::STOPPED));

    let (code, said) = fails(&place, &["--fresh"]);
    assert_eq!(code, i32::from(exit::BAD_INPUT));
    assert!(said.contains("a run exists already"), "{said}");
    let (code, said) = fails(&place, &["--set", "run.seed=77"]);
    assert_eq!(code, i32::from(exit::BAD_INPUT));
    assert!(said.contains("run.seed"), "{said}");
    let (code, said) = fails(&place, &["--from", "12"]);
    assert_eq!(code, i32::from(exit::BAD_INPUT));
    assert!(said.contains("there is no checkpoint"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_workers_end_the_job_with_their_names() {
    let place = Place::new().await;
    let options = ["--set", "cluster.join_timeout=4s"];
    let (mut process, address) = Process::start(&place, &options);
    let mut a = Worker::join(&address, "a").await;
    assert_eq!(a.dismissed().await, u32::from(exit::UNAVAILABLE));
    drop(a);
    assert_eq!(process.ends(), i32::from(exit::UNAVAILABLE));
    let said = process.said();
    assert!(said.contains("1 of 2 workers joined (a) after 4 s"), "{said}");
}

#[test]
fn help_has_examples() {
    let Output { stdout, status, .. } =
        Command::new(env!("CARGO_BIN_EXE_convoy")).args(["serve", "--help"]).output().unwrap();
    let lines = BufReader::new(&stdout[..]).lines().map_while(Result::ok);
    assert!(status.success());
    assert!(lines.into_iter().any(|line| line.contains("convoy serve configs/quickstart.toml")));
}
