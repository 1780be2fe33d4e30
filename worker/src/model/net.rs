//! The parameters and their momentum: everything that training changes.

use convoy_common::config::{Init, Model, Precision};
use convoy_common::random::{Random, Stream};
use tch::{Kind, Tensor};

use super::spec::Role;
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
    /// Running statistics of batch normalisation, in the order of [`Spec::statistics`].
    pub(super) statistics: Vec<Tensor>,
    /// With bf16: the weights as lanes multiply them, rounded anew after every change.
    pub(super) rounded: Option<Vec<Tensor>>,
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
            match start(parameter.role, &parameter.shape, settings) {
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
        for variance in net.statistics.iter_mut().skip(1).step_by(2) {
            let _ = tch::no_grad(|| variance.f_fill_(1.0))?;
        }
        Ok(net)
    }

    /// All zeros: what a restored state is written into before it replaces the net's own.
    ///
    /// # Errors
    /// If the device has no memory for it.
    pub fn zeroed(spec: Spec, device: Device) -> Result<Self> {
        let target = (Kind::Float, device.tensor_device());
        let zeros = || -> Result<Vec<Tensor>> {
            spec.parameters()
                .iter()
                .map(|p| Ok(Tensor::f_zeros(shape(&p.shape), target)?))
                .collect()
        };
        let (weights, momentum) = (zeros()?, zeros()?);
        let statistics = spec
            .statistics()
            .iter()
            .map(|(_, length)| Ok(Tensor::f_zeros([*length as i64], target)?))
            .collect::<Result<_>>()?;
        Ok(Self { spec, device, weights, momentum, statistics, rounded: None })
    }

    /// The same net with lanes that compute in this precision.
    ///
    /// # Errors
    /// If the device has no memory for the rounded weights.
    pub fn with_precision(mut self, precision: Precision) -> Result<Self> {
        self.rounded = match precision {
            Precision::Fp32 => None,
            Precision::Bf16 => {
                let roles = self.spec.parameters().into_iter().map(|it| it.role);
                let round = |(weight, role): (&Tensor, Role)| {
                    // Batch normalisation computes in fp32 whatever its input is.
                    let keep = matches!(role, Role::Scale | Role::Shift);
                    Ok(if keep {
                        weight.shallow_clone()
                    } else {
                        weight.f_to_kind(Kind::BFloat16)?
                    })
                };
                Some(self.weights.iter().zip(roles).map(round).collect::<Result<_>>()?)
            }
        };
        Ok(self)
    }

    /// Weights as lanes multiply them; their memory is shared.
    pub(super) fn multiplied(&self) -> Vec<Tensor> {
        let weights = self.rounded.as_ref().unwrap_or(&self.weights);
        weights.iter().map(Tensor::shallow_clone).collect()
    }

    /// Rounds one tensor anew, after its weights have changed.
    pub(super) fn round(&mut self, index: usize) -> Result<()> {
        if let Some(rounded) = &mut self.rounded
            && let (Some(to), Some(from)) = (rounded.get_mut(index), self.weights.get(index))
            && to.f_kind()? != Kind::Float
        {
            tch::no_grad(|| to.f_copy_(from))?;
        }
        Ok(())
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

fn start(role: Role, shape: &[usize], settings: &Model) -> Start {
    match role {
        Role::ConvBias => Start::Constant(settings.conv_bias as f32),
        Role::FcBias => Start::Constant(settings.fc_bias as f32),
        Role::Bias | Role::Shift => Start::Constant(0.0),
        Role::Scale => Start::Constant(1.0),
        Role::LastWeight => Start::Normal(0.01),
        Role::Weight => match settings.init {
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
            start(Role::Weight, &[256, 48, 5, 5], &kaiming),
            Start::Normal((2.0f64 / 1200.0).sqrt() as f32)
        );
        assert_eq!(start(Role::LastWeight, &[10, 4096], &kaiming), Start::Normal(0.01));
    }
}
