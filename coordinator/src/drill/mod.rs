//! Rehearses failures: a real job under random faults, whose end is compared with that of a quiet one.
//!
//! ```text
//! plan (seed) --> rounds --inflict--> processes, network        convoy serve, convoy-worker join
//!                            |            | log lines, status
//!                            |            v
//!                            '-------> journal --> rows, samples --.
//!        the same config again, quietly, to the same step --digest--> verdict
//! ```
//!
//! The faults come first, and the quiet run then makes as many steps as the job had made when the last
//! fault was over: so a drill of any config, however long, takes what its faults take. Only a
//! config whose schedule depends on the run's end, and a drill whose reference is given, runs to the
//! config's own end.
//!
//! Everything runs on the main thread, because the processes' lives are tied to the thread that
//! starts them ([`crate::launch::tether`]); only the proxies have a thread of their own.

mod cluster;
mod drive;
mod error;
mod inflict;
mod leaks;
mod network;
mod plan;
mod process;
mod report;
mod samples;
mod scene;
mod verdict;
mod vitals;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use convoy_common::checkpoint::{Checkpoints, Keep, Summary};
use convoy_common::config::RunConfig;
use convoy_common::exit;
use convoy_common::failure::{Explain as _, Failure};
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use self::cluster::{Cluster, Setup};
use self::drive::Drive;
use self::error::DrillError;
pub(crate) use self::network::Cutter;
use self::network::Network;
pub(crate) use self::plan::Kind;
use self::plan::Wanted;
use self::scene::{Scene, Screen};
use self::verdict::Verdict;
use self::watch::Journal;
use crate::launch::signals::Signals;
use crate::launch::{Device, drawn};

/// For what the processes started to be gone after they are.
const GONE: Duration = Duration::from_secs(5);
/// More steps and epochs than any drill takes.
const ENDLESS: [&str; 2] = ["train.epochs=1000000", "train.max_steps=1000000000000"];

/// What is to be rehearsed: the command line, resolved.
#[derive(Debug)]
pub(crate) struct Drill {
    /// The config file.
    pub(crate) config: PathBuf,
    /// `key=value`, on top of it.
    pub(crate) overrides: Vec<String>,
    /// What both resolve to.
    pub(crate) run: RunConfig,
    /// How many, at least two.
    pub(crate) workers: u32,
    /// How many faults.
    pub(crate) faults: u32,
    /// Everything is drawn from it.
    pub(crate) seed: u64,
    /// Of these kinds; all that are possible if not given.
    pub(crate) kinds: Option<Vec<Kind>>,
    /// What cuts are made with.
    pub(crate) network: Cutter,
    /// The verdict as JSON on stdout.
    pub(crate) json: bool,
    /// Digest of the state at the config's end, in place of a quiet run.
    pub(crate) reference: Option<String>,
    /// Workers of the quiet run; as many as there are in the other if not given.
    pub(crate) reference_workers: Option<u32>,
    /// The program that trains; `convoy-worker` beside this one if not given.
    pub(crate) worker: Option<PathBuf>,
    /// Which devices workers get.
    pub(crate) device: Device,
    /// Lanes of each worker; shared out if not given.
    pub(crate) lanes: Option<u32>,
    /// Where logs, stores and the report stay; a temporary folder that goes if not given.
    pub(crate) keep: Option<PathBuf>,
    /// How long the job may take to recover.
    pub(crate) patience: Duration,
}

impl Drill {
    /// Whether the job has to come to the config's own end.
    fn runs_to_the_end(&self) -> bool {
        self.reference.is_some() || self.run.schedule.depends_on_end()
    }
}

/// Rehearses, and says how it went.
///
/// # Errors
/// When there is something wrong before the job begins, or the user ends the drill. What the job does
/// wrong is in the verdict and the exit code.
pub(crate) fn run(drill: &Drill) -> Result<ExitCode, Failure> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| DrillError::System { what: "set up the drill", source })?;
    let aside = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("proxies")
        .enable_all()
        .build()
        .map_err(|source| DrillError::System { what: "set up the proxies", source })?;
    drawn::ensure(&drill.run)?;
    let outcome = runtime.block_on(async {
        // Of the whole drill, before anything is made that is to be removed; a signal that comes between
        // its two runs counts in the second.
        let mut signals = Signals::listen()
            .map_err(|source| DrillError::System { what: "listen to signals", source })?;
        let scene = Scene::set(drill).await?;
        let outcome = perform(drill, &scene, aside.handle(), &mut signals).await;
        // A drill that was interrupted has nothing to show.
        let interrupted = |failure: &Failure| failure.code() == exit::INTERRUPTED;
        scene.clear(outcome.as_ref().map_or_else(interrupted, Verdict::is_good)).await;
        outcome.map(|verdict| (verdict, scene))
    });
    aside.shutdown_background();
    let (mut verdict, scene) = outcome?;
    verdict.folder = scene.kept(verdict.is_good());
    let json = report::json(&verdict);
    if let Some(folder) = &drill.keep {
        let path = folder.join("report.json");
        std::fs::write(&path, format!("{json:#}\n")).map_err(|source| DrillError::File {
            what: "write the report",
            path,
            source,
        })?;
    }
    let screen = scene.screen();
    screen.say(&format!("\n{}\n{}", report::by_kind(&verdict.rows), report::verdict(&verdict)));
    if drill.json {
        Screen::print(&format!("{json}\n"));
    }
    Ok(if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILURE) })
}

