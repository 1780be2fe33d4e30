//! Workers and links that stand still: named while they do, and none of it leaves a trace.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use convoy_common::exit;
use convoy_worker::train::Moment;

use crate::together::{Job, Plant, Valve, nothing, slowly};
use crate::{LONG, at, ends_like, job, quiet};

const LATE: Duration = Duration::from_millis(3200);

/// Stands still at these moments, each once.
fn stands_still(moments: Vec<((u32, u32), Moment)>) -> Plant {
    let left = std::sync::Mutex::new(moments);
    Box::new(move |_, moment, position| {
        let due = |it: &((u32, u32), Moment)| (at(it.0.0, it.0.1), it.1) == (position, moment);
        let found = left.lock().unwrap().iter().position(due);
        if let Some(found) = found {
            left.lock().unwrap().remove(found);
            std::thread::sleep(LATE);
        }
        Ok(())
    })
}

/// Who was named for what until the job ended.
fn named(job: &Job) -> BTreeSet<(String, String)> {
    let named = RefCell::new(BTreeSet::new());
    job.until("the end", |it| {
        let now = it.stragglers.iter().map(|it| (it.name.clone(), it.phase.clone()));
        named.borrow_mut().extend(now);
        ["completed", "failed", "stopped"].contains(&it.phase)
    });
    named.into_inner()
}

#[test]
fn a_worker_that_stands_still_in_any_phase_is_named_with_the_phase_while_the_others_wait() {
    let moments = vec![
        ((1, 0), Moment::Data),
        ((1, 1), Moment::Compute),
        ((1, 2), Moment::Ring),
        ((2, 1), Moment::Update),
        ((3, 0), Moment::Evaluate),
    ];
    let (job, _nodes) = job(&[], vec![nothing(), stands_still(moments), nothing()]);
    let named = named(&job);
    for phase in ["data", "compute", "receive", "update", "evaluate"] {
        assert!(named.contains(&("b".to_owned(), phase.to_owned())), "{phase}: {named:?}");
    }
    assert_eq!(job.outcome().exit_code, exit::OK);
    assert_eq!(job.status().generation.unwrap().counter, 1);
}

#[test]
fn a_link_that_delivers_nothing_is_named_by_the_worker_that_receives_nothing() {
    let valve = Arc::new(Valve::default());
    let stalls = AtomicBool::new(true);
    let closes = Arc::clone(&valve);
    // The link from a to b stalls in the middle of a step.
    let plant: Plant = Box::new(move |_, moment, position| {
        if (position, moment) == (at(1, 1), Moment::Compute) && stalls.swap(false, Ordering::AcqRel)
        {
            closes.stall();
        }
        Ok(())
    });
    let job = Job::new(3, &[]);
    let _a = job.join("a", plant);
    let _b = job.join_behind("b", nothing(), &valve);
    let _c = job.join("c", nothing());
    job.until("it is named", |it| {
        it.stragglers.iter().any(|it| it.name == "b" && it.phase == "receive")
    });
    let account = job.status().stragglers[0].account.clone();
    assert!(account.starts_with("worker b receives nothing from a for "), "{account}");
    valve.open();
    assert_eq!(job.outcome().exit_code, exit::OK);
    assert_eq!(job.status().generation.unwrap().counter, 1);
}

#[test]
fn a_worker_that_is_slow_in_every_step_is_named_by_its_way_to_the_ring() {
    let (job, _nodes) = job(&["train.epochs=40"], vec![nothing(), slowly(700), nothing()]);
    job.until("it is named", |it| {
        it.stragglers.iter().any(|it| it.name == "b" && it.phase == "data")
    });
    let status = job.status();
    let slow = status.stragglers.iter().find(|it| it.name == "b").expect("named");
    assert!(slow.account.contains("comes to the ring after"), "{}", slow.account);
    assert!(slow.time > Duration::from_millis(400), "{slow:?}");
    job.stop();
    assert_eq!(job.outcome().exit_code, exit::STOPPED);
}

#[test]
fn one_that_holds_the_others_up_too_long_is_evicted_where_that_is_wanted() {
    let extra = [
        "cluster.straggler=evict",
        "cluster.liveness_timeout=3s",
        "cluster.straggler_limit=3500ms",
    ];
    let stuck: Plant = Box::new(|_, moment, position| {
        if (position, moment) == (at(1, 1), Moment::Compute) {
            // Until the test is over.
            std::thread::sleep(Duration::from_secs(60));
        }
        Ok(())
    });
    let (job, nodes) = job(&extra, vec![nothing(), stuck, nothing()]);
    assert_eq!(nodes[1].code(), exit::WORKER_LOST);
    ends_like(&job, quiet(), "one is evicted");
    // Of those who are left a ring may have to be opened once more.
    assert!(job.status().generation.unwrap().counter <= 3);
}

#[test]
fn one_that_is_cut_off_from_a_peer_gets_no_place_and_costs_nobody_anything() {
    let (job, _nodes) = job(&[LONG], vec![slowly(150), slowly(150)]);
    job.until("a step", |it| it.position >= at(1, 0));
    let valve = Arc::new(Valve::default());
    valve.cut();
    let d = job.join_behind("d", nothing(), &valve);
    job.until("d is there", |it| it.workers.len() == 3);
    assert_eq!(job.outcome().exit_code, exit::OK);
    assert_eq!(job.status().generation.unwrap().counter, 1);
    assert_eq!(d.code(), exit::OK);
}

#[test]
fn a_cut_between_two_workers_costs_one_of_them_its_place_at_once() {
    let valve = Arc::new(Valve::default());
    let cuts = Arc::clone(&valve);
    let plant: Plant = Box::new(move |_, moment, position| {
        if (position, moment) == (at(1, 1), Moment::Compute) {
            cuts.cut();
        }
        Ok(())
    });
    let job = Job::new(2, &[]);
    let a = job.join("a", plant);
    let b = job.join_behind("b", nothing(), &valve);
    ends_like(&job, quiet(), "a link is cut");
    // Both, once more both while the link is tried, and one of them.
    assert!(job.status().generation.unwrap().counter <= 3);
    let mut codes = [a.code(), b.code()];
    codes.sort_unstable();
    assert_eq!(codes, [exit::OK, exit::WORKER_LOST], "either, but not both");
}
