//! One suite for every kind of link and both orders of the sum.

use std::time::Duration;

use bytes::Bytes;
use convoy_common::config;
use convoy_common::ids::{Generation, Rank, Term};
use convoy_common::rpc::Address;
use futures::future::join_all;

use super::memory::{self, Wire};
use super::terms::tests::{bits, definition, gradient, terms};
use super::{Member, Order, Ring, RingError, RingServer, Settings};

pub(super) const CHUNK: usize = 1 << 10;
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

fn generation(counter: u32) -> Generation {
    Generation { term: Term(1), counter }
}

fn settings(rank: u32, addresses: &[Address], chunk_bytes: usize) -> Settings {
    let member = |(r, address): (usize, &Address)| Member {
        name: format!("worker-{r}"),
        address: address.clone(),
    };
    Settings {
        generation: generation(1),
        rank: Rank(rank),
        roster: addresses.iter().enumerate().map(member).collect(),
        chunk_bytes,
        timeout: TIMEOUT,
        silence: TIMEOUT,
        connect_timeout: Duration::from_secs(20),
    }
}

fn nowhere(world: u32) -> Vec<Address> {
    vec!["127.0.0.1:1".parse().unwrap(); world as usize]
}

/// Rings over memory, each wire with its own ways.
pub(super) fn wired(wires: Vec<Wire>) -> Vec<Ring> {
    let addresses = nowhere(wires.len() as u32);
    (0..)
        .zip(memory::wired(wires, CHUNK))
        .map(|(rank, link)| Ring::start(&settings(rank, &addresses, CHUNK), Some(link)))
        .collect()
}

pub(super) fn over_memory(world: u32, chunk: usize) -> Vec<Ring> {
    let addresses = nowhere(world);
    (0..)
        .zip(memory::ring(world, chunk))
        .map(|(rank, link)| Ring::start(&settings(rank, &addresses, chunk), Some(link)))
        .collect()
}

async fn servers(world: u32) -> (Vec<Address>, Vec<RingServer>) {
    let any: Address = "127.0.0.1:0".parse().unwrap();
    let bound = join_all((0..world).map(|_| RingServer::bind(&any))).await;
    bound.into_iter().map(Result::unwrap).map(|(at, it)| (Address::from(at), it)).unzip()
}

async fn over_grpc(world: u32, chunk: usize) -> (Vec<Ring>, Vec<RingServer>) {
    let (addresses, servers) = servers(world).await;
    let open = |(rank, server)| Ring::open(settings(rank, &addresses, chunk), server);
    let rings = join_all((0..).zip(&servers).map(open)).await;
    (rings.into_iter().map(Result::unwrap).collect(), servers)
}

/// Numbers that look random, the same for the same rank and place.
fn data(rank: usize, elements: usize) -> Vec<f32> {
    (0..elements)
        .map(|i| {
            let mixed = (i as u32 ^ (rank as u32) << 24).wrapping_mul(0x9e37_79b9).rotate_left(13);
            (mixed.wrapping_mul(0x85eb_ca6b) as f32 / u32::MAX as f32 - 0.5) * 8.0
        })
        .collect()
}

async fn check_sum(rings: &[Ring], elements: usize) {
    let pending = rings
        .iter()
        .enumerate()
        .map(|(r, it)| it.all_reduce(data(r, elements), config::Wire::Fp32).done());
    let sums: Vec<Vec<f32>> =
        join_all(pending).await.into_iter().collect::<Result<_, _>>().unwrap();
    let bits = |it: &[f32]| it.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let inputs: Vec<_> = (0..rings.len()).map(|r| data(r, elements)).collect();
    for sum in &sums {
        assert_eq!(sum.len(), elements);
        assert!(bits(sum) == bits(&sums[0]), "ranks differ in bits");
    }
    for (i, &sum) in sums[0].iter().enumerate() {
        let exact: f64 = inputs.iter().map(|it| f64::from(it[i])).sum();
        assert!((f64::from(sum) - exact).abs() < 1e-5, "element {i}: {sum} for {exact}");
    }
}

/// The sum must have the bits of the definition on every rank.
async fn check_canonical(rings: &[Ring], order: Order, elements: usize) {
    let world = rings.len() as u32;
    let sums = (0..).zip(rings).map(|(r, it)| it.sum(terms(order, r, world, elements)).done());
    let gradients: Vec<_> = (0..order.microbatches).map(|it| gradient(it, elements)).collect();
    let expected = bits(&definition(&gradients, order.block));
    for sum in join_all(sums).await {
        assert!(bits(&sum.unwrap()) == expected, "{order:?}, {elements} on {world} ranks");
    }
}

async fn check_gather(rings: &[Ring]) {
    let blocks: Vec<Bytes> = (0..rings.len())
        .map(|r| vec![r as u8; [0, 1, 5000, 1024, 3, 0, 2049, 7][r % 8]].into())
        .collect();
    let pending = rings.iter().zip(&blocks).map(|(it, block)| it.all_gather(block.clone()).done());
    for gathered in join_all(pending).await {
        assert!(gathered.unwrap() == blocks);
    }
}

