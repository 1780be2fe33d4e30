//! Whole training runs of a narrow AlexNet: several ranks in one process over real rings.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use convoy_common::config::Init;
use convoy_common::dataset::{Encoded, Split};
use convoy_common::ids::Position;
use convoy_common::sampling::Sampler;
use convoy_worker::data::{Source, SourceError};
use convoy_worker::train::{Cause, Ending, Fault, Moment, StepReport};
use support::{Cluster, Lived, SHARD_STARTS, TRAINING_IMAGES, calm, images};

fn ending(lived: &Lived) -> &Ending {
    lived.outcome.as_ref().unwrap()
}

fn all_equal(ranks: &[Lived]) -> &str {
    for rank in ranks {
        assert_eq!(rank.digest, ranks[0].digest, "ranks hold different bits");
        assert_eq!(rank.position, ranks[0].position);
    }
    &ranks[0].digest
}

#[test]
fn a_run_uses_every_sample_of_every_epoch_and_evaluates_after_each() {
    let mut cluster = Cluster::new(&["train.epochs=6"]);
    let ranks = cluster.run(&[1, 1], None, calm);
    all_equal(&ranks);
    assert_eq!(ending(&ranks[0]).cause, Cause::Completed);
    let steps = &ranks[0].steps;
    assert_eq!(steps.len(), 6 * 3);
    for epoch in steps.chunks(3) {
        assert_eq!(epoch.iter().map(|it| u64::from(it.samples)).sum::<u64>(), TRAINING_IMAGES);
        assert_eq!(epoch[2].samples, 6, "the last batch is short");
    }
    let last = ranks[0].evaluations.last().unwrap();
    assert_eq!((ranks[0].evaluations.len(), last.samples), (6, 7));
    assert!(last.loss.is_finite() && last.top5_correct == 7, "three classes are among any five");
    assert!(ranks[1].steps.is_empty(), "rank 0 alone reports steps");
}

/// Notes what is asked of another source.
struct Noting {
    of: Arc<dyn Source>,
    asked: Mutex<Vec<(Split, Vec<u64>)>>,
}

#[async_trait]
impl Source for Noting {
    async fn read(&self, split: Split, indices: &[u64]) -> Result<Vec<Encoded>, SourceError> {
        self.asked.lock().unwrap().push((split, indices.to_vec()));
        self.of.read(split, indices).await
    }

    fn mean_image(&self) -> &[f32] {
        self.of.mean_image()
    }

    fn covariance(&self) -> [f64; 9] {
        self.of.covariance()
    }
}

