//! `convoy serve`: coordinates one job until it ends.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use convoy_common::checkpoint::Claim;
use convoy_common::config::{self, Decay, RunConfig};
use convoy_common::exit;
use convoy_common::failure::{Explain, Failure};
use convoy_common::ids::Term;
use convoy_common::rpc::{self, Address};
use convoy_common::shutdown::{self, Shutdown};
use convoy_common::telemetry::{self, Format, Telemetry};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::engine::{self, Handle, Input};
use crate::ledger::{self, Fence, Fencing, Origin, Tenure};
use crate::machine::{Ending, Event, Outcome};
use crate::service::{self, Facts, Reception, Service};

/// For calls to close after the job's end; workers have had their moment before.
const LAST_CALLS: Duration = Duration::from_secs(2);
/// For the store to say, at the end, whether another coordinator has the run.
const LAST_LOOK: Duration = Duration::from_secs(5);
/// Terms that are claimed in vain before this coordinator gives up.
const CLAIMS: u32 = 20;

/// Coordinates one job: waits for its workers, keeps its checkpoints, ends when it ends
///
/// A run that exists goes on: with the workers that still train it since their coordinator was lost, or
/// else from its newest good checkpoint. If the coordinator before did not end its job, its workers are
/// waited for some seconds first, so whatever starts it again (systemd, Kubernetes) needs to know
/// nothing. SIGINT or SIGTERM takes a checkpoint and ends the job; a second one ends it at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  convoy serve configs/quickstart.toml
  convoy serve my.toml --set cluster.workers=4 --bind 10.0.0.1:7070 --insecure
  convoy serve my.toml --from 1/000000000500
  convoy-worker join --coordinator http://10.0.0.1:7070   (on each worker's machine)

Exit codes: 0 complete, 64 bad input, 69 store out of reach or too few workers, 70 a loss or
gradient was not finite, 71 a worker was lost, 72 workers held different states, 73 another
coordinator works on the run or took it over, 75 stopped after a checkpoint, 130 interrupted.")]
pub(crate) struct Args {
    /// The config, a TOML file
    config: PathBuf,
    /// Sets one value, whatever the file says; may be repeated
    #[arg(long = "set", value_name = "SECTION.FIELD=VALUE")]
    set: Vec<String>,
    /// Where to listen, in place of cluster.bind; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT")]
    bind: Option<String>,
    /// Allow an address beyond loopback although nothing is encrypted or authenticated
    #[arg(long)]
    insecure: bool,
    /// Refuse a run that exists
    #[arg(long, conflicts_with = "from")]
    fresh: bool,
    /// Start from this checkpoint (STEP, LINEAGE/STEP, best, LINEAGE/best or its path) in a lineage
    /// of its own
    #[arg(long, value_name = "CHECKPOINT")]
    from: Option<String>,
    /// Train anew with the drops by hand of the run at this URL, each at its recorded step
    #[arg(long, value_name = "RUN_URL", conflicts_with_all = ["fresh", "from"])]
    replay: Option<String>,
    /// Go without create-only writes where the run's store has none; nothing stops a second coordinator
    /// then
    #[arg(long)]
    unfenced: bool,
    /// Write the address that became of --bind to this file
    #[arg(long, value_name = "PATH")]
    address_file: Option<PathBuf>,
    #[command(flatten)]
    log: telemetry::Args,
}

/// What is wrong with the way in.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(
        "{address} can be reached from other machines, and nothing is encrypted or authenticated"
    )]
    Insecure { address: Address },
    #[error("cannot write the address to {}", path.display())]
    AddressFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Explain for ServeError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Insecure { .. } => {
                "on a network that you trust, allow it with --insecure; else bind 127.0.0.1"
                    .to_owned()
            }
            Self::AddressFile { .. } => "name a file in a folder that exists".to_owned(),
        })
    }

    fn exit_code(&self) -> u8 {
        exit::BAD_INPUT
    }
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let telemetry = telemetry::start(args.log.settings("coordinator"))?;
    let config = config::load(&args.config, &args.set)?;
    telemetry.identify(Some(&config.run.name), None);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::FAILURE, error))?;
    let code = runtime.block_on(serve(args, config, &telemetry));
    // Nothing that still runs may hold up the end.
    runtime.shutdown_background();
    code.map(ExitCode::from)
}

