//! The promise under a changing membership: whatever happens to workers, the state after every step
//! and at the end is that of a run in which nothing happened, and every sample is used once.
//!
//! Every commit of every worker is compared with those of all others, and the end with a quiet run
//! of one worker.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "together/operated.rs"]
mod operated;
#[path = "together/steady.rs"]
mod steady;
mod together;

use std::sync::OnceLock;
use std::time::Duration;

use convoy_common::checkpoint::Manifest;
use convoy_common::exit;
use convoy_common::ids::Position;
use convoy_worker::train::{Moment, TrainError};
use together::{Diary, Job, Node, Plant, nothing, once, slowly};

fn at(epoch: u32, step: u32) -> Position {
    Position { epoch, step }
}

/// What a run comes to in which nothing happens, after so many epochs.
struct Quiet {
    diary: Diary,
    end: Manifest,
}

fn quiet() -> &'static Quiet {
    static QUIET: OnceLock<Quiet> = OnceLock::new();
    QUIET.get_or_init(|| run_quietly(&[]))
}

/// The same over eight epochs, for what needs time.
fn long_quiet() -> &'static Quiet {
    static QUIET: OnceLock<Quiet> = OnceLock::new();
    QUIET.get_or_init(|| run_quietly(&[LONG]))
}

const LONG: &str = "train.epochs=8";

fn run_quietly(extra: &[&str]) -> Quiet {
    let job = Job::new(1, extra);
    let worker = job.join("only", nothing());
    assert_eq!(job.outcome().exit_code, exit::OK);
    assert_eq!(worker.code(), exit::OK);
    Quiet { diary: job.diary(), end: job.checkpoint() }
}

/// The job ends as the quiet run did.
fn ends_like(job: &Job, quiet: &Quiet, what: &str) {
    let outcome = job.outcome();
    assert_eq!(outcome.exit_code, exit::OK, "{what}: {outcome:?}");
    assert_eq!(job.diary(), quiet.diary, "{what}");
    let end = job.checkpoint();
    assert_eq!(end.state_digest, quiet.end.state_digest, "{what}");
    assert_eq!(end.shared.samples_seen, quiet.end.shared.samples_seen, "{what}");
    assert_eq!(end.shared.schedule, quiet.end.shared.schedule, "{what}");
    assert_eq!(end.shared.evaluations, quiet.end.shared.evaluations, "{what}");
}

/// A job of workers a, b, c ... of which each has something planted.
fn job(extra: &[&str], plants: Vec<Plant>) -> (Job, Vec<Node>) {
    let job = Job::new(plants.len() as u32, extra);
    let join = |(number, plant)| {
        let name = char::from(b'a' + number as u8).to_string();
        job.join(&name, plant)
    };
    let nodes = plants.into_iter().enumerate().map(join).collect();
    (job, nodes)
}

/// One of three workers dies at that moment; the others go on.
fn lose(victim: usize, position: Position, moment: Moment) {
    let plant = |number| match number == victim {
        true => once(position, moment, |life| life.die()),
        false => nothing(),
    };
    let (job, nodes) = job(&[], (0..3).map(plant).collect());
    ends_like(&job, quiet(), &format!("{victim} lost at {position}, {moment:?}"));
    let generation = job.status().generation.unwrap();
    assert_eq!(generation.counter, 2, "{victim} lost at {position}, {moment:?}");
    for (number, node) in nodes.iter().enumerate() {
        if number != victim {
            assert_eq!(node.code(), exit::OK);
        }
    }
}

#[test]
fn a_worker_lost_at_any_moment_of_a_step_leaves_no_trace() {
    for (victim, moment) in
        [(1, Moment::Data), (2, Moment::Compute), (0, Moment::Ring), (1, Moment::Update)]
    {
        lose(victim, at(1, 1), moment);
    }
    lose(0, at(1, 2), Moment::Committed);
}

#[test]
fn a_worker_lost_while_all_evaluate_leaves_no_trace() {
    lose(0, at(2, 0), Moment::Evaluate);
    lose(2, at(2, 0), Moment::Evaluated);
}

#[test]
fn a_worker_lost_at_the_very_end_leaves_no_trace() {
    // The last step is done, the last evaluation and the last checkpoint are not.
    lose(1, at(4, 0), Moment::Evaluate);
    lose(0, at(4, 0), Moment::Committed);
}

/// The worker's ring breaks before it has what the others have already.
fn falls_behind(position: Position, moment: Moment) -> Plant {
    once(position, moment, |_| Err(TrainError::Abandoned))
}

#[test]
fn whoever_falls_behind_makes_the_step_or_the_evaluation_again_from_what_a_peer_has() {
    for (exchange, position, moment) in [
        ("numerics.head_exchange=factors", at(1, 1), Moment::Update),
        ("numerics.head_exchange=gradients", at(1, 1), Moment::Update),
        ("numerics.head_exchange=auto", at(3, 0), Moment::Evaluated),
    ] {
        let (job, _nodes) =
            job(&[exchange], vec![falls_behind(position, moment), nothing(), nothing()]);
        ends_like(&job, &run_quietly(&[exchange]), exchange);
        assert_eq!(job.status().generation.unwrap().counter, 2);
    }
}

