//! A unit of progress from another rank, and how it looks on the wire.
//!
//! What a step takes from the ring is the same on every rank, so a rank whose ring broke before it
//! had all of it can take it from one that had. It then goes the same way as if it had come from the
//! ring. It comes from a peer, so every length is checked against the net's own before anything is
//! allocated, and every piece against its hash before it is used.

use bytes::BytesMut;
use convoy_common::checkpoint::slice_hash;
use convoy_common::ids::{Position, Reached};
use convoy_common::pb;
use pb::redo_piece::Kind;
use prost::Message as _;

use super::boundary::{Agreed, Boundary};
use super::exchange::Statistics;
use super::remains::{Outputs, StepOutputs, Unit};
use crate::model::evaluate::Evaluation;
use crate::model::{Factors, HeadGradient, Reduced, Spec};

/// Numbers in one message.
const PIECE: usize = 256 << 10;

/// A step or evaluation to be made again.
#[derive(Debug)]
pub struct Redo {
    pub(super) unit: Unit,
}

impl Redo {
    /// Where training goes on after it.
    pub(super) fn leads_to(&self, steps_per_epoch: u32) -> Position {
        let from = self.unit.from.position;
        match self.unit.outputs {
            Outputs::Step(_) => from.next(steps_per_epoch),
            Outputs::Evaluation(_) => from,
        }
    }
}

/// The messages that carry a unit, in order; numbers are copied piece by piece.
pub(crate) fn pieces(unit: &Unit) -> impl Iterator<Item = pb::RedoPiece> {
    let (head, numbers) = match &unit.outputs {
        Outputs::Evaluation(it) => (
            Kind::Evaluation(pb::RedoEvaluation {
                samples: it.samples,
                top1: it.top1,
                top5: it.top5,
                loss_sum: it.loss_sum,
            }),
            Vec::new(),
        ),
        Outputs::Step(it) => (Kind::Step(step_head(it)), numbers(&it.reduced)),
    };
    let data = numbers.into_iter().flat_map(|all| all.chunks(PIECE)).map(|piece| {
        let mut bytes = BytesMut::with_capacity(4 * piece.len());
        piece.iter().for_each(|it| bytes.extend_from_slice(&it.to_le_bytes()));
        Kind::Data(bytes.freeze())
    });
    std::iter::once(head).chain(data).map(sealed)
}

/// A piece with its hash.
pub(super) fn sealed(kind: Kind) -> pb::RedoPiece {
    let hash = hash_of(&kind);
    pb::RedoPiece { kind: Some(kind), hash }
}

fn hash_of(kind: &Kind) -> String {
    match kind {
        Kind::Data(bytes) => slice_hash(bytes),
        Kind::Step(it) => slice_hash(&it.encode_to_vec()),
        Kind::Evaluation(it) => slice_hash(&it.encode_to_vec()),
    }
}

/// What is in the piece, if it is what was sent.
fn open(piece: pb::RedoPiece) -> Result<Kind, String> {
    match piece.kind {
        Some(kind) if hash_of(&kind) == piece.hash => Ok(kind),
        Some(_) => Err("a piece arrived altered".to_owned()),
        None => Err("a piece of no kind".to_owned()),
    }
}

fn step_head(it: &StepOutputs) -> pb::RedoStep {
    let layer = |gradient: &HeadGradient| match gradient {
        HeadGradient::Dense(values) => {
            pb::RedoLayer { dense: values.len() as u64, ..Default::default() }
        }
        HeadGradient::Factors(it) => pb::RedoLayer {
            dense: 0,
            rows: it.rows as u64,
            activations: it.activations.len() as u64,
            deltas: it.deltas.len() as u64,
        },
    };
    pb::RedoStep {
        loss: it.total.loss,
        correct: it.total.correct,
        samples: it.total.samples,
        images: it.total.images,
        agreed: Some(it.agreed.into()),
        trunk: it.reduced.trunk.len() as u64,
        layers: it.reduced.head.iter().map(layer).collect(),
    }
}

fn numbers(reduced: &Reduced) -> Vec<&[f32]> {
    let mut all = vec![reduced.trunk.as_slice()];
    for gradient in &reduced.head {
        match gradient {
            HeadGradient::Dense(values) => all.push(values),
            HeadGradient::Factors(it) => all.extend([it.activations.as_slice(), &it.deltas]),
        }
    }
    all
}

/// Puts a unit together as its pieces come in.
#[derive(Debug)]
pub(crate) struct Collector {
    from: Reached,
    head: Head,
    /// Still to be filled, the first one first.
    wanted: Vec<usize>,
    filled: Vec<Vec<f32>>,
}

#[derive(Debug)]
enum Head {
    Evaluation(Evaluation),
    Step { total: Statistics, agreed: Agreed, layers: Vec<pb::RedoLayer> },
}