/// What any ring must do.
async fn conforms(rings: &[Ring]) {
    for elements in [0, 1, rings.len().saturating_sub(1), 97, 1009, 7919] {
        check_sum(rings, elements).await;
    }
    for (microbatches, block) in [(1, 1), (8, 1), (13, 1), (8, 2), (13, 3), (5, 8)] {
        for elements in [0, 1, 257, 1009] {
            check_canonical(rings, Order { microbatches, block }, elements).await;
        }
    }
    check_gather(rings).await;
    // Two operations in flight, of which either may be the longer.
    for elements in [3, 60_000] {
        tokio::join!(check_sum(rings, elements), check_gather(rings));
        let order = Order { microbatches: 9, block: 2 };
        tokio::join!(check_canonical(rings, order, elements), check_gather(rings));
    }
    for end in join_all(rings.iter().map(|it| it.shutdown().done())).await {
        assert_eq!(end, Ok(()));
    }
    assert_eq!(
        rings[0].all_reduce(vec![1.0], config::Wire::Fp32).done().await,
        Err(RingError::Closed)
    );
}

#[tokio::test]
async fn rings_of_two_to_eight_ranks_conform_over_memory() {
    for world in 2..=8 {
        conforms(&over_memory(world, CHUNK)).await;
    }
}

