//! Runs a whole job on this machine: a coordinator and its workers as child processes.
//!
//! [`plan`] says who is started how, [`child`] owns one process each, [`supervisor`] decides who is
//! told to end and when the launch is over, and [`console`] prints what everybody says. This file
//! joins them: it turns signals, ends and deadlines into the supervisor's events and carries out
//! its orders. It holds no state of the training: a launcher that dies takes its children along,
//! and the run goes on from its newest checkpoint with the next launch.
//!
//! Everything here runs on the main thread, because the children's lives are tied to the thread
//! that starts them ([`tether`]).

mod address;
mod child;
mod console;
pub(crate) mod drawn;
mod error;
mod message;
pub(crate) mod os;
pub(crate) mod plan;
mod progress;
pub(crate) mod signals;
mod supervisor;
pub(crate) mod tether;
mod verdict;
pub(crate) mod words;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use convoy_common::config::RunConfig;
use convoy_common::failure::Failure;
use convoy_common::telemetry::{self, Format};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::{Instant as TokioInstant, sleep_until};

use child::Handle;
use console::Console;
use error::LaunchError;
use message::{Event, Notice, Order, Who};
pub(crate) use plan::Device;
use plan::{Machine, Serve};
use signals::Signals;
use supervisor::{Patience, Supervisor};

/// How long the coordinator may take to say where it listens.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(60);
/// The same for one that is started again; nobody waits for it meanwhile.
const LATER_ADDRESS_PATIENCE: Duration = Duration::from_secs(300);
/// How long the launcher's last lines may take to be printed.
const PRINT_PATIENCE: Duration = Duration::from_secs(1);

/// What is to be launched: the command line, resolved.
#[derive(Debug)]
pub(crate) struct Launch {
    /// The config file, handed on to `convoy serve`.
    pub(crate) config: PathBuf,
    /// `key=value`, the number of workers included.
    pub(crate) overrides: Vec<String>,
    /// What both resolve to.
    pub(crate) run: RunConfig,
    /// Refuse a run that exists.
    pub(crate) fresh: bool,
    /// The checkpoint to start from.
    pub(crate) from: Option<String>,
    /// The run whose override log is repeated.
    pub(crate) replay: Option<String>,
    /// Do without create-only writes.
    pub(crate) unfenced: bool,
    /// Which devices workers get.
    pub(crate) device: Device,
    /// Lanes of each worker; shared out if not given.
    pub(crate) lanes: Option<u32>,
    /// How lines look on stderr.
    pub(crate) format: Format,
    /// Draw the progress line, if stderr is a terminal.
    pub(crate) progress: bool,
    /// How long the coordinator may take to end after the first signal.
    pub(crate) grace: Duration,
    /// How often each worker that died is started again.
    pub(crate) restarts: u32,
    /// The program that coordinates; this one if not given.
    pub(crate) coordinator_binary: Option<PathBuf>,
    /// The program that trains; `convoy-worker` beside the coordinator's if not given.
    pub(crate) worker_binary: Option<PathBuf>,
}

/// Launches the job and supervises it to its end.
///
/// # Errors
/// When something that is needed is missing before the first child is started. Later trouble is
/// told on stderr and ends in the exit code, so that nothing skips the children's end.
pub(crate) fn run(launch: &Launch) -> Result<ExitCode, Failure> {
    let this = std::env::current_exe().map_err(LaunchError::OwnPath)?;
    let worker_binary = plan::worker_binary(launch.worker_binary.as_deref(), &this)
        .map_err(|path| LaunchError::NoWorkerBinary { path })?;
    let coordinator_binary = launch.coordinator_binary.clone().unwrap_or(this);
    let folder = PathBuf::from(launch.run.log.folder.replace("{run}", &launch.run.run.name));
    let workers = launch.run.cluster.workers;
    let names: Vec<Arc<str>> = ["coordinator".to_owned(), "launch".to_owned()]
        .into_iter()
        .chain((0..workers).map(|index| format!("worker-{index}")))
        .map(Arc::from)
        .collect();
    let console = Console::start(&folder, &names, launch.format, launch.progress)
        .map_err(|(path, source)| LaunchError::LogFile { path, source })?;
    tell_through(&console, &names[1])?;
    drawn::ensure(&launch.run)?;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LaunchError::Runtime)?;
    let address_file = folder.join(format!(".coordinator-{}.address", std::process::id()));
    tracing::info!(
        run = launch.run.run.name,
        workers,
        logs = %folder.display(),
        "launching"
    );
    let code = runtime.block_on(async {
        let mut job = Job {
            launch,
            machine: Machine::here(),
            coordinator_binary,
            worker_binary,
            address_file: address_file.clone(),
            console: &console,
            names: &names,
            supervisor: Supervisor::new(Patience::new(launch.grace, launch.restarts)),
            children: Vec::new(),
            follower: None,
            coordinator: None,
            address_due: None,
        };
        job.supervise().await
    });
    // Without an address there is none; nothing else can be done about a file that stays.
    let _ = std::fs::remove_file(&address_file);
    if let Ok(code) = &code {
        tracing::info!(exit_code = code, meaning = words::meaning(*code), "launch over");
    }
    console.finish(PRINT_PATIENCE);
    Ok(ExitCode::from(code?))
}

