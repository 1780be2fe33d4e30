//! Times the ring's all-reduce among ranks of this process over gRPC on loopback.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use convoy_common::config::{HeadExchange, Numerics, Precision, Reduction, Wire};
use convoy_common::exit;
use convoy_common::failure::Failure;
use convoy_common::ids::{Generation, Rank, Term};
use convoy_common::rpc::Address;
use convoy_common::sampling::Sampler;
use futures::future::{join_all, try_join_all};

use crate::model::{ModelError, Spec};
use crate::ring::{self, Member, Ring, RingServer, Settings, Terms};
use crate::train::{rehearsal, step};

/// Times an all-reduce among ranks of this process over loopback.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ranks of the ring.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    ranks: u32,
    /// Data of each rank, in millions of bytes.
    #[arg(long, default_value_t = 243.86)]
    megabytes: f64,
    /// Timed rounds, after one that is not.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Bytes of a chunk.
    #[arg(long, default_value_t = 256 << 10)]
    chunk: usize,
    /// Order of the sum: canonical, of microbatches; or fast.
    #[arg(long, value_enum, default_value_t = Order::Canonical)]
    order: Order,
    /// Microbatches of the canonical order, over all ranks [default: two for each].
    #[arg(long, value_name = "N")]
    microbatches: Option<u32>,
    /// Microbatches of one block of the canonical order.
    #[arg(long, default_value_t = 1, value_name = "N")]
    block: u32,
    /// Halve the bytes of the fast order by rounding to bfloat16.
    #[arg(long)]
    bf16: bool,
    /// Measure the whole exchange of a step of the real net with so many samples, in place of
    /// --megabytes.
    #[arg(long, value_name = "N")]
    batch: Option<u32>,
    /// How the fully connected layers travel, with --batch.
    #[arg(long, value_enum, default_value_t = Head::Factors, requires = "batch")]
    head: Head,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Order {
    Canonical,
    Fast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Head {
    Factors,
    Gradients,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Runtime::new().map_err(|it| Failure::new(exit::FAILURE, it))?;
    let (mut seconds, sent) = runtime.block_on(measure(&args))?;
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let (fastest, slowest) = (seconds[0], seconds[seconds.len() - 1]);
    let what = match args.batch {
        Some(batch) => format!("exchange of a step of {batch} samples, head by {:?}", args.head),
        None => format!("all-reduce of {} MB", args.megabytes),
    };
    #[expect(clippy::print_stdout, reason = "the command's result")]
    {
        println!(
            "{:?} {what}, {} ranks, {} B chunks: median {median:.4} s \
             ({fastest:.4} to {slowest:.4}); {:.2} MB sent by the busiest rank",
            args.order,
            args.ranks,
            args.chunk,
            sent as f64 / 1e6 / f64::from(args.rounds + 1)
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Seconds of each round, and the bytes that the busiest rank sent in all of them.
async fn measure(args: &Args) -> Result<(Vec<f64>, u64), Failure> {
    let any: Address = "127.0.0.1:0".parse()?;
    let bound = try_join_all((0..args.ranks).map(|_| RingServer::bind(&any))).await?;
    let (addresses, servers): (Vec<_>, Vec<_>) = bound.into_iter().unzip();
    let roster: Vec<Member> = (0..args.ranks)
        .zip(addresses)
        .map(|(rank, at)| Member { name: format!("rank-{rank}"), address: at.into() })
        .collect();
    let open = |(rank, server)| {
        let settings = Settings {
            generation: Generation { term: Term(1), counter: 1 },
            rank: Rank(rank),
            roster: roster.clone(),
            chunk_bytes: args.chunk,
            timeout: Duration::from_secs(60),
            silence: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
        };
        Ring::open(settings, server)
    };
    let rings = try_join_all((0..args.ranks).zip(&servers).map(open)).await?;
    let elements = (args.megabytes * 1e6 / 4.0) as usize;
    let mut seconds = Vec::new();
    for round in 0..=args.rounds {
        let given: Vec<(Option<Bytes>, Terms)> = (0..args.ranks)
            .map(|rank| given(args, rank, elements))
            .collect::<Result<_, ModelError>>()?;
        let start = Instant::now();
        let pending = rings.iter().zip(given).map(|(ring, (block, terms))| {
            let gather = block.map(|block| ring.all_gather(block));
            let sum = step::sum(ring, &numerics(args), terms);
            async move {
                if let Some(gather) = gather {
                    gather.done().await?;
                }
                sum.done().await
            }
        });
        try_join_all(pending).await?;
        if round > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let sent = rings.iter().map(Ring::bytes_sent).max().unwrap_or_default();
    join_all(rings.iter().map(|ring| ring.shutdown().done())).await;
    Ok((seconds, sent))
}

/// What a rank gives to the ring: a block, if the whole exchange of a step is measured, and terms.
fn given(args: &Args, rank: u32, elements: usize) -> Result<(Option<Bytes>, Terms), ModelError> {
    let Some(batch) = args.batch else { return Ok((None, terms(args, rank, elements))) };
    let head = match args.head {
        Head::Factors => HeadExchange::Factors,
        Head::Gradients => HeadExchange::Gradients,
    };
    let spec = Spec::alexnet(2, 1000)?;
    let numerics = Numerics { microbatch: batch.div_ceil(args.ranks), ..numerics(args) };
    let (block, terms) = rehearsal::of_step(&spec, &numerics, head, batch, (rank, args.ranks));
    Ok((Some(block), terms))
}

fn numerics(args: &Args) -> Numerics {
    Numerics {
        microbatch: 1,
        threads_per_lane: 1,
        head_exchange: HeadExchange::Auto,
        reduction: match args.order {
            Order::Canonical => Reduction::Canonical,
            Order::Fast => Reduction::Fast,
        },
        block: args.block.max(1),
        wire: if args.bf16 { Wire::Bf16 } else { Wire::Fp32 },
        precision: Precision::Fp32,
    }
}

/// A rank's microbatches, folded already where the order allows it, as lanes leave them.
fn terms(args: &Args, rank: u32, elements: usize) -> Terms {
    let microbatches = args.microbatches.unwrap_or(2 * args.ranks).max(1);
    let share = Sampler::share(microbatches, rank, args.ranks);
    let mut terms = match args.order {
        Order::Canonical => {
            let order = ring::Order { microbatches, block: args.block.max(1) };
            Terms::new(order, share.clone(), elements)
        }
        Order::Fast => Terms::apart(share.clone(), elements),
    };
    for number in share {
        terms.add(number, vec![1e-3; elements]);
    }
    terms
}
