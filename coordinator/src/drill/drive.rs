//! Keeps a job going while things happen to it, and waits until it is where the drill wants it.
//!
//! One loop hears everything: what processes say, their ends, the coordinator's status, timers and
//! signals. A worker that ends, for whatever reason, is started again after a while; a coordinator only
//! if the drill killed it. Every wait has a deadline, and says what it waited for when it passes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use convoy_common::exit;
use convoy_common::pb;
use convoy_common::telemetry::Line;
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant as TokioInstant, sleep, sleep_until};

use super::cluster::Cluster;
use super::error::DrillError;
use super::network::Between;
use super::plan::Fault;
use super::process::{Heard, News, Who};
use super::vitals::{self, Vitals};
use super::watch::Journal;
use crate::commands::job::Job;
use crate::launch::os::Ending;
use crate::launch::signals::Signals;
use crate::launch::words;

/// Between two questions for the job's status.
const LOOK: Duration = Duration::from_millis(100);
/// A status older than this says nothing of the present.
const FRESH: Duration = Duration::from_secs(3);
/// From the end of a worker that nobody touched to its next start.
const RESTART: Duration = Duration::from_secs(1);
/// For killed processes to be gone.
const AFTER_KILL: Duration = Duration::from_secs(10);

/// What is to be done later.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Start a process.
    Start(Who),
    /// SIGCONT to that life of a process.
    Wake(Who, u32),
    /// Open a way again.
    Mend(Between),
    /// Inflict a fault; the number is the caller's.
    Inflict(usize, Fault),
}

/// What the coordinator answered, and when.
#[derive(Debug)]
struct Answer {
    at: Instant,
    status: pb::StatusReply,
}

/// An end of a process that the drill did not bring about.
#[derive(Clone, Debug)]
pub(super) struct Collateral {
    pub(super) who: Who,
    pub(super) how: String,
}

/// A running job.
pub(super) struct Drive<'a> {
    pub(super) cluster: Cluster,
    pub(super) journal: Journal,
    pub(super) vitals: Vitals,
    heard: mpsc::UnboundedReceiver<Heard>,
    answers: (mpsc::UnboundedSender<Answer>, mpsc::UnboundedReceiver<Answer>),
    asking: Option<AbortHandle>,
    signals: &'a mut Signals,
    timers: Vec<(Instant, Action)>,
    answer: Option<Answer>,
    /// Since when everybody has been in the running generation.
    whole_since: Option<SystemTime>,
    /// The generation that must be over before the job counts as recovered.
    must_pass: Option<Option<pb::GenerationId>>,
    /// How long after its end each process is started again, where a fault says so.
    restarts: BTreeMap<Who, Duration>,
    /// Processes whose end the drill has brought about, and their lives.
    doomed: BTreeMap<Who, u32>,
    /// How the coordinator ended, once it has for good.
    over: Option<Ending>,
    /// Nobody is started again.
    ending: bool,
    /// Faults that fell due, for the caller to inflict.
    pub(super) due: Vec<(usize, Fault)>,
    pub(super) collateral: Vec<Collateral>,
    /// In words, what is being done; for errors.
    pub(super) doing: String,
    /// How long anything may take.
    patience: Duration,
}

impl<'a> Drive<'a> {
    /// Nothing runs yet.
    pub(super) fn new(
        cluster: Cluster,
        heard: mpsc::UnboundedReceiver<Heard>,
        journal: Journal,
        signals: &'a mut Signals,
        patience: Duration,
    ) -> Self {
        Self {
            cluster,
            journal,
            vitals: Vitals::default(),
            heard,
            answers: mpsc::unbounded_channel(),
            asking: None,
            signals,
            timers: Vec::new(),
            answer: None,
            whole_since: None,
            must_pass: None,
            restarts: BTreeMap::new(),
            doomed: BTreeMap::new(),
            over: None,
            ending: false,
            due: Vec::new(),
            collateral: Vec::new(),
            doing: "before it began".to_owned(),
            patience,
        }
    }

    /// Starts everybody and waits until all train.
    pub(super) async fn begin(&mut self) -> Result<(), DrillError> {
        self.doing = "at its start".to_owned();
        self.cluster.start(Who::Coordinator)?;
        let wait = self.patience;
        self.until("the coordinator listens", wait, |it| it.asking.is_some()).await?;
        for worker in 0..self.cluster.workers() {
            self.cluster.start(Who::Worker(worker))?;
        }
        self.until("all workers train", wait, Self::is_whole).await
    }

    /// Asks the job to stop with a checkpoint, and waits until all processes are gone; gives the
    /// coordinator's ending.
    pub(super) async fn stop(&mut self) -> Result<Ending, DrillError> {
        self.doing = "while it stopped".to_owned();
        self.ending = true;
        self.timers.retain(|(_, action)| !matches!(action, Action::Start(_)));
        self.cluster.send(Who::Coordinator, Signal::TERM);
        self.end().await
    }

