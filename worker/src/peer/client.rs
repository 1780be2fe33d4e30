//! Takes from a peer what this worker lacks.

use std::sync::Arc;
use std::time::Duration;

use convoy_common::checkpoint::{SharedState, StateLayout, slice_hash, state_digest};
use convoy_common::ids::Reached;
use convoy_common::pb;
use convoy_common::rpc;
use pb::peer_client::PeerClient;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::error::PeerError;
use super::service::MESSAGE_LIMIT;
use crate::model::{ModelError, Net, Spec};
use crate::ring::Member;
use crate::train::redo::Collector;
use crate::train::{Redo, Remains};

/// Slices that have come and wait to be hashed and written.
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
        let head = match self.next(&mut pieces).await?.and_then(|it| it.kind) {
            Some(pb::state_piece::Kind::Head(head)) => head,
            _ => return Err(self.bad("slices before what they are of")),
        };
        let shared: SharedState = serde_json::from_str(&head.shared_json)
            .map_err(|error| self.bad(&format!("the shared state: {error}")))?;
        let (slices, queue) = mpsc::channel(QUEUE);
        let staging = tokio::task::spawn_blocking(move || take_in(net, &layout, queue));
        let digest = loop {
            match self.next(&mut pieces).await?.and_then(|it| it.kind) {
                Some(pb::state_piece::Kind::Rows(rows)) => {
                    // Whoever takes them in says why it does not.
                    if slices.send(rows).await.is_err() {
                        break None;
                    }
                }
                Some(pb::state_piece::Kind::End(end)) => break Some(end.digest),
                _ => return Err(self.bad("the end is missing")),
            }
        };
        drop(slices);
        let (net, ours) = match staging.await.map_err(|_| PeerError::Panicked)? {
            Ok(taken) => taken,
            Err(Refused::Bad(detail)) => return Err(self.bad(&detail)),
            Err(Refused::Model(error)) => return Err(error.into()),
        };
        if digest.as_deref() != Some(ours.as_str()) {
            return Err(self.bad(&format!("a state of digest {ours} that should be {digest:?}")));
        }
        let boundary = head.boundary.map(Into::into);
        let remains = Remains { boundary, ..Remains::fresh(net, shared) };
        if remains.reached() != at {
            return Err(self.bad(&format!("the state at {}", remains.reached())));
        }
        Ok((remains, ours))
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

enum Refused {
    Bad(String),
    Model(ModelError),
}

/// Checks and writes slices as they come; gives the net with the digest of what it holds.
fn take_in(
    mut net: Net,
    layout: &StateLayout,
    mut queue: mpsc::Receiver<pb::StateRows>,
) -> Result<(Net, String), Refused> {
    let mut hashes = Vec::with_capacity(layout.slices().len());
    while let Some(rows) = queue.blocking_recv() {
        let number = hashes.len();
        let slice = layout.slices().get(number).filter(|_| rows.slice as usize == number);
        let slice = slice.ok_or_else(|| Refused::Bad(format!("slice {} of none", rows.slice)))?;
        if rows.data.len() != layout.slice_bytes(slice) {
            return Err(Refused::Bad(format!("slice {number} of {} bytes", rows.data.len())));
        }
        let hash = slice_hash(&rows.data);
        if hash != rows.hash {
            return Err(Refused::Bad(format!("slice {number} arrived altered")));
        }
        net.write_rows(slice.tensor, slice.rows.clone(), &rows.data).map_err(Refused::Model)?;
        hashes.push(hash);
    }
    if hashes.len() != layout.slices().len() {
        return Err(Refused::Bad(format!(
            "{} slices are missing",
            layout.slices().len() - hashes.len()
        )));
    }
    Ok((net, state_digest(layout, &hashes)))
}
