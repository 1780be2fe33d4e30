//! The model against a plain one: the same net written in the library's own operations, one
//! autograd pass from the loss to every weight, and SGD as a formula.

use convoy_common::config::{Init, ModelName, Optimizer, Precision};
use convoy_common::random::{Random, Stream};
use tch::{Kind, Reduction, Tensor};

use super::net::tests::settings;
use super::spec::Norm;
use super::{
    Device, Dropout, Factors, HeadGradient, Hyper, Input, Lane, ModelError, Net, Place, Reduced,
    Spec, dropout, lrn, threads,
};

const CLASSES: usize = 7;
const DROPOUT: Dropout = Dropout { seed: 11, probability: 0.5 };
const HYPER: Hyper = Hyper {
    lr: 0.02,
    momentum: 0.9,
    weight_decay: 0.0005,
    optimizer: Optimizer::Sgd,
    lars_trust: 0.001,
};

fn net(groups: u32) -> Net {
    let spec = Spec::narrowed(groups, CLASSES, 8).unwrap();
    Net::initialised(spec, &settings(Init::Kaiming), 1, Device::CPU).unwrap()
}

/// A batch in memory.
struct Batch {
    pixels: Vec<f32>,
    labels: Vec<i64>,
    samples: Vec<u64>,
    side: usize,
}

impl Batch {
    fn new(n: usize) -> Self {
        Self::of_side(n, 227)
    }

    fn of_side(n: usize, side: usize) -> Self {
        let mut pixels = vec![0f32; n * 3 * side * side];
        Random::new(4, Stream::Drawing, 0, 0, 0).fill_normal(&mut pixels, 40.0);
        let labels = (0..n).map(|i| (i * 3 % CLASSES) as i64).collect();
        Self { pixels, labels, samples: (100..100 + n as u64).collect(), side }
    }

    fn rows(&self, start: usize, end: usize) -> Input<'_> {
        let image = 3 * self.side * self.side;
        Input {
            pixels: &self.pixels[start * image..end * image],
            labels: &self.labels[start..end],
            samples: &self.samples[start..end],
        }
    }
}

/// The whole net in one graph: summed loss, and logits.
fn plain(
    spec: &Spec,
    weights: &[Tensor],
    batch: &Batch,
    masks: Option<[&Tensor; 2]>,
) -> (Tensor, Tensor) {
    let n = batch.labels.len() as i64;
    let mut x = Tensor::from_slice(&batch.pixels).view([n, 3, 227, 227]);
    for (index, conv) in spec.convs().iter().enumerate() {
        let (stride, padding) = (conv.stride as i64, conv.padding as i64);
        let (weight, bias) = (&weights[2 * index], &weights[2 * index + 1]);
        x = x
            .conv2d(
                weight,
                Some(bias),
                [stride, stride],
                [padding, padding],
                [1, 1],
                conv.groups as i64,
            )
            .relu();
        if conv.norm == Norm::Response {
            x = lrn::normalise(&x).unwrap();
        }
        if conv.pooled {
            x = x.max_pool2d([3, 3], [2, 2], [0, 0], [1, 1], false);
        }
    }
    x = x.flatten(1, -1);
    for layer in 0..3 {
        let at = 2 * (spec.convs().len() + layer);
        x = x.linear(&weights[at], Some(&weights[at + 1]));
        if layer < 2 {
            x = x.relu();
            if let Some(masks) = masks {
                x = x.f_mul(masks[layer]).unwrap();
            }
        }
    }
    let labels = Tensor::from_slice(&batch.labels);
    (x.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Sum, -100, 0.0), x)
}

fn masks(spec: &Spec, place: Place, samples: &[u64]) -> [Tensor; 2] {
    [(0, Stream::DropoutFc6), (1, Stream::DropoutFc7)].map(|(layer, stream)| {
        let width = spec.linears()[layer].outputs;
        let factors = dropout::mask(DROPOUT, stream, place, samples, width);
        Tensor::from_slice(&factors).view([samples.len() as i64, width as i64])
    })
}

/// Gradients of the mean loss for all parameters, by one autograd pass.
fn plain_gradients(net: &Net, batch: &Batch, place: Place) -> (Vec<Tensor>, f64) {
    let leaves: Vec<Tensor> =
        net.weights.iter().map(|w| w.detach().set_requires_grad(true)).collect();
    let masks = masks(net.spec(), place, &batch.samples);
    let (loss, _) = plain(net.spec(), &leaves, batch, Some([&masks[0], &masks[1]]));
    let mean = &loss / f64::from(place.batch);
    let gradients = Tensor::run_backward(&[&mean], &leaves, false, false);
    (gradients, loss.double_value(&[]))
}