#[test]
fn a_step_that_died_with_the_only_one_who_had_it_is_made_anew() {
    let newest = once(at(1, 2), Moment::Committed, |life| life.die());
    let (job, _nodes) = job(&[], vec![newest, falls_behind(at(1, 1), Moment::Update)]);
    ends_like(&job, quiet(), "the newest is lost");
}

#[test]
fn two_lost_at_once_and_one_after_another_leave_one_who_goes_on() {
    let dies = |step| once(at(1, step), Moment::Ring, |life| life.die());
    let (job, _nodes) = job(&[], vec![dies(1), nothing(), dies(1), dies(2)]);
    ends_like(&job, quiet(), "three of four are lost");
}

#[test]
fn workers_that_join_in_the_middle_get_the_state_of_a_peer() {
    let (job, mut nodes) = job(
        &[LONG],
        vec![slowly(150), once(at(1, 1), Moment::Ring, |life| life.die()), slowly(150)],
    );
    job.until("b is gone", |it| it.workers.len() == 2 && it.phase == "training");
    nodes.push(job.join("d", slowly(150)));
    job.until("d is in", |it| {
        it.workers.len() == 3 && it.workers.iter().all(|it| it.rank.is_some())
    });
    assert_eq!(job.status().generation.unwrap().counter, 3);
    assert!(job.status().position < at(7, 0), "it came while the others trained");
    ends_like(&job, long_quiet(), "one joins");
    assert_eq!(nodes.last().unwrap().code(), exit::OK);
}

#[test]
fn a_donor_that_dies_while_it_gives_costs_nothing_but_the_transfer() {
    let job = Job::new(3, &[LONG]);
    // The lowest rank gives, and does not survive it.
    let _a = job.join_as_dying_donor("a", slowly(150));
    let _b = job.join("b", once(at(1, 1), Moment::Ring, |life| life.die()));
    let _c = job.join("c", slowly(150));
    job.until("b is gone", |it| it.workers.len() == 2 && it.phase == "training");
    let d = job.join("d", slowly(150));
    ends_like(&job, long_quiet(), "a donor dies");
    // All three, two, three of which one dies, the two that are left.
    assert_eq!(job.status().generation.unwrap().counter, 4);
    assert_eq!(d.code(), exit::OK);
}

#[test]
fn a_worker_that_is_asked_to_leave_goes_at_a_boundary_and_the_others_go_on() {
    let (job, nodes) = job(&[LONG], vec![slowly(50), slowly(50), slowly(50)]);
    job.until("a step", |it| it.position >= at(1, 0));
    nodes[0].ask_to_leave();
    assert_eq!(nodes[0].code(), exit::OK);
    assert!(job.status().position < at(8, 0));
    ends_like(&job, long_quiet(), "one leaves");
    assert_eq!(nodes[1].code(), exit::OK);
}

#[test]
fn when_all_are_asked_to_leave_the_job_stops_with_a_checkpoint_and_goes_on_later() {
    let (job, nodes) = job(&[LONG], vec![slowly(50), slowly(50)]);
    job.until("a step", |it| it.position >= at(1, 0));
    nodes.iter().for_each(Node::ask_to_leave);
    assert_eq!(job.outcome().exit_code, exit::STOPPED);
    let codes: Vec<u8> = nodes.iter().map(Node::code).collect();
    assert!(codes.contains(&exit::STOPPED), "{codes:?}");
    drop(nodes);
    let job = job.again(1, &[LONG]);
    let _only = job.join("only", nothing());
    assert_eq!(job.outcome().exit_code, exit::OK);
    assert_eq!(job.checkpoint().state_digest, long_quiet().end.state_digest);
    assert_eq!(job.checkpoint().shared.samples_seen, long_quiet().end.shared.samples_seen);
}

#[test]
fn below_min_workers_the_job_waits_with_its_state_until_enough_are_back() {
    let extra = ["cluster.min_workers=2"];
    let (job, _nodes) =
        job(&extra, vec![nothing(), once(at(1, 1), Moment::Compute, |life| life.die())]);
    job.until("it waits", |it| it.phase == "waiting" && it.generation.is_some());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(job.status().phase, "waiting");
    assert!(job.status().detail.starts_with("1 of 2 workers needed"), "{}", job.status().detail);
    let back = job.join("b", nothing());
    ends_like(&job, quiet(), "one came back");
    assert_eq!(back.code(), exit::OK);
}

#[test]
fn if_nobody_comes_back_the_state_is_kept_and_the_job_ends_with_71() {
    let extra = ["cluster.min_workers=2", "cluster.join_timeout=8s"];
    let dies = once(at(1, 1), Moment::Compute, |life| life.die());
    let (job, nodes) = job(&extra, vec![nothing(), dies]);
    let outcome = job.outcome();
    assert_eq!(outcome.exit_code, exit::WORKER_LOST);
    assert!(outcome.message.contains("cluster.min_workers"), "{}", outcome.message);
    assert_eq!(nodes[0].code(), exit::WORKER_LOST);
    let kept = job.checkpoint();
    // The one that died may have been the only one that had made the last step.
    let position = kept.shared.position;
    assert!([at(1, 0), at(1, 1)].contains(&position), "{position}");
    assert_eq!(Some(&kept.state_digest), quiet().diary.get(&position));
    assert_eq!(kept.shared.samples_seen, 22 + 8 * u64::from(position.step));
}