impl Collector {
    /// From the first piece of the unit that leads on from `from`, for a net like `spec` and a
    /// global batch of so many samples.
    pub(crate) fn new(
        from: Reached,
        first: pb::RedoPiece,
        spec: &Spec,
        batch: u32,
    ) -> Result<Self, String> {
        match open(first)? {
            Kind::Evaluation(it) => {
                let head = Head::Evaluation(Evaluation {
                    samples: it.samples,
                    top1: it.top1,
                    top5: it.top5,
                    loss_sum: it.loss_sum,
                });
                Ok(Self { from, head, wanted: Vec::new(), filled: Vec::new() })
            }
            Kind::Step(it) => {
                let wanted = lengths(&it, spec, batch)?;
                let agreed = it.agreed.ok_or("a step without its control word")?.into();
                let (loss, correct, samples, images) = (it.loss, it.correct, it.samples, it.images);
                let total = Statistics { loss, correct, samples, images };
                let head = Head::Step { total, agreed, layers: it.layers };
                let filled = wanted.iter().map(|len| Vec::with_capacity(*len)).collect();
                Ok(Self { from, head, wanted, filled })
            }
            Kind::Data(_) => Err("numbers before what they are".to_owned()),
        }
    }

    /// Takes the next piece.
    pub(crate) fn add(&mut self, piece: pb::RedoPiece) -> Result<(), String> {
        let Kind::Data(bytes) = open(piece)? else {
            return Err("a second beginning".to_owned());
        };
        let (mut values, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err("half a number".to_owned());
        }
        for (filled, wanted) in self.filled.iter_mut().zip(&self.wanted) {
            let take = (wanted - filled.len()).min(values.len());
            let (now, later) = values.split_at(take);
            filled.extend(now.iter().map(|it| f32::from_le_bytes(*it)));
            values = later;
        }
        if values.is_empty() { Ok(()) } else { Err("more numbers than announced".to_owned()) }
    }

    /// The unit, once the stream has ended.
    pub(crate) fn finish(self) -> Result<Redo, String> {
        if self.filled.iter().zip(&self.wanted).any(|(filled, wanted)| filled.len() != *wanted) {
            return Err("fewer numbers than announced".to_owned());
        }
        let mut filled = self.filled.into_iter();
        let outputs = match self.head {
            Head::Evaluation(total) => Outputs::Evaluation(total),
            Head::Step { total, agreed, layers } => {
                let trunk = filled.next().unwrap_or_default();
                let head: Vec<HeadGradient> = layers
                    .iter()
                    .map(|layer| match layer.dense {
                        0 => HeadGradient::Factors(Factors {
                            rows: layer.rows as usize,
                            activations: filled.next().unwrap_or_default(),
                            deltas: filled.next().unwrap_or_default(),
                        }),
                        _ => HeadGradient::Dense(filled.next().unwrap_or_default()),
                    })
                    .collect();
                let head = head.try_into().map_err(|_| "not three layers".to_owned())?;
                Outputs::Step(StepOutputs { total, agreed, reduced: Reduced { trunk, head } })
            }
        };
        Ok(Redo { unit: Unit { from: self.from, outputs } })
    }
}

/// How many numbers come, part by part; an error if they do not fit the net.
fn lengths(it: &pb::RedoStep, spec: &Spec, batch: u32) -> Result<Vec<usize>, String> {
    let linears = spec.linears();
    if it.trunk != spec.trunk_len() as u64 || it.layers.len() != linears.len() {
        return Err("a step of another net".to_owned());
    }
    let mut lengths = vec![spec.trunk_len()];
    for (layer, linear) in it.layers.iter().zip(linears) {
        let (inputs, outputs) = (linear.inputs as u64, linear.outputs as u64);
        if layer.dense == 0 {
            let rows = layer.rows;
            let fits = rows <= u64::from(batch)
                && layer.activations == rows * inputs
                && layer.deltas == rows * outputs;
            if !fits {
                return Err(format!("factors of {} that do not fit the batch", linear.name));
            }
            lengths.extend([layer.activations as usize, layer.deltas as usize]);
        } else if layer.dense == (inputs + 1) * outputs {
            lengths.push(layer.dense as usize);
        } else {
            return Err(format!("a gradient of {} that does not fit the net", linear.name));
        }
    }
    Ok(lengths)
}

impl From<Agreed> for pb::Agreed {
    fn from(it: Agreed) -> Self {
        Self {
            stop: it.stop,
            stop_checkpoint: it.stop_checkpoint,
            slots_free: it.slots_free,
            newest_drop: it.newest_drop,
            regroup: it.regroup,
            pause: it.pause,
            keep: it.keep,
        }
    }
}

impl From<pb::Agreed> for Agreed {
    fn from(it: pb::Agreed) -> Self {
        Self {
            stop: it.stop,
            stop_checkpoint: it.stop_checkpoint,
            slots_free: it.slots_free,
            newest_drop: it.newest_drop,
            regroup: it.regroup,
            pause: it.pause,
            keep: it.keep,
        }
    }
}

impl From<Boundary> for pb::Boundary {
    fn from(it: Boundary) -> Self {
        Self { agreed: Some(it.agreed.into()), evaluated: it.evaluated, best: it.best }
    }
}

