//! The processes of a drilled job: they are started, signalled and counted here, and nothing is
//! decided.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tokio::process::Command;
use tokio::sync::mpsc;

use super::error::DrillError;
use super::network::Network;
use super::process::{self, Heard, Process, Who};
use crate::launch::Device;
use crate::launch::plan::{self, Machine, Share};

/// Variable by which every process of a drill, and whatever it starts, is known.
pub(super) const MARK: &str = "CONVOY_DRILL";

/// How a job's processes are started.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    /// The program that coordinates.
    pub(super) coordinator: PathBuf,
    /// The program that trains.
    pub(super) worker: PathBuf,
    /// The config file.
    pub(super) config: PathBuf,
    /// `key=value`, on top of the file.
    pub(super) overrides: Vec<String>,
    /// How many.
    pub(super) workers: usize,
    /// Which devices they get.
    pub(super) device: Device,
    /// Lanes of each; shared out if not given.
    pub(super) lanes: Option<u32>,
    /// Of the config.
    pub(super) threads_per_lane: u32,
    /// Where each process has its log.
    pub(super) logs: PathBuf,
    /// Where processes put temporary files.
    pub(super) temporary: PathBuf,
    /// Value of [`MARK`].
    pub(super) mark: String,
}

/// A job's processes.
#[derive(Debug)]
pub(super) struct Cluster {
    setup: Setup,
    machine: Machine,
    heard: mpsc::UnboundedSender<Heard>,
    running: BTreeMap<Who, Process>,
    lives: BTreeMap<Who, u32>,
    network: Network,
    /// Where the coordinator listens, once it has said so; it keeps its port for all its lives.
    address: Option<SocketAddr>,
}

impl Cluster {
    /// Starts nothing yet.
    pub(super) fn new(
        setup: Setup,
        network: Network,
        heard: mpsc::UnboundedSender<Heard>,
    ) -> Result<Self, DrillError> {
        for folder in [&setup.logs, &setup.temporary] {
            std::fs::create_dir_all(folder).map_err(|source| DrillError::File {
                what: "make the folder",
                path: folder.clone(),
                source,
            })?;
        }
        let (running, lives) = (BTreeMap::new(), BTreeMap::new());
        let machine = Machine::here();
        Ok(Self { setup, machine, heard, running, lives, network, address: None })
    }

    /// Starts the coordinator or a worker, which must not run.
    pub(super) fn start(&mut self, who: Who) -> Result<(), DrillError> {
        let (program, mut command) = match who {
            Who::Coordinator => self.coordinator_command(),
            Who::Worker(index) => self.worker_command(index),
        };
        command.env("TMPDIR", &self.setup.temporary).env(MARK, &self.setup.mark);
        let path = self.log_of(who);
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(|source| DrillError::File { what: "write the log", path, source })?;
        let life = self.lives.entry(who).or_default();
        *life += 1;
        let started = process::start(who, *life, command, log, self.heard.clone());
        let process = started.map_err(|source| DrillError::File {
            what: "execute",
            path: program,
            source,
        })?;
        self.running.insert(who, process);
        Ok(())
    }

    fn coordinator_command(&self) -> (PathBuf, Command) {
        let mut command = Command::new(&self.setup.coordinator);
        command.arg("serve").arg(&self.setup.config);
        for it in &self.setup.overrides {
            command.args(["--set", it]);
        }
        command.args(["--log-format", "json", "--log-level", "info"]);
        self.network.coordinator(&mut command, self.address);
        (self.setup.coordinator.clone(), command)
    }

    fn worker_command(&self, index: usize) -> (PathBuf, Command) {
        let share = Share {
            device: self.setup.device,
            lanes: self.setup.lanes,
            threads_per_lane: self.setup.threads_per_lane,
            index: index as u32,
            workers: self.setup.workers as u32,
        };
        let address = self.address.map(|it| self.network.line_to(index, it).to_string());
        let address = address.unwrap_or_default();
        let plan = plan::worker(&self.machine, &share, &format!("http://{address}"));
        let mut command = self.network.worker(index, &self.setup.worker);
        command.args(plan.arguments).envs(plan.environment);
        command.args(["--log-level", "info,convoy_worker::train::trainer=debug"]);
        command.args(self.network.ring_arguments(index));
        (self.setup.worker.clone(), command)
    }

    /// The coordinator listens here.
    pub(super) fn coordinator_listens(&mut self, at: SocketAddr) {
        self.address = Some(at);
        self.network.coordinator_listens(at);
    }

    /// That worker's ring listens here.
    pub(super) fn ring_listens(&self, worker: usize, at: SocketAddr) {
        self.network.ring_listens(worker, at);
    }

    /// A process is gone; says whether it was the present one of its name.
    pub(super) fn ended(&mut self, who: Who, life: u32) -> bool {
        let present = self.running.get(&who).is_some_and(|it| it.life == life);
        if present {
            self.running.remove(&who);
        }
        present
    }

    /// Sends a signal to a process, if it runs.
    pub(super) fn send(&self, who: Who, signal: Signal) {
        if let Some(process) = self.running.get(&who) {
            process.send(signal);
        }
    }

    /// Ends everybody at once, the stopped included.
    pub(super) fn kill_all(&self) {
        for process in self.running.values() {
            process.send(Signal::CONT);
            process.send(Signal::KILL);
        }
    }

    /// Which life of that process runs; none if it does not.
    pub(super) fn life(&self, who: Who) -> Option<u32> {
        self.running.get(&who).map(|it| it.life)
    }

    /// All that run, with their process ids and lives.
    pub(super) fn running(&self) -> impl Iterator<Item = (Who, u32, u32)> + '_ {
        self.running.iter().map(|(who, it)| (*who, it.life, it.pid))
    }

    /// Workers, running or not.
    pub(super) fn workers(&self) -> usize {
        self.setup.workers
    }

    /// The ways between them.
    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    /// Where the process writes its log.
    pub(super) fn log_of(&self, who: Who) -> PathBuf {
        self.setup.logs.join(format!("{}.log", who.name()))
    }

    /// Where all logs are.
    pub(super) fn logs(&self) -> &Path {
        &self.setup.logs
    }
}
