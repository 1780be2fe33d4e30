//! The way to the right neighbour over gRPC: one long-lived stream on a connection of its own.

use std::time::Duration;

use convoy_common::ids::{Generation, Rank};
use convoy_common::pb::{self, ring_client::RingClient};
use convoy_common::rpc::{self, Address, Pause};
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::RingError;
use super::link::OUT_QUEUE;
use super::parcel::{MAX_CHUNK_BYTES, Outgoing, Receipt};
use super::service::describe;

/// Who calls whom, for which ring.
pub(crate) struct Call<'a> {
    pub generation: Generation,
    pub from: Rank,
    pub from_name: &'a str,
    pub world: u32,
    pub chunk_bytes: usize,
    pub peer: &'a str,
    pub address: &'a Address,
    /// A neighbour that acknowledges nothing for so long is lost.
    pub silence: Duration,
}

/// The way to the right: what is sent, and what is said to it.
pub(crate) type Way = (mpsc::Sender<Outgoing>, BoxStream<'static, Receipt>);

impl Call<'_> {
    /// Connects and opens the stream; tries again while the neighbour is not there yet.
    pub(crate) async fn open(&self, within: Duration) -> Result<Way, RingError> {
        let until = Instant::now() + within;
        let mut pause = Pause::default();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let reason = match timeout(left, self.attempt()).await {
                Ok(Ok(way)) => return Ok(way),
                Ok(Err(Failed::ForGood(error))) => return Err(error),
                Ok(Err(Failed::ForNow(reason))) => reason,
                Err(_) => "no answer".to_owned(),
            };
            tracing::debug!(peer = self.peer, address = %self.address, reason, "peer not reached yet");
            if !pause.wait(until).await {
                let (peer, address) = (self.peer.to_owned(), self.address.to_string());
                return Err(RingError::Unreachable { peer, address, after: within, reason });
            }
        }
    }

    async fn attempt(&self) -> Result<Way, Failed> {
        let channel =
            rpc::connect_once(self.address, self.silence).await.map_err(Failed::ForNow)?;
        let (out, frames) = mpsc::channel(OUT_QUEUE);
        let open = pb::frame::Kind::Open(pb::Open {
            generation: Some(self.generation.into()),
            from_rank: self.from.0,
            world_size: self.world,
            from_name: self.from_name.to_owned(),
            chunk_bytes: u32::try_from(self.chunk_bytes).unwrap_or(u32::MAX),
        });
        let open = stream::iter([pb::Frame { kind: Some(open) }]);
        let frames = open.chain(ReceiverStream::new(frames).map(pb::Frame::from));
        let mut client = RingClient::new(channel)
            .max_encoding_message_size(MAX_CHUNK_BYTES + rpc::RING_MESSAGE_SLACK);
        match client.flow(frames).await {
            Ok(response) => Ok((out, receipts(response.into_inner()))),
            Err(status) => match status.code() {
                Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => {
                    Err(Failed::ForGood(RingError::Refused {
                        peer: self.peer.to_owned(),
                        generation: self.generation,
                        reason: describe(&status),
                    }))
                }
                _ => Err(Failed::ForNow(describe(&status))),
            },
        }
    }
}

/// Why an attempt failed, and whether another can do better.
enum Failed {
    ForNow(String),
    ForGood(RingError),
}

fn receipts(answers: tonic::Streaming<pb::Receipt>) -> BoxStream<'static, Receipt> {
    answers
        .map(|answer| match answer {
            Ok(pb::Receipt { kind: Some(pb::receipt::Kind::Delivered(_)) }) => Receipt::Delivered,
            Ok(pb::Receipt { kind: Some(pb::receipt::Kind::Abort(it)) }) => {
                Receipt::Abort(it.into())
            }
            Ok(pb::Receipt { kind: None }) => {
                Receipt::Lost { detail: "its answer is of no known kind".to_owned() }
            }
            Err(status) => Receipt::Lost { detail: describe(&status) },
        })
        .boxed()
}