#[test]
fn an_epoch_ends_with_the_next_ones_images_read_and_an_evaluation_costs_none_of_them() {
    for lanes in [&[1][..], &[1, 1]] {
        let mut cluster = Cluster::new(&["train.epochs=3", "data.prefetch=3"]);
        let source = Arc::new(Noting { of: images(), asked: Mutex::default() });
        cluster.read_from(Arc::clone(&source) as Arc<dyn Source>, SHARD_STARTS.to_vec());
        let sampler = Sampler::of(&cluster.config, TRAINING_IMAGES, &SHARD_STARTS);
        let world = lanes.len() as u32;
        let ranks = cluster.run_with(lanes, None, calm, &|rank, _| {
            let (source, sampler) = (Arc::clone(&source), sampler.clone());
            let fault: Fault = Arc::new(move |moment, at: Position, _| {
                if moment != Moment::Committed || at.step != 0 || at.epoch == 3 {
                    return Ok(());
                }
                // The trainer stands still between the last step and the evaluation.
                let share = Sampler::share(sampler.microbatches(0), rank, world);
                for microbatch in share.take(3) {
                    let samples = sampler.microbatch(at.epoch, 0, microbatch);
                    let wanted: Vec<u64> = samples.iter().map(|it| it.index).collect();
                    let begin = Instant::now();
                    while !source.asked.lock().unwrap().contains(&(Split::Train, wanted.clone())) {
                        assert!(begin.elapsed() < Duration::from_secs(20), "{at}: {microbatch}");
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                Ok(())
            });
            Some(fault)
        });
        all_equal(&ranks);
        assert_eq!(ranks[0].evaluations.len(), 3);
        let mut times = [0; TRAINING_IMAGES as usize];
        let asked = source.asked.lock().unwrap();
        for (_, indices) in asked.iter().filter(|(split, _)| *split == Split::Train) {
            indices.iter().for_each(|&index| times[index as usize] += 1);
        }
        assert_eq!(times, [3; TRAINING_IMAGES as usize], "once in each epoch");
    }
}

#[test]
fn a_resumed_run_ends_with_the_bits_of_one_that_was_never_stopped() {
    for lanes in [&[1][..], &[1, 1], &[1, 2, 1]] {
        let mut cluster = Cluster::new(&["checkpoint.every_steps=4", "train.max_steps=9"]);
        let whole = cluster.run(lanes, None, calm);
        let expected = all_equal(&whole).to_owned();
        for step in [4, 8] {
            let manifest = cluster.publish(&whole, step);
            let resumed = cluster.run(lanes, Some(&manifest), calm);
            assert_eq!(
                all_equal(&resumed),
                expected,
                "resumed at step {step} on {} ranks",
                lanes.len()
            );
        }
    }
}

#[test]
fn a_checkpoint_of_the_end_has_the_digest_of_the_state_and_does_not_depend_on_its_writers() {
    let mut digests = Vec::new();
    for lanes in [&[1][..], &[2]] {
        let mut cluster = Cluster::new(&["train.max_steps=3", "checkpoint.every_steps=1"]);
        let ranks = cluster.run(lanes, None, calm);
        let manifest = cluster.publish(&ranks, 3);
        assert_eq!(manifest.state_digest, ranks[0].digest);
        digests.push(ranks[0].digest.clone());
    }
    assert_eq!(digests[0], digests[1], "the number of lanes must not be seen in the bits");
}

#[test]
fn a_stop_asked_of_one_rank_ends_all_at_one_boundary_with_a_checkpoint() {
    let mut cluster = Cluster::new(&["train.epochs=50"]);
    let ranks = cluster.run(&[1, 1, 1], None, |rank, control, _| {
        if rank == 2 {
            control.stop_after_step(true);
        }
    });
    all_equal(&ranks);
    for rank in &ranks {
        assert_eq!(ending(rank).cause, Cause::Stopped);
        assert_eq!(rank.position, Position { epoch: 0, step: 1 });
    }
    assert_eq!(cluster.publish(&ranks, 1).state_digest, ranks[0].digest);
}

#[test]
fn a_loss_that_is_not_finite_stops_all_ranks_before_the_step_is_committed() {
    let mut cluster = Cluster::new(&["train.lr=1000", "train.epochs=50"]);
    let ranks = cluster.run(&[1, 1], None, calm);
    all_equal(&ranks);
    let end = ending(&ranks[0]);
    assert_eq!(end.cause, Cause::NonFinite);
    assert!(end.detail.contains("not finite"), "{}", end.detail);
    let kept = end.position.global_step(3);
    assert_eq!(kept, ranks[0].steps.len() as u64);

    let steps = format!("train.max_steps={kept}");
    let mut before = Cluster::new(&["train.lr=1000", "train.epochs=50", &steps]);
    let intact = before.run(&[1, 1], None, calm);
    assert_eq!(all_equal(&intact), ranks[0].digest, "the state is that of the step before");
}

#[test]
fn the_head_may_be_exchanged_as_factors_or_as_gradients() {
    let run = |exchange: &str| {
        let exchange = format!("numerics.head_exchange=\"{exchange}\"");
        let mut cluster = Cluster::new(&[&exchange, "train.max_steps=4"]);
        let ranks = cluster.run(&[1, 1], None, calm);
        all_equal(&ranks);
        let steps = &ranks[0].steps;
        assert!(steps.iter().all(|it| it.samples > 0));
        steps.last().unwrap().loss
    };
    let (factors, gradients) = (run("factors"), run("gradients"));
    assert!((factors - gradients).abs() < 1e-3 * factors, "{factors} and {gradients}");
}

#[test]
fn more_ranks_than_microbatches_leave_some_idle_and_still_agree() {
    let mut cluster = Cluster::new(&["train.batch=4", "train.max_steps=3"]);
    let ranks = cluster.run(&[1, 1, 1, 1], None, calm);
    all_equal(&ranks);
    assert_eq!(ranks[0].steps.iter().map(|it| it.samples).sum::<u32>(), 12);
}

#[test]
fn an_evaluation_is_the_same_to_the_last_bit_on_any_number_of_workers_and_lanes() {
    for crops in ["1", "10"] {
        let mut seen = Vec::new();
        for lanes in [&[1][..], &[2], &[1, 1], &[2, 1, 1], &[1; 5]] {
            // At this rate no weight moves, so all of them evaluate the same net.
            let crops = format!("evaluation.crops={crops}");
            let mut cluster = Cluster::new(&[&crops, "train.max_steps=1", "train.lr=1e-30"]);
            let ranks = cluster.run(lanes, None, calm);
            let it = ranks[0].evaluations.last().unwrap();
            assert_eq!(it.samples, 7, "every image once");
            seen.push((it.top1_correct, it.top5_correct, it.loss.to_bits()));
        }
        assert!(seen.iter().all(|it| *it == seen[0]), "{crops} crops: {seen:?}");
    }
}

#[test]
fn a_state_with_fewer_errors_than_ever_is_kept_though_no_checkpoint_is_due() {
    let mut cluster = Cluster::new(&["train.epochs=6", "checkpoint.keep_best=true"]);
    let ranks = cluster.run(&[1, 1], None, calm);
    let errors: Vec<u64> =
        ranks[0].evaluations.iter().map(|it| it.samples - it.top1_correct).collect();
    let mut fewest = u64::MAX;
    for (epoch, errors) in errors.iter().enumerate() {
        let step = 3 * (epoch as u64 + 1);
        let kept = ranks.iter().all(|rank| rank.parts.iter().any(|it| it.0.global_step == step));
        let last = epoch == 5;
        assert_eq!(kept, *errors < fewest || last, "epoch {epoch} of {errors:?}");
        fewest = fewest.min(*errors);
        if kept {
            let shared = cluster.publish(&ranks, step).shared;
            let tally = shared.evaluations.here.unwrap();
            assert_eq!((tally.images, tally.top1_errors), (7, *errors));
            assert_eq!(shared.evaluations.fewest_errors, Some(fewest));
        }
    }
    let mut without = Cluster::new(&["train.epochs=6"]);
    let ranks = without.run(&[1], None, calm);
    assert_eq!(ranks[0].parts.len(), 1, "the last one alone");
}

#[test]
fn a_run_that_begins_with_given_weights_is_the_same_on_any_lanes_and_resumed_anywhere() {
    let mut cluster = Cluster::new(&["checkpoint.every_steps=2", "train.max_steps=4"]);
    let given = cluster.begin_with(Init::Gaussian);
    assert_eq!((given.shared.global_step, given.lineage.0), (0, 1));
    let whole = cluster.run(&[1], Some(&given), calm);
    let expected = all_equal(&whole).to_owned();
    assert_eq!(whole[0].steps.len(), 4, "it begins at the first step");
    let parallel = cluster.run(&[2], Some(&given), calm);
    assert_eq!(all_equal(&parallel), expected);
    let middle = cluster.publish(&whole, 2);
    let resumed = cluster.run(&[2], Some(&middle), calm);
    assert_eq!(all_equal(&resumed), expected);
    let seed = cluster.run(&[1], None, calm);
    assert_ne!(all_equal(&seed), expected, "other weights than the seed's");
}

#[test]
fn a_rank_that_leaves_is_named_by_its_neighbour_and_nobody_holds_half_a_step() {
    let mut cluster = Cluster::new(&["train.epochs=1000"]);
    let ranks = cluster.run(&[1, 1, 1], None, |rank, control, _| {
        if rank == 1 {
            control.abandon();
        }
    });
    assert!(ranks[1].outcome.is_err());
    for rank in [0, 2] {
        let error = ranks[rank].outcome.as_ref().unwrap_err();
        assert_eq!(error.blame(), Some("worker-1"), "rank {rank}: {error}");
    }
    all_equal(&ranks);
}

#[test]
fn on_pictures_that_can_be_told_apart_the_loss_falls_and_the_classes_are_learnt() {
    let recipe = ["train.epochs=20", "train.lr=0.01", "model.fc_bias=0.0", "model.conv_bias=0.0"];
    let mut cluster = Cluster::new(&recipe);
    let ranks = cluster.run(&[1, 1], None, calm);
    let loss = |steps: &[StepReport]| -> f64 {
        let samples: u32 = steps.iter().map(|it| it.samples).sum();
        steps.iter().map(|it| it.loss * f64::from(it.samples)).sum::<f64>() / f64::from(samples)
    };
    let steps = &ranks[0].steps;
    let (first, last) = (loss(&steps[..3]), loss(&steps[steps.len() - 3..]));
    assert!(last < 0.5 * first, "loss went from {first} to {last}");
    let found = ranks[0].evaluations.last().unwrap();
    assert!(found.top1_correct >= 6, "{} of {} right", found.top1_correct, found.samples);
}

#[test]
fn bf16_has_the_same_bits_on_any_number_of_lanes_and_learns_as_fp32_does() {
    let run = |precision: &str, lanes: u32| {
        let precision = format!("numerics.precision=\"{precision}\"");
        let mut cluster = Cluster::new(&[&precision, "train.max_steps=12"]);
        let ranks = cluster.run(&[lanes], None, calm);
        let losses: Vec<f64> = ranks[0].steps.iter().map(|it| it.loss).collect();
        (ranks[0].digest.clone(), losses)
    };
    let (one, losses) = run("bf16", 1);
    assert_eq!(one, run("bf16", 2).0);
    let (other, expected) = run("fp32", 2);
    assert_ne!(one, other);
    // Of eight images and a net of few channels, single losses scatter; their sum must not.
    let sum = |losses: &[f64]| losses.iter().sum::<f64>();
    let error = (sum(&losses) - sum(&expected)).abs() / sum(&expected);
    assert!(error < 0.05, "losses {losses:?} in bf16 and {expected:?} in fp32");
}

#[test]
fn statistics_of_batch_normalisation_are_equal_on_all_ranks_and_survive_a_checkpoint() {
    let mut cluster = Cluster::new(&[
        "model.name=\"alexnet-bn\"",
        "checkpoint.every_steps=3",
        "train.max_steps=5",
    ]);
    let whole = cluster.run(&[1, 2], None, calm);
    let expected = all_equal(&whole).to_owned();
    let manifest = cluster.publish(&whole, 3);
    assert!(manifest.tensors.iter().any(|it| it.name == "bn2.running_var"));
    let resumed = cluster.run(&[2, 1], Some(&manifest), calm);
    assert_eq!(all_equal(&resumed), expected);
}

#[test]
fn the_variant_of_torchvision_and_lars_train_on_several_ranks() {
    let mut cluster = Cluster::new(&[
        "model.name=\"alexnet-owt\"",
        "train.optimizer=\"lars\"",
        "train.lr=1.0",
        "train.epochs=3",
    ]);
    let ranks = cluster.run(&[1, 2], None, calm);
    all_equal(&ranks);
    assert_eq!(ending(&ranks[0]).cause, Cause::Completed);
    let losses: Vec<f64> = ranks[0].steps.iter().map(|it| it.loss).collect();
    assert!(losses.iter().all(|it| it.is_finite()), "{losses:?}");
    assert!(losses[8] < losses[0], "{losses:?}");
}
