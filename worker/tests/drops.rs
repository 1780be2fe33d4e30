//! Drops of the rate by hand in whole training runs: where they take effect, and that their log
//! gives the same weights again.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[expect(dead_code, reason = "the other tests use the rest")]
mod support;

use std::sync::Arc;
use std::time::Duration;

use convoy_common::ids::Position;
use convoy_common::schedule::ManualDrop;
use convoy_worker::train::Control;
use support::{Cluster, Lived, calm};

/// ceil(22 / 8)
const STEPS_PER_EPOCH: u32 = 3;

const RUN: [&str; 5] = [
    "train.max_steps=12",
    "checkpoint.every_steps=4",
    "schedule.kind=\"cosine\"",
    "schedule.warmup_steps=3",
    "evaluation.every_epochs=2",
];

fn order(number: u32, at: Option<Position>) -> ManualDrop {
    ManualDrop { number, divide_by: 10.0, at }
}

fn digest(ranks: &[Lived]) -> String {
    for rank in ranks {
        assert!(rank.outcome.is_ok());
        assert_eq!(rank.digest, ranks[0].digest, "ranks hold different bits");
    }
    ranks[0].digest.clone()
}

/// Learns of the order when the rank has come to that step of the run.
fn learn_at(control: &Arc<Control>, step: u64, drop: ManualDrop) {
    let control = Arc::clone(control);
    std::thread::spawn(move || {
        while control.position().global_step(STEPS_PER_EPOCH) < step {
            std::thread::sleep(Duration::from_millis(1));
        }
        control.learn(drop);
    });
}

/// Rank 0 knows the first order from the start, rank 1 learns of it on the way.
fn live() -> (Cluster, Vec<Lived>) {
    let mut cluster = Cluster::new(&RUN);
    let ranks = cluster.run(&[1, 1], None, |rank, control, _| {
        if rank == 0 {
            control.learn(order(1, None));
        } else {
            learn_at(control, 5, order(1, None));
        }
    });
    (cluster, ranks)
}

#[test]
fn a_drop_waits_until_all_ranks_know_it_and_its_log_gives_the_same_bits_again() {
    let (mut cluster, ranks) = live();
    let expected = digest(&ranks);
    let [(1, at)] = ranks[0].drops[..] else { panic!("{:?}", ranks[0].drops) };
    let step = at.global_step(STEPS_PER_EPOCH) as usize;
    assert!((6..12).contains(&step), "in effect at step {step}");
    assert!(ranks[1].drops.is_empty(), "rank 0 alone tells");

    let plain = Cluster::new(&RUN).run(&[1, 1], None, calm);
    assert_ne!(digest(&plain), expected);
    for (number, (dropped, plain)) in ranks[0].steps.iter().zip(&plain[0].steps).enumerate() {
        let by = if number < step { 1.0 } else { 10.0 };
        assert_eq!(dropped.learning_rate, plain.learning_rate / by, "step {number}");
    }

    for lanes in [&[2][..], &[1, 2, 1]] {
        let mut replay = Cluster::new(&RUN);
        replay.drops = vec![order(1, Some(at))];
        let replayed = replay.run(lanes, None, calm);
        assert_eq!(digest(&replayed), expected, "replayed from the log on {lanes:?}");
        assert_eq!(replayed[0].drops, [(1, at)]);
    }

    cluster.drops = vec![order(1, Some(at))];
    for (step, lanes) in [(4, &[1, 1, 1][..]), (8, &[1])] {
        let manifest = cluster.publish(&ranks, step);
        let resumed = cluster.run(lanes, Some(&manifest), calm);
        assert_eq!(digest(&resumed), expected, "resumed at step {step}");
    }
}

#[test]
fn a_checkpoint_holds_the_drops_before_it_and_needs_no_log_for_them() {
    let mut cluster = Cluster::new(&RUN);
    let at = Position { epoch: 1, step: 1 };
    cluster.drops = vec![order(1, Some(Position { epoch: 0, step: 2 })), order(2, Some(at))];
    let whole = cluster.run(&[1, 1], None, calm);
    let manifest = cluster.publish(&whole, 4);
    let applied: Vec<_> = manifest.shared.schedule.manual.iter().map(|it| it.at).collect();
    assert_eq!(applied, [Position { epoch: 0, step: 2 }, at], "one at the checkpoint's own step");
    cluster.drops = Vec::new();
    let resumed = cluster.run(&[1, 1], Some(&manifest), calm);
    assert_eq!(digest(&resumed), digest(&whole));
}

#[test]
fn an_order_that_one_rank_never_hears_of_never_takes_effect() {
    let mut cluster = Cluster::new(&RUN);
    let ranks = cluster.run(&[1, 1], None, |rank, control, _| {
        if rank == 1 {
            control.learn(order(1, None));
        }
    });
    assert_eq!(digest(&ranks), digest(&Cluster::new(&RUN).run(&[1, 1], None, calm)));
}
