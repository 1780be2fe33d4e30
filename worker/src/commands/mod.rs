//! The commands of `convoy-worker`, one file each.

pub(crate) mod evaluate;
pub(crate) mod join;
pub(crate) mod model;