impl From<pb::Boundary> for Boundary {
    fn from(it: pb::Boundary) -> Self {
        let agreed = it.agreed.unwrap_or_default().into();
        Self { agreed, evaluated: it.evaluated, best: it.best }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use convoy_common::config::Source;

    use super::*;

    fn spec() -> Spec {
        let text = "run = { url = 'r' }\ndata = { url = 'd' }\nmodel = { narrow = 16 }";
        let config =
            Source::new("t.toml".as_ref(), &[]).with_environment(Vec::new()).resolve_text(text);
        Spec::of(&config.unwrap().config.model, 3).unwrap()
    }

    fn step(spec: &Spec) -> Unit {
        let numbers = |len: usize| (0..len).map(|it| it as f32 + 0.25).collect::<Vec<f32>>();
        let linears = spec.linears();
        let factors = |number: usize| {
            let (inputs, outputs) = (linears[number].inputs, linears[number].outputs);
            let (activations, deltas) = (numbers(2 * inputs), numbers(2 * outputs));
            HeadGradient::Factors(Factors { rows: 2, activations, deltas })
        };
        let dense = numbers((linears[1].inputs + 1) * linears[1].outputs);
        let agreed = Agreed { slots_free: true, newest_drop: 3, ..Agreed::default() };
        let total = Statistics { loss: 1.5, correct: 1, samples: 2, images: u64::MAX };
        let head = [factors(0), HeadGradient::Dense(dense), factors(2)];
        let reduced = Reduced { trunk: numbers(spec.trunk_len()), head };
        let outputs = Outputs::Step(StepOutputs { total, agreed, reduced });
        Unit {
            from: Reached { position: Position { epoch: 1, step: 2 }, evaluated: true },
            outputs,
        }
    }

    fn through(unit: &Unit, spec: &Spec, batch: u32) -> Result<Redo, String> {
        let mut pieces = pieces(unit);
        let first = pieces.next().ok_or("nothing")?;
        let mut collector = Collector::new(unit.from, first, spec, batch)?;
        pieces.try_for_each(|piece| collector.add(piece))?;
        collector.finish()
    }

    #[test]
    fn a_step_and_an_evaluation_survive_the_wire() {
        let spec = spec();
        let unit = step(&spec);
        let redo = through(&unit, &spec, 8).unwrap();
        assert_eq!(redo.leads_to(7), Position { epoch: 1, step: 3 });
        let (Outputs::Step(sent), Outputs::Step(got)) = (&unit.outputs, &redo.unit.outputs) else {
            panic!("no step");
        };
        assert_eq!(sent, got);

        let counts = Evaluation { samples: 9, top1: 4, top5: 8, loss_sum: 0.1 };
        let unit = Unit { from: unit.from, outputs: Outputs::Evaluation(counts) };
        let redo = through(&unit, &spec, 8).unwrap();
        assert_eq!(redo.leads_to(7), unit.from.position);
        assert!(matches!(redo.unit.outputs, Outputs::Evaluation(it) if it == counts));
    }

    #[test]
    fn what_does_not_fit_the_net_or_the_batch_is_refused_before_it_is_held() {
        let spec = spec();
        let unit = step(&spec);
        assert!(through(&unit, &spec, 1).unwrap_err().contains("fc6"));
        let all: Vec<_> = pieces(&unit).collect();
        let new = || Collector::new(unit.from, all[0].clone(), &spec, 8).unwrap();
        assert!(Collector::new(unit.from, all[1].clone(), &spec, 8).is_err());
        let mut cut = new();
        for piece in &all[1..all.len() - 1] {
            cut.add(piece.clone()).unwrap();
        }
        assert!(cut.finish().is_err(), "a piece is missing");
        let mut long = new();
        all[1..].iter().for_each(|piece| long.add(piece.clone()).unwrap());
        let kind = Kind::Data(Bytes::from_static(&[0; 4]));
        let refused = long.add(sealed(kind)).unwrap_err();
        assert_eq!(refused, "more numbers than announced");
        assert!(new().add(all[0].clone()).is_err());
    }

    #[test]
    fn one_bit_that_flips_on_the_way_is_noticed_wherever_it_is() {
        let spec = spec();
        let unit = step(&spec);
        let good: Vec<_> = pieces(&unit).collect();
        let flipped = |number: usize, flip: fn(&mut Kind)| {
            let mut all = good.clone();
            all[number].kind.as_mut().map(flip);
            let mut all = all.into_iter();
            let mut collector = Collector::new(unit.from, all.next().unwrap(), &spec, 8)?;
            all.try_for_each(|piece| collector.add(piece))
        };
        let in_numbers = |kind: &mut Kind| {
            let Kind::Data(bytes) = kind else { panic!("no numbers") };
            let mut altered = bytes.to_vec();
            altered[5] ^= 1;
            *bytes = altered.into();
        };
        let in_head = |kind: &mut Kind| {
            let Kind::Step(it) = kind else { panic!("no step") };
            it.loss = f64::from_bits(it.loss.to_bits() ^ 1);
        };
        assert_eq!(flipped(0, |_| ()), Ok(()));
        assert_eq!(flipped(0, in_head), Err("a piece arrived altered".to_owned()));
        for number in [1, good.len() - 1] {
            assert_eq!(flipped(number, in_numbers), Err("a piece arrived altered".to_owned()));
        }
    }
}
