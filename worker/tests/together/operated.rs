//! The promise under what operators do to a running job.

use std::collections::BTreeSet;
use std::time::Duration;

use convoy_common::exit;
use convoy_coordinator::machine::{Answered, Wish};
use convoy_worker::train::Moment;

use crate::together::{nothing, once, slowly};
use crate::{LONG, at, ends_like, job, long_quiet, quiet};

fn pause() -> Wish {
    Wish::Pause { reason: "a test".to_owned() }
}

#[test]
fn a_pause_keeps_all_state_whoever_comes_and_goes_and_the_job_goes_on_with_the_same_bits() {
    let (job, mut nodes) = job(&[LONG], vec![slowly(50), slowly(50), slowly(50)]);
    job.until("a step", |it| it.position >= at(1, 0));
    let paused = job.ask(pause());
    let Answered::Done { checkpoint: Some(path), .. } = &paused else { panic!("{paused:?}") };
    let status = job.status();
    assert_eq!(
        (status.phase, status.pause.as_ref().unwrap().reason.as_str()),
        ("paused", "a test")
    );
    assert_eq!(status.last_checkpoint.as_ref().map(|it| &it.path), Some(path));
    let kept = job.checkpoint();
    assert_eq!(kept.shared.position, status.position);
    assert_eq!(job.diary().get(&status.position), Some(&kept.state_digest));
    assert!(status.position < at(7, 0), "it was paused in the middle");

    nodes[1].vanish();
    nodes.push(job.join("d", slowly(50)));
    job.until("d is there", |it| it.workers.iter().any(|it| it.name == "d"));
    job.until("b is gone", |it| it.workers.iter().all(|it| it.name != "b"));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((job.status().phase, job.status().position), ("paused", status.position));
    assert!(matches!(job.ask(Wish::Resume), Answered::Done { .. }));
    ends_like(&job, long_quiet(), "paused and resumed");
}

#[test]
fn a_job_stopped_while_it_is_paused_ends_with_the_pauses_checkpoint() {
    let (job, nodes) = job(&[LONG], vec![slowly(50), slowly(50)]);
    job.until("a step", |it| it.position >= at(1, 0));
    assert!(matches!(job.ask(pause()), Answered::Done { .. }));
    let position = job.status().position;
    job.stop();
    assert_eq!(job.outcome().exit_code, exit::STOPPED);
    assert_eq!(job.checkpoint().shared.position, position);
    for node in &nodes {
        assert_eq!(node.code(), exit::STOPPED);
    }
}

#[test]
fn a_checkpoint_that_is_asked_for_is_there_when_the_answer_comes_and_changes_nothing() {
    let (job, _nodes) = job(&[LONG], vec![slowly(50), slowly(50)]);
    job.until("a step", |it| it.position >= at(1, 0));
    let asked = job.status().position;
    let answer = job.ask(Wish::Checkpoint);
    let Answered::Done { checkpoint: Some(path), .. } = &answer else { panic!("{answer:?}") };
    let kept = job.checkpoint();
    assert!(kept.shared.position >= asked && kept.shared.position < at(8, 0));
    assert!(path.contains(&format!("{:012}", kept.shared.global_step)), "{path}");
    assert_eq!(job.diary().get(&kept.shared.position), Some(&kept.state_digest));
    ends_like(&job, long_quiet(), "a checkpoint on the way");
}

#[test]
fn a_drained_worker_that_is_stuck_goes_when_its_grace_is_over_and_the_others_go_on() {
    let sleeps = once(at(1, 1), Moment::Compute, |_| {
        // Until the test is over.
        std::thread::sleep(Duration::from_secs(60));
        Ok(())
    });
    let (job, nodes) = job(&[], vec![nothing(), sleeps, nothing()]);
    job.until("it is stuck", |it| it.position == at(1, 1));
    let grace = Some(Duration::from_secs(1));
    let answer = job.ask(Wish::Drain { name: "b".to_owned(), grace });
    assert!(matches!(answer, Answered::Done { .. }), "{answer:?}");
    assert_eq!(nodes[1].code(), exit::OK);
    ends_like(&job, quiet(), "one is drained that is stuck");
    let names: BTreeSet<String> = job.status().workers.into_iter().map(|it| it.name).collect();
    assert!(!names.contains("b"));
    assert_eq!(job.status().generation.unwrap().counter, 2);
}
