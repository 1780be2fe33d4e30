//! A worker without a coordinator: what goes on, for how long, and what follows.
//!
//! Steps need no coordinator, so training goes on and the session looks for the next one. What cannot
//! be done meanwhile waits: checkpoints to be published, joins, a worker's leaving. After
//! `cluster.coordinator_timeout` all ranks stop at one boundary, which the ring agrees on.

use std::sync::Arc;
use std::time::Duration;

use convoy_common::config::RunConfig;
use convoy_common::dataset::Split;
use convoy_common::failure::Failure;
use convoy_common::ids::Generation;
use convoy_common::schedule::ManualDrop;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{Agent, LAST_WORD, Stage, exit_code};
use crate::session::{self, Back, Computed, SessionError, Standing};
use crate::train::{Cause, Phase};

/// A worker that is asked to go while there is nobody to let it go stays so long.
const LEAVE_ALONE: Duration = Duration::from_secs(5);
/// For the store to say whether the last checkpoint exists.
const STORE: Duration = Duration::from_secs(2);

impl Agent {
    /// Where this worker is; none if it has no part in a generation.
    pub(super) fn standing(&self) -> Option<Standing> {
        let place = self.place.clone().filter(|_| !self.starts_afresh)?;
        let stage = match self.stage {
            Stage::Preparing(_) | Stage::Ready(_) => session::Stage::Preparing,
            Stage::Training(_) => session::Stage::Training,
            Stage::Idle if self.verdict.is_some() => session::Stage::Ended,
            Stage::Idle => session::Stage::Out,
        };
        Some(Standing {
            place,
            stage,
            position: self.control.position(),
            held: self.vault.reached(),
            has_unit: self.vault.kept_and_unit().1,
            owes_checkpoint: self.vault.owes_checkpoint(),
            stop: self.told_to_stop.clone(),
            pause: self.told_to_pause.clone(),
            newest_drop: self.newest_drop,
            leaving: self.asked_to_leave.as_ref().map(|it| it.0.clone()),
            config_digest: self.job.config.digest(),
        })
    }

    /// The coordinator's call is over.
    pub(super) fn on_lost(&mut self, error: &SessionError) {
        let patience = humantime::format_duration(self.job.config.cluster.coordinator_timeout);
        warn!(%error, %patience, "the coordinator is gone; training goes on without one");
    }

    /// It says nothing, and its call is not over.
    pub(super) fn on_silence(&mut self, silence: Duration) {
        let seconds = silence.as_secs_f64();
        warn!(seconds, "the coordinator is silent; training goes on, a later one is looked for");
    }

    /// A coordinator has taken this worker's call.
    pub(super) fn on_back(&mut self, back: Back) {
        let Back { address, welcome, expects } = back;
        info!(%address, term = welcome.term.0, "a coordinator is there again");
        let data = self.job.config.data.clone();
        let config = RunConfig { data, ..welcome.config };
        if config != self.job.config {
            info!("it has another config, which holds from the next generation on");
            self.job = Arc::new(self.job.by(config));
        }
        if self.last_word.is_some() {
            self.last_word = Some(Instant::now() + LAST_WORD);
        }
        if !expects {
            self.link.start_afresh();
            self.introduce();
        }
    }

    /// It goes on with the generation.
    pub(super) fn on_adopted(&mut self, generation: Generation, drops: Vec<ManualDrop>) {
        if generation != self.generation {
            warn!(%generation, "told that another generation goes on; ignored");
            return;
        }
        info!(%generation, "the new coordinator goes on with this generation");
        self.link.adopted(generation);
        drops.into_iter().for_each(|drop| self.learn(drop));
    }

