//! `convoy drill` as a user runs it: real processes under random faults, and a verdict.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[expect(dead_code, reason = "the other tests use the rest")]
mod job;
#[path = "../../common/tests/support/mod.rs"]
mod store;

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use convoy_common::exit;
use job::{Place, SOON, all_gone, convoy};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// `convoy drill` of a run of this config with short deadlines.
fn command(place: &Place, config: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(convoy());
    command
        .arg("drill")
        .arg(config)
        .args(["--worker", env!("CARGO_BIN_EXE_convoy-worker"), "--json", "--patience", "45s"])
        .args(["--set", "cluster.liveness_timeout=2s", "--set", "evaluation.every_epochs=0"])
        .args(options)
        .envs(place.variables())
        .stdin(Stdio::null());
    command
}

fn drill(place: &Place, config: &Path, options: &[&str]) -> (Output, Value) {
    let output = command(place, config, options).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let json = serde_json::from_slice(&output.stdout);
    let json = json.unwrap_or_else(|error| panic!("{error}: {told}"));
    (output, json)
}

fn passed(output: &Output, json: &Value) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(exit::OK)), "{json:#}\n{told}");
    assert_eq!((&json["passed"], &json["hash_equal"]), (&true.into(), &true.into()), "{json:#}");
    assert_eq!((&json["samples_lost"], &json["samples_doubled"]), (&0.into(), &0.into()));
    assert_eq!(json["leaks"], Value::Array(Vec::new()), "{json:#}");
}

#[test]
fn a_job_under_faults_of_many_kinds_comes_to_the_bits_of_a_quiet_one_and_leaves_nothing() {
    let place = Place::new();
    let config = place.config("drill");
    let kinds = "kill,stop,blink,drain,cut,cut-coordinator,coordinator,coordinator+worker";
    let options = ["--workers", "3", "--faults", "5", "--seed", "5", "--kinds", kinds];
    let options = [&options[..], &["--reference-workers", "1", "--network", "proxies"]].concat();
    let (output, json) = drill(&place, &config, &options);
    passed(&output, &json);
    let faults = json["faults"].as_array().unwrap();
    assert_eq!((faults.len(), &json["faults_wanted"]), (5, &5.into()));
    let inflicted: BTreeSet<&str> = faults.iter().map(|it| it["kind"].as_str().unwrap()).collect();
    assert!(inflicted.len() >= 4, "{inflicted:?}");
    for fault in faults {
        assert!(fault["recovery_seconds"].as_f64().unwrap() > 0.0, "{fault}");
        assert!(fault["pause_seconds"].as_f64().unwrap() > 0.0, "{fault}");
        if ["kill", "drain", "stop"].contains(&fault["kind"].as_str().unwrap()) {
            assert!(fault["detection_seconds"].is_number(), "{fault}");
        }
    }
    assert!(json["steps"].as_u64().unwrap() > 6 && json["steps_untold"] == 0, "{json:#}");
    assert!(json["folder"].is_null() && json["network"] == "proxies", "{json:#}");
}

#[test]
fn hosts_that_lose_every_packet_come_to_the_same_bits_and_are_gone_or_cannot_be_had() {
    let place = Place::new();
    let config = place.config("hosts");
    let cuts = ["--kinds", "cut,cut-coordinator", "--network", "namespaces"];
    let options = [&["--workers", "3", "--faults", "3", "--seed", "3"], &cuts[..]].concat();
    let output = command(&place, &config, &options).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(i32::from(exit::BAD_INPUT)) {
        // Without the rights or the programs, `auto` takes proxies.
        assert!(told.contains("no network namespaces") && told.contains("hint:"), "{told}");
        eprintln!("not run: {told}");
        return;
    }
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    passed(&output, &json);
    assert_eq!(json["network"], "namespaces", "{json:#}");
    let ways = |way: &str| {
        let all = json["faults"].as_array().unwrap();
        assert_eq!(all.len(), 3);
        all.iter().filter(|it| it["way"] == way).count()
    };
    assert!(ways("black-hole") > 0 && ways("refuse") + ways("reset") > 0, "{json:#}");
}

