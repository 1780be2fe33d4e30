//! Whole jobs as real processes: what a user launches, stops, kills and launches again.
//!
//! The tests of `convoy launch` with scripted children are about processes alone; here the children
//! train, and what counts is what the run's store holds afterwards.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod job;
#[path = "../../common/tests/support/mod.rs"]
mod store;

use std::fs;
use std::path::Path;
use std::time::Duration;

use convoy_common::exit;
use job::{Job, Place, all_gone, convoy, is_alive, run};
use rustix::process::{Pid, Signal, kill_process};

const STEPS: u64 = 24 * 3;

#[test]
fn a_job_stopped_and_launched_again_ends_with_the_bits_of_one_that_was_never_stopped() {
    let place = Place::new();
    let mut whole = place.launch(&place.config("whole"), &[]);
    whole.ends_with(exit::OK);
    let expected = place.checkpoint("whole");
    assert_eq!(expected["step"], STEPS);
    assert_eq!((&expected["epoch"], &expected["step_in_epoch"]), (&24.into(), &0.into()));

    let config = place.config("stopped");
    let mut stops = Vec::new();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut job = place.launch(&config, &[]);
        job.tells("progress");
        job.send(signal);
        job.ends_with(exit::STOPPED);
        let stop = place.checkpoint("stopped")["step"].as_u64().unwrap();
        assert!(stops.last().is_none_or(|it| *it < stop) && stop < STEPS, "{stops:?}, {stop}");
        assert!(!job.stderr().contains("worker failed"), "{}", job.stderr());
        stops.push(stop);
    }
    let mut job = place.launch(&config, &[]);
    job.ends_with(exit::OK);
    assert!(job.stderr().contains("restored the state"), "{}", job.stderr());
    let resumed = place.checkpoint("stopped");
    assert_eq!(resumed["step"], STEPS);
    assert_eq!(resumed["state_digest"], expected["state_digest"]);
}

#[test]
fn a_second_signal_ends_everything_at_once() {
    let place = Place::new();
    let mut job = place.launch(&place.config("twice"), &["--set", "train.epochs=5000"]);
    job.tells("progress");
    let children = [job.children("serve"), job.children("join")].concat();
    assert_eq!(children.len(), 3, "{children:?}");
    job.send(Signal::INT);
    job.send(Signal::INT);
    let status = job.wait();
    // The job may have had its checkpoint before the second signal came.
    assert!(
        [exit::INTERRUPTED, exit::STOPPED].map(i32::from).contains(&status.code().unwrap()),
        "{}",
        job.stderr()
    );
    assert!(!children.iter().any(|it| is_alive(*it)));
}

#[test]
fn a_launcher_killed_while_it_trains_leaves_no_child() {
    let place = Place::new();
    let config = place.config("killed");
    let mut job = place.launch(&config, &["--set", "train.epochs=5000"]);
    job.tells("progress");
    let children = [job.children("serve"), job.children("join")].concat();
    assert_eq!(children.len(), 3, "{children:?}");
    job.send(Signal::KILL);
    job.wait();
    all_gone(&children, Duration::from_secs(5));
}

/// The process of that worker, which there is one of.
fn process(job: &Job, name: &str) -> Pid {
    let workers = job.children(name);
    assert_eq!(workers.len(), 1, "{workers:?}");
    Pid::from_raw(i32::try_from(workers[0]).unwrap()).unwrap()
}

