//! Looks for the coordinator that takes the place of a lost one.
//!
//! Two places say where it may be: the newest term object of the run, and the address at which the
//! last one was. Both are tried again and again, because a machine that comes back takes its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use convoy_common::checkpoint::Checkpoints;
use convoy_common::ids::Term;
use convoy_common::rpc::Address;
use convoy_common::{exit, pb};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::SessionError;
use super::line::{self, Line};

/// For the store to name the newest term.
const STORE: Duration = Duration::from_secs(3);
/// For a coordinator to be connected to, and again for its welcome.
const ATTEMPT: Duration = Duration::from_secs(3);
/// Between the first attempts; each pause is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Between attempts in the first minute: a new coordinator waits a few seconds for all workers.
const PAUSE: Duration = Duration::from_secs(1);
/// Between attempts later.
const LONG_PAUSE: Duration = Duration::from_secs(3);

/// What is known of the coordinator that is lost.
#[derive(Clone, Debug)]
pub(super) struct Lost {
    /// Where it was.
    pub(super) address: Address,
    /// Its term.
    pub(super) term: Term,
    /// It may only have been slow: nothing but one of a later term is looked for.
    pub(super) in_doubt: bool,
}

/// A search that goes on until it is dropped or has found one.
#[derive(Debug)]
pub(super) struct Search {
    task: JoinHandle<Result<(Line, Address), SessionError>>,
    calling: Arc<AtomicBool>,
}

impl Drop for Search {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Search {
    /// Begins; the worker's first word is what `hello` holds when a coordinator is there.
    pub(super) fn start(
        lost: Lost,
        run: Arc<Checkpoints>,
        hello: watch::Receiver<Option<pb::Hello>>,
    ) -> Self {
        let calling = Arc::<AtomicBool>::default();
        Self { task: tokio::spawn(search(lost, run, hello, Arc::clone(&calling))), calling }
    }

    /// Whether one has been found and is being called: it must not be hung up on.
    pub(super) fn is_calling(&self) -> bool {
        self.calling.load(Ordering::Relaxed)
    }

    /// The one that was found, or why no other will be.
    pub(super) async fn ends(&mut self) -> Result<(Line, Address), SessionError> {
        match (&mut self.task).await {
            Ok(found) => found,
            // Only a runtime that shuts down ends it otherwise.
            Err(_) => std::future::pending().await,
        }
    }
}

async fn search(
    lost: Lost,
    run: Arc<Checkpoints>,
    mut hello: watch::Receiver<Option<pb::Hello>>,
    calling: Arc<AtomicBool>,
) -> Result<(Line, Address), SessionError> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        for address in places(&lost, &run).await {
            let known = hello.wait_for(Option::is_some).await.ok().and_then(|it| it.clone());
            let Some(first_word) = known else {
                // The worker is ending.
                return std::future::pending().await;
            };
            calling.store(true, Ordering::Relaxed);
            match line::call(&address, first_word, ATTEMPT).await {
                Ok(line) if line.welcome.term >= lost.term => return Ok((line, address)),
                Ok(line) => {
                    let (url, term) = (address.to_string(), line.welcome.term.0);
                    let known = lost.term.0;
                    debug!(error = %SessionError::Superseded { url, term, known }, "not taken");
                }
                Err(error @ SessionError::Refused { exit_code, .. })
                    if exit_code != exit::UNAVAILABLE =>
                {
                    return Err(error);
                }
                Err(error) => debug!(%address, %error, "no coordinator there"),
            }
            calling.store(false, Ordering::Relaxed);
        }
        sleep(pause).await;
        let longest = if start.elapsed() < Duration::from_secs(60) { PAUSE } else { LONG_PAUSE };
        pause = (pause * 2).min(longest);
    }
}

/// Where a coordinator may be, the likeliest place first.
async fn places(lost: &Lost, run: &Checkpoints) -> Vec<Address> {
    let newest = match timeout(STORE, run.newest_term()).await {
        Ok(Ok(newest)) => newest,
        Ok(Err(error)) => {
            debug!(%error, "cannot look for a new coordinator");
            None
        }
        Err(_) => None,
    };
    let later = newest.filter(|it| it.term > lost.term);
    match later.and_then(|it| it.address.parse().ok()) {
        Some(address) => vec![seen_from_here(address, &lost.address)],
        None if lost.in_doubt => Vec::new(),
        None => vec![lost.address.clone()],
    }
}

/// One that listens on all interfaces does not say which of them this worker reaches: the host of the
/// one before may be the same.
fn seen_from_here(address: Address, before: &Address) -> Address {
    if ["0.0.0.0", "::"].contains(&address.host()) {
        let host = before.host();
        let text = if host.contains(':') {
            format!("[{host}]:{}", address.port())
        } else {
            format!("{host}:{}", address.port())
        };
        return text.parse().unwrap_or(address);
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_on_all_interfaces_is_looked_for_where_the_last_one_was() {
        let address = |text: &str| text.parse::<Address>().expect("an address");
        let seen = |new: &str, old: &str| seen_from_here(address(new), &address(old)).to_string();
        assert_eq!(seen("0.0.0.0:9", "10.0.0.1:7"), "10.0.0.1:9");
        assert_eq!(seen("[::]:9", "[fd00::1]:7"), "[fd00::1]:9");
        assert_eq!(seen("10.0.0.2:9", "10.0.0.1:7"), "10.0.0.2:9");
    }
}