#[test]
fn a_drill_whose_reference_is_another_state_fails_and_says_what_differs() {
    let place = Place::new();
    let config = place.config("differs");
    let keep = place.path("kept");
    let other = "0123".repeat(16);
    let options = [
        ["--workers", "2"],
        ["--faults", "1"],
        ["--kinds", "kill"],
        ["--reference", &other],
        ["--keep", keep.to_str().unwrap()],
        ["--set", "train.epochs=40"],
    ]
    .concat();
    let (output, json) = drill(&place, &config, &options);
    assert_eq!(output.status.code(), Some(i32::from(exit::FAILURE)), "{json:#}");
    assert_eq!((&json["hash_equal"], &json["passed"]), (&false.into(), &false.into()));
    assert_eq!(json["reasons"], serde_json::json!(["the states differ"]), "{json:#}");
    let told = String::from_utf8_lossy(&output.stderr);
    let digest = json["state_digest"].as_str().unwrap();
    assert!(
        told.contains(digest) && told.contains(&format!("{other}: the states differ")),
        "{told}"
    );
    let written = std::fs::read(keep.join("report.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&written).unwrap(), json);
    assert!(keep.join("logs/rehearsal/coordinator.log").exists());
}

#[test]
fn a_drill_that_is_interrupted_leaves_no_process_and_no_stopped_one() {
    let place = Place::new();
    let config = place.config("interrupted");
    // Stopped for a minute, which the test does not wait for.
    let stop = ["--kinds", "stop", "--faults", "1", "--set", "cluster.liveness_timeout=60s"];
    let options = [&["--workers", "2", "--set", "cluster.ring_timeout=120s"], &stop[..]].concat();
    let mut running = command(&place, &config, &options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let (id, start) = (running.id(), std::time::Instant::now());
    let children = loop {
        let list = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children: Vec<u32> =
            list.unwrap_or_default().split_whitespace().flat_map(str::parse).collect();
        if children.iter().any(|it| is_stopped(*it)) {
            break children;
        }
        assert!(start.elapsed() < SOON, "nobody is stopped: {children:?}");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(children.len(), 3, "{children:?}");
    kill_process(Pid::from_child(&running), Signal::INT).unwrap();
    let status = running.wait().unwrap();
    assert_eq!(status.code(), Some(i32::from(exit::INTERRUPTED)));
    all_gone(&children, Duration::from_secs(5));
}

#[test]
fn a_drill_that_is_interrupted_in_its_quiet_run_ends_then() {
    let place = Place::new();
    let config = place.config("between");
    let (keep, one) = (place.path("kept"), ["--kinds", "kill", "--faults", "1"]);
    let options = [&["--workers", "2", "--keep", keep.to_str().unwrap()], &one[..]].concat();
    let mut running = command(&place, &config, &options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let start = std::time::Instant::now();
    while !keep.join("logs/reference").exists() {
        assert!(start.elapsed() < SOON, "no quiet run begins");
        std::thread::sleep(Duration::from_millis(10));
    }
    kill_process(Pid::from_child(&running), Signal::INT).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(i32::from(exit::INTERRUPTED)));
    assert!(!keep.join("report.json").exists());
}

#[test]
fn more_workers_than_a_config_has_places_for_are_refused_before_anything_starts() {
    let place = Place::new();
    let config = place.config("crowd");
    let options = ["--workers", "5", "--set", "cluster.max_workers=4"];
    let output = command(&place, &config, &options).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(exit::BAD_INPUT)), "{told}");
    assert!(told.contains("cluster.max_workers") && !told.contains("logs are in"), "{told}");
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|it| it.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
}

#[test]
fn a_config_without_the_promise_is_refused() {
    let place = Place::new();
    let config = place.config("fast");
    let output = command(&place, &config, &["--set", "numerics.reduction=fast"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(exit::BAD_INPUT)), "{told}");
    assert!(told.contains("numerics.reduction") && told.contains("hint:"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn outages_of_an_s3_store_cost_no_step_and_leave_no_object() {
    let s3 = store::S3::start().await;
    let variables: Vec<(String, String)> = s3.settings().variables.into_iter().collect();
    tokio::task::spawn_blocking(move || {
        let place = Place::at(&format!("s3://{}/jobs", store::BUCKET), variables);
        let config = place.config("outage");
        let options = ["--workers", "2", "--faults", "1", "--kinds", "store", "--seed", "2"];
        let options = [&options[..], &["--reference-workers", "1"]].concat();
        let often = ["--set", "checkpoint.every_steps=5"];
        let (output, json) = drill(&place, &config, &[&options[..], &often].concat());
        passed(&output, &json);
        assert_eq!(json["faults"][0]["target"], "store");
    })
    .await
    .unwrap();
}
