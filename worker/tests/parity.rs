//! Convoy's nets against PyTorch's, by the fixture that `deploy/parity/make_fixture.py` wrote.
//!
//! Both sides make inputs and weights by the same closed formula in integers, so nothing large has
//! to be stored; a tensor is told by its norm, 256 of its entries and 8 projections on patterns of
//! signs. The script says what each part of the fixture is.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use convoy_common::config::{ModelName, Optimizer};
use convoy_worker::model::lrn::kernel::{self, Plane, Scratch};
use convoy_worker::model::{
    Device, Dropout, Factors, HeadGradient, Hyper, Input, Lane, Net, Place, Reduced, Spec, threads,
};
use serde::Deserialize;

const CLASSES: usize = 10;
const BATCH: usize = 4;
const MICROBATCH: usize = 2;
const STEPS: u32 = 10;
const HYPER: Hyper = Hyper {
    lr: 0.000_001,
    momentum: 0.9,
    weight_decay: 0.0005,
    optimizer: Optimizer::Sgd,
    lars_trust: 0.001,
};

/// Streams of [`words`]; parameters have their place in the net.
const PIXELS: u32 = 1000;
const PLACES: u32 = 2000;
const SIGNS: u32 = 3000;
const LRN: u32 = 4000;

/// Relative errors that are let pass.
const FORWARD: f64 = 1e-5;
const BACKWARD: f64 = 1e-4;
/// Momentum keeps every step's gradient, and in ten steps rounding may make another place of a
/// pooling window win, or a unit fall silent: PyTorch in single precision is as far from itself in
/// double. Small enough that another momentum or decay does not pass.
const MOMENTUM: f64 = 5e-2;
/// The same for what ten steps make of the logits.
const AFTERWARDS: f64 = 1e-3;

#[derive(Deserialize)]
struct Fixture {
    lrn: Response,
    nets: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    logits: Vec<f64>,
    losses: Vec<f64>,
    gradients: Vec<Summary>,
    weights: Vec<Summary>,
    momentum: Vec<Summary>,
    statistics: Vec<Summary>,
    logits_after: Vec<f64>,
}

#[derive(Deserialize)]
struct Response {
    alone: Plain,
    stage: Stage,
}

#[derive(Deserialize)]
struct Plain {
    output: Vec<f64>,
    gradient: Vec<f64>,
}

#[derive(Deserialize)]
struct Stage {
    output: Summary,
    gradient: Summary,
}

/// What is known of a tensor.
#[derive(Deserialize)]
struct Summary {
    norm: f64,
    entries: Vec<f64>,
    projections: Vec<f64>,
}

fn fixture() -> Fixture {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/parity.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A bijection of 32-bit integers (the `lowbias32` hash of C. Wellons).
fn mix(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
    x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
    x ^ (x >> 16)
}

fn words(stream: u32, count: usize) -> impl Iterator<Item = u32> {
    let key = mix(stream);
    (0..count as u32).map(move |index| mix(index ^ key))
}

/// Evenly spread around the centre: every step but the last rounding is exact.
fn numbers(stream: u32, count: usize, spread: f64, centre: f64) -> Vec<f32> {
    let unit = |word: u32| f64::from(word >> 8) * 2f64.powi(-24) - 0.5;
    words(stream, count).map(|word| (unit(word) * spread + centre) as f32).collect()
}

impl Summary {
    fn of(index: usize, values: &[f32]) -> Self {
        let stream = index as u32;
        let mut projections = [0f64; 8];
        let mut squares = 0f64;
        for (signs, &value) in words(SIGNS + stream, values.len()).zip(values) {
            let value = f64::from(value);
            squares += value * value;
            for (bit, sum) in projections.iter_mut().enumerate() {
                // The sign's bit is flipped: a branch would be guessed wrong half the time.
                *sum += f64::from_bits(value.to_bits() ^ u64::from(signs >> bit & 1) << 63);
            }
        }
        let place = |word: u32| f64::from(values[word as usize % values.len()]);
        Self {
            norm: squares.sqrt(),
            entries: words(PLACES + stream, 256).map(place).collect(),
            projections: projections.to_vec(),
        }
    }

    /// The largest error of the norm and the projections in units of the norm, and of the entries
    /// in units of the largest of them.
    fn error(&self, expected: &Self) -> f64 {
        let of = |own: &[f64], other: &[f64], scale: f64| {
            assert_eq!(own.len(), other.len());
            own.iter().zip(other).map(|(a, b)| (a - b).abs() / scale).fold(0.0, worse)
        };
        let largest = expected.entries.iter().fold(0.0, |most: f64, it| most.max(it.abs()));
        let whole = of(&[self.norm], &[expected.norm], expected.norm);
        let entries = of(&self.entries, &expected.entries, largest);
        worse(whole, worse(entries, of(&self.projections, &expected.projections, expected.norm)))
    }
}

/// The greater of two errors; what is no number is the greatest.
fn worse(a: f64, b: f64) -> f64 {
    if a >= b { a } else { b }
}

#[track_caller]
fn near(what: &str, actual: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0, |most: f64, it| most.max(it.abs()));
    let differences = actual.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs() / scale);
    let error = differences.fold(0.0, worse);
    assert!(error < tolerance, "{what}: relative error {error:e}");
}

