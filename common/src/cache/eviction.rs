//! Which entries make room for another: pure, so that it can be tried on any cache there might be.

use std::time::SystemTime;

/// One entry of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resident {
    pub(super) bytes: u64,
    /// When an image of it was read last, about.
    pub(super) used: SystemTime,
    pub(super) standing: Standing,
}

/// What its going would cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It will be needed before the one that wants room.
    Wanted,
    /// It is of this data set and has been passed, or of one that no process uses now.
    Free,
    /// It is of the data set of that number, which other processes use now.
    OfOthers(usize),
}

/// The entries to remove so that `need` bytes fit within the limit, in the order in which to remove
/// them; nothing if they cannot fit.
///
/// Free entries go first, the least recently used before the others. Then, in the same order, those
/// of data sets that other processes use, as long as that leaves each the share of the limit that it
/// would have if all data sets in use had the same. What is wanted stays. `reserved` are bytes that
/// are promised to entries which are still on their way.
pub(super) fn victims(
    residents: &[Resident],
    reserved: u64,
    need: u64,
    limit: u64,
) -> Option<Vec<usize>> {
    let mut held: u64 = residents.iter().map(|it| it.bytes).sum();
    held += reserved;
    let room = limit.checked_sub(need)?;
    let mut by_age: Vec<usize> = (0..residents.len()).collect();
    by_age.sort_by_key(|&at| residents[at].used);

    let mut victims = Vec::new();
    for &at in &by_age {
        if held > room && residents[at].standing == Standing::Free {
            held -= residents[at].bytes;
            victims.push(at);
        }
    }
    let mut others: Vec<(usize, u64)> = Vec::new();
    for resident in residents {
        if let Standing::OfOthers(set) = resident.standing {
            match others.iter_mut().find(|(it, _)| *it == set) {
                Some((_, bytes)) => *bytes += resident.bytes,
                None => others.push((set, resident.bytes)),
            }
        }
    }
    let share = limit / (others.len() as u64 + 1);
    for &at in &by_age {
        let Standing::OfOthers(set) = residents[at].standing else { continue };
        let Some((_, kept)) = others.iter_mut().find(|(it, _)| *it == set) else { continue };
        let left = kept.saturating_sub(residents[at].bytes);
        if held > room && left >= share {
            *kept = left;
            held -= residents[at].bytes;
            victims.push(at);
        }
    }
    (held <= room).then_some(victims)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn resident(bytes: u64, age: u64, standing: Standing) -> Resident {
        let used = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 - age);
        Resident { bytes, used, standing }
    }

    use Standing::{Free, OfOthers, Wanted};

    #[test]
    fn the_least_recently_used_goes_first_and_only_as_many_as_must() {
        let residents = [resident(10, 5, Free), resident(10, 9, Free), resident(10, 7, Free)];
        assert_eq!(victims(&residents, 0, 10, 40), Some(vec![]));
        assert_eq!(victims(&residents, 0, 10, 30), Some(vec![1]));
        assert_eq!(victims(&residents, 5, 10, 30), Some(vec![1, 2]));
        assert_eq!(victims(&residents, 0, 31, 30), None);
    }

    #[test]
    fn what_is_wanted_stays_however_old_it_is() {
        let residents = [resident(10, 9, Wanted), resident(10, 1, Free)];
        assert_eq!(victims(&residents, 0, 10, 20), Some(vec![1]));
        assert_eq!(victims(&residents, 0, 11, 20), None);
    }

    #[test]
    fn another_data_set_in_use_keeps_its_share() {
        let theirs = |age| resident(10, age, OfOthers(3));
        let residents = [theirs(1), theirs(2), theirs(3), resident(10, 0, Wanted)];
        assert_eq!(victims(&residents, 0, 10, 40), Some(vec![2]));
        assert_eq!(victims(&residents, 0, 20, 40), None);
    }

    proptest! {
        #[test]
        fn the_limit_holds_and_nobody_goes_in_vain(
            residents in prop::collection::vec((1_u64..50, 0_u64..100, 0_usize..5), 0..30),
            reserved in 0_u64..100, need in 0_u64..100, limit in 0_u64..600,
        ) {
            let residents: Vec<Resident> = residents
                .into_iter()
                .map(|(bytes, age, kind)| resident(bytes, age, match kind {
                    0 => Wanted,
                    1 | 2 => Free,
                    set => OfOthers(set),
                }))
                .collect();
            let total: u64 = residents.iter().map(|it| it.bytes).sum();
            let Some(victims) = victims(&residents, reserved, need, limit) else {
                // Then it does not fit either when all goes that belongs to nobody.
                let stays = residents.iter().filter(|it| it.standing != Free);
                let stays: u64 = stays.map(|it| it.bytes).sum();
                prop_assert!(stays + reserved + need > limit);
                return Ok(());
            };
            let gone: u64 = victims.iter().map(|&at| residents[at].bytes).sum();
            prop_assert!(total - gone + reserved + need <= limit);
            if let Some(&last) = victims.last() {
                prop_assert!(total - gone + residents[last].bytes + reserved + need > limit);
            }
            prop_assert!(victims.iter().all(|&at| residents[at].standing != Wanted));
            // No free one stays that is older than one that goes.
            for &at in victims.iter().filter(|&&at| residents[at].standing == Free) {
                for (other, it) in residents.iter().enumerate() {
                    if it.standing == Free && it.used < residents[at].used {
                        prop_assert!(victims.contains(&other));
                    }
                }
            }
        }
    }
}