    /// Waits until the job has come to its own end and all processes are gone; gives the
    /// coordinator's ending.
    pub(super) async fn finish(&mut self) -> Result<Ending, DrillError> {
        self.doing = "on the way to its end".to_owned();
        loop {
            // As long as it makes steps it may take its time.
            let (step, wait) = (self.journal.newest(), self.patience);
            let moved = |it: &Self| it.over.is_some() || it.journal.newest() > step;
            self.until("another step", wait, moved).await?;
            if self.over.is_some() {
                break;
            }
        }
        self.end().await
    }

    async fn end(&mut self) -> Result<Ending, DrillError> {
        self.ending = true;
        let nobody = |it: &Self| it.over.is_some() && it.cluster.running().next().is_none();
        self.until("all processes are gone", self.patience, nobody).await?;
        Ok(self.over.unwrap_or(Ending::Code(exit::FAILURE)))
    }

    /// Ends all processes at once; gives those that would not go.
    pub(super) async fn kill(&mut self) -> Vec<Who> {
        self.ending = true;
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
        self.cluster.kill_all();
        let until = TokioInstant::now() + AFTER_KILL;
        while self.cluster.running().next().is_some() {
            tokio::select! {
                Some(heard) = self.heard.recv() => if let News::Ended(_) = heard.news {
                    self.cluster.ended(heard.who, heard.life);
                },
                () = sleep_until(until) => break,
            }
        }
        self.cluster.running().map(|(who, ..)| who).collect()
    }

    /// Lets time pass, and whatever falls due in it.
    pub(super) async fn pass(&mut self, time: Duration) -> Result<(), DrillError> {
        let until = Instant::now() + time;
        self.wait(until, |it| Instant::now() >= until || !it.due.is_empty()).await.map(|_| ())
    }

