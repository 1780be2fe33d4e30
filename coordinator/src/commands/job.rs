//! Finds the coordinator of a running job, by its address or by the run's URL.
//!
//! The newest term object of a run holds the address of its last coordinator. Whether that one is
//! alive, and is still this run's, only asking it tells.

use std::path::Path;
use std::time::Duration;

use convoy_common::checkpoint::{CheckpointError, Checkpoints};
use convoy_common::config::{self, ConfigError};
use convoy_common::failure::Explain;
use convoy_common::rpc::{self, Address};
use convoy_common::store::Store;
use convoy_common::{exit, pb, run_record};
use pb::coordinator_client::CoordinatorClient;
use tokio::time::timeout;
use tonic::transport::Channel;

/// For a coordinator to be reached, and to answer a question.
const ANSWER: Duration = Duration::from_secs(5);

/// There is no job to talk to, or it does not do what is asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// The run's store.
    #[error(transparent)]
    Store(#[from] CheckpointError),
    /// The config file that should name the run.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nobody has worked on the run yet.
    #[error("no coordinator has ever worked on the run at {url}")]
    NeverServed { url: String },
    /// The last coordinator is gone, or another program has its address now.
    #[error(
        "no job runs on the run at {url}: its last coordinator (term {term}, {address}, started \
         {started}) does not answer"
    )]
    Over { url: String, term: u64, address: String, started: String },
    /// Nobody listens there.
    #[error("no job runs at {address}: {reason}")]
    NobodyThere { address: String, reason: String },
    /// The job did not take what was asked.
    #[error("the job refused: {reason}")]
    Refused { reason: String },
    /// The connection broke, or the answer did not come in time.
    #[error("the coordinator at {address} did not answer: {reason}")]
    NoAnswer { address: String, reason: String },
}

impl Explain for JobError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Store(error) => return error.hint(),
            Self::Config(error) => return error.hint(),
            Self::NeverServed { .. } => {
                "start it with `convoy launch CONFIG` or `convoy serve CONFIG`".to_owned()
            }
            Self::Over { .. } => {
                "if its workers train on, `convoy launch` brings the coordinator back \
                in a moment, and `convoy serve CONFIG` does it by hand; else start the job with \
                `convoy launch CONFIG`"
                    .to_owned()
            }
            Self::NobodyThere { .. } => {
                "give the address that `convoy serve` says it listens on, or the run's URL"
                    .to_owned()
            }
            Self::Refused { .. } => return None,
            Self::NoAnswer { .. } => "see the coordinator's log".to_owned(),
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Store(error) => error.exit_code(),
            Self::Config(error) => error.exit_code(),
            Self::Refused { .. } => exit::FAILURE,
            _ => exit::UNAVAILABLE,
        }
    }
}

/// A job that answers.
pub(crate) struct Job {
    address: String,
    client: CoordinatorClient<Channel>,
}

impl Job {
    /// Finds the job at `target`: host:port, the URL or folder of a run, or the config file of one.
    pub(crate) async fn find(target: &str) -> Result<Self, JobError> {
        let named;
        let target = match Path::new(target) {
            path if path.extension().is_some_and(|it| it == "toml") && path.is_file() => {
                named = config::load(path, &[])?.run.url;
                &named
            }
            _ => target,
        };
        if let Ok(address) = target.parse::<Address>() {
            let mut job = Self::connect(&address).await?;
            job.status().await?;
            return Ok(job);
        }
        let store = Store::open(target).map_err(CheckpointError::from)?;
        let url = store.url().to_owned();
        // A mistyped URL is no idle run.
        run_record::read(&store).await.map_err(CheckpointError::from)?;
        let newest = Checkpoints::new(store).newest_term().await?;
        let Some(term) = newest else { return Err(JobError::NeverServed { url }) };
        let over = || JobError::Over {
            url: url.clone(),
            term: term.term.0,
            address: term.address.clone(),
            started: term.started.clone(),
        };
        let address: Address = term.address.parse().map_err(|_| over())?;
        let mut job = Self::connect(&address).await.map_err(|_| over())?;
        let status = job.status().await.map_err(|_| over())?;
        if status.url == url && status.term == term.term.0 { Ok(job) } else { Err(over()) }
    }

