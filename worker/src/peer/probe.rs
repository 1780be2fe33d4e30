//! Finds out which peers can be reached.
//!
//! A ring needs each worker to reach its neighbour, and a joiner a peer that gives it a state. Whether
//! that is so is found out while the others train: a link that is cut then costs nobody anything.

use std::time::Duration;

use convoy_common::{pb, rpc};
use pb::peer_client::PeerClient;
use tokio::time::timeout;

use crate::ring::Member;

/// For one peer to be connected to and to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The names of those that do not answer at the address of their ring within [`PATIENCE`]; all are asked at
/// the same time.
pub async fn unreachable(members: Vec<Member>) -> Vec<String> {
    let asked = members.into_iter().map(|member| async move {
        let answer = timeout(PATIENCE, ping(&member)).await;
        let why = match answer {
            Ok(Ok(())) => return None,
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        tracing::warn!(peer = member.name, address = %member.address, why, "a peer cannot be reached");
        Some(member.name)
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

async fn ping(member: &Member) -> Result<(), String> {
    // Each time anew: what is asked is whether a connection can be made.
    let channel = rpc::connect_once(&member.address, PATIENCE).await?;
    let answer = PeerClient::new(channel).ping(pb::PingRequest {}).await;
    answer.map(drop).map_err(|status| status.message().to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use convoy_common::rpc::Address;

    use super::super::{Vault, routes};
    use super::*;
    use crate::ring::RingServer;

    #[tokio::test]
    async fn whoever_does_not_answer_is_named() {
        let any: Address = "127.0.0.1:0".parse().unwrap();
        let vault = Arc::new(Vault::default());
        let (there, _server) = RingServer::bind_beside(&any, routes(vault)).await.unwrap();
        // Takes connections and never says anything.
        let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (gone, held) = rpc::bind(&any).await.unwrap();
        drop(held);
        let member = |name: &str, address: std::net::SocketAddr| Member {
            name: name.to_owned(),
            address: address.into(),
        };
        let members = vec![
            member("mute", mute.local_addr().unwrap()),
            member("there", there),
            member("gone", gone),
        ];
        assert_eq!(unreachable(members).await, ["mute", "gone"]);
    }
}
