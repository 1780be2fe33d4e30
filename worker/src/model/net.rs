//! The parameters and their momentum: everything that training changes.

use convoy_common::config::{Init, Model};
use convoy_common::random::{Random, Stream};
use tch::{Kind, Tensor};

use super::{Device, Result, Spec};

/// Weights and momentum of one worker.
///
/// Owned by the trainer; lanes hold shallow clones of the weights, so a commit is seen by all of
/// them. Nothing but [`Net::commit`](super::commit) and restoring writes here.
#[derive(Debug)]
pub struct Net {
    pub(super) spec: Spec,
    pub(super) device: Device,
    /// In the order of [`Spec::parameters`].
    pub(super) weights: Vec<Tensor>,
    /// Momentum, tensor for tensor.
    pub(super) momentum: Vec<Tensor>,
}

impl Net {
    /// Fresh weights, a pure function of the seed, the net and its settings; momentum is zero.
    ///
    /// # Errors
    /// If the device has no memory for it.
    pub fn initialised(spec: Spec, settings: &Model, seed: u64, device: Device) -> Result<Self> {
        let mut net = Self::zeroed(spec, device)?;
        for (index, parameter) in net.spec.parameters().iter().enumerate() {
            let mut values = vec![0f32; parameter.shape.iter().product()];
            match start(&parameter.name, &parameter.shape, settings) {
                Start::Constant(value) => values.fill(value),
                Start::Normal(std) => {
                    Random::new(seed, Stream::Weights, 0, index as u32, 0)
                        .fill_normal(&mut values, std);
                }
            }
            let fresh =
                Tensor::f_from_slice(&values)?.f_view(shape(&parameter.shape).as_slice())?;
            tch::no_grad(|| net.weights[index].f_copy_(&fresh))?;
        }
        Ok(net)
    }

    /// All zeros: what a restored state is written into before it replaces the net's own.
    ///
    /// # Errors
    /// If the device has no memory for it.
    pub fn zeroed(spec: Spec, device: Device) -> Result<Self> {
        let zeros = || -> Result<Vec<Tensor>> {
            let target = (Kind::Float, device.tensor_device());
            spec.parameters()
                .iter()
                .map(|p| Ok(Tensor::f_zeros(shape(&p.shape), target)?))
                .collect()
        };
        let (weights, momentum) = (zeros()?, zeros()?);
        Ok(Self { spec, device, weights, momentum })
    }

    /// What the net is.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.device
    }
}

/// How one tensor starts.
#[derive(Debug, PartialEq)]
enum Start {
    Constant(f32),
    Normal(f32),
}

fn start(name: &str, shape: &[usize], settings: &Model) -> Start {
    match name {
        "conv2.bias" | "conv4.bias" | "conv5.bias" => Start::Constant(settings.conv_bias as f32),
        "fc6.bias" | "fc7.bias" => Start::Constant(settings.fc_bias as f32),
        _ if name.ends_with(".bias") => Start::Constant(0.0),
        "fc8.weight" => Start::Normal(0.01),
        _ => match settings.init {
            Init::Gaussian => Start::Normal(0.01),
            Init::Kaiming => {
                let fan_in: usize = shape[1..].iter().product();
                Start::Normal((2.0 / fan_in as f64).sqrt() as f32)
            }
        },
    }
}

/// A shape as the tensor library takes it.
pub(super) fn shape(dimensions: &[usize]) -> Vec<i64> {
    dimensions.iter().map(|&n| n as i64).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use convoy_common::config::ModelName;

    /// Settings for tests: Kaiming, so that signals have a size at every layer.
    pub(in crate::model) fn settings(init: Init) -> Model {
        Model {
            name: ModelName::Alexnet,
            narrow: 1,
            groups: 2,
            dropout: 0.5,
            init,
            conv_bias: 1.0,
            fc_bias: 0.5,
            pixel_scale: 1.0,
        }
    }

    #[test]
    fn weights_are_a_function_of_the_seed() {
        let make = |seed| {
            let spec = Spec::narrowed(2, 10, 8).unwrap();
            Net::initialised(spec, &settings(Init::Gaussian), seed, Device::CPU).unwrap()
        };
        let (a, b, c) = (make(1), make(1), make(2));
        assert!(a.weights.iter().zip(&b.weights).all(|(x, y)| x.equal(y)));
        assert!(!a.weights[0].equal(&c.weights[0]));
        assert!(
            !a.weights[4]
                .flatten(0, -1)
                .slice(0, 0, 100, 1)
                .equal(&a.weights[6].flatten(0, -1).slice(0, 0, 100, 1))
        );
    }

    #[test]
    fn weights_start_with_the_papers_spread_and_biases() {
        let spec = Spec::narrowed(2, 10, 8).unwrap();
        let net = Net::initialised(spec, &settings(Init::Gaussian), 1, Device::CPU).unwrap();
        let fc6 = &net.weights[10];
        assert!((fc6.std(true).double_value(&[]) - 0.01).abs() < 1e-4);
        assert!(fc6.mean(Kind::Float).double_value(&[]).abs() < 1e-4);
        let biases: Vec<f64> = (0..8).map(|i| net.weights[2 * i + 1].double_value(&[0])).collect();
        assert_eq!(biases, [0.0, 1.0, 0.0, 1.0, 1.0, 0.5, 0.5, 0.0]);
    }

    #[test]
    fn kaiming_scales_with_the_inputs_of_one_output() {
        let kaiming = settings(Init::Kaiming);
        assert_eq!(
            start("conv2.weight", &[256, 48, 5, 5], &kaiming),
            Start::Normal((2.0f64 / 1200.0).sqrt() as f32)
        );
        assert_eq!(start("fc8.weight", &[10, 4096], &kaiming), Start::Normal(0.01));
    }
}
