//! Real signals to this very process: alone in its binary, one test, because a signal reaches all.

use std::time::Duration;

use convoy_common::shutdown::{self, Urgency};
use rustix::process::{Signal, getpid, kill_process};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn each_signal_is_caught_and_a_second_one_means_at_once() {
    for (signal, name) in
        [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM"), (Signal::HUP, "SIGHUP")]
    {
        let (_trigger, shutdown) = shutdown::on_signals().unwrap();
        kill_process(getpid(), signal).unwrap();
        let request = timeout(DEADLINE, shutdown.requested()).await.unwrap();
        assert_eq!((request.urgency, request.reason.as_str()), (Urgency::Orderly, name));
        kill_process(getpid(), Signal::TERM).unwrap();
        let request = timeout(DEADLINE, shutdown.immediate()).await.unwrap();
        assert_eq!(request.reason, "SIGTERM");
    }
}
