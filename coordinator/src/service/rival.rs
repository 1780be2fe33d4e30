//! Finds out whether another coordinator is at work on a run.

use std::time::Duration;

use convoy_common::pb;
use convoy_common::rpc::{self, Address};
use pb::coordinator_client::CoordinatorClient;
use tokio::time::timeout;

/// For a coordinator that is alive to answer. One that hangs is not waited for.
const ANSWER: Duration = Duration::from_secs(2);

/// Whether a coordinator at `address` answers, for the run at `url`, in that term, and is not about
/// to end.
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
            reply.url == url && reply.term == term && !over
        }
        _ => false,
    }
}
