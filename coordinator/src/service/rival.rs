//! Finds out whether another coordinator is at work on a run: before a term is claimed, and for as
//! long as it goes on.

use std::time::Duration;

use convoy_common::pb;
use convoy_common::rpc::{self, Address};
use pb::coordinator_client::CoordinatorClient;
use tokio::time::{sleep, timeout};

use super::reception::OPENING;
use crate::engine::{Handle, Input};
use crate::ledger::{Fence, Tenure};
use crate::machine::Event;

/// For a coordinator that is alive to answer. One that hangs is not waited for.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two looks at the newest term.
const LOOK: Duration = Duration::from_secs(3);
/// For the store to say which it is.
const STORE: Duration = Duration::from_secs(30);

/// Whether a coordinator at `address` answers, for the run at `url`, in that term, and is not about
/// to end. One that is still opening the run may not know yet that the term is its own.
pub async fn is_served_by(address: &str, url: &str, term: u64) -> bool {
    let ask = async {
        let address: Address = address.parse().ok()?;
        let channel = rpc::endpoint(&address).ok()?.connect().await.ok()?;
        let mut client = CoordinatorClient::new(channel);
        client.status(pb::StatusRequest {}).await.ok()
    };
    match timeout(ANSWER, ask).await {
        Ok(Some(reply)) => {
            let reply = reply.into_inner();
            let over = ["completed", "stopped", "failed"].contains(&reply.phase.as_str());
            reply.url == url && (reply.term == term || reply.phase == OPENING) && !over
        }
        _ => false,
    }
}

/// Tells the engine when a later term has begun, and the operator when the store has lost this one. A
/// store that does not answer says nothing.
pub async fn watch(fence: Fence, engine: Handle) {
    let mut lost = false;
    loop {
        sleep(LOOK).await;
        match timeout(STORE, fence.tenure()).await {
            Ok(Ok(Tenure::Followed(newest))) => {
                let event = Event::Superseded { term: newest.term, address: newest.address };
                engine.send(Input::Event(event)).await;
                return;
            }
            Ok(Ok(Tenure::Newest)) => lost = false,
            Ok(Ok(Tenure::Lost)) if lost => {}
            Ok(Ok(Tenure::Lost)) => {
                lost = true;
                tracing::error!(
                    url = fence.url(),
                    hint = "somebody has removed it; without run.json, terms/ and lineages/ this run \
                            cannot be gone on with: put them back while it trains",
                    "the store has lost what this run keeps"
                );
            }
            Ok(Err(error)) => tracing::debug!(%error, "cannot look for a later term"),
            Err(_) => tracing::debug!("the store does not say whether there is a later term"),
        }
    }
}
