//! How a ring that has failed ends: both neighbours are told why, and whoever still asks is, too.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::RingError;
use super::engine::Command;
use super::link::Link;
use super::parcel::{Farewell, Outgoing, Receipt};

/// How long a farewell may take to leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// Says why, then answers everything with the error until nobody can ask any more.
pub(super) async fn end(
    link: Link,
    commands: &mut mpsc::UnboundedReceiver<Command>,
    error: &RingError,
) {
    let receipts = say(link, error);
    tokio::join!(linger(receipts), refuse(commands, error));
}

/// What a neighbour's farewell means here.
pub(super) fn meaning(by: &str, Farewell { blame, reason }: Farewell) -> RingError {
    match blame {
        Some(blame) => RingError::Abandoned { by: by.to_owned(), blame, reason },
        None => RingError::PeerLost { peer: by.to_owned(), detail: reason },
    }
}

/// Tells both neighbours why, as far as they still listen.
fn say(link: Link, error: &RingError) -> BoxStream<'static, Receipt> {
    let Link { out, receipts, mut inbox } = link;
    let farewell =
        Farewell { blame: error.blame().map(ToOwned::to_owned), reason: error.to_string() };
    // A queue that is full leads to a neighbour that does not read.
    let _ = out.try_send(Outgoing::Abort(farewell.clone()));
    inbox.give_up(farewell);
    receipts
}

/// Holds the stream to the right open until the farewell is through.
async fn linger(mut receipts: BoxStream<'static, Receipt>) {
    let _ = timeout(FAREWELL, async { while receipts.next().await.is_some() {} }).await;
}

/// Answers everything with the error that ended the ring.
async fn refuse(commands: &mut mpsc::UnboundedReceiver<Command>, error: &RingError) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::AllReduce { reply, .. } | Command::Sum { reply, .. } => {
                drop(reply.send(Err(error.clone())));
            }
            Command::AllGather { reply, .. } => drop(reply.send(Err(error.clone()))),
            Command::Shutdown { reply } => drop(reply.send(Err(error.clone()))),
        }
    }
}