#[tokio::test]
async fn rings_of_one_to_eight_ranks_conform_over_grpc() {
    for world in 1..=8 {
        let (rings, _servers) = over_grpc(world, CHUNK).await;
        conforms(&rings).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn millions_of_numbers_are_summed_over_memory_and_over_grpc() {
    check_sum(&over_memory(3, 256 << 10), 2_000_003).await;
    let (rings, _servers) = over_grpc(3, 256 << 10).await;
    check_sum(&rings, 3_000_017).await;
    check_canonical(&rings, Order { microbatches: 4, block: 1 }, 2_333_440).await;
    check_canonical(&rings, Order { microbatches: 8, block: 3 }, 1_000_003).await;
}

#[tokio::test]
async fn a_small_operation_overtakes_a_big_one_that_was_submitted_before_it() {
    let rings = over_memory(2, CHUNK);
    let big = join_all(
        rings.iter().map(|it| it.all_reduce(vec![1.0; 500_000], config::Wire::Fp32).done()),
    );
    let small =
        join_all(rings.iter().map(|it| it.all_reduce(vec![2.0], config::Wire::Fp32).done()));
    let mut big = std::pin::pin!(big);
    tokio::select! {
        biased;
        _ = &mut big => panic!("the big one came first"),
        sums = small => assert!(sums.into_iter().all(|it| it == Ok(vec![4.0]))),
    }
    assert!(big.await.into_iter().all(|it| it == Ok(vec![2.0; 500_000])));
}

#[tokio::test(start_paused = true)]
async fn a_rank_that_submits_late_finds_what_came_before() {
    let rings = over_memory(3, CHUNK);
    let early: Vec<_> = rings[..2]
        .iter()
        .map(|it| it.all_reduce(vec![1.0; 5000], config::Wire::Fp32).done())
        .collect();
    tokio::time::sleep(TIMEOUT / 2).await;
    let late = rings[2].all_reduce(vec![1.0; 5000], config::Wire::Fp32).done();
    assert_eq!(late.await, Ok(vec![3.0; 5000]));
    assert!(join_all(early).await.into_iter().all(|it| it == Ok(vec![3.0; 5000])));
}

#[tokio::test]
async fn rounded_sums_have_equal_bits_on_all_ranks_and_are_rounded_on_one_rank_too() {
    for world in 1..=4 {
        let (rings, _servers) = over_grpc(world, CHUNK).await;
        let inputs: Vec<_> = (0..world as usize).map(|r| data(r, 1009)).collect();
        let sums = rings
            .iter()
            .zip(&inputs)
            .map(|(it, data)| it.all_reduce(data.clone(), config::Wire::Bf16).done());
        let sums: Vec<Vec<f32>> = join_all(sums).await.into_iter().map(Result::unwrap).collect();
        for sum in &sums {
            assert_eq!(bits(sum), bits(&sums[0]));
            assert!(sum.iter().all(|it| it.to_bits() & 0xffff == 0), "each is a bfloat16");
        }
        for (i, &sum) in sums[0].iter().enumerate() {
            let exact: f64 = inputs.iter().map(|it| f64::from(it[i])).sum();
            let size: f64 = inputs.iter().map(|it| f64::from(it[i]).abs()).sum();
            assert!((f64::from(sum) - exact).abs() <= size * f64::from(world) / 256.0);
        }
        let halves = rings[0].bytes_sent();
        rings.iter().for_each(drop);
        let (rings, _servers) = over_grpc(world, CHUNK).await;
        check_sum(&rings, 1009).await;
        assert_eq!(rings[0].bytes_sent(), 2 * halves);
    }
}

#[tokio::test]
async fn every_rank_sends_each_number_twice_at_most() {
    const N: u64 = 10_007;
    for world in [2u64, 3, 5] {
        let rings = over_memory(world as u32, CHUNK);
        check_canonical(&rings, Order { microbatches: 11, block: 1 }, N as usize).await;
        let sent: Vec<u64> = rings.iter().map(|it| it.bytes_sent() / 4).collect();
        // Up to the last rank, then round to the one before it.
        let running = |rank: u64| if rank + 1 < world { N } else { 0 };
        let total = |rank: u64| if rank + 2 == world { 0 } else { N };
        let expected: Vec<u64> = (0..world).map(|rank| running(rank) + total(rank)).collect();
        assert_eq!(sent, expected);
    }
}

#[test]
fn a_ring_of_one_returns_what_it_is_given() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ring = runtime.block_on(async {
        let (addresses, servers) = servers(1).await;
        Ring::open(settings(0, &addresses, CHUNK), &servers[0]).await.unwrap()
    });
    assert_eq!(ring.all_reduce(vec![1.0, 2.0], config::Wire::Fp32).wait(), Ok(vec![1.0, 2.0]));
    assert_eq!(ring.all_gather(Bytes::from("a")).wait(), Ok(vec![Bytes::from("a")]));
    assert_eq!(ring.shutdown().wait(), Ok(()));
}

#[tokio::test]
async fn one_service_serves_one_generation_after_another() {
    let (addresses, servers) = servers(3).await;
    for counter in 1..=3 {
        let open = |(rank, server)| {
            let settings = settings(rank, &addresses, CHUNK);
            Ring::open(Settings { generation: generation(counter), ..settings }, server)
        };
        let rings = join_all((0..).zip(&servers).map(open)).await;
        let rings: Vec<Ring> = rings.into_iter().map(Result::unwrap).collect();
        check_sum(&rings, 5000).await;
        if counter == 1 {
            // The first ends in order, the second is dropped.
            join_all(rings.iter().map(|it| it.shutdown().done())).await;
        }
    }
}

#[tokio::test]
async fn a_rank_of_an_old_generation_is_refused_for_good() {
    let (addresses, servers) = servers(2).await;
    let _inbox = servers[1].expect(generation(2), 2, Rank(1));
    let error = Ring::open(settings(0, &addresses, CHUNK), &servers[0]).await.unwrap_err();
    assert!(matches!(&error, RingError::Refused { peer, .. } if peer == "worker-1"), "{error}");
    assert!(error.to_string().contains("generation 1.1 is over"), "{error}");
}

#[tokio::test]
async fn a_right_neighbour_that_is_not_there_is_named_after_the_connect_timeout() {
    let (mut addresses, mut servers) = servers(2).await;
    addresses[1] = "127.0.0.1:1".parse().unwrap();
    servers.truncate(1);
    let settings = settings(0, &addresses, CHUNK);
    let settings = Settings { connect_timeout: Duration::from_millis(300), ..settings };
    let error = Ring::open(settings, &servers[0]).await.unwrap_err();
    assert_eq!(error.blame(), Some("worker-1"), "{error}");
}

#[test]
fn neighbours_name_a_worker_whose_process_ends_in_the_middle() {
    let lively = tokio::runtime::Runtime::new().unwrap();
    let doomed = tokio::runtime::Runtime::new().unwrap();
    let (mut addresses, mut all) = lively.block_on(servers(2));
    let (last_address, last_server) = doomed.block_on(servers(1));
    addresses.extend(last_address);
    all.extend(last_server);
    let open = |rank: u32| Ring::open(settings(rank, &addresses, CHUNK), &all[rank as usize]);
    let (others, victim) = std::thread::scope(|scope| {
        let victim = scope.spawn(|| doomed.block_on(open(2)).unwrap());
        let others = lively.block_on(async { tokio::try_join!(open(0), open(1)) }).unwrap();
        (others, victim.join().unwrap())
    });
    let pending = [
        others.0.all_reduce(vec![1.0; 5000], config::Wire::Fp32),
        others.1.all_reduce(vec![1.0; 5000], config::Wire::Fp32),
    ];
    let start = std::time::Instant::now();
    // Its sockets close as they do when a process is killed; it never submitted its part.
    doomed.shutdown_background();
    for outcome in pending {
        let error = outcome.wait().unwrap_err();
        assert_eq!(error.blame(), Some("worker-2"), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(victim);
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused() {
    let (addresses, servers) = servers(2).await;
    let bad = [
        settings(2, &addresses, CHUNK),
        settings(0, &[], CHUNK),
        settings(0, &addresses, 0),
        settings(0, &addresses, 6),
        settings(0, &addresses, 8 << 20),
    ];
    for settings in bad {
        let error = Ring::open(settings, &servers[0]).await.unwrap_err();
        assert!(matches!(error, RingError::BadSettings { .. }), "{error}");
    }
}
