//! What the agent tells the coordinator: where it is, what its trainer reports, that it left a ring.
//!
//! A heartbeat is made here and not by the trainer, so it comes while the trainer computes, waits or hangs.

use convoy_common::ids::Generation;

use super::{Agent, Stage};
use crate::train::{Heartbeat, Report};

impl Agent {
    pub(super) fn beat(&self) -> Heartbeat {
        let chunks = match &self.stage {
            Stage::Training(ring) => ring.chunks(),
            Stage::Ready(prepared) => prepared.ring.chunks(),
            Stage::Idle | Stage::Preparing(_) => (0, 0),
        };
        Heartbeat {
            position: self.control.position(),
            phase: self.control.phase(),
            in_phase: self.control.time_in_phase(),
            upload: self.control.time_of_upload(),
            arrival: self.control.arrival(),
            chunks,
        }
    }

    /// What the trainer says, or the upload that it left behind.
    pub(super) fn pass_on(&mut self, generation: Generation, report: Report) {
        let uploaded = matches!(report, Report::PartUploaded { .. } | Report::PartFailed { .. });
        if uploaded && generation == self.generation {
            self.control.upload_ended();
        }
        self.link.report(report.of(generation));
    }

    pub(super) fn say_left(&mut self, agreed: bool, blame: Option<String>, error: String) {
        let (held, owes_checkpoint) = (self.vault.reached(), self.vault.owes_checkpoint());
        let (kept, has_unit) = self.vault.kept_and_unit();
        let left = Report::Left { held, agreed, owes_checkpoint, kept, has_unit, blame, error };
        self.report(left);
    }
}
