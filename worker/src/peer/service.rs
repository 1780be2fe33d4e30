//! Gives peers what they lack: the whole state, or the last step's part of the ring.

use std::sync::Arc;
use std::time::Duration;

use convoy_common::checkpoint::{SLICE_BYTES, slice_hash, state_digest};
use convoy_common::ids::Reached;
use convoy_common::pb;
use pb::peer_server::{Peer, PeerServer};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::intake;
use super::vault::Vault;
use crate::state;
use crate::train::redo;

/// Pieces that wait for the network.
const QUEUE: usize = 2;
/// For a peer to take one piece; one that does not is no reason to hold threads.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than one slice and what is around it.
pub(super) const MESSAGE_LIMIT: usize = 2 * SLICE_BYTES;

/// The service over a worker's vault, for the address of its ring.
pub fn routes(vault: Arc<Vault>) -> Routes {
    Routes::new(PeerServer::new(Service { vault }).max_encoding_message_size(MESSAGE_LIMIT))
}

struct Service {
    vault: Arc<Vault>,
}

type Pieces<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Peer for Service {
    type StateStream = Pieces<pb::StatePiece>;
    type RedoStream = Pieces<pb::RedoPiece>;

    async fn state(
        &self,
        request: Request<pb::StateRequest>,
    ) -> Result<Response<Self::StateStream>, Status> {
        let at = reached(request.into_inner().at)?;
        if self.vault.reached() != Some(at) {
            return Err(Status::failed_precondition(format!("no state at {at} is held here")));
        }
        let (to, pieces) = mpsc::channel(QUEUE);
        let vault = Arc::clone(&self.vault);
        let line = Line { to, runtime: Handle::current() };
        tokio::task::spawn_blocking(move || {
            if let Err(status) = send_state(&vault, at, &line) {
                tracing::warn!(%at, error = status.message(), "a peer did not get the whole state");
                line.send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(pieces)))
    }

    async fn redo(
        &self,
        request: Request<pb::RedoRequest>,
    ) -> Result<Response<Self::RedoStream>, Status> {
        let from = reached(request.into_inner().from)?;
        let unit = self.vault.unit(from).ok_or_else(|| {
            Status::failed_precondition(format!("what leads on from {from} is not held here"))
        })?;
        let (to, pieces) = mpsc::channel(QUEUE);
        let line = Line { to, runtime: Handle::current() };
        tokio::task::spawn_blocking(move || {
            redo::pieces(&unit).all(|piece| line.send(Ok(piece)));
        });
        Ok(Response::new(ReceiverStream::new(pieces)))
    }

    async fn ping(&self, _: Request<pb::PingRequest>) -> Result<Response<pb::PingReply>, Status> {
        Ok(Response::new(pb::PingReply {}))
    }
}

/// The way from a thread that reads tensors to the network.
struct Line<T> {
    to: mpsc::Sender<Result<T, Status>>,
    runtime: Handle,
}

impl<T> Line<T> {
    /// False if the peer is gone or does not take it in time.
    fn send(&self, piece: Result<T, Status>) -> bool {
        self.runtime
            .block_on(async { matches!(timeout(PATIENCE, self.to.send(piece)).await, Ok(Ok(()))) })
    }
}

/// Sends head, slices and digest. Between two slices the owner may take its state away.
fn send_state(vault: &Vault, at: Reached, line: &Line<pb::StatePiece>) -> Result<(), Status> {
    use pb::state_piece::Kind;
    let gone = || Status::aborted("the state was taken away: a generation began or ended");
    let lost = || Status::cancelled("the peer takes no more");
    let send = |kind| line.send(Ok(pb::StatePiece { kind: Some(kind) }));
    let (layout, head) = vault
        .look(at, |remains| {
            let shared_json = serde_json::to_string(&remains.shared).unwrap_or_default();
            let boundary = remains.boundary.map(pb::Boundary::from);
            (state::layout(&remains.net), intake::head(shared_json, boundary))
        })
        .ok_or_else(gone)?;
    if !send(Kind::Head(head)) {
        return Err(lost());
    }
    let mut hashes = Vec::with_capacity(layout.slices().len());
    for (number, slice) in layout.slices().iter().enumerate() {
        let read = vault.look(at, |it| it.net.read_rows(slice.tensor, slice.rows.clone()));
        let data = read.ok_or_else(gone)?.map_err(|error| Status::internal(error.to_string()))?;
        let hash = slice_hash(&data);
        hashes.push(hash.clone());
        let rows = pb::StateRows { slice: number as u32, hash, data: data.into() };
        if !send(Kind::Rows(rows)) {
            return Err(lost());
        }
    }
    let digest = state_digest(&layout, &hashes);
    if send(Kind::End(pb::StateEnd { digest })) { Ok(()) } else { Err(lost()) }
}

fn reached(wire: Option<pb::Reached>) -> Result<Reached, Status> {
    let wire = wire.ok_or_else(|| Status::invalid_argument("a request without a state"))?;
    let position = wire.position.ok_or_else(|| Status::invalid_argument("no position"))?;
    Ok(Reached { position: position.into(), evaluated: wire.evaluated })
}