#[test]
fn killed_and_stopped_workers_are_replaced_and_the_job_comes_to_the_bits_of_a_quiet_one() {
    let place = Place::new();
    let config = place.config("rough");
    let long = ["--set", "train.epochs=5000", "--set", "cluster.liveness_timeout=3s"];
    let mut job = place.launch(&config, &long);
    job.tells("progress");
    kill_process(process(&job, "worker-1"), Signal::KILL).unwrap();
    job.tells("generation over; workers keep their state");
    job.tells("worker is started again");
    // The first of two, the one left, and both again.
    job.tells_so_often("generation formed", 3);
    job.tells("took over the state of a peer");
    let text = job.stderr();
    assert!(text.contains("worker-1") && text.contains("SIGKILL"), "{text}");

    // One that stands still longer than it may is out, and finds itself out when it goes on.
    let stopped = process(&job, "worker-0");
    kill_process(stopped, Signal::STOP).unwrap();
    job.tells("it was not heard of for");
    job.tells_so_often("generation formed", 4);
    kill_process(stopped, Signal::CONT).unwrap();
    job.tells_so_often("worker is started again", 2);
    job.tells_so_often("generation formed", 5);
    job.send(Signal::INT);
    job.ends_with(exit::STOPPED);
    let rough = place.checkpoint("rough");

    let steps = format!("train.max_steps={}", rough["step"]);
    let options = ["--workers", "1", "--set", long[1], "--set", &steps];
    let mut quiet = place.launch(&place.config("quiet"), &options);
    quiet.ends_with(exit::OK);
    let quiet = place.checkpoint("quiet");
    assert_eq!((&quiet["step"], &quiet["state_digest"]), (&rough["step"], &rough["state_digest"]));
}

#[test]
fn a_worker_asked_to_leave_ends_well_and_the_others_go_on() {
    let place = Place::new();
    let config = place.config("drained");
    let mut job = place.launch(&config, &["--set", "train.epochs=5000"]);
    job.tells("progress");
    let leaves = process(&job, "worker-1");
    kill_process(leaves, Signal::TERM).unwrap();
    job.tells("worker left in order");
    job.tells("worker ended");
    assert!(!job.stderr().contains("worker failed"), "{}", job.stderr());
    // The last one does not leave without a checkpoint.
    kill_process(process(&job, "worker-0"), Signal::TERM).unwrap();
    job.ends_with(exit::STOPPED);
    assert!(place.checkpoint("drained")["step"].as_u64().unwrap() > 0);
}

#[test]
fn a_job_that_lost_all_its_workers_comes_back_from_its_checkpoint() {
    let place = Place::new();
    let config = place.config("lost");
    let often = ["--set", "checkpoint.every_steps=6", "--set", "train.epochs=5000"];
    let mut job = place.launch(&config, &[&often[..], &["--restarts", "0"]].concat());
    job.tells("checkpoint published");
    for name in ["worker-0", "worker-1"] {
        kill_process(process(&job, name), Signal::KILL).unwrap();
    }
    job.ends_with(exit::WORKER_LOST);
    // The launcher has nobody to wait for and says so to the coordinator.
    assert!(job.stderr().contains("before that, worker worker-"), "{}", job.stderr());
    place.convoy(&["checkpoints", "verify", &place.url("lost")]);
    let step = place.checkpoint("lost")["step"].as_u64().unwrap();
    assert!(step >= 6, "{step}");

    let steps = format!("train.max_steps={}", step + 3);
    let mut again = place.launch(&config, &["--set", &steps]);
    again.ends_with(exit::OK);
    assert_eq!(place.checkpoint("lost")["step"], step + 3);
}

#[test]
fn a_coordinator_that_is_killed_and_may_not_come_back_ends_the_launch_and_leaves_nobody() {
    let place = Place::new();
    let config = place.config("orphans");
    let mut job = place.launch(&config, &["--set", "train.epochs=5000", "--restarts", "0"]);
    job.tells("progress");
    let children = [job.children("serve"), job.children("join")].concat();
    kill_process(process(&job, "serve"), Signal::KILL).unwrap();
    job.ends_with(exit::FAILURE);
    let text = job.stderr();
    assert!(text.contains("coordinator crashed") && text.contains("SIGKILL"), "{text}");
    assert!(!children.iter().any(|it| is_alive(*it)));
}