async fn perform(
    drill: &Drill,
    scene: &Scene,
    aside: &Handle,
    signals: &mut Signals,
) -> Result<Verdict, Failure> {
    let screen = scene.screen();
    let plan = plan::rounds(&Wanted {
        seed: drill.seed,
        faults: drill.faults,
        workers: drill.workers as usize,
        kinds: scene.kinds.clone(),
        liveness: drill.run.cluster.liveness_timeout,
    });
    let (network, no_namespaces) =
        Network::new(&scene.cuts, drill.network, scene.endpoint, drill.workers as usize, aside)
            .await?;
    let cutter = network.cutter();
    screen.say(&scene.introduction(drill, cutter, no_namespaces.as_deref()));
    let mut verdict = Verdict {
        cutter,
        seed: drill.seed,
        workers: drill.workers as usize,
        wanted: drill.faults,
        reference: drill.reference.clone(),
        ..Verdict::default()
    };

    let setup = scene.setup(drill, "rehearsal", drill.workers);
    let mut drive = drive(drill, scene, setup, &[], network, signals)?;
    let outcome = rehearse(drill, &mut drive, &plan, screen, &mut verdict).await;
    let outcome = close(&mut drive, scene, outcome, &mut verdict).await?;
    verdict.vitals = drive.vitals.longest();
    if !outcome {
        return Ok(verdict);
    }
    let checkpoints = Checkpoints::new(scene.store("rehearsal")?);
    let end = newest(&checkpoints).await?;
    verdict.steps = end.as_ref().map_or(0, |it| it.global_step);
    verdict.reached = drive.journal.newest();
    verdict.digest = end.map(|it| it.state_digest);
    let sampler = scene.sampler(checkpoints.store()).await?;
    verdict.samples = samples::account(&sampler, drive.journal.fed(), verdict.steps);
    let keep = &drill.run.checkpoint;
    let keep = Keep { last: keep.keep_last, best: keep.keep_best };
    verdict.swept = leaks::sweep(&checkpoints, keep).await?;
    verdict.leaks.extend(leaks::in_store(&checkpoints).await?);
    drop(drive);

    if verdict.reference.is_none() {
        let steps = format!("train.max_steps={}", verdict.steps.max(1));
        screen.say(&format!("\na quiet run of {} steps, to compare with", verdict.steps));
        let last: &[String] = if drill.runs_to_the_end() { &[] } else { &[steps] };
        let workers = drill.reference_workers.unwrap_or(drill.workers);
        let setup = scene.setup(drill, "reference", workers);
        let mut drive = self::drive(drill, scene, setup, last, Network::plain(), signals)?;
        let outcome = match drive.begin().await {
            Ok(()) => drive.finish().await.map(|_| ()),
            Err(error) => Err(error),
        };
        if close(&mut drive, scene, outcome, &mut verdict).await? {
            let checkpoints = Checkpoints::new(scene.store("reference")?);
            verdict.reference = newest(&checkpoints).await?.map(|it| it.state_digest);
        }
    }
    Ok(verdict)
}

/// The job from its first step to the end of the last fault, and to a checkpoint.
async fn rehearse(
    drill: &Drill,
    drive: &mut Drive<'_>,
    plan: &[plan::Round],
    screen: &Screen,
    verdict: &mut Verdict,
) -> Result<(), DrillError> {
    drive.begin().await?;
    drive.look_at_vitals();
    screen.say(report::head());
    for round in plan {
        if drive.is_over() {
            break;
        }
        let done = verdict.rows.len();
        let mut tell = |row: report::Row| {
            screen.say(&report::line(&row));
            verdict.rows.push(row);
        };
        inflict::round(drive, round, done, drill.patience, &mut tell).await?;
    }
    match drill.runs_to_the_end() || drive.is_over() {
        true => drive.finish().await.map(|_| ()),
        false => drive.stop().await.map(|_| ()),
    }
}

/// Leaves no process, and looks for what was left behind. False: the job broke, and the verdict says
/// how.
async fn close(
    drive: &mut Drive<'_>,
    scene: &Scene,
    outcome: Result<(), DrillError>,
    verdict: &mut Verdict,
) -> Result<bool, Failure> {
    let stubborn = drive.kill().await;
    match outcome {
        Ok(()) => {}
        Err(error @ (DrillError::Stuck { .. } | DrillError::Broke { .. })) => {
            let hint = error.hint().unwrap_or_default();
            let logs = drive.cluster.logs().display();
            verdict.broken = Some(format!("{error}; logs: {logs}; {hint}"));
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    }
    verdict.leaks.extend(stubborn.iter().map(|who| format!("{} would not end", who.name())));
    let until = Instant::now() + GONE;
    let left = loop {
        let left = vitals::marked(&scene.mark);
        if left.is_empty() || Instant::now() >= until {
            break left;
        }
        sleep(Duration::from_millis(50)).await;
    };
    verdict.leaks.extend(left);
    let files = leaks::files_below(&scene.temporary());
    verdict.leaks.extend(files.into_iter().map(|it| format!("temporary file {it}")));
    Ok(true)
}

async fn newest(checkpoints: &Checkpoints) -> Result<Option<Summary>, Failure> {
    Ok(checkpoints.list().await?.checkpoints.into_iter().next())
}

/// A job of the config under the drill's folder, not started yet.
fn drive<'a>(
    drill: &Drill,
    scene: &Scene,
    mut setup: Setup,
    more: &[String],
    network: Network,
    signals: &'a mut Signals,
) -> Result<Drive<'a>, DrillError> {
    if !drill.runs_to_the_end() {
        setup.overrides.extend(ENDLESS.map(str::to_owned));
    }
    setup.overrides.extend_from_slice(more);
    let (to, heard) = mpsc::unbounded_channel();
    let cluster = Cluster::new(setup, network, to)?;
    let journal = Journal::new(scene.steps_per_epoch);
    Ok(Drive::new(cluster, heard, journal, signals, drill.patience))
}
