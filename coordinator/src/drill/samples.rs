//! The account of a drill's samples: what the run's order says against what was fed into each step.
//!
//! At each step every rank adds up the marks of the images that it took from its reader and gave to its
//! lanes, and all ranks add these sums up over the ring with the losses. So a step's sum tells, without
//! any arithmetic of the net, that its global batch was these images, each once, whoever computed them
//! and however often the step was begun. Equal digests at the end prove the same more strictly; this
//! proves it step by step, and says where it went wrong.

use std::collections::BTreeMap;

use convoy_common::sampling::{Sampler, mark};

use super::watch::Fed;

/// What came of a run's samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Samples of the order that no committed step was fed.
    pub(super) lost: u64,
    /// Samples that a committed step was fed beyond the order.
    pub(super) doubled: u64,
    /// Steps that nobody told of; what they were fed is not known.
    pub(super) untold: u64,
    /// The first step whose samples are not those of the order.
    pub(super) first: Option<u64>,
}

/// Compares the steps 1 to `last` with the order.
pub(super) fn account(sampler: &Sampler, fed: &BTreeMap<u64, Fed>, last: u64) -> Account {
    let mut account = Account::default();
    let per_epoch = u64::from(sampler.steps_per_epoch().max(1));
    let mut order = sampler.epoch(0);
    for number in 1..=last {
        let (epoch, step) = ((number - 1) / per_epoch, (number - 1) % per_epoch);
        let (epoch, step) = (epoch as u32, step as u32);
        if order.epoch() != epoch {
            order = sampler.epoch(epoch);
        }
        let Some(fed) = fed.get(&number) else {
            account.untold += 1;
            continue;
        };
        let samples = u64::from(sampler.batch_size(step));
        let images = (0..sampler.microbatches(step))
            .flat_map(|it| sampler.microbatch_in(&order, step, it))
            .fold(0_u64, |sum, it| sum.wrapping_add(mark(epoch, step, it.index)));
        let (lost, doubled) = match fed.samples {
            // As many as there should be, and others: at least one of each.
            it if it == samples => (1, 1),
            it => (samples.saturating_sub(it), it.saturating_sub(samples)),
        };
        if (fed.samples, fed.images) != (samples, images) {
            account.lost += lost;
            account.doubled += doubled;
            account.first.get_or_insert(number);
        }
    }
    account
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 22 images in batches of 8: three steps an epoch, the last one short.
    fn sampler() -> Sampler {
        Sampler::new(3, 22, 8, 4)
    }

    fn right() -> BTreeMap<u64, Fed> {
        let sampler = sampler();
        (1..=7)
            .map(|number: u64| {
                let (epoch, step) = (((number - 1) / 3) as u32, ((number - 1) % 3) as u32);
                let all: Vec<_> = (0..sampler.microbatches(step))
                    .flat_map(|it| sampler.microbatch(epoch, step, it))
                    .collect();
                let images =
                    all.iter().fold(0_u64, |sum, it| sum.wrapping_add(mark(epoch, step, it.index)));
                (number, Fed { samples: all.len() as u64, images })
            })
            .collect()
    }

    #[test]
    fn a_run_that_was_fed_its_order_has_nothing_lost_doubled_or_untold() {
        assert_eq!(account(&sampler(), &right(), 7), Account::default());
    }

    #[test]
    fn what_is_missing_too_much_or_another_image_is_found_with_its_step() {
        let mut fed = right();
        fed.get_mut(&2).unwrap().samples -= 3;
        let found = account(&sampler(), &fed, 7);
        assert_eq!((found.lost, found.doubled, found.first), (3, 0, Some(2)));

        let mut fed = right();
        fed.get_mut(&5).unwrap().samples += 2;
        let found = account(&sampler(), &fed, 7);
        assert_eq!((found.lost, found.doubled, found.first), (0, 2, Some(5)));

        let mut fed = right();
        // One image twice in place of another.
        let (first, second) = (mark(1, 0, 4), mark(1, 0, 5));
        let it = fed.get_mut(&4).unwrap();
        it.images = it.images.wrapping_sub(first).wrapping_add(second);
        let found = account(&sampler(), &fed, 7);
        assert_eq!((found.lost, found.doubled, found.first), (1, 1, Some(4)));
    }

    #[test]
    fn a_step_of_which_nobody_told_is_counted_as_that() {
        let mut fed = right();
        fed.remove(&6);
        assert_eq!(account(&sampler(), &fed, 7), Account { untold: 1, ..Account::default() });
    }
}