/// The launcher's own events take the way of the children's lines.
fn tell_through(console: &Console, name: &Arc<str>) -> Result<(), Failure> {
    let lines = console.lines(name);
    telemetry::start(telemetry::Settings {
        format: Format::Json,
        filter: "info".to_owned(),
        role: name.to_string(),
        console: Some(Box::new(lines)),
    })?;
    Ok(())
}

struct Job<'a> {
    launch: &'a Launch,
    machine: Machine,
    coordinator_binary: PathBuf,
    worker_binary: PathBuf,
    address_file: PathBuf,
    console: &'a Console,
    names: &'a [Arc<str>],
    supervisor: Supervisor,
    children: Vec<(Who, Handle)>,
    follower: Option<tokio::task::JoinHandle<()>>,
    /// Where it listens, once it has said so.
    coordinator: Option<String>,
    /// Until when it may say so, if it has not.
    address_due: Option<TokioInstant>,
}

impl Job<'_> {
    async fn supervise(&mut self) -> Result<u8, LaunchError> {
        let mut signals = Signals::listen().map_err(LaunchError::Runtime)?;
        let (events, mut inbox) = mpsc::channel(16);
        self.start_coordinator(true, &events)?;
        loop {
            let timer = self.supervisor.deadline().map(TokioInstant::from_std);
            let address_due = self.address_due;
            let never = TokioInstant::now();
            let event = tokio::select! {
                name = signals.next() => {
                    tracing::info!(signal = name, "signal received");
                    Event::StopWanted
                }
                Some(event) = inbox.recv() => event,
                address = address::written_in(self.address_file.clone()), if address_due.is_some() => {
                    match self.listens(&address, &events) {
                        Ok(()) => Event::Listening,
                        Err(error) => {
                            tracing::error!(error = %error, "worker cannot be started");
                            Event::Broken
                        }
                    }
                }
                () = sleep_until(address_due.unwrap_or(never)), if address_due.is_some() => {
                    self.address_due = None;
                    tracing::error!("coordinator did not say in time where it listens");
                    Event::Broken
                }
                () = sleep_until(timer.unwrap_or(never)), if timer.is_some() => Event::Timer,
            };
            if let Some(code) = self.take_in(event, &events) {
                return Ok(code);
            }
        }
    }

    fn take_in(&mut self, event: Event, events: &mpsc::Sender<Event>) -> Option<u8> {
        if let Event::Ended(who, how) = event {
            self.children.retain(|(it, _)| *it != who);
            tracing::debug!(
                process = self.name(who),
                ending = words::describe(how),
                "process ended"
            );
        }
        for order in self.supervisor.step(Instant::now(), event) {
            match order {
                Order::StopCoordinator => {
                    for (who, child) in &self.children {
                        if *who == Who::Coordinator {
                            child.terminate();
                        }
                    }
                }
                Order::StopWorkers => {
                    for (who, child) in &self.children {
                        if *who != Who::Coordinator {
                            child.terminate();
                        }
                    }
                }
                Order::Restart(index) => {
                    if let Err(error) = self.start_worker(index, events) {
                        tracing::error!(error = %error, "worker cannot be started again");
                    }
                }
                Order::RestartCoordinator => {
                    if let Err(error) = self.start_coordinator(false, events) {
                        tracing::error!(error = %error, "coordinator cannot be started again");
                        return self.take_in(Event::Broken, events);
                    }
                }
                Order::KillAll => self.children.iter().for_each(|(_, child)| child.kill()),
                Order::Say(notice) => self.say(notice),
                Order::Exit(code) => {
                    if let Some(follower) = self.follower.take() {
                        follower.abort();
                    }
                    return Some(code);
                }
            }
        }
        None
    }

    /// The first one is told how the run is to begin; for a later one, it has begun.
    fn start_coordinator(
        &mut self,
        first: bool,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), LaunchError> {
        let launch = self.launch;
        // Where the one before listened is of no use.
        let _ = std::fs::remove_file(&self.address_file);
        let patience = if first { ADDRESS_PATIENCE } else { LATER_ADDRESS_PATIENCE };
        self.address_due = Some(TokioInstant::now() + patience);
        let file = std::fs::read_to_string(&launch.config).unwrap_or_default();
        let named = plan::names_bind(&file, &launch.overrides)
            || std::env::var_os("CONVOY_CLUSTER_BIND").is_some();
        let serve = Serve {
            config: &launch.config,
            overrides: &launch.overrides,
            bind: (!named).then_some("127.0.0.1:0"),
            address_file: &self.address_file,
            fresh: first && launch.fresh,
            from: launch.from.as_deref().filter(|_| first),
            replay: launch.replay.as_deref().filter(|_| first),
            unfenced: launch.unfenced,
        };
        let mut command = Command::new(&self.coordinator_binary);
        command.args(serve.arguments());
        let program = self.coordinator_binary.clone();
        self.start(Who::Coordinator, command, &program, events)
    }

    /// The coordinator is there: workers can join it.
    fn listens(&mut self, address: &str, events: &mpsc::Sender<Event>) -> Result<(), LaunchError> {
        self.address_due = None;
        let url = format!("http://{address}");
        let first = self.coordinator.replace(url.clone()).is_none();
        if let Some(follower) = self.follower.take() {
            follower.abort();
        }
        if first && self.supervisor.is_running() {
            self.start_workers(events)?;
        }
        self.follower =
            Some(tokio::spawn(progress::follow(url, self.console.progress(), events.clone())));
        Ok(())
    }

    fn start_workers(&mut self, events: &mpsc::Sender<Event>) -> Result<(), LaunchError> {
        let workers = self.launch.run.cluster.workers;
        if self.launch.device == Device::Cuda && self.machine.gpus.len() < workers as usize {
            tracing::warn!(workers, gpus = self.machine.gpus.len(), "workers share GPUs");
        }
        for index in 0..workers as usize {
            self.start_worker(index, events)?;
        }
        Ok(())
    }

    fn start_worker(
        &mut self,
        index: usize,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), LaunchError> {
        let Some(url) = self.coordinator.clone() else { return Ok(()) };
        let share = plan::Share {
            device: self.launch.device,
            lanes: self.launch.lanes,
            threads_per_lane: self.launch.run.numerics.threads_per_lane,
            index: index as u32,
            workers: self.launch.run.cluster.workers,
        };
        let plan = plan::worker(&self.machine, &share, &url);
        let mut command = Command::new(&self.worker_binary);
        command.args(plan.arguments).envs(plan.environment);
        let program = self.worker_binary.clone();
        self.start(Who::Worker(index), command, &program, events)
    }

    fn start(
        &mut self,
        who: Who,
        command: Command,
        program: &Path,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), LaunchError> {
        let lines = self.console.lines(self.name_of(who));
        let handle = child::start(who, command, lines, events.clone())
            .map_err(|source| LaunchError::CannotStart { path: program.to_owned(), source })?;
        self.children.push((who, handle));
        // A start is news to the supervisor alone: it never answers it with an order.
        self.supervisor.step(Instant::now(), Event::Started(who));
        Ok(())
    }

    fn name_of(&self, who: Who) -> &Arc<str> {
        match who {
            Who::Coordinator => &self.names[0],
            Who::Worker(index) => &self.names[index + 2],
        }
    }

    fn name(&self, who: Who) -> &str {
        self.name_of(who)
    }

    fn say(&self, notice: Notice) {
        words::say(notice, self.launch.grace, |worker| self.name(Who::Worker(worker)));
    }
}