    async fn connect(address: &Address) -> Result<Self, JobError> {
        let nobody =
            |reason: String| JobError::NobodyThere { address: address.to_string(), reason };
        let endpoint = rpc::endpoint(address).map_err(|error| nobody(error.to_string()))?;
        let channel = timeout(ANSWER, endpoint.connect())
            .await
            .map_err(|_| nobody(format!("no connection within {} s", ANSWER.as_secs())))?
            .map_err(|error| nobody(rpc::innermost(&error)))?;
        Ok(Self { address: address.to_string(), client: CoordinatorClient::new(channel) })
    }

    /// What the job is doing.
    pub(crate) async fn status(&mut self) -> Result<pb::StatusReply, JobError> {
        let call = self.client.status(pb::StatusRequest {});
        let answer = timeout(ANSWER, call).await;
        self.answer(answer)
    }

    /// Asks the job to take a checkpoint and end.
    pub(crate) async fn stop(&mut self, reason: String) -> Result<(), JobError> {
        let call = self.client.stop(pb::StopRequest { reason });
        let answer = timeout(ANSWER, call).await;
        self.answer(answer).map(|_| ())
    }

    /// Asks for something, and waits for it as long as `patience`.
    pub(crate) async fn operate(
        &mut self,
        what: pb::operate_request::What,
        patience: Duration,
    ) -> Result<pb::OperateReply, JobError> {
        let patience_seconds = patience.as_secs_f64();
        let call = self.client.operate(pb::OperateRequest { patience_seconds, what: Some(what) });
        let answer = timeout(patience + ANSWER, call).await;
        self.answer(answer)
    }

    /// Orders a drop of the rate, and waits for the ranks as long as the request says.
    pub(crate) async fn drop_rate(
        &mut self,
        request: pb::DropRateRequest,
    ) -> Result<pb::DropRateReply, JobError> {
        let patience = Duration::try_from_secs_f64(request.patience_seconds).unwrap_or_default();
        let call = self.client.drop_rate(request);
        let answer = timeout(patience + ANSWER, call).await;
        self.answer(answer)
    }

    fn answer<T>(
        &self,
        answer: Result<Result<tonic::Response<T>, tonic::Status>, tokio::time::error::Elapsed>,
    ) -> Result<T, JobError> {
        let none = |reason: String| JobError::NoAnswer { address: self.address.clone(), reason };
        match answer {
            Err(_) => Err(none("it took too long".to_owned())),
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(match status.code() {
                tonic::Code::FailedPrecondition | tonic::Code::InvalidArgument => {
                    JobError::Refused { reason: status.message().to_owned() }
                }
                _ => none(status.message().to_owned()),
            }),
        }
    }
}

/// A runtime for one command.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, convoy_common::failure::Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| convoy_common::failure::Failure::new(exit::FAILURE, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_where_nobody_listens_is_no_job() {
        let (bound, held) = rpc::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        drop(held);
        let Err(error) = Job::find(&bound.to_string()).await else { panic!("a job") };
        assert!(error.to_string().starts_with("no job runs at 127.0.0.1:"), "{error}");
        assert_eq!(error.exit_code(), exit::UNAVAILABLE);
    }

    #[tokio::test]
    async fn a_folder_without_a_run_is_said_to_be_none() {
        let folder = tempfile::TempDir::new().unwrap();
        let found = Job::find(folder.path().to_str().unwrap()).await;
        let Err(error) = found else { panic!("a job") };
        assert!(error.to_string().contains("there is no run at"), "{error}");
    }
}
