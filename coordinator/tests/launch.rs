//! `convoy launch` as a real process: whatever ends it, nobody is left behind.
//!
//! The children are shell scripts that behave as the real programs do towards the launcher (write
//! the address, end on SIGTERM with a code, or refuse to), so that these tests are about processes
//! and signals alone.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

/// Nobody may be left after this, whatever the signal.
const ALL_GONE: Duration = Duration::from_secs(5);
/// For what should happen soon, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// Writes its pid and the address, and ends on SIGTERM with the code of a stopped job.
const COORDINATOR: &str = r#"#!/bin/bash
while [ $# -gt 0 ]; do
  [ "$1" = --address-file ] && address=$2
  shift
done
trap 'echo INT >>"$PIDS/interrupted"' INT
case ${BEHAVIOUR:-} in
  deaf) trap '' TERM ;;
  *) trap 'exit 75' TERM ;;
esac
echo $$ >"$PIDS/coordinator"
if [ "${BEHAVIOUR:-}" = refuses ]; then echo 'error: no such config' >&2; exit 64; fi
echo '{"time":"2026-01-01T00:00:00.000Z","level":"info","who":"coordinator","target":"x","message":"coordinator is up"}' >&2
echo 127.0.0.1:9 >"$address.new" && mv "$address.new" "$address"
for ((i = 0; i < 1200; i++)); do
  if [ "${BEHAVIOUR:-}" = crashes ] && [ -e "$PIDS/worker-1" ]; then kill -SEGV $$; fi
  if [ "${BEHAVIOUR:-}" = done ] && [ -e "$PIDS/worker-1" ]; then exit 0; fi
  sleep 0.05
done
"#;

/// Replaces itself once, as the real worker does, and then never ends by itself.
const WORKER: &str = r#"#!/bin/bash
trap '' TERM INT HUP
if [ -z "${AGAIN:-}" ]; then AGAIN=1 exec "$0" "$@"; fi
while [ $# -gt 0 ]; do
  [ "$1" = --name ] && name=$2
  shift
done
echo "$name: not JSON" >&2
echo $$ >"$PIDS/$name.new" && mv "$PIDS/$name.new" "$PIDS/$name"
if [ "${BEHAVIOUR:-}" = fails ] && [ "$name" = worker-1 ]; then exit 3; fi
for ((i = 0; i < 1200; i++)); do sleep 0.05; done
"#;

struct Job {
    folder: TempDir,
    launcher: Child,
}

impl Job {
    /// A coordinator of this behaviour and two workers.
    fn start(behaviour: &str, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for (name, script) in [("coordinator.sh", COORDINATOR), ("worker.sh", WORKER)] {
            fs::write(path(name), script).expect("a script");
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o755)).expect("executable");
        }
        fs::create_dir(path("pids")).expect("a folder");
        let place = folder.path().display();
        let config = format!(
            "[run]\nname = \"test\"\nurl = \"{place}/run\"\n[data]\nurl = \"{place}/data\"\n\
             [log]\nfolder = \"{place}/logs/{{run}}\"\n"
        );
        fs::write(path("run.toml"), config).expect("a config");
        let launcher = Command::new(env!("CARGO_BIN_EXE_convoy"))
            .arg("launch")
            .arg(path("run.toml"))
            .args(["--workers", "2", "--coordinator-binary"])
            .arg(path("coordinator.sh"))
            .arg("--worker-binary")
            .arg(path("worker.sh"))
            .args(options)
            .env("PIDS", path("pids"))
            .env("BEHAVIOUR", behaviour)
            .stdin(Stdio::null())
            .stderr(fs::File::create(path("stderr")).expect("a file"))
            .process_group(0)
            .spawn()
            .expect("the launcher");
        Self { folder, launcher }
    }

    /// The same, once all three children run.
    fn running(behaviour: &str, options: &[&str]) -> Self {
        let job = Self::start(behaviour, options);
        within(SOON, "all children run", || job.children().len() == 3);
        job
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.path("stderr")).expect("a file")
    }

    /// Pids of the children that have said theirs.
    fn children(&self) -> Vec<u32> {
        ["coordinator", "worker-0", "worker-1"]
            .iter()
            .filter_map(|it| fs::read_to_string(self.path("pids").join(it)).ok())
            .filter_map(|it| it.trim().parse().ok())
            .collect()
    }

    fn send(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the launcher lives");
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.launcher)
    }

    fn wait(&mut self, limit: Duration) -> ExitStatus {
        let mut status = None;
        within(limit, "the launcher ends", || {
            status = self.launcher.try_wait().expect("a status");
            status.is_some()
        });
        status.expect("just seen")
    }

    /// The launcher ends with `code`, and then no child is left; within 5 s of `since` together.
    fn ends_with(&mut self, code: i32, since: Instant) {
        let status = self.wait(SOON);
        assert_eq!(status.code(), Some(code), "{}", self.stderr());
        assert_eq!(self.left(), Vec::<u32>::new(), "{}", self.stderr());
        assert!(since.elapsed() < ALL_GONE, "{:?}", since.elapsed());
    }

    fn left(&self) -> Vec<u32> {
        self.children().into_iter().filter(|pid| is_alive(*pid)).collect()
    }
}

/// A test that fails leaves nobody either.
impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
    }
}

/// A process that waits to be reaped by an init that does not is not alive.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|it| it.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn after_the_first_signal_of_any_kind_the_coordinator_ends_the_job_and_nobody_is_left() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut job = Job::running("", &[]);
        let since = Instant::now();
        job.send(signal);
        job.ends_with(75, since);
    }
}

