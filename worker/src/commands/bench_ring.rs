//! Times the ring's all-reduce among ranks of this process over gRPC on loopback.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use convoy_common::exit;
use convoy_common::failure::Failure;
use convoy_common::ids::{Generation, Rank, Term};
use convoy_common::rpc::Address;
use futures::future::{join_all, try_join_all};

use crate::ring::{Member, Ring, RingServer, Settings};

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
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Runtime::new().map_err(|it| Failure::new(exit::FAILURE, it))?;
    let mut seconds = runtime.block_on(measure(&args))?;
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let (fastest, slowest) = (seconds[0], seconds[seconds.len() - 1]);
    #[expect(clippy::print_stdout, reason = "the command's result")]
    {
        println!(
            "all-reduce of {} MB, {} ranks, {} B chunks: median {median:.4} s \
             ({fastest:.4} to {slowest:.4}), {:.2} GB/s",
            args.megabytes,
            args.ranks,
            args.chunk,
            args.megabytes / 1e3 / median
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(args: &Args) -> Result<Vec<f64>, Failure> {
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
            connect_timeout: Duration::from_secs(10),
        };
        Ring::open(settings, server)
    };
    let rings = try_join_all((0..args.ranks).zip(&servers).map(open)).await?;
    let elements = (args.megabytes * 1e6 / 4.0) as usize;
    let mut data = vec![vec![1e-3_f32; elements]; rings.len()];
    let mut seconds = Vec::new();
    for round in 0..=args.rounds {
        let start = Instant::now();
        let pending = rings.iter().zip(data).map(|(ring, data)| ring.all_reduce(data).done());
        data = try_join_all(pending).await?;
        if round > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    join_all(rings.iter().map(|ring| ring.shutdown().done())).await;
    Ok(seconds)
}
