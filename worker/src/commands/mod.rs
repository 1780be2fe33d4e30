//! The commands of `convoy-worker`, one file each, and what they have in common.

use convoy_common::exit;
use convoy_common::failure::Failure;
use tokio::runtime::{Builder, Runtime};

use crate::model::Device;

pub(crate) mod bench;
mod bench_data;
mod bench_index;
pub(crate) mod bench_ring;
pub(crate) mod evaluate;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod join;
pub(crate) mod model;
pub(crate) mod predict;

/// Threads of the async runtime: it moves bytes and waits, the computing happens elsewhere.
const RUNTIME_THREADS: usize = 2;

fn runtime() -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::FAILURE, error))
}

/// How many views of an image are asked for.
fn crops(text: &str) -> Result<u32, String> {
    match text {
        "1" => Ok(1),
        "10" => Ok(10),
        _ => Err("1 and 10 are possible".to_owned()),
    }
}

/// The number of lanes asked for, or one per core on a CPU and one on a GPU.
fn lanes(asked: Option<u32>, device: Device) -> Result<u32, Failure> {
    match asked {
        Some(0) => Err(Failure::new(exit::BAD_INPUT, "--lanes is 0")
            .with_hint("give at least 1, or leave it out")),
        Some(lanes) => Ok(lanes),
        None if device.is_cuda() => Ok(1),
        None => Ok(std::thread::available_parallelism().map_or(1, |n| n.get() as u32)),
    }
}
