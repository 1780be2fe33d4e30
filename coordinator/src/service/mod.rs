//! The door to workers and operators: gRPC outside, typed inputs inside.
//!
//! One call is one worker's whole life: its first message says who calls, its end is the worker's
//! leaving. Wire types stop here; what they mean is the machine's business.

mod heard;
#[cfg(test)]
mod hostile;
mod operate;
mod reception;
mod rival;
mod told;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use convoy_common::pb;
use convoy_common::rpc::CONTROL_MESSAGE_LIMIT;
use pb::coordinator_server::{Coordinator, CoordinatorServer};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::StreamExt as _;
use tokio_stream::adapters::Map;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub use reception::Reception;
pub use rival::{is_served_by, watch};

use crate::engine::{Handle, Input, Outgoing};
use crate::machine::{ConnectionId, Departure, DropStage, DropStatus, Event};

/// For a caller to say who it is.
const HELLO: Duration = Duration::from_secs(10);
/// What a drop of the rate may divide by.
const MOST: f64 = 1000.0;
/// How long an order to drop the rate is waited for, whatever the caller says.
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);

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
    /// What a drop by hand divides the rate by, unless told otherwise.
    pub divide_by: f64,
}

/// The service of one job.
#[derive(Debug)]
pub struct Service {
    reception: Reception,
    calls: AtomicU64,
}

impl Service {
    /// For the job of that engine.
    pub fn new(engine: Handle, facts: Facts) -> Self {
        let reception = Reception::default();
        reception.open(engine, facts);
        Self::behind(reception)
    }

    /// For a job that is still being opened.
    pub fn behind(reception: Reception) -> Self {
        Self { reception, calls: AtomicU64::new(0) }
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
        let (engine, facts) = self.reception.job()?;
        let mut words = request.into_inner();
        let first = timeout(HELLO, words.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the first message did not come in time"))??
            .ok_or_else(|| Status::invalid_argument("the call ended before its first message"))?;
        let hello = heard::hello(first).map_err(Status::invalid_argument)?;
        let connection = ConnectionId(self.calls.fetch_add(1, Ordering::Relaxed));
        let (line, orders) = Handle::line();
        if !engine.send(Input::Call { connection, hello, line }).await {
            return Err(Status::unavailable("the job is over"));
        }
        tokio::spawn(listen(connection, words, engine));
        let translate = move |it| Ok(told::outgoing(it, &facts));
        Ok(Response::new(ReceiverStream::new(orders).map(Box::new(translate))))
    }

    async fn status(
        &self,
        _: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusReply>, Status> {
        let reply = match self.reception.job() {
            Ok((engine, facts)) => told::status(engine.status(), &facts),
            Err(_) => self.reception.told(),
        };
        Ok(Response::new(reply))
    }

    async fn stop(
        &self,
        request: Request<pb::StopRequest>,
    ) -> Result<Response<pb::StopReply>, Status> {
        let reason = match request.into_inner().reason.trim() {
            "" => "asked to stop".to_owned(),
            reason => heard::printable(reason),
        };
        let (engine, _) = self.reception.job()?;
        engine.send(Input::Event(Event::StopRequested { reason })).await;
        Ok(Response::new(pb::StopReply { phase: engine.status().phase.to_owned() }))
    }

    async fn operate(
        &self,
        request: Request<pb::OperateRequest>,
    ) -> Result<Response<pb::OperateReply>, Status> {
        let (engine, _) = self.reception.job()?;
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        operate::operate(&engine, number, request.into_inner()).await.map(Response::new)
    }

    async fn drop_rate(
        &self,
        request: Request<pb::DropRateRequest>,
    ) -> Result<Response<pb::DropRateReply>, Status> {
        let (engine, facts) = self.reception.job()?;
        let it = request.into_inner();
        let divide_by = if it.divide_by == 0.0 { facts.divide_by } else { it.divide_by };
        if !(divide_by > 1.0 && divide_by <= MOST) {
            let what = format!("a drop divides by more than 1 and at most {MOST}, not {divide_by}");
            return Err(Status::invalid_argument(what));
        }
        let patience = Duration::try_from_secs_f64(it.patience_seconds).unwrap_or_default();
        let until = Instant::now() + patience.min(LONGEST_PATIENCE);
        let request = self.calls.fetch_add(1, Ordering::Relaxed);
        let reason = heard::printable(&it.reason);
        let mut watch = engine.watch();
        let event = Event::DropOrdered { request, divide_by, reason };
        if !engine.send(Input::Event(event)).await {
            return Err(Status::unavailable("the job is over"));
        }
        let over = "the job ended before the order took effect; unless it never reached the \
                    override log, it takes effect when the run goes on";
        let decided = watch.wait_for(|status| {
            let own = status.drops.iter().find(|it| it.request == Some(request));
            own.is_some_and(|it| matches!(it.stage, DropStage::Effective(_) | DropStage::Failed(_)))
        });
        // Late is an answer, too: who is waited for.
        let status = match timeout_at(until, decided).await {
            Ok(Ok(status)) => status.clone(),
            Ok(Err(_)) => return Err(Status::unavailable(over)),
            Err(_) => engine.status(),
        };
        match status.drops.into_iter().find(|it| it.request == Some(request)) {
            Some(DropStatus { stage: DropStage::Failed(error), .. }) => {
                Err(Status::failed_precondition(error))
            }
            Some(drop) => {
                let drop = Some(told::drop_status(drop));
                let steps_per_epoch = facts.steps_per_epoch;
                Ok(Response::new(pb::DropRateReply { drop, steps_per_epoch }))
            }
            // Not even looked at yet.
            None => {
                let drop =
                    pb::DropStatus { stage: "writing".to_owned(), divide_by, ..Default::default() };
                let steps_per_epoch = facts.steps_per_epoch;
                Ok(Response::new(pb::DropRateReply { drop: Some(drop), steps_per_epoch }))
            }
        }
    }
}

/// Hands over what a worker says until its call ends, then how it ended.
async fn listen(connection: ConnectionId, mut words: Streaming<pb::WorkerMessage>, engine: Handle) {
    let why = loop {
        let event = match words.message().await {
            Ok(Some(message)) => match heard::said(connection, message) {
                Ok(event) => event,
                Err(what) => break Departure::Protocol(what),
            },
            Ok(None) => break Departure::Closed,
            Err(status) => break Departure::Broken(heard::printable(status.message())),
        };
        if !engine.send(Input::Event(event)).await {
            return;
        }
    };
    engine.send(Input::Event(Event::Gone { connection, why })).await;
}
