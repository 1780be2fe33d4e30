//! Takes from a peer what this worker lacks.

use std::sync::Arc;
use std::time::Duration;

use convoy_common::checkpoint::StateLayout;
use convoy_common::ids::Reached;
use convoy_common::pb;
use convoy_common::rpc;
use pb::peer_client::PeerClient;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::error::PeerError;
use super::intake::{Intake, Refused};
use super::service::MESSAGE_LIMIT;
use crate::model::{Net, Spec};
use crate::ring::Member;
use crate::train::redo::Collector;
use crate::train::{Redo, Remains};

/// Pieces that have come and wait to be hashed and written.
const QUEUE: usize = 2;

/// A peer that has what this worker lacks.
#[derive(Clone, Debug)]
pub struct Donor {
    /// Who, and where.
    pub member: Member,
    /// For connecting, and for each message.
    pub patience: Duration,
}

impl Donor {
    /// The peer's state at `at`, in `net`, which is of the same shape and of no use after an error.
    /// Gives the digest of it too, which is that of the peer's.
    ///
    /// # Errors
    /// [`PeerError`]; nothing of this worker's own state is touched.
    pub async fn state(
        &self,
        at: Reached,
        net: Net,
        layout: Arc<StateLayout>,
    ) -> Result<(Remains, String), PeerError> {
        let mut client = self.connect().await?;
        let request = pb::StateRequest { at: Some(at.into()) };
        let response = self.in_time(client.state(request)).await?;
        let mut pieces = response.into_inner();
        let (to, queue) = mpsc::channel(QUEUE);
        let intake = tokio::task::spawn_blocking(move || take_in(Intake::new(net, layout), queue));
        while let Some(piece) = self.next(&mut pieces).await? {
            let is_last = matches!(piece.kind, Some(pb::state_piece::Kind::End(_)));
            // Whoever takes them in says why it does not.
            if to.send(piece).await.is_err() || is_last {
                break;
            }
        }
        drop(to);
        let taken = intake.await.map_err(|_| PeerError::Panicked)?.and_then(|it| it.finish(at));
        taken.map_err(|refused| match refused {
            Refused::Bad(detail) => self.bad(&detail),
            Refused::Model(error) => error.into(),
        })
    }

    /// The step or evaluation that leads on from `from`.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn redo(&self, from: Reached, spec: &Spec, batch: u32) -> Result<Redo, PeerError> {
        let mut client = self.connect().await?;
        let request = pb::RedoRequest { from: Some(from.into()) };
        let response = self.in_time(client.redo(request)).await?;
        let mut pieces = response.into_inner();
        let first = self.next(&mut pieces).await?.ok_or_else(|| self.bad("nothing"))?;
        let bad = |detail: String| self.bad(&detail);
        let mut collector = Collector::new(from, first, spec, batch).map_err(bad)?;
        while let Some(piece) = self.next(&mut pieces).await? {
            collector.add(piece).map_err(bad)?;
        }
        collector.finish().map_err(bad)
    }

    async fn connect(&self) -> Result<PeerClient<Channel>, PeerError> {
        let Member { name, address } = &self.member;
        let channel = rpc::connect(name, address, self.patience)
            .await
            .map_err(|source| PeerError::Unreachable { peer: name.clone(), source })?;
        Ok(PeerClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT))
    }

    async fn next<T>(&self, pieces: &mut Streaming<T>) -> Result<Option<T>, PeerError> {
        self.in_time(pieces.message()).await
    }

    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, PeerError> {
        let (peer, after) = (self.member.name.clone(), self.patience);
        match timeout(after, call).await {
            Ok(Ok(it)) => Ok(it),
            Ok(Err(status)) => Err(PeerError::Broken { peer, detail: status.message().to_owned() }),
            Err(_) => Err(PeerError::Silent { peer, after }),
        }
    }

    fn bad(&self, detail: &str) -> PeerError {
        PeerError::Bad { peer: self.member.name.clone(), detail: detail.to_owned() }
    }
}

/// Checks and writes pieces as they come.
fn take_in(
    mut intake: Intake,
    mut queue: mpsc::Receiver<pb::StatePiece>,
) -> Result<Intake, Refused> {
    while let Some(piece) = queue.blocking_recv() {
        intake.add(piece)?;
    }
    Ok(intake)
}
