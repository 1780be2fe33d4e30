//! What happens when a peer or a wire fails, alike for both orders of the sum.

use std::time::Duration;

use bytes::Bytes;
use convoy_common::config;
use futures::future::join_all;
use tokio::time::Instant;

use super::memory::{Fate, Wire};
use super::parcel::Outgoing;
use super::terms::tests::terms;
use super::tests::{CHUNK, TIMEOUT, over_memory, wired};
use super::{Order, Pending, Ring, RingError};

/// Both ways to sum; whatever goes wrong must look alike.
const KINDS: [Kind; 2] = [Kind::Fast, Kind::Canonical];

#[derive(Clone, Copy, Debug)]
enum Kind {
    Fast,
    Canonical,
}

/// What rank `rank` of `world` gives to a sum of no particular numbers.
fn submit(kind: Kind, ring: &Ring, rank: usize, world: usize) -> Pending<Vec<f32>> {
    match kind {
        Kind::Fast => ring.all_reduce(vec![1.0; 10_000], config::Wire::Fp32),
        Kind::Canonical => {
            let order = Order { microbatches: 7, block: 2 };
            ring.sum(terms(order, rank as u32, world as u32, 10_000))
        }
    }
}

/// Rings over memory where the wire of rank `broken` passes `frames` frames and then does `fate`.
fn broken(world: u32, broken: u32, frames: u32, fate: fn(Outgoing) -> Fate) -> Vec<Ring> {
    let wire = |rank| -> Wire {
        let mut left = frames;
        Box::new(move |frame| {
            if rank != broken || left > 0 {
                left = left.saturating_sub(1);
                Fate::Pass(frame)
            } else {
                fate(frame)
            }
        })
    };
    wired((0..world).map(wire).collect())
}

/// What `rings`, the first of `world` ranks, get for a sum.
async fn errors(kind: Kind, rings: &[Ring], world: usize) -> Vec<RingError> {
    let pending = rings.iter().enumerate().map(|(r, it)| submit(kind, it, r, world).done());
    join_all(pending).await.into_iter().map(Result::unwrap_err).collect()
}

