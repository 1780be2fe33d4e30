//! `convoy-worker join`: one device works in a job until the job ends.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use convoy_common::failure::Failure;
use convoy_common::rpc::Address;
use convoy_common::{exit, shutdown, telemetry};
use tracing::info;

use crate::agent::{self, Settings};
use crate::leave;
use crate::model::device::DeviceChoice;
use crate::model::{Device, bf16_units};
use crate::peer::{self, Vault};
use crate::ring::RingServer;
use crate::session::Introduction;

/// Joins a job as one worker and works until the job ends.
///
/// A worker has no config of its own: the coordinator tells it everything. One process drives one
/// device; start one for each GPU. A worker may join while others train. SIGTERM or SIGINT lets it leave
/// at the next step boundary while the others go on; the last one takes a checkpoint first.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  convoy-worker join --coordinator http://127.0.0.1:7070
  convoy-worker join --coordinator http://10.0.0.1:7070 --device cuda:1 \\
      --ring-bind 10.0.0.2:0 --insecure

Exit codes: 0 the run is complete or the others go on without this worker, 64 bad input or refused,
69 coordinator or store out of reach, or no place for the moment, 70 a loss or gradient was not finite, 71 a worker was lost,
72 workers held different states, 75 stopped after a checkpoint.")]
pub(crate) struct Args {
    /// Where the coordinator listens.
    #[arg(long, value_name = "URL", env = "CONVOY_COORDINATOR")]
    coordinator: String,
    /// Name of this worker, unique in the job [default: HOST-PID].
    #[arg(long, value_name = "NAME", env = "CONVOY_WORKER_NAME")]
    name: Option<String>,
    /// What computes: auto takes cuda:0 where there is one.
    #[arg(long, value_name = "auto|cpu|cuda:N", default_value = "auto", env = "CONVOY_DEVICE")]
    device: DeviceChoice,
    /// Microbatches that compute at once [default: one per core on a CPU, 1 on a GPU].
    #[arg(long, value_name = "N")]
    lanes: Option<u32>,
    /// Where the ring listens, as the other workers reach it; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0", env = "CONVOY_RING_BIND")]
    ring_bind: Address,
    /// Where other workers reach the ring, if that is not where it listens: behind NAT or a proxy.
    #[arg(long, value_name = "HOST:PORT", env = "CONVOY_RING_ADVERTISE")]
    advertise: Option<Address>,
    /// Allow a ring beyond loopback although nothing is encrypted or authenticated.
    #[arg(long)]
    insecure: bool,
    /// How long to try to reach the coordinator.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// Refuse a job whose config has another digest (`convoy check` prints it).
    #[arg(long, value_name = "DIGEST")]
    expect_config: Option<String>,
    #[command(flatten)]
    log: telemetry::Args,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let name = args.name.clone().unwrap_or_else(default_name);
    let telemetry = telemetry::start(args.log.settings("worker"))?;
    telemetry.identify(None, Some(&name));
    let device = Device::find(args.device)?;
    let lanes = super::lanes(args.lanes, device)?;
    let runtime = super::runtime()?;
    let code = runtime.block_on(async {
        let (_trigger, shutdown) =
            shutdown::on_signals().map_err(|error| Failure::new(exit::FAILURE, error))?;
        if !args.insecure && !args.ring_bind.is_loopback().await? {
            return Err(open_ring(&args.ring_bind));
        }
        let vault = Arc::new(Vault::default());
        let beside = peer::routes(Arc::clone(&vault));
        let (ring_address, ring) = RingServer::bind_beside(&args.ring_bind, beside).await?;
        let advertised = args.advertise.map_or(ring_address.to_string(), |it| it.to_string());
        info!(ring = %ring_address, advertised, device = %device, lanes, "worker started");
        let who = Introduction {
            name,
            ring_address: advertised,
            device: device.to_string(),
            lanes,
            cores: std::thread::available_parallelism().map_or(0, |it| it.get() as u32),
            expect_config: args.expect_config,
            bf16_units: bf16_units::present(device),
        };
        agent::run(
            Settings {
                coordinator: args.coordinator,
                patience: args.patience,
                who,
                device,
                fault: None,
                mishap: None,
            },
            ring,
            vault,
            shutdown,
        )
        .await
    });
    // What still computes is a trainer whose generation is over; the process need not wait for it.
    leave::at_once(code.unwrap_or_else(crate::cli::told))
}

fn open_ring(bind: &Address) -> Failure {
    Failure::new(exit::BAD_INPUT, format!("the ring at {bind} would be open to the network"))
        .with_hint("bind it to 127.0.0.1, or pass --insecure if the network is private: nothing is encrypted")
}

fn default_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}", std::process::id())
}