/// One microbatch after the other through one lane.
fn reduced(lane: &Lane, batch: &Batch, microbatch: usize, place: Place) -> (Reduced, f64) {
    let (mut head, mut trunk, mut loss): ([Factors; 3], Vec<f32>, f64) = Default::default();
    for start in (0..batch.labels.len()).step_by(microbatch) {
        let end = (start + microbatch).min(batch.labels.len());
        let (part, pending) = lane.forward_and_head(batch.rows(start, end), place).unwrap();
        let gradient = pending.backward().unwrap();
        head.iter_mut().zip(&part.factors).for_each(|(all, part)| all.append(part));
        trunk = if trunk.is_empty() {
            gradient
        } else {
            trunk.iter().zip(&gradient).map(|(a, b)| a + b).collect()
        };
        loss += part.loss_sum;
    }
    (Reduced { trunk, head: head.map(HeadGradient::Factors) }, loss)
}

/// The reduced gradients tensor by tensor.
fn flat_gradients(net: &Net, reduced: &Reduced) -> Vec<Tensor> {
    let mut all = reduced.trunk.clone();
    for gradient in &reduced.head {
        match gradient {
            HeadGradient::Factors(factors) => all.extend(factors.gradient().unwrap()),
            HeadGradient::Dense(values) => all.extend(values),
        }
    }
    let mut start = 0;
    let cut = |weight: &Tensor| {
        let values = &all[start..start + weight.numel()];
        start += values.len();
        Tensor::from_slice(values).view(weight.size().as_slice())
    };
    net.weights.iter().map(cut).collect()
}

#[track_caller]
fn agree(actual: &[Tensor], expected: &[Tensor], tolerance: f64) {
    assert_eq!(actual.len(), expected.len());
    for (index, (a, e)) in actual.iter().zip(expected).enumerate() {
        let size = e.abs().max().double_value(&[]);
        let error = (a - e).abs().max().double_value(&[]) / size;
        assert!(
            size > 0.0 && error <= tolerance,
            "tensor {index}: relative error {error}, size {size}"
        );
    }
}

#[test]
fn gradients_agree_with_one_autograd_pass() {
    threads::use_on_this_thread(1);
    for groups in [1, 2] {
        let (net, batch) = (net(groups), Batch::new(4));
        let place = Place { epoch: 1, step: 3, batch: 4 };
        let (expected, expected_loss) = plain_gradients(&net, &batch, place);
        for microbatch in [4, 3] {
            let (reduced, loss) = reduced(&Lane::new(&net, DROPOUT), &batch, microbatch, place);
            assert!(reduced.is_finite());
            assert!(
                (loss - expected_loss).abs() < 1e-5 * expected_loss,
                "{loss} is not {expected_loss}"
            );
            agree(&flat_gradients(&net, &reduced), &expected, 1e-5);
        }
    }
}

#[test]
fn two_commits_agree_with_plain_sgd() {
    threads::use_on_this_thread(1);
    let (mut net, batch) = (net(2), Batch::new(4));
    let mut weights: Vec<Tensor> =
        net.weights.iter().map(|w| w.copy().to_kind(Kind::Double)).collect();
    let mut momentum: Vec<Tensor> = weights.iter().map(Tensor::zeros_like).collect();
    for step in 0..2 {
        let (reduced, _) =
            reduced(&Lane::new(&net, DROPOUT), &batch, 2, Place { epoch: 0, step, batch: 4 });
        for ((w, v), g) in weights.iter_mut().zip(&mut momentum).zip(flat_gradients(&net, &reduced))
        {
            *v = &*v * HYPER.momentum + g.to_kind(Kind::Double) + &*w * HYPER.weight_decay;
            *w -= &*v * HYPER.lr;
        }
        net.commit(&reduced, HYPER, 1).unwrap();
    }
    agree(&net.weights, &weights, 1e-6);
    agree(&net.momentum, &momentum, 1e-5);
}