/// Weights by the script's formula.
fn fill(net: &mut Net) {
    let parameters = net.spec().parameters();
    let matrices: Vec<usize> =
        (0..parameters.len()).filter(|&index| parameters[index].shape.len() > 1).collect();
    for (index, parameter) in parameters.iter().enumerate() {
        let count = parameter.shape.iter().product();
        let (spread, centre) = if parameter.shape.len() == 1 {
            let scales = parameter.name.starts_with("bn") && parameter.name.ends_with(".weight");
            (0.2, if scales { 1.0 } else { 0.0 })
        } else if index == matrices[matrices.len() - 1] {
            (0.02, 0.0)
        } else {
            let fan_in: usize = parameter.shape[1..].iter().product();
            let spread = (24.0 / fan_in as f64).sqrt();
            (if index == matrices[1] { spread * 0.04 } else { spread }, 0.0)
        };
        let values = numbers(index as u32, count, spread, centre);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        net.write_rows(index, 0..parameter.shape[0], &bytes).unwrap();
    }
    for (index, (name, length)) in net.spec().statistics().into_iter().enumerate() {
        let start = if name.ends_with("running_var") { 1f32 } else { 0.0 };
        let bytes: Vec<u8> = (0..length).flat_map(|_| start.to_le_bytes()).collect();
        net.write_rows(2 * parameters.len() + index, 0..length, &bytes).unwrap();
    }
}

fn tensor(net: &Net, index: usize) -> Vec<f32> {
    let rows = net.state_specs()[index].1[0];
    let bytes = net.read_rows(index, 0..rows).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|it| f32::from_le_bytes(*it)).collect()
}

/// One step's gradient: microbatches one after the other.
fn reduced(lane: &Lane, batch: Input<'_>, place: Place) -> (Reduced, f64) {
    let (mut head, mut trunk, mut loss): ([Factors; 3], Vec<f32>, f64) = Default::default();
    let image = batch.pixels.len() / BATCH;
    for start in (0..BATCH).step_by(MICROBATCH) {
        let rows = start..start + MICROBATCH;
        let input = Input {
            pixels: &batch.pixels[rows.start * image..rows.end * image],
            labels: &batch.labels[rows.clone()],
            samples: &batch.samples[rows],
        };
        let (part, pending) = lane.forward_and_head(input, place).unwrap();
        let gradient = pending.backward().unwrap();
        head.iter_mut().zip(&part.factors).for_each(|(all, part)| all.append(part));
        trunk.resize(gradient.len(), 0.0);
        trunk.iter_mut().zip(&gradient).for_each(|(sum, value)| *sum += value);
        loss += part.loss_sum;
    }
    (Reduced { trunk, head: head.map(HeadGradient::Factors) }, loss / BATCH as f64)
}