    /// Waits until `done`, at most so long.
    pub(super) async fn until(
        &mut self,
        what: &str,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Result<(), DrillError> {
        if self.wait(Instant::now() + limit, done).await? {
            return Ok(());
        }
        Err(DrillError::Stuck {
            doing: format!("{}, waiting until {what}", self.doing),
            state: self.state(),
            waited: limit,
        })
    }

    /// Whether `done` came before the time was over.
    async fn wait(
        &mut self,
        until: Instant,
        done: impl Fn(&Self) -> bool,
    ) -> Result<bool, DrillError> {
        loop {
            if done(self) {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            let next = self.timers.iter().map(|it| it.0).min().unwrap_or(until).min(until);
            tokio::select! {
                biased;
                signal = self.signals.next() => return Err(DrillError::Interrupted { signal }),
                Some(heard) = self.heard.recv() => self.hear(heard)?,
                Some(answer) = self.answers.1.recv() => self.told(answer),
                () = sleep_until(TokioInstant::from_std(next)) => self.fire().await?,
            }
        }
    }

    /// Does something later.
    pub(super) fn later(&mut self, wait: Duration, action: Action) {
        self.timers.push((Instant::now() + wait, action));
    }

    /// Whether something is still to be done.
    fn has_timers(&self) -> bool {
        !self.timers.is_empty() || !self.due.is_empty()
    }

    async fn fire(&mut self) -> Result<(), DrillError> {
        let now = Instant::now();
        let (due, later) = self.timers.drain(..).partition(|it: &(Instant, Action)| it.0 <= now);
        self.timers = later;
        for (_, action) in due {
            // Of two stops or cuts of the same, the one that lasts longer ends both.
            if self.timers.iter().any(|it| it.1 == action) {
                continue;
            }
            // What the job did while somebody stood still or was cut off shows nothing.
            self.whole_since = None;
            match action {
                Action::Start(_) if self.ending => {}
                Action::Start(who) => self.cluster.start(who)?,
                Action::Wake(who, life) => {
                    if self.cluster.life(who) == Some(life) {
                        self.cluster.send(who, Signal::CONT);
                    }
                }
                Action::Mend(between) => self.cluster.network().mend(between).await?,
                Action::Inflict(number, fault) => self.due.push((number, fault)),
            }
        }
        Ok(())
    }

    fn hear(&mut self, heard: Heard) -> Result<(), DrillError> {
        let Heard { who, life, news, .. } = heard;
        match (news, who) {
            (News::Line(line), Who::Coordinator) => {
                if line.message == "listening"
                    && let Some(address) = address_in(&line, "address")
                {
                    self.cluster.coordinator_listens(address);
                    self.ask(address.to_string());
                }
                self.journal.coordinator(&line);
                Ok(())
            }
            (News::Line(line), Who::Worker(worker)) => {
                if line.message == "worker started"
                    && self.cluster.life(who) == Some(life)
                    && let Some(address) = address_in(&line, "ring")
                {
                    self.cluster.ring_listens(worker, address);
                }
                self.journal.worker(&line);
                Ok(())
            }
            (News::Ended(how), _) => {
                if self.cluster.ended(who, life) {
                    self.ended(who, life, how)
                } else {
                    Ok(())
                }
            }
        }
    }

    fn ended(&mut self, who: Who, life: u32, how: Ending) -> Result<(), DrillError> {
        self.vitals.ended(who, life);
        self.whole_since = None;
        let doomed = self.doomed.get(&who) == Some(&life);
        if who == Who::Coordinator && (!doomed || self.ending) {
            self.over = Some(how);
            let in_order = [Ending::Code(exit::OK), Ending::Code(exit::STOPPED)].contains(&how);
            self.ending = true;
            return if in_order { Ok(()) } else { Err(self.broke(who, how)) };
        }
        if self.ending {
            return Ok(());
        }
        if !doomed {
            let how = describe(how);
            self.collateral.push(Collateral { who, how });
        }
        if let Ending::Code(exit::USAGE | exit::BAD_INPUT | exit::NON_FINITE | exit::DIVERGED) = how
        {
            return Err(self.broke(who, how));
        }
        let wait = self.restarts.remove(&who).unwrap_or(RESTART);
        self.later(wait, Action::Start(who));
        Ok(())
    }

    fn broke(&self, who: Who, how: Ending) -> DrillError {
        DrillError::Broke {
            doing: self.doing.clone(),
            who: who.name(),
            how: describe(how),
            outcome: self.journal.outcome().map(str::to_owned),
        }
    }

    /// That end of the process is the drill's doing, and its next start comes so much later.
    pub(super) fn doom(&mut self, who: Who, restart: Duration) {
        if let Some(life) = self.cluster.life(who) {
            self.doomed.insert(who, life);
            self.restarts.insert(who, restart);
        }
    }

    /// From now on the job is not whole until it has shown that it is; with `passes`, not before the
    /// present generation is over either.
    pub(super) fn disturbed(&mut self, passes: bool) {
        self.whole_since = None;
        if passes {
            let generation = self.answer.as_ref().and_then(|it| it.status.generation);
            self.must_pass = Some(generation);
        }
    }

    /// Everybody trains, nothing is under way, and a step has been finished since.
    pub(super) fn is_whole(&self) -> bool {
        let moved = |since| self.journal.last_finished().is_some_and(|at| at > since);
        !self.has_timers() && self.whole_since.is_some_and(moved)
    }

    /// The job has ended.
    pub(super) fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// In words, how the job was when it was asked last.
    pub(super) fn state(&self) -> String {
        let Some(Answer { at, status }) = &self.answer else {
            return "the coordinator has not answered yet".to_owned();
        };
        let seated = status.workers.iter().filter(|it| it.rank >= 0).count();
        let generation = status.generation.unwrap_or_default();
        let detail =
            if status.detail.is_empty() { String::new() } else { format!(" ({})", status.detail) };
        let age = at.elapsed();
        let age = if age > FRESH { format!(", {} s ago", age.as_secs()) } else { String::new() };
        format!(
            "{}{detail}, {seated} of {} in generation {}/{}, step {}{age}",
            status.phase,
            self.cluster.workers(),
            generation.term,
            generation.counter,
            self.journal.newest(),
        )
    }

    fn told(&mut self, answer: Answer) {
        let status = &answer.status;
        let seated = status.workers.iter().filter(|it| it.rank >= 0).count();
        let passed = self.must_pass.is_none_or(|it| it != status.generation);
        let everybody = self.cluster.running().count() > self.cluster.workers();
        let whole = status.phase == "training"
            && seated == self.cluster.workers()
            && everybody
            && passed
            && answer.at.elapsed() < FRESH;
        if passed {
            self.must_pass = None;
        }
        if !whole {
            self.whole_since = None;
        } else if self.whole_since.is_none() {
            self.whole_since = Some(SystemTime::now());
        }
        self.answer = Some(answer);
    }

    /// Asks the coordinator there for its status, again and again.
    fn ask(&mut self, address: String) {
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
        let to = self.answers.0.clone();
        let task = tokio::spawn(async move {
            loop {
                // One that does not answer is asked anew, over a connection of its own.
                if let Ok(mut job) = Job::find(&address).await {
                    while let Ok(status) = job.status().await {
                        if to.send(Answer { at: Instant::now(), status }).is_err() {
                            return;
                        }
                        sleep(LOOK).await;
                    }
                }
                sleep(LOOK).await;
            }
        });
        self.asking = Some(task.abort_handle());
    }

    /// Notes how much memory and how many files everybody holds.
    pub(super) fn look_at_vitals(&mut self) {
        for (who, life, pid) in self.cluster.running() {
            if let Some(now) = vitals::of(pid) {
                self.vitals.saw(who, life, now);
            }
        }
    }
}

impl Drop for Drive<'_> {
    fn drop(&mut self) {
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
    }
}

fn address_in(line: &Line, field: &str) -> Option<std::net::SocketAddr> {
    line.fields.get(field).and_then(Value::as_str)?.parse().ok()
}

/// How a process ended, in words.
pub(super) fn describe(how: Ending) -> String {
    match how {
        Ending::Code(code) => format!("exit code {code} ({})", words::meaning(code)),
        Ending::Signal(number) => format!("signal {number}"),
    }
}