#[tokio::test(start_paused = true)]
async fn everyone_blames_the_peer_that_hangs_once_the_deadline_has_passed() {
    for (kind, frames) in KINDS.into_iter().flat_map(|kind| [(kind, 0), (kind, 7)]) {
        let rings = broken(4, 1, frames, |_| Fate::Hang);
        let start = Instant::now();
        let errors = errors(kind, &rings, 4).await;
        assert!(start.elapsed() >= TIMEOUT && start.elapsed() < TIMEOUT * 6 / 5);
        assert!(matches!(&errors[2], RingError::Timeout { peer, .. } if peer == "worker-1"));
        for error in errors {
            assert_eq!(error.blame(), Some("worker-1"), "{error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_waits_no_longer_and_neither_does_who_waited_for_it() {
    for kind in KINDS {
        let rings = over_memory(3, CHUNK);
        let start = Instant::now();
        // Rank 2 submits nothing, so the others wait.
        let waiting = (0..2).map(|rank| submit(kind, &rings[rank], rank, 3).done());
        let waiting: Vec<_> = waiting.map(tokio::spawn).collect();
        tokio::time::sleep(TIMEOUT / 10).await;
        rings[0].leave();
        let errors = join_all(waiting).await.into_iter().map(|it| it.unwrap().unwrap_err());
        let errors: Vec<RingError> = errors.collect();
        assert_eq!(errors[0], RingError::Left);
        assert_eq!(errors[1].blame(), Some("worker-0"), "{}", errors[1]);
        assert!(start.elapsed() < TIMEOUT / 5);
        let late = submit(kind, &rings[0], 0, 3).done().await;
        assert_eq!(late.unwrap_err(), RingError::Left);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rank_that_never_submits_is_blamed_by_all_others() {
    for kind in KINDS {
        let rings = over_memory(3, CHUNK);
        for error in errors(kind, &rings[..2], 3).await {
            assert_eq!(error.blame(), Some("worker-2"), "{kind:?}: {error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wire_that_breaks_is_known_at_once_and_the_error_stays() {
    for kind in KINDS {
        let rings = broken(3, 0, 3, |_| Fate::Cut);
        let start = Instant::now();
        let first = errors(kind, &rings, 3).await;
        assert!(start.elapsed() < Duration::from_secs(1));
        assert!(matches!(&first[1], RingError::PeerLost { peer, .. } if peer == "worker-0"));
        assert!(first.iter().all(|it| it.blame().is_some()));
        // Every later operation fails with the same.
        assert_eq!(errors(kind, &rings, 3).await, first);
        assert_eq!(rings[1].shutdown().done().await, Err(first[1].clone()));
    }
}

/// A frame whose data no longer matches its checksum.
fn corrupted(frame: Outgoing) -> Fate {
    Fate::Pass(match frame {
        Outgoing::Parcel(mut parcel) => {
            let mut data = parcel.data.to_vec();
            data[0] ^= 1;
            parcel.data = data.into();
            Outgoing::Parcel(parcel)
        }
        other => other,
    })
}

#[tokio::test(start_paused = true)]
async fn a_single_wrong_bit_is_detected_and_its_sender_named() {
    for kind in KINDS {
        let rings = broken(3, 2, 4, corrupted);
        let errors = errors(kind, &rings, 3).await;
        assert!(matches!(&errors[0], RingError::Corrupt { peer, .. } if peer == "worker-2"));
        assert!(errors.iter().all(|it| it.blame() == Some("worker-2")), "{errors:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn impossible_chunks_are_errors_and_no_panics() {
    fn tampered(change: fn(&mut super::parcel::Parcel)) -> Wire {
        Box::new(move |frame| match frame {
            Outgoing::Parcel(mut parcel) => {
                change(&mut parcel);
                Fate::Pass(Outgoing::Parcel(parcel))
            }
            other => Fate::Pass(other),
        })
    }
    let changes: [fn(&mut super::parcel::Parcel); 5] = [
        |it| it.hop = u32::MAX,
        |it| it.index = u32::MAX,
        |it| it.total = u64::MAX,
        |it| it.operation = u64::MAX,
        |it| it.collective = super::parcel::Collective::AllGather,
    ];
    for (kind, change) in KINDS.into_iter().flat_map(|kind| changes.map(|change| (kind, change))) {
        let rings = wired(vec![tampered(change), Box::new(Fate::Pass)]);
        let errors = errors(kind, &rings, 2).await;
        assert!(matches!(&errors[1], RingError::OutOfStep { peer, .. } if peer == "worker-0"));
    }
    let rings = wired(vec![tampered(|it| it.total = u64::MAX), Box::new(Fate::Pass)]);
    let blocks = join_all(rings.iter().map(|it| it.all_gather(Bytes::new()).done())).await;
    assert!(matches!(&blocks[1], Err(RingError::OutOfStep { .. })), "{blocks:?}");
}

#[tokio::test(start_paused = true)]
async fn ranks_that_disagree_about_the_size_are_told() {
    let rings = over_memory(2, CHUNK);
    let pending = [
        rings[0].all_reduce(vec![1.0; 10], config::Wire::Fp32),
        rings[1].all_reduce(vec![1.0; 12], config::Wire::Fp32),
    ];
    for outcome in join_all(pending.map(Pending::done)).await {
        assert!(outcome.unwrap_err().blame().is_some());
    }
    let rings = over_memory(2, CHUNK);
    let order = Order { microbatches: 2, block: 1 };
    let pending = [rings[0].sum(terms(order, 0, 2, 10)), rings[1].sum(terms(order, 1, 2, 12))];
    for outcome in join_all(pending.map(Pending::done)).await {
        assert!(outcome.unwrap_err().blame().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn ranks_that_disagree_about_the_blocks_are_told_where_it_shows() {
    // Between the ranks of 9 microbatches, blocks of 3 are cut, blocks of 4 are not.
    let rings = over_memory(2, CHUNK);
    let order = |block| Order { microbatches: 9, block };
    let first = rings[0].sum(terms(order(3), 0, 2, 300));
    let second = rings[1].sum(terms(order(4), 1, 2, 300));
    let error = second.done().await.unwrap_err();
    assert!(matches!(&error, RingError::OutOfStep { peer, .. } if peer == "worker-0"), "{error}");
    assert!(first.done().await.unwrap_err().blame().is_some());
}