/// The gradient tensor by tensor, in the order of the parameters.
fn gradients(spec: &Spec, reduced: &Reduced) -> Vec<Vec<f32>> {
    let parameters = spec.parameters();
    let trunk = spec.trunk_parameters();
    let mut all: Vec<Vec<f32>> = Vec::new();
    let mut rest = reduced.trunk.clone();
    for parameter in &parameters[..trunk] {
        let others = rest.split_off(parameter.shape.iter().product());
        all.push(std::mem::replace(&mut rest, others));
    }
    for (gradient, weight) in reduced.head.iter().zip(parameters[trunk..].iter().step_by(2)) {
        let HeadGradient::Factors(factors) = gradient else { panic!("the head gives factors") };
        let mut whole = factors.gradient().unwrap();
        let bias = whole.split_off(weight.shape.iter().product());
        all.extend([whole, bias]);
    }
    all
}

#[expect(clippy::print_stdout, reason = "with --no-capture: how far it stays from the limits")]
fn check(name: &str, model: ModelName, groups: u32) {
    threads::use_on_this_thread(1);
    let fixture = fixture();
    let case = fixture.nets.iter().find(|case| case.name == name).unwrap();
    let spec = Spec::variant(model, groups, CLASSES, 1).unwrap();
    let names: Vec<String> = spec.parameters().into_iter().map(|it| it.name).collect();
    let mut net = Net::zeroed(spec, Device::CPU).unwrap();
    fill(&mut net);
    let pixels = numbers(PIXELS, BATCH * net.spec().input_len(), 128.0, 0.0);
    let labels: Vec<i64> = (0..BATCH).map(|i| ((3 * i + 1) % CLASSES) as i64).collect();
    let samples: Vec<u64> = (0..BATCH as u64).collect();
    let batch = Input { pixels: &pixels, labels: &labels, samples: &samples };
    let lane = Lane::new(&net, Dropout { seed: 0, probability: 0.0 });

    near("logits", &lane.logits(batch).unwrap(), &case.logits, FORWARD);
    // A bias that batch normalisation takes out again has no gradient but the rounding's.
    let skipped = |index: usize| {
        model == ModelName::AlexnetBn && ["conv1.bias", "conv2.bias"].contains(&&*names[index])
    };
    let compare = |what: &str, index: usize, values: &[f32], expected: &Summary, tolerance: f64| {
        let error = Summary::of(index, values).error(expected);
        assert!(error < tolerance, "{what} {index}: relative error {error:e}");
        error
    };
    let mut worst = [0f64; 3];
    for step in 0..STEPS {
        let place = Place { epoch: 0, step, batch: BATCH as u32 };
        let (reduced, loss) = reduced(&lane, batch, place);
        let expected = case.losses[step as usize];
        let tolerance = if step == 0 { FORWARD } else { BACKWARD };
        assert!((loss - expected).abs() < tolerance * expected, "loss {loss}, not {expected}");
        if step == 0 {
            for (index, gradient) in gradients(net.spec(), &reduced).iter().enumerate() {
                let expected = &case.gradients[index];
                if skipped(index) {
                    let weight = case.gradients[index - 1].norm;
                    assert!(Summary::of(index, gradient).norm < 1e-5 * weight);
                    continue;
                }
                let error = compare("gradient", index, gradient, expected, BACKWARD);
                worst[0] = worse(worst[0], error);
            }
        }
        net.commit(&reduced, HYPER, 2).unwrap();
    }
    for index in 0..names.len() {
        let error = compare("weight", index, &tensor(&net, index), &case.weights[index], BACKWARD);
        worst[1] = worse(worst[1], error);
        if !skipped(index) {
            let momentum = tensor(&net, names.len() + index);
            let error = compare("momentum", index, &momentum, &case.momentum[index], MOMENTUM);
            worst[2] = worse(worst[2], error);
        }
    }
    for (index, expected) in case.statistics.iter().enumerate() {
        compare("statistic", index, &tensor(&net, 2 * names.len() + index), expected, BACKWARD);
    }
    near("logits after training", &lane.logits(batch).unwrap(), &case.logits_after, AFTERWARDS);
    println!("{name}: largest errors of gradients, weights, momentum: {worst:?}");
}