    /// The job has gone on without this worker: what it holds is of no use.
    pub(super) fn start_afresh(&mut self, reason: &str) {
        warn!(reason, "this worker drops what it holds and begins anew");
        self.starts_afresh = true;
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Preparing(task) => task.abort(),
            Stage::Ready(prepared) => prepared.ring.leave(),
            Stage::Training(ring) => {
                self.control.leave_generation();
                ring.leave();
                // The trainer comes back as soon as it can.
                self.stage = Stage::Training(ring);
                return;
            }
            Stage::Idle => {}
        }
        self.begin_anew();
    }

    /// Nobody has the state any more.
    pub(super) fn begin_anew(&mut self) {
        drop(self.vault.take());
        (self.place, self.generation) = (None, Generation::default());
        (self.verdict, self.last_word, self.told_to_stop) = (None, None, None);
        self.starts_afresh = false;
        self.control.enter(Phase::Idle);
        self.link.start_afresh();
        self.introduce();
    }

    fn introduce(&mut self) {
        self.link.report(Computed { fingerprint: self.fingerprint.clone() }.into());
    }

    /// Once a second without a coordinator; the exit code, if that is the end.
    pub(super) async fn look_at_absence(&mut self, since: Instant) -> Option<Result<u8, Failure>> {
        let now = Instant::now();
        let limit = self.job.config.cluster.coordinator_timeout;
        if let Some(Ok(cause)) = &self.verdict {
            let cause = *cause;
            if self.last_checkpoint_exists().await {
                info!(?cause, "the last checkpoint exists; nothing is left to be done");
                return Some(Ok(exit_code(cause)));
            }
            if cause == Cause::NonFinite && now > since + LAST_WORD {
                return Some(Ok(exit_code(cause)));
            }
        }
        if let Some((reason, asked)) = &self.asked_to_leave
            && now > since.max(*asked) + LEAVE_ALONE
        {
            warn!(reason, "no coordinator is there to let this worker go; it goes all the same");
            let what = "this worker was asked to go and leaves without a checkpoint";
            return Some(Err(self.deserted(LEAVE_ALONE, what)));
        }
        if now <= since + limit {
            return None;
        }
        match (&self.stage, self.gives_up) {
            (Stage::Training(_), None) => {
                warn!("no coordinator came: all workers are to stop at the next step boundary");
                self.control.stop_after_step(false);
                self.gives_up = Some(now + self.job.config.cluster.prepare_timeout);
                None
            }
            (Stage::Training(_), Some(until)) if now < until => None,
            _ => Some(Err(self.deserted(limit, "this worker stops"))),
        }
    }

    /// The end of a worker that gave up waiting, and has come to a boundary with the others. Those who
    /// have not waited as long do so.
    pub(super) fn deserted_end(&self) -> Option<Result<u8, Failure>> {
        let stopped = matches!(self.verdict, Some(Ok(Cause::Stopped)));
        (stopped && self.gives_up.is_some()).then(|| {
            let what = format!("all workers stopped at {}", self.control.position());
            Err(self.deserted(self.job.config.cluster.coordinator_timeout, &what))
        })
    }

    fn deserted(&self, after: Duration, what: &str) -> Failure {
        let (url, what) = (self.link.url(), what.to_owned());
        SessionError::Deserted { url, after, what }.into()
    }

    /// The one that a run ends with may have been published with the coordinator's last breath.
    async fn last_checkpoint_exists(&self) -> bool {
        let Some(place) = &self.place else { return false };
        let (images, batch) = (self.job.dataset.len(Split::Train), self.job.config.train.batch);
        let steps_per_epoch = images.div_ceil(batch.into()) as u32;
        let global_step = self.control.position().global_step(steps_per_epoch);
        let name = format!("{}/{global_step}", place.lineage);
        timeout(STORE, self.job.catalogue.named(&name)).await.is_ok_and(|it| it.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use convoy_common::exit;

    use super::*;

    #[test]
    fn a_worker_that_no_coordinator_comes_for_says_so_with_a_hint() {
        let (url, after) = ("http://127.0.0.1:7171".to_owned(), Duration::from_secs(600));
        let error = SessionError::Deserted { url, after, what: "it stops".to_owned() };
        let failure = Failure::from(error);
        assert_eq!(failure.code(), exit::UNAVAILABLE);
        assert!(failure.to_string().contains("within 10m; it stops"), "{failure}");
        assert!(failure.hint().is_some_and(|it| it.contains("same config")));
    }
}
