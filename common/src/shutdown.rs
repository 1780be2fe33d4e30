//! Asked to stop: the first signal asks for an orderly end, the second for one at once.
//!
//! SIGINT, SIGTERM and SIGHUP are alike. Whoever works holds a [`Shutdown`] and looks at it between
//! two pieces of work, or waits on it. A SIGHUP that was ignored when the process started (`nohup`)
//! stays ignored. This module decides nothing about what an orderly end is, and kills nobody.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// How soon the process is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// After a checkpoint.
    Orderly,
    /// Now.
    AtOnce,
}

/// A request to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// How soon.
    pub urgency: Urgency,
    /// Who asked: `SIGINT`, or the caller's words.
    pub reason: String,
}

/// The view of those who must end; clones see the same request.
#[derive(Clone, Debug)]
pub struct Shutdown {
    requests: watch::Receiver<Option<Request>>,
}

/// The other end: asks for the end.
#[derive(Clone, Debug)]
pub struct Trigger {
    requests: watch::Sender<Option<Request>>,
}

/// A pair without signals, for a stop that comes another way, and for tests.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(None);
    (Trigger { requests: sender }, Shutdown { requests: receiver })
}

/// Listens to SIGINT, SIGTERM and SIGHUP from now on, in a task of the current tokio runtime.
///
/// # Errors
///
/// If the system refuses a handler.
pub fn on_signals() -> io::Result<(Trigger, Shutdown)> {
    let (trigger, shutdown) = channel();
    let kinds = [
        (SignalKind::interrupt(), "SIGINT"),
        (SignalKind::terminate(), "SIGTERM"),
        (SignalKind::hangup(), "SIGHUP"),
    ];
    for (kind, name) in kinds {
        if kind == SignalKind::hangup() && is_ignored(kind) {
            continue;
        }
        tokio::spawn(forward(signal(kind)?, name, trigger.clone()));
    }
    Ok((trigger, shutdown))
}

async fn forward(mut signals: Signal, name: &'static str, trigger: Trigger) {
    while signals.recv().await.is_some() {
        trigger.signalled(name);
    }
}

/// Whether the process was started with this signal ignored, as Linux tells it.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    mask & (1 << (kind.as_raw_value() - 1)) != 0
}

impl Trigger {
    /// Asks for an end; a less urgent request than the one that stands changes nothing.
    pub fn request(&self, urgency: Urgency, reason: impl Into<String>) {
        let request = Request { urgency, reason: reason.into() };
        self.requests.send_if_modified(|standing| {
            let more = standing.as_ref().is_none_or(|it| it.urgency < request.urgency);
            if more {
                *standing = Some(request);
            }
            more
        });
    }

    /// One more signal: orderly if nothing was asked before, else at once.
    fn signalled(&self, name: &str) {
        self.requests.send_if_modified(|standing| {
            let urgency = match standing {
                None => Urgency::Orderly,
                Some(Request { urgency: Urgency::Orderly, .. }) => Urgency::AtOnce,
                Some(Request { urgency: Urgency::AtOnce, .. }) => return false,
            };
            *standing = Some(Request { urgency, reason: name.to_owned() });
            true
        });
    }
}

impl Shutdown {
    /// Whether an end was asked for, orderly or at once.
    pub fn is_requested(&self) -> bool {
        self.requests.borrow().is_some()
    }

    /// Whether to end at once.
    pub fn is_immediate(&self) -> bool {
        self.requests.borrow().as_ref().is_some_and(|it| it.urgency == Urgency::AtOnce)
    }

    /// The request that stands.
    pub fn request(&self) -> Option<Request> {
        self.requests.borrow().clone()
    }

    /// Who asked.
    pub fn reason(&self) -> Option<String> {
        self.request().map(|it| it.reason)
    }

    /// Waits for a request of any urgency; for ever if nobody is left to make one.
    pub async fn requested(&self) -> Request {
        self.at_least(Urgency::Orderly).await
    }

    /// Waits for a request to end at once; for ever if nobody is left to make one.
    pub async fn immediate(&self) -> Request {
        self.at_least(Urgency::AtOnce).await
    }

    async fn at_least(&self, urgency: Urgency) -> Request {
        let mut requests = self.requests.clone();
        let enough = |it: &Option<Request>| it.as_ref().is_some_and(|it| it.urgency >= urgency);
        let found = requests.wait_for(enough).await.ok().and_then(|it| it.clone());
        match found {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_first_signal_is_orderly_and_the_second_at_once() {
        let (trigger, shutdown) = channel();
        assert!(!shutdown.is_requested());
        trigger.signalled("SIGTERM");
        assert!(shutdown.is_requested() && !shutdown.is_immediate());
        assert_eq!(shutdown.requested().await.reason, "SIGTERM");
        trigger.signalled("SIGINT");
        assert!(shutdown.is_immediate());
        trigger.signalled("SIGHUP");
        assert_eq!(shutdown.reason().as_deref(), Some("SIGINT"));
    }

    #[tokio::test]
    async fn a_less_urgent_request_changes_nothing() {
        let (trigger, shutdown) = channel();
        trigger.request(Urgency::AtOnce, "a");
        trigger.request(Urgency::Orderly, "b");
        assert_eq!(
            shutdown.immediate().await,
            Request { urgency: Urgency::AtOnce, reason: "a".into() }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_left_to_ask_is_no_request() {
        let (trigger, shutdown) = channel();
        drop(trigger);
        let waited = tokio::time::timeout(Duration::from_secs(3600), shutdown.requested()).await;
        assert!(waited.is_err());
    }
}