#[test]
fn the_net_of_the_paper_trains_as_in_pytorch() {
    check("alexnet, 2 groups", ModelName::Alexnet, 2);
}

#[test]
fn the_net_without_groups_trains_as_in_pytorch() {
    check("alexnet, 1 group", ModelName::Alexnet, 1);
}

#[test]
fn the_variant_of_torchvision_has_its_logits_and_trains_as_it_does() {
    check("alexnet-owt", ModelName::AlexnetOwt, 1);
}

#[test]
fn the_net_with_batch_normalisation_trains_as_in_pytorch_microbatch_by_microbatch() {
    check("alexnet-bn, 2 groups", ModelName::AlexnetBn, 2);
}

#[test]
fn response_normalisation_alone_is_pytorchs_with_an_alpha_five_times_as_large() {
    let expected = fixture().lrn.alone;
    let (places, channels) = (32, 16);
    let values = numbers(LRN, places * channels, 100.0, 50.0);
    let seed = numbers(LRN + 1, places * channels, 2.0, 0.0);
    // The stage pools as well: of nine places in a window all but one are negative, so the ReLU and
    // the pooling hand on what LRN makes of that one.
    let plane = Plane { channels, side: 3 };
    let mut scratch = Scratch::new(plane);
    let (mut outputs, mut gradients) = (Vec::new(), Vec::new());
    for sample in 0..places {
        let mut x = vec![-1f32; plane.len()];
        let (mut output, mut winners) = (vec![0f32; channels], vec![0; channels]);
        let mut gradient = vec![0f32; plane.len()];
        let place = |channel: usize| 9 * channel + sample % 9;
        let mine = sample * channels..(sample + 1) * channels;
        for (channel, &value) in values[mine.clone()].iter().enumerate() {
            x[place(channel)] = value;
        }
        kernel::forward(plane, &x, &mut output, &mut winners, &mut scratch);
        kernel::backward(plane, &x, &seed[mine], &winners, &mut gradient, &mut scratch);
        outputs.extend(output);
        gradients.extend((0..channels).map(|channel| gradient[place(channel)]));
    }
    near("output", &outputs, &expected.output, FORWARD);
    near("gradient", &gradients, &expected.gradient, FORWARD);
}

#[test]
fn response_normalisation_between_relu_and_pooling_is_pytorchs() {
    let expected = fixture().lrn.stage;
    let plane = Plane { channels: 12, side: 13 };
    let x = numbers(LRN + 2, 2 * plane.len(), 200.0, 0.0);
    let seed = numbers(LRN + 3, 2 * plane.pooled_len(), 2.0, 0.0);
    let mut scratch = Scratch::new(plane);
    let (mut output, mut winners) = (vec![0f32; seed.len()], vec![0; seed.len()]);
    let mut gradient = vec![0f32; x.len()];
    for sample in 0..2 {
        let whole = sample * plane.len()..(sample + 1) * plane.len();
        let pooled = sample * plane.pooled_len()..(sample + 1) * plane.pooled_len();
        let winners = &mut winners[pooled.clone()];
        kernel::forward(
            plane,
            &x[whole.clone()],
            &mut output[pooled.clone()],
            winners,
            &mut scratch,
        );
        let gradient = &mut gradient[whole.clone()];
        kernel::backward(plane, &x[whole], &seed[pooled], winners, gradient, &mut scratch);
    }
    assert!(Summary::of(0, &output).error(&expected.output) < FORWARD);
    assert!(Summary::of(1, &gradient).error(&expected.gradient) < FORWARD);
}