async fn serve(args: Args, config: RunConfig, telemetry: &Telemetry) -> Result<u8, Failure> {
    let (_trigger, shutdown) =
        shutdown::on_signals().map_err(|error| Failure::new(exit::FAILURE, error))?;
    let address: Address = args.bind.as_deref().unwrap_or(&config.cluster.bind).parse()?;
    let insecure = args.insecure || config.cluster.insecure;
    if !insecure && !address.is_loopback().await? {
        return Err(ServeError::Insecure { address }.into());
    }
    if args.log.log_format == Format::Text {
        // Whoever reads JSON from standard error keeps it, too: the launcher writes that file.
        telemetry.write_file(&config.log_folder())?;
    }
    // Bound before the run is touched: a port that is taken leaves no trace in it. Served from then on:
    // another coordinator that is started meanwhile must find that this one lives.
    let (bound, incoming) = rpc::bind(&address).await?;
    let (own, reception) = (bound.to_string(), Reception::default());
    let (over, ended) = oneshot::channel::<()>();
    let server = tokio::spawn(
        rpc::server()
            .add_service(Service::behind(reception.clone()).into_server())
            .serve_with_incoming_shutdown(incoming, async {
                // An end of the job and a dropped sender are the same here.
                let _ = ended.await;
            }),
    );
    let (opened, facts) = tokio::select! {
        opened = open(&args, config, &own, &reception) => opened?,
        request = shutdown.requested() => {
            info!(reason = request.reason, "stopped before the job began");
            return Ok(exit::STOPPED);
        }
    };

    let fence = opened.fence;
    let (engine, job) = engine::start(opened.plan, opened.ledger);
    reception.open(engine.clone(), facts);
    tokio::spawn(service::watch(fence.clone(), engine.clone()));
    if let Some(path) = &args.address_file {
        write_address(path, &own)?;
    }
    info!(address = own, "listening");
    tokio::spawn(obey(shutdown, engine));

    let outcome: Outcome = job.await.map_err(|error| Failure::new(exit::FAILURE, error))?;
    drop(over);
    match timeout(LAST_CALLS, server).await {
        Ok(Ok(Err(error))) => warn!(%error, "serving ended badly"),
        Ok(_) => {}
        Err(_) => warn!("some calls are still open; not waiting for them"),
    }
    Ok(if outcome.kind == Ending::Failed && is_over(&fence).await {
        // Whatever it took its workers' leaving for: they have another coordinator.
        exit::SUPERSEDED
    } else {
        outcome.exit_code
    })
}

/// Whether a later term has begun, as far as the store says so.
async fn is_over(fence: &Fence) -> bool {
    match timeout(LAST_LOOK, fence.tenure()).await {
        Ok(Ok(Tenure::Followed(newest))) => {
            let address = newest.address;
            let hint = format!("ask that one: convoy status {address}");
            error!(term = newest.term.0, address, hint, "another coordinator has the run");
            true
        }
        _ => false,
    }
}

/// Everything between the config and the first worker.
async fn open(
    args: &Args,
    config: RunConfig,
    address: &str,
    reception: &Reception,
) -> Result<(ledger::Opened, Facts), Failure> {
    let origin = match (&args.from, &args.replay) {
        (Some(checkpoint), _) => Origin::Checkpoint(checkpoint.clone()),
        (None, Some(url)) => Origin::Replay(url.clone()),
        (None, None) if args.fresh => Origin::Fresh,
        (None, None) => Origin::Newest,
    };
    let fencing = if args.unfenced { Fencing::DoneWithout } else { Fencing::Required };
    let run = ledger::open(config, origin, fencing).await?;
    let (url, config) = (run.url().to_owned(), run.config().clone());
    reception.opens(&config.run.name, &url);
    let term = claim(&run, address).await?;
    reception.claimed(term);
    let opened = run.begin(term).await?;
    let facts = Facts {
        run: config.run.name.clone(),
        url,
        run_id: opened.run_id.clone(),
        record_digest: opened.record_digest.clone(),
        config_json: config.to_json(),
        term: opened.plan.term.0,
        workers: opened.plan.workers,
        epochs: opened.plan.epochs,
        steps_per_epoch: opened.plan.steps_per_epoch,
        divide_by: match config.schedule.decay {
            Decay::Plateau { divide_by, .. } => divide_by,
            // The paper's, section 5.
            _ => 10.0,
        },
    };
    Ok((opened, facts))
}

/// Claims the next term, unless the coordinator of the newest one answers. A claim that another won is
/// followed by a look at that one; it may have died since.
async fn claim(run: &ledger::Run, address: &str) -> Result<Term, Failure> {
    let mut newest = run.newest_term().await?;
    for _ in 0..CLAIMS {
        if let Some(other) = &newest
            // Who listened here before is gone.
            && other.address != address
            && service::is_served_by(&other.address, run.url(), other.term.0).await
        {
            return Err(run.occupied_by(other).into());
        }
        match run.claim(newest.as_ref(), address).await? {
            Claim::Won(record) => return Ok(record.term),
            Claim::Lost(other) => newest = Some(other),
        }
    }
    Err(newest.map_or_else(
        || Failure::new(exit::FAILURE, "no term could be claimed"),
        |other| run.occupied_by(&other).into(),
    ))
}

/// Turns signals into the engine's events.
async fn obey(shutdown: Shutdown, engine: Handle) {
    let reason = shutdown.requested().await.reason;
    engine.send(Input::Event(Event::StopRequested { reason })).await;
    let reason = shutdown.immediate().await.reason;
    engine.send(Input::Event(Event::Interrupted { reason })).await;
}

/// Writes by renaming, so that a reader sees the whole address or none.
fn write_address(path: &Path, address: &str) -> Result<(), ServeError> {
    let failed = |source| ServeError::AddressFile { path: path.to_owned(), source };
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let staged = PathBuf::from(name);
    std::fs::write(&staged, format!("{address}\n")).map_err(failed)?;
    std::fs::rename(&staged, path).map_err(failed)
}