#[test]
fn factors_and_dense_gradients_make_the_same_update() {
    threads::use_on_this_thread(1);
    let (mut by_factors, mut by_gradients, batch) = (net(2), net(2), Batch::new(3));
    let (reduced, _) =
        reduced(&Lane::new(&by_factors, DROPOUT), &batch, 3, Place { epoch: 0, step: 0, batch: 3 });
    let dense = Reduced {
        trunk: reduced.trunk.clone(),
        head: reduced.head.clone().map(|gradient| match gradient {
            HeadGradient::Factors(factors) => HeadGradient::Dense(factors.gradient().unwrap()),
            dense @ HeadGradient::Dense(_) => dense,
        }),
    };
    by_factors.commit(&reduced, HYPER, 1).unwrap();
    by_gradients.commit(&dense, HYPER, 1).unwrap();
    agree(&by_factors.weights, &by_gradients.weights, 1e-6);
    agree(&by_factors.momentum, &by_gradients.momentum, 1e-5);
}

#[test]
fn a_step_of_lars_agrees_with_the_papers_formula_whatever_the_lanes() {
    threads::use_on_this_thread(1);
    let hyper = Hyper { optimizer: Optimizer::Lars, lr: 3.0, ..HYPER };
    let (mut net, mut other, batch) = (net(2), net(2), Batch::new(4));
    let double = |tensor: &Tensor| tensor.copy().to_kind(Kind::Double);
    let length = |tensor: &Tensor| tensor.square().sum(Kind::Double).double_value(&[]).sqrt();
    let mut weights: Vec<Tensor> = net.weights.iter().map(double).collect();
    let mut momentum: Vec<Tensor> = weights.iter().map(Tensor::zeros_like).collect();
    for step in 0..2 {
        let place = Place { epoch: 0, step, batch: 4 };
        let (reduced, _) = reduced(&Lane::new(&net, DROPOUT), &batch, 2, place);
        for ((w, v), g) in weights.iter_mut().zip(&mut momentum).zip(flat_gradients(&net, &reduced))
        {
            let g = double(&g);
            let local = if length(w) > 0.0 {
                hyper.lars_trust * length(w) / (length(&g) + hyper.weight_decay * length(w))
            } else {
                hyper.lars_trust
            };
            *v = &*v * hyper.momentum + (g + &*w * hyper.weight_decay) * (hyper.lr * local);
            *w -= &*v;
        }
        net.commit(&reduced, hyper, 1).unwrap();
        other.commit(&reduced, hyper, 3).unwrap();
    }
    agree(&net.weights, &weights, 1e-6);
    agree(&net.momentum, &momentum, 1e-5);
    assert_eq!(net.digest().unwrap(), other.digest().unwrap());
}

/// Two steps with so many lanes; returns the state's digest.
fn train(lanes: usize) -> String {
    train_variant(lanes, net(2))
}

