//! Training: the story of a run as one worker lives it.
//!
//! ```text
//! data --microbatches--> lanes --heads--> all-gather  --.
//!                          '----gradients--> all-reduce --> commit -> boundary -> next step
//! ```
//!
//! [`Trainer::run`] lives on a thread of its own, which owns every tensor. It meets the rest of the
//! worker at two places: [`Control`], a board of wishes and facts, and a channel of [`Report`]s.
//! Nothing here calls the coordinator; what all ranks must decide alike rides on the ring.

pub(crate) mod boundary;
mod control;
mod crossing;
mod error;
pub(crate) mod evaluation;
mod exchange;
mod fault;
pub(crate) mod head_plan;
#[cfg(test)]
mod hostile;
pub(crate) mod lanes;
pub(crate) mod redo;
pub(crate) mod rehearsal;
pub(crate) mod remains;
mod report;
mod snapshot;
pub(crate) mod step;
mod times;
mod trainer;
mod upload;

pub use control::{Control, Phase};
pub use error::TrainError;
pub use exchange::BlockError;
pub use fault::{Fault, Mishap, Moment};
pub use redo::Redo;
pub use remains::Remains;
pub use report::{Cause, EvaluationReport, Heartbeat, Report, Reports, StepReport};
pub use snapshot::{Place as PartPlace, Uploader};
pub use times::{Arrival, StepTimes};
pub use trainer::{Ending, Parts, Trainer};
