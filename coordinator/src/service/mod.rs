//! The door to workers and operators: gRPC outside, typed inputs inside.
//!
//! One call is one worker's whole life: its first message says who calls, its end is the worker's
//! leaving. Wire types stop here; what they mean is the machine's business.

mod rival;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use convoy_common::pb;
use convoy_common::rpc::CONTROL_MESSAGE_LIMIT;
use pb::coordinator_server::{Coordinator, CoordinatorServer};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tokio_stream::adapters::Map;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub use rival::is_served_by;

use crate::engine::{Handle, Input, Outgoing};
use crate::machine::{ConnectionId, Departure, Event};

/// For a caller to say who it is.
const HELLO: Duration = Duration::from_secs(10);

/// What is told of the job and never changes.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Name of the run.
    pub run: String,
    /// Its URL.
    pub url: String,
    /// Its id.
    pub run_id: String,
    /// Digest of the run record.
    pub record_digest: String,
    /// The resolved config.
    pub config_json: String,
    /// This coordinator's term.
    pub term: u64,
    /// Workers that make up the job.
    pub workers: u32,
    /// Passes over the training split.
    pub epochs: u32,
    /// Steps of one.
    pub steps_per_epoch: u32,
}

/// The service of one job.
#[derive(Debug)]
pub struct Service {
    engine: Handle,
    facts: Arc<Facts>,
    calls: AtomicU64,
}

impl Service {
    /// For the job of that engine.
    pub fn new(engine: Handle, facts: Facts) -> Self {
        Self { engine, facts: Arc::new(facts), calls: AtomicU64::new(0) }
    }

    /// To be added to a server.
    pub fn into_server(self) -> CoordinatorServer<Self> {
        CoordinatorServer::new(self)
            .max_decoding_message_size(CONTROL_MESSAGE_LIMIT)
            .max_encoding_message_size(CONTROL_MESSAGE_LIMIT)
    }
}

type Orders = Map<
    ReceiverStream<Outgoing>,
    Box<dyn FnMut(Outgoing) -> Result<pb::CoordinatorMessage, Status> + Send>,
>;

#[tonic::async_trait]
impl Coordinator for Service {
    type AttendStream = Orders;

    async fn attend(
        &self,
        request: Request<Streaming<pb::WorkerMessage>>,
    ) -> Result<Response<Orders>, Status> {
        let mut words = request.into_inner();
        let first = timeout(HELLO, words.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the first message did not come in time"))??
            .ok_or_else(|| Status::invalid_argument("the call ended before its first message"))?;
        let hello = wire::hello(first).map_err(Status::invalid_argument)?;
        let connection = ConnectionId(self.calls.fetch_add(1, Ordering::Relaxed));
        let (line, orders) = Handle::line();
        if !self.engine.send(Input::Call { connection, hello, line }).await {
            return Err(Status::unavailable("the job is over"));
        }
        tokio::spawn(listen(connection, words, self.engine.clone()));
        let facts = Arc::clone(&self.facts);
        let translate = move |it| Ok(wire::outgoing(it, &facts));
        Ok(Response::new(ReceiverStream::new(orders).map(Box::new(translate))))
    }

    async fn status(
        &self,
        _: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusReply>, Status> {
        Ok(Response::new(wire::status(self.engine.status(), &self.facts)))
    }

    async fn stop(
        &self,
        request: Request<pb::StopRequest>,
    ) -> Result<Response<pb::StopReply>, Status> {
        let reason = match request.into_inner().reason.trim() {
            "" => "asked to stop".to_owned(),
            reason => wire::printable(reason),
        };
        self.engine.send(Input::Event(Event::StopRequested { reason })).await;
        Ok(Response::new(pb::StopReply { phase: self.engine.status().phase.to_owned() }))
    }
}

/// Hands over what a worker says until its call ends, then how it ended.
async fn listen(connection: ConnectionId, mut words: Streaming<pb::WorkerMessage>, engine: Handle) {
    let why = loop {
        let event = match words.message().await {
            Ok(Some(message)) => match wire::said(connection, message) {
                Ok(event) => event,
                Err(what) => break Departure::Protocol(what),
            },
            Ok(None) => break Departure::Closed,
            Err(status) => break Departure::Broken(wire::printable(status.message())),
        };
        if !engine.send(Input::Event(event)).await {
            return;
        }
    };
    engine.send(Input::Event(Event::Gone { connection, why })).await;
}