fn train_variant(lanes: usize, mut net: Net) -> String {
    let batch = Batch::of_side(8, net.spec().side());
    for step in 0..2 {
        let place = Place { epoch: 0, step, batch: 8 };
        let lane = Lane::new(&net, DROPOUT);
        let mut parts: Vec<(usize, [Factors; 3], Vec<f32>)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..lanes)
                .map(|number| (number, lane.share()))
                .map(|(number, lane)| {
                    let batch = &batch;
                    scope.spawn(move || {
                        threads::use_on_this_thread(1);
                        let mine = (number..4).step_by(lanes);
                        mine.map(|index| {
                            let input = batch.rows(2 * index, 2 * index + 2);
                            let (head, pending) = lane.forward_and_head(input, place).unwrap();
                            (index, head.factors, pending.backward().unwrap())
                        })
                        .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        parts.sort_by_key(|part| part.0);
        let mut head: [Factors; 3] = Default::default();
        let mut trunk = vec![0f32; net.spec().trunk_len()];
        for (_, factors, gradient) in parts {
            head.iter_mut().zip(&factors).for_each(|(all, part)| all.append(part));
            trunk.iter_mut().zip(&gradient).for_each(|(sum, value)| *sum += value);
        }
        net.commit(&Reduced { trunk, head: head.map(HeadGradient::Factors) }, HYPER, lanes as u32)
            .unwrap();
    }
    net.digest().unwrap()
}

#[test]
fn bits_do_not_depend_on_the_number_of_lanes() {
    let one = train(1);
    assert_eq!(one, train(2));
    assert_eq!(one, train(3));
}

#[test]
fn bits_of_every_variant_and_precision_do_not_depend_on_the_number_of_lanes() {
    let make = |name: ModelName, precision| {
        let spec = Spec::variant(name, name.default_groups(), CLASSES, 16).unwrap();
        let net = Net::initialised(spec, &settings(Init::Kaiming), 1, Device::CPU).unwrap();
        net.with_precision(precision).unwrap()
    };
    let mut seen = std::collections::BTreeSet::new();
    for name in ModelName::ALL {
        for precision in [Precision::Fp32, Precision::Bf16] {
            let one = train_variant(1, make(name, precision));
            assert_eq!(one, train_variant(2, make(name, precision)), "{name} {precision:?}");
            assert!(seen.insert(one), "{name} {precision:?} has the bits of another");
        }
    }
}

#[test]
fn bf16_is_near_fp32_and_its_rounded_weights_follow_every_change() {
    threads::use_on_this_thread(1);
    let (plain, batch) = (net(2), Batch::new(4));
    let mut half = net(2).with_precision(Precision::Bf16).unwrap();
    let place = Place { epoch: 1, step: 3, batch: 4 };
    let (expected, expected_loss) = reduced(&Lane::new(&plain, DROPOUT), &batch, 2, place);
    let lane = Lane::new(&half, DROPOUT);
    let (actual, loss) = reduced(&lane, &batch, 2, place);
    assert!((loss - expected_loss).abs() < 0.02 * expected_loss, "{loss} and {expected_loss}");
    let expected = flat_gradients(&plain, &expected);
    for (index, (a, e)) in flat_gradients(&half, &actual).iter().zip(&expected).enumerate() {
        let length = |tensor: &Tensor| tensor.square().sum(Kind::Double).double_value(&[]).sqrt();
        let error = length(&(a - e)) / length(e);
        // Neighbouring pixels are noise here, so the first layer's gradient changes much wherever
        // rounding makes another place of a window win.
        let most = if index < 2 { 0.4 } else { 0.2 };
        assert!(error > 0.0 && error < most, "tensor {index}: relative error {error}");
    }
    half.commit(&actual, HYPER, 2).unwrap();
    let follow = |net: &Net, lane: &Lane| {
        net.weights.iter().zip(&lane.weights).all(|(w, r)| w.to_kind(Kind::BFloat16).equal(r))
    };
    assert!(follow(&half, &lane), "after a commit");
    half.adopt(&plain).unwrap();
    assert!(follow(&half, &lane), "after adopting a state");
    let row = 0..1;
    half.write_rows(10, row.clone(), &vec![0x3f; 4 * half.spec().linears()[0].inputs]).unwrap();
    assert!(follow(&half, &lane), "after writing rows");
}

#[test]
fn statistics_of_batch_normalisation_are_folded_once_a_step_and_evaluation_uses_them() {
    threads::use_on_this_thread(1);
    let spec = Spec::variant(ModelName::AlexnetBn, 2, CLASSES, 16).unwrap();
    let mut net = Net::initialised(spec, &settings(Init::Kaiming), 1, Device::CPU).unwrap();
    let batch = Batch::new(4);
    let lane = Lane::new(&net, Dropout { seed: 1, probability: 0.0 });
    let before = lane.logits(batch.rows(0, 4)).unwrap();
    let (part, _) = reduced(&lane, &batch, 2, Place { epoch: 0, step: 0, batch: 4 });
    let conv = Tensor::from_slice(&batch.pixels).view([4, 3, 227, 227]).conv2d(
        &net.weights[0],
        Some(&net.weights[1]),
        [4, 4],
        [0, 0],
        [1, 1],
        1,
    );
    net.commit(&part, HYPER, 1).unwrap();
    let halves = conv.split(2, 0);
    let fold = |start: f64, of: &dyn Fn(&Tensor) -> Tensor| {
        (of(&halves[0]) + of(&halves[1])) * 0.05 + start * 0.9
    };
    let axes: &[i64] = &[0, 2, 3];
    let mean = fold(0.0, &|x| x.mean_dim(axes, false, Kind::Float));
    let variance = fold(1.0, &|x| x.var_dim(axes, true, false));
    agree(&net.statistics[..2], &[mean, variance], 1e-5);
    assert_ne!(before, lane.logits(batch.rows(0, 4)).unwrap());
    let names: Vec<String> = net.state_specs().into_iter().map(|it| it.0).collect();
    assert_eq!(names[names.len() - 4..][0], "bn1.running_mean");
    let mut copy = Net::zeroed(net.spec().clone(), Device::CPU).unwrap();
    copy.adopt(&net).unwrap();
    assert_eq!(copy.digest().unwrap(), net.digest().unwrap());
    let rows = net.read_rows(names.len() - 1, 0..1).unwrap();
    copy.write_rows(names.len() - 1, 0..1, &[1, 2, 3, 4]).unwrap();
    assert_ne!(copy.digest().unwrap(), net.digest().unwrap(), "statistics are part of the state");
    copy.write_rows(names.len() - 1, 0..1, &rows).unwrap();
    assert_eq!(copy.digest().unwrap(), net.digest().unwrap());
}

#[test]
fn dropout_follows_the_position() {
    threads::use_on_this_thread(1);
    let (net, batch) = (net(2), Batch::new(2));
    let lane = Lane::new(&net, DROPOUT);
    let at = |epoch, step| reduced(&lane, &batch, 2, Place { epoch, step, batch: 2 }).0;
    assert_eq!(at(0, 1), at(0, 1));
    assert_ne!(at(0, 1), at(0, 2));
    assert_ne!(at(0, 1), at(1, 1));
}

#[test]
fn evaluation_agrees_with_a_plain_forward_pass() {
    threads::use_on_this_thread(1);
    let (net, batch) = (net(2), Batch::new(5));
    let (loss, logits) = plain(net.spec(), &net.weights, &batch, None);
    let labels = Tensor::from_slice(&batch.labels);
    let top1 = logits.argmax(1, false).eq_tensor(&labels).sum(Kind::Int64).int64_value(&[]);
    let five = logits
        .topk(5, 1, true, true)
        .1
        .eq_tensor(&labels.unsqueeze(1))
        .sum(Kind::Int64)
        .int64_value(&[]);
    let evaluation = Lane::new(&net, DROPOUT).evaluate(batch.rows(0, 5)).unwrap();
    assert_eq!(
        (evaluation.top1 as i64, evaluation.top5 as i64, evaluation.samples),
        (top1, five, 5)
    );
    assert!((evaluation.loss_sum - loss.double_value(&[])).abs() < 1e-4 * evaluation.loss_sum);
}

#[test]
fn a_gradient_of_another_size_is_refused_and_nothing_is_written() {
    threads::use_on_this_thread(1);
    let (mut net, batch) = (net(2), Batch::new(2));
    let (good, _) =
        reduced(&Lane::new(&net, DROPOUT), &batch, 2, Place { epoch: 0, step: 0, batch: 2 });
    let before = net.digest().unwrap();
    let mut bad = good.clone();
    bad.head[2] = HeadGradient::Dense(vec![0.0; 3]);
    assert!(matches!(net.commit(&bad, HYPER, 1), Err(ModelError::Size { .. })));
    let mut bad = good;
    bad.trunk.pop();
    assert!(matches!(net.commit(&bad, HYPER, 1), Err(ModelError::Size { .. })));
    assert_eq!(before, net.digest().unwrap());
}

#[test]
fn a_gradient_that_is_not_finite_is_noticed() {
    let factors = |activation: f32, delta: f32| {
        let factors =
            Factors { rows: 1, activations: vec![1.0, activation], deltas: vec![0.5, delta] };
        let head = [Factors::default(), factors, Factors::default()].map(HeadGradient::Factors);
        Reduced { trunk: vec![0.0; 3], head }.is_finite()
    };
    assert!(factors(3.0, -2.0));
    assert!(!factors(f32::NAN, 1.0));
    assert!(!factors(1.0, f32::NEG_INFINITY));
    assert!(!factors(1e30, 1e30), "the product overflows");
    let dense = |value| Reduced {
        trunk: vec![value],
        head: [(); 3].map(|()| HeadGradient::Dense(Vec::new())),
    };
    assert!(dense(1.0).is_finite() && !dense(f32::NAN).is_finite());
}

#[test]
fn input_that_does_not_fit_is_refused() {
    let (net, batch) = (net(2), Batch::new(2));
    let lane = Lane::new(&net, DROPOUT);
    let place = Place { epoch: 0, step: 0, batch: 2 };
    let short = Input { pixels: &batch.pixels[1..], ..batch.rows(0, 2) };
    assert!(matches!(lane.forward_and_head(short, place), Err(ModelError::Size { .. })));
    let foreign = Input { labels: &[0, CLASSES as i64], ..batch.rows(0, 2) };
    assert!(matches!(
        lane.forward_and_head(foreign, place),
        Err(ModelError::Label { label: 7, .. })
    ));
}
