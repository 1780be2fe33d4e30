//! A worker's numerics in one short word: the hash of a small fixed computation.
//!
//! Two machines with equal config round differently if their processors or tensor libraries differ:
//! kernels are chosen by what the processor can do, and elementary functions by the library. So each
//! worker computes the same small thing under the run's numerics before it gets work: initial
//! weights, a forward and a backward pass, an update, and a matrix product of the size of a fully
//! connected layer. Equal hashes do not prove that all other computations are equal, too; that is
//! what the digests at checkpoints are for. Unequal ones prove that they are not.

use convoy_common::config::{Init, Model, Numerics, Optimizer};
use convoy_common::random::{Random, Stream};

use super::{
    Device, Dropout, Factors, HeadGradient, Hyper, Input, Lane, Net, Place, Reduced, Result, Spec,
    threads,
};

/// What the net's widths are divided by: wide enough for the kernels that real widths get.
const NARROW: u32 = 4;
const CLASSES: usize = 10;
const SAMPLES: usize = 3;
const SEED: u64 = 2012;
/// Digits that are kept: enough to tell machines apart, short enough to read.
const DIGITS: usize = 16;

/// Computes the fingerprint on the calling thread; takes a fraction of a second.
///
/// # Errors
/// If the device fails.
pub fn fingerprint(model: &Model, numerics: &Numerics, device: Device) -> Result<String> {
    threads::use_on_this_thread(numerics.threads_per_lane);
    // Values of ordinary size at every layer, whatever the run starts from.
    let model = Model { narrow: NARROW, init: Init::Kaiming, ..model.clone() };
    let spec = Spec::of(&model, CLASSES)?;
    let mut net =
        Net::initialised(spec, &model, SEED, device)?.with_precision(numerics.precision)?;

    let mut pixels = vec![0f32; SAMPLES * net.spec().input_len()];
    Random::new(SEED, Stream::Drawing, 0, 0, 0).fill_normal(&mut pixels, 1.0);
    let input = Input { pixels: &pixels, labels: &[1, 7, 4], samples: &[5, 0, 9] };
    let lane = Lane::new(&net, Dropout { seed: SEED, probability: model.dropout });
    let (head, trunk) =
        lane.forward_and_head(input, Place { epoch: 0, step: 0, batch: SAMPLES as u32 })?;

    let mut hasher = blake3::Hasher::new();
    let mut add = |values: &[f32]| {
        for value in values {
            hasher.update(&value.to_le_bytes());
        }
    };
    for factors in &head.factors {
        add(&factors.activations);
        add(&factors.deltas);
    }
    add(&[head.loss_sum as f32]);
    let trunk = trunk.backward()?;
    add(&trunk);
    add(&product()?);
    let head = head.factors.map(HeadGradient::Factors);
    let hyper = Hyper {
        lr: 0.01,
        momentum: 0.9,
        weight_decay: 0.0005,
        optimizer: Optimizer::Sgd,
        lars_trust: 0.001,
    };
    net.commit(&Reduced { trunk, head }, hyper, 1)?;
    hasher.update(net.digest()?.as_bytes());
    Ok(hasher.finalize().to_hex()[..DIGITS].to_owned())
}

/// A weight gradient of the size of a block of fc7.
fn product() -> Result<Vec<f32>> {
    const ROWS: usize = 37;
    let normal = |epoch, width: usize| {
        let mut values = vec![0f32; ROWS * width];
        Random::new(SEED, Stream::Drawing, epoch, 0, 0).fill_normal(&mut values, 1.0);
        values
    };
    Factors { rows: ROWS, activations: normal(1, 4096), deltas: normal(2, 128) }.gradient()
}

#[cfg(test)]
mod tests {
    use super::super::net::tests::settings;
    use super::*;

    fn numerics(threads_per_lane: u32) -> Numerics {
        let text = format!(
            "[run]\nurl = 'r'\n[data]\nurl = 'd'\n[numerics]\nthreads_per_lane = {threads_per_lane}"
        );
        let source = convoy_common::config::Source::new("a.toml".as_ref(), &[]);
        let source = source.with_environment(Vec::new()).with_folder("/");
        source.resolve_text(&text).unwrap().config.numerics
    }

    #[test]
    fn the_fingerprint_is_the_same_on_every_thread_and_tells_nets_apart() {
        let of = |model: Model| {
            let compute = move || fingerprint(&model, &numerics(1), Device::CPU).unwrap();
            std::thread::spawn(compute).join().unwrap()
        };
        let model = settings(Init::Gaussian);
        let first = of(model.clone());
        assert_eq!(first.len(), DIGITS);
        assert_eq!(of(model.clone()), first);
        // What the run starts from is no matter of the machine.
        assert_eq!(of(settings(Init::Kaiming)), first);
        assert_ne!(of(Model { groups: 1, ..model }), first);
    }
}