#[test]
fn a_second_signal_ends_a_coordinator_that_does_not_end() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut job = Job::running("deaf", &[]);
        job.send(signal);
        within(SOON, "the first is taken in", || {
            job.stderr().contains("stopping after a checkpoint")
        });
        assert_eq!(job.left().len(), 3);
        let since = Instant::now();
        job.send(signal);
        job.ends_with(130, since);
    }
}

#[test]
fn a_launcher_killed_by_the_kernel_takes_its_children_along() {
    let mut job = Job::running("deaf", &[]);
    let since = Instant::now();
    job.send(Signal::KILL);
    assert_eq!(job.wait(SOON).signal(), Some(9));
    within(ALL_GONE.saturating_sub(since.elapsed()), "no child is left", || job.left().is_empty());
}

#[test]
fn a_launcher_killed_while_it_starts_its_children_leaves_nobody() {
    for wait in [0, 5, 20, 40, 80, 120] {
        let mut job = Job::start("deaf", &[]);
        sleep(Duration::from_millis(wait));
        job.send(Signal::KILL);
        job.wait(SOON);
        within(ALL_GONE, "no child is left", || {
            let folder = job.folder.path().as_os_str().as_encoded_bytes().to_owned();
            !fs::read_dir("/proc").expect("processes").flatten().any(|it| {
                fs::read(it.path().join("cmdline"))
                    .is_ok_and(|line| line.windows(folder.len()).any(|part| part == folder))
            })
        });
    }
}

#[test]
fn ctrl_c_in_a_terminal_reaches_the_launcher_alone() {
    let mut job = Job::running("", &[]);
    let since = Instant::now();
    kill_process_group(job.pid(), Signal::INT).expect("the group lives");
    job.ends_with(75, since);
    assert!(!job.path("pids/interrupted").exists());
}

#[test]
fn a_coordinator_that_does_not_end_in_the_grace_period_is_killed() {
    let mut job = Job::running("deaf", &["--grace", "1s"]);
    let since = Instant::now();
    job.send(Signal::TERM);
    job.ends_with(130, since);
    assert!(since.elapsed() >= Duration::from_secs(1));
    assert!(job.stderr().contains("did not end in time"), "{}", job.stderr());
}

#[test]
fn a_job_that_ends_by_itself_gives_its_code_and_stuck_workers_are_ended() {
    let mut job = Job::start("done", &[]);
    let status = job.wait(SOON);
    assert_eq!(status.code(), Some(0), "{}", job.stderr());
    assert_eq!(job.left(), Vec::<u32>::new());
    assert!(job.stderr().contains("outlived"), "{}", job.stderr());
}

#[test]
fn a_coordinator_that_refuses_its_config_ends_the_launch_with_its_words_and_code() {
    let mut job = Job::start("refuses", &[]);
    assert_eq!(job.wait(SOON).code(), Some(64), "{}", job.stderr());
    assert!(job.stderr().contains("coordinator error: no such config"), "{}", job.stderr());
}

#[test]
fn a_coordinator_that_crashes_again_and_again_is_named_and_the_job_ends() {
    let mut job = Job::start("crashes", &["--restarts", "1"]);
    assert_eq!(job.wait(SOON).code(), Some(1), "{}", job.stderr());
    assert!(job.stderr().contains("SIGSEGV"), "{}", job.stderr());
    assert!(job.stderr().contains("coordinator died and is started again"), "{}", job.stderr());
    assert_eq!(job.left(), Vec::<u32>::new());
}

#[test]
fn a_worker_that_fails_is_named_with_its_code() {
    let mut job = Job::running("fails", &[]);
    within(SOON, "it is said", || job.stderr().contains("exit code 3"));
    assert!(job.stderr().contains("worker-1"), "{}", job.stderr());
    let since = Instant::now();
    job.send(Signal::INT);
    job.ends_with(75, since);
}

#[test]
fn lines_of_all_processes_come_with_their_names_and_into_a_file_each() {
    let mut job = Job::running("", &[]);
    job.send(Signal::INT);
    job.wait(SOON);
    let text = job.stderr();
    assert!(text.contains("worker-1    worker-1: not JSON"), "{text}");
    assert!(text.contains("coordinator is up"), "{text}");
    let file = |name: &str| fs::read_to_string(job.path("logs/test").join(name)).expect("a log");
    assert_eq!(file("worker-0.log"), "worker-0: not JSON\n");
    assert!(file("coordinator.log").starts_with("{\"time\""));
    assert!(file("launch.log").contains("launch over"));
}

#[test]
fn with_json_every_line_on_stderr_is_an_object_that_names_its_process() {
    let mut job = Job::running("", &["--log-format", "json"]);
    job.send(Signal::INT);
    job.wait(SOON);
    for line in job.stderr().lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert!(value["who"].is_string(), "{line}");
    }
}

#[test]
fn a_missing_worker_program_is_told_with_the_way_to_build_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("run.toml");
    fs::write(
        &config,
        "[run]\nname = \"test\"\nurl = \"/nowhere/run\"\n[data]\nurl = \"/nowhere/data\"\n",
    )
    .expect("a config");
    let output = Command::new(env!("CARGO_BIN_EXE_convoy"))
        .arg("launch")
        .arg(config)
        .args(["--worker-binary", "/nowhere/convoy-worker"])
        .output()
        .expect("the launcher");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.contains("/nowhere/convoy-worker") && text.contains("hint: build it"), "{text}");
}
