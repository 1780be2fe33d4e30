//! Whole jobs as real processes whose bucket fails in every way that buckets do, behind a proxy.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "../../common/tests/support/faulty.rs"]
mod faulty;
#[expect(dead_code, reason = "other tests use the rest")]
mod job;
#[path = "../../common/tests/support/mod.rs"]
mod store;

use std::time::{Duration, Instant};

use convoy_common::exit;
use faulty::{Mishap, Proxy};
use job::{Place, SOON};
use serde_json::Value;

/// What the running job says of its store; null while all is well.
fn trouble(place: &Place, run: &str) -> Value {
    let text = place.convoy(&["status", &place.url(run), "--json"]);
    let status: Value = serde_json::from_str(&text).unwrap();
    status["store_trouble"].clone()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A place in the bucket, and the last checkpoint of a run there to which nothing happened.
fn after_a_quiet_run(variables: impl IntoIterator<Item = (String, String)>) -> (Place, Value) {
    let variables = variables.into_iter().collect();
    let place = Place::at(&format!("s3://{}/jobs", store::BUCKET), variables);
    let mut quiet = place.launch(&place.config("quiet"), &[]);
    quiet.ends_with(exit::OK);
    let checkpoint = place.checkpoint("quiet");
    (place, checkpoint)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_trains_through_outages_of_its_bucket_and_ends_with_the_same_bits() {
    let s3 = store::S3::start().await;
    let proxy = Proxy::start(&s3.endpoint).await;
    let mut variables = s3.settings().variables;
    variables.insert("AWS_ENDPOINT_URL".to_owned(), proxy.endpoint.clone());
    let work = move || {
        let (place, expected) = after_a_quiet_run(variables);

        let often = ["--set", "checkpoint.every_steps=3"];
        let mut job = place.launch(&place.config("shaky"), &often);
        job.tells("checkpoint published");
        // Full, then without rights, then away.
        for (mishap, said) in [
            (Mishap::Status(507), "there is no room left"),
            (Mishap::Status(403), "is denied"),
            (Mishap::Refuse, "cannot reach the object store"),
        ] {
            proxy.fail("/shaky/checkpoints/", Some(mishap));
            until(said, || {
                let trouble = trouble(&place, "shaky");
                let error = trouble["error"].as_str().unwrap_or_default();
                error.contains(said) && trouble["hint"].is_string()
            });
        }
        proxy.fail("", None);
        job.ends_with(exit::OK);
        for said in ["checkpoints wait because the run's store fails", "takes checkpoints again"] {
            assert!(job.stderr().contains(said), "{said:?} is not in\n{}", job.stderr());
        }
        let ended = place.checkpoint("shaky");
        assert_eq!(ended["step"], expected["step"]);
        assert_eq!(ended["state_digest"], expected["state_digest"]);
        place.convoy(&["checkpoints", "verify", &place.url("shaky")]);
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_slow_or_loses_its_answers_delays_checkpoints_and_changes_no_bit() {
    let s3 = store::S3::start().await;
    let proxy = Proxy::start(&s3.endpoint).await;
    let mut variables = s3.settings().variables;
    variables.insert("AWS_ENDPOINT_URL".to_owned(), proxy.endpoint.clone());
    let work = move || {
        let (place, expected) = after_a_quiet_run(variables);
        let often = ["--set", "checkpoint.every_steps=3"];
        proxy.fail("/slow/checkpoints/", Some(Mishap::Late(80)));
        let mut job = place.launch(&place.config("slow"), &often);
        job.ends_with(exit::OK);
        assert_eq!(place.checkpoint("slow")["state_digest"], expected["state_digest"]);

        // What was written is there, and whoever wrote it does not know.
        let mut job = place.launch(&place.config("lost"), &often);
        job.tells("checkpoint published");
        proxy.fail("/lost/checkpoints/", Some(Mishap::CutAfter(0)));
        until("checkpoints wait", || trouble(&place, "lost").is_object());
        proxy.fail("", None);
        job.ends_with(exit::OK);
        assert_eq!(place.checkpoint("lost")["state_digest"], expected["state_digest"]);
        for run in ["slow", "lost"] {
            place.convoy(&["checkpoints", "verify", &place.url(run)]);
        }
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_without_create_only_writes_is_refused_unless_the_operator_goes_without() {
    let s3 = store::S3::start_without_conditions().await;
    let variables: Vec<(String, String)> = s3.settings().variables.into_iter().collect();
    let work = move || {
        let place = Place::at(&format!("s3://{}/jobs", store::BUCKET), variables);
        let config = place.config("bare");
        let mut job = place.launch(&config, &[]);
        job.ends_with(exit::BAD_INPUT);
        let told = job.stderr();
        assert!(told.contains("does not honour create-only writes"), "{told}");
        assert!(told.contains("--unfenced"), "{told}");
        let mut job = place.launch(&config, &["--unfenced"]);
        job.ends_with(exit::OK);
        assert!(job.stderr().contains("nothing stops a second coordinator"), "{}", job.stderr());
        assert_eq!(place.checkpoint("bare")["step"], 24 * 3);
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}
