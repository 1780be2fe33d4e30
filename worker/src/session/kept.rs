//! What a worker has said of its generation, for a coordinator that has not heard it.
//!
//! A report that was on its way when the line broke is lost, and nobody knows which one that was. So
//! whatever a new coordinator needs is kept until it is of no use any more, and told again: what
//! repeats itself is kept once, and everything is bounded. Whoever hears something twice drops it.

use std::collections::BTreeMap;

use convoy_common::ids::{Generation, Position};
use convoy_common::pb;
use pb::worker_message::Kind;

/// Evaluations that are kept, and checkpoints whose parts are.
const LIMIT: usize = 8;

/// The reports of one generation.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Whose they are.
    generation: Option<Generation>,
    /// The last one.
    step: Option<pb::StepReport>,
    evaluations: BTreeMap<Position, pb::EvaluationReport>,
    /// By number.
    drops: BTreeMap<u32, pb::DirectiveApplied>,
    parts: BTreeMap<Position, Kind>,
    /// How the worker stands to the generation: ready, out of it, at an end.
    state: Option<Kind>,
    /// The worker was asked to go.
    leaving: Option<pb::Leaving>,
}

impl Kept {
    /// Takes note of what is said.
    pub(super) fn note(&mut self, report: &pb::WorkerMessage) {
        let Some(kind) = &report.kind else { return };
        match kind {
            Kind::Step(it) => self.step = Some(*it),
            Kind::Evaluation(it) => keep(&mut self.evaluations, it.position, *it),
            Kind::DirectiveApplied(it) => {
                self.drops.insert(it.number, *it);
            }
            // An upload may outlive the generation that began it.
            Kind::PartUploaded(it) if self.is_of_now(it.generation) => {
                keep(&mut self.parts, it.position, kind.clone());
            }
            Kind::PartFailed(it) if self.is_of_now(it.generation) => {
                keep(&mut self.parts, it.position, kind.clone());
            }
            Kind::PartUploaded(_) | Kind::PartFailed(_) => {}
            Kind::Ready(_) | Kind::Left(_) | Kind::Finished(_) | Kind::GenerationFailed(_) => {
                self.state = Some(kind.clone());
            }
            Kind::Leaving(it) => self.leaving = Some(it.clone()),
            // These are said again and again, or with the first word.
            Kind::Hello(_)
            | Kind::Numerics(_)
            | Kind::Heartbeat(_)
            | Kind::DirectiveKnown(_)
            | Kind::PartDelayed(_)
            | Kind::Probed(_) => {}
        }
    }

    /// A generation begins, or none: what was said of the one before is of no use.
    pub(super) fn begin(&mut self, generation: Option<Generation>) {
        *self = Self { generation, leaving: self.leaving.take(), ..Self::default() };
    }

    fn is_of_now(&self, generation: Option<pb::GenerationId>) -> bool {
        generation.map(Generation::from) == self.generation
    }

    /// What became of the checkpoint is decided.
    pub(super) fn settled(&mut self, position: Position) {
        self.parts.remove(&position);
    }

    /// Parts that are in the store.
    pub(super) fn parts(&self) -> Vec<pb::PartUploaded> {
        let uploaded = self.parts.values().filter_map(|it| match it {
            Kind::PartUploaded(part) => Some(part.clone()),
            _ => None,
        });
        uploaded.collect()
    }

    /// All of it, in an order in which it makes sense.
    pub(super) fn all(&self) -> Vec<pb::WorkerMessage> {
        let drops = self.drops.values().copied().map(Kind::DirectiveApplied);
        let step = self.step.map(Kind::Step);
        let evaluations = self.evaluations.values().copied().map(Kind::Evaluation);
        let parts = self.parts.values().cloned();
        let leaving = self.leaving.clone().map(Kind::Leaving);
        let last = self.state.clone().into_iter().chain(leaving);
        let all = drops.chain(evaluations).chain(step).chain(parts).chain(last);
        all.map(|kind| pb::WorkerMessage { kind: Some(kind) }).collect()
    }

    /// That it was asked to go, which outlives its generation.
    pub(super) fn leaving(&self) -> Option<pb::WorkerMessage> {
        self.leaving.clone().map(|it| pb::WorkerMessage { kind: Some(Kind::Leaving(it)) })
    }
}

/// Keeps the newest.
fn keep<T>(into: &mut BTreeMap<Position, T>, at: Option<pb::Position>, it: T) {
    into.insert(at.map(Position::from).unwrap_or_default(), it);
    while into.len() > LIMIT {
        into.pop_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: u32) -> Option<pb::Position> {
        Some(pb::Position { epoch: 0, step })
    }

    fn message(kind: Kind) -> pb::WorkerMessage {
        pb::WorkerMessage { kind: Some(kind) }
    }

    fn step(step: u32) -> Kind {
        Kind::Step(pb::StepReport { position: at(step), ..Default::default() })
    }

    fn part(step: u32) -> Kind {
        Kind::PartUploaded(pb::PartUploaded { position: at(step), ..Default::default() })
    }

    #[test]
    fn what_repeats_itself_is_kept_once_and_parts_until_they_are_settled() {
        let mut kept = Kept::default();
        for number in 1..100 {
            kept.note(&message(step(number)));
            kept.note(&message(part(number)));
            kept.note(&message(Kind::Heartbeat(pb::Heartbeat::default())));
        }
        assert_eq!(kept.parts().len(), LIMIT);
        assert_eq!(kept.all().len(), 1 + LIMIT);
        assert_eq!(kept.all()[0], message(step(99)));
        kept.settled(Position { epoch: 0, step: 98 });
        let left: Vec<u32> = kept.parts().iter().filter_map(|it| Some(it.position?.step)).collect();
        assert_eq!(left, [92, 93, 94, 95, 96, 97, 99]);
    }

    #[test]
    fn how_it_stands_comes_last_and_goes_with_its_generation_but_not_that_it_is_to_leave() {
        let mut kept = Kept::default();
        let leaving = Kind::Leaving(pb::Leaving { reason: "SIGTERM".to_owned() });
        kept.note(&message(leaving.clone()));
        kept.note(&message(Kind::Ready(pb::Ready::default())));
        kept.note(&message(Kind::Left(pb::Left::default())));
        kept.note(&message(step(3)));
        let left = Kind::Left(pb::Left::default());
        assert_eq!(kept.all(), [step(3), left, leaving.clone()].map(message));
        kept.begin(Some(Generation::default()));
        // Of the generation before.
        kept.note(&message(part(4)));
        assert_eq!(kept.all(), [message(leaving)]);
    }
}