#[test]
fn a_job_whose_workers_are_all_refused_ends_with_their_code() {
    let place = Place::new();
    let mut job = place.launch(&place.config("refused"), &["--device", "cuda"]);
    job.ends_with(exit::UNAVAILABLE);
    assert!(job.stderr().contains("CUDA"), "{}", job.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_lives_in_an_s3_bucket_from_the_data_to_the_evaluation() {
    let s3 = store::S3::start().await;
    let variables: Vec<(String, String)> = s3.settings().variables.into_iter().collect();
    tokio::task::spawn_blocking(move || {
        let place = Place::at(&format!("s3://{}/jobs", store::BUCKET), variables.clone());
        let config = place.config("bucket");
        let mut job = place.launch(&config, &[]);
        job.tells("progress");
        job.send(Signal::INT);
        job.ends_with(exit::STOPPED);
        let mut job = place.launch(&config, &[]);
        job.ends_with(exit::OK);
        let in_bucket = place.checkpoint("bucket");
        assert_eq!(in_bucket["step"], STEPS);

        let folder = Place::new();
        let mut job = folder.launch(&folder.config("bucket"), &[]);
        job.ends_with(exit::OK);
        assert_eq!(folder.checkpoint("bucket")["state_digest"], in_bucket["state_digest"]);

        let url = place.url("bucket");
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let worker = Path::new(env!("CARGO_BIN_EXE_convoy-worker"));
        let evaluate = ["evaluate", "--checkpoint", &url, "--json"];
        let result: serde_json::Value =
            serde_json::from_str(&job::done(worker, &evaluate, &variables)).unwrap();
        assert_eq!(result["images"], 6);
    })
    .await
    .unwrap();
}

#[test]
fn data_that_changed_under_a_run_are_refused_and_named() {
    let place = Place::new();
    let config = place.config("changed");
    let mut job = place.launch(&config, &["--set", "train.max_steps=2"]);
    job.ends_with(exit::OK);
    let other = place.url("other-images");
    let counts = ["--classes", "3", "--train", "24", "--val", "6", "--seed", "9"];
    place.convoy(&[&["synthesize", &other][..], &counts].concat());
    place.convoy(&["prepare", &other, &place.url("other")]);
    let url = format!("data.url={}", place.url("other"));
    let mut job = place.launch(&config, &["--set", &url, "--set", "train.max_steps=4"]);
    job.ends_with(exit::BAD_INPUT);
    assert!(job.stderr().contains("dataset.digest: was"), "{}", job.stderr());
    assert_eq!(place.checkpoint("changed")["step"], 2);
}

#[test]
fn a_worker_whose_coordinator_is_not_there_says_so_in_time() {
    let worker = Path::new(env!("CARGO_BIN_EXE_convoy-worker"));
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let output = run(worker, &["join", "--coordinator", &url, "--patience", "1s"], &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(exit::UNAVAILABLE)), "{text}");
    assert!(text.contains(&url) && text.contains("hint:"), "{text}");
}

#[test]
fn a_worker_that_expects_another_config_is_refused_with_both_digests() {
    let place = Place::new();
    let config = place.config("expects");
    let address = place.path("address");
    let mut serve = std::process::Command::new(convoy())
        .arg("serve")
        .arg(&config)
        .arg("--address-file")
        .arg(&address)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let start = std::time::Instant::now();
    let url = loop {
        match fs::read_to_string(&address) {
            Ok(text) => break format!("http://{}", text.trim()),
            Err(_) => assert!(start.elapsed() < job::SOON, "the coordinator does not come up"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let worker = Path::new(env!("CARGO_BIN_EXE_convoy-worker"));
    let expecting = ["join", "--coordinator", &url, "--expect-config", "0123abcd"];
    let output = run(worker, &expecting, &[]);
    let _ = serve.kill();
    let _ = serve.wait();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(exit::BAD_INPUT)), "{text}");
    assert!(text.contains("0123abcd"), "{text}");
}
