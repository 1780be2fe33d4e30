//! The commands of `convoy`, one file each: arguments, and what running them does.

pub(crate) mod check;
pub(crate) mod checkpoints;
pub(crate) mod dataset;
pub(crate) mod drill;
pub(crate) mod job;
pub(crate) mod launch;
pub(crate) mod lr;
pub(crate) mod operate;
pub(crate) mod pause;
pub(crate) mod prepare;
pub(crate) mod resume;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod synthesize;
pub(crate) mod workers;
