//! AlexNet as data: which layers there are, and what each costs.
//!
//! Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks
//! (2012), section 3.5 and figure 2. Plain arithmetic; no tensor is made here.
//!
//! | net | convolutions | after conv1 and conv2 | input | dropout |
//! |---|---|---|---|---|
//! | `alexnet` | 96-256-384-384-256, 2 groups | ReLU, LRN, pooling | 227 | after fc6 and fc7 |
//! | `alexnet-bn` | the same | batch normalisation, ReLU, pooling | 227 | after fc6 and fc7 |
//! | `alexnet-owt` | 64-192-384-256-256, 1 group | ReLU, pooling | 224 | before fc6 and fc7 |
//!
//! `alexnet-owt` is torchvision's `alexnet` (after Krizhevsky, One weird trick for parallelizing
//! convolutional neural networks, 2014), with its names of parameters and its places of dropout.
//! `alexnet-bn` normalises before the ReLU (Ioffe, Szegedy 2015, section 3.2), by the statistics of
//! one microbatch.

use convoy_common::config::{Model, ModelName};

use super::{ModelError, Result};

/// Height and width of a pooling window (section 3.4).
pub const POOL_SIZE: usize = 3;
/// Step of a pooling window: less than its size, so windows overlap.
pub const POOL_STRIDE: usize = 2;

/// What normalises a convolution's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Nothing.
    None,
    /// Local response normalisation, after the ReLU.
    Response,
    /// Batch normalisation, before the ReLU; the name of its parameters.
    Batch(&'static str),
}

/// One convolution and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conv {
    /// `conv1` to `conv5`, or torchvision's name.
    pub name: &'static str,
    /// Channels in.
    pub inputs: usize,
    /// Channels out.
    pub outputs: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step of the kernel.
    pub stride: usize,
    /// Zeros added on each side.
    pub padding: usize,
    /// Groups that see only their share of the channels.
    pub groups: usize,
    /// Height and width of the input.
    pub side_in: usize,
    /// Normalisation around the ReLU.
    pub norm: Norm,
    /// Max pooling after that.
    pub pooled: bool,
}

impl Conv {
    /// Height and width after the convolution.
    pub fn side_out(&self) -> usize {
        (self.side_in + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Height and width after pooling, if there is any.
    pub fn side_end(&self) -> usize {
        if self.pooled { (self.side_out() - POOL_SIZE) / POOL_STRIDE + 1 } else { self.side_out() }
    }

    /// Shape of the weight: out, in per group, height, width.
    pub fn weight_shape(&self) -> Vec<usize> {
        vec![self.outputs, self.inputs / self.groups, self.kernel, self.kernel]
    }

    /// Parameter tensors: weight and bias, and two more of batch normalisation.
    pub fn parameters(&self) -> usize {
        if matches!(self.norm, Norm::Batch(_)) { 4 } else { 2 }
    }

    /// Inputs that one output sees.
    pub fn fan_in(&self) -> usize {
        self.inputs / self.groups * self.kernel * self.kernel
    }
}

/// One fully connected layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    /// `fc6` to `fc8`, or torchvision's name.
    pub name: &'static str,
    /// Inputs.
    pub inputs: usize,
    /// Outputs.
    pub outputs: usize,
}

/// What a parameter tensor is for, which decides how it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Weights of a convolution or of fc6 or fc7.
    Weight,
    /// Weights of the last layer.
    LastWeight,
    /// Biases of conv2, conv4 and conv5, which the paper starts at one.
    ConvBias,
    /// Biases of fc6 and fc7, which the paper starts at one.
    FcBias,
    /// Biases that start at zero.
    Bias,
    /// Factors of batch normalisation, which start at one.
    Scale,
    /// Shifts of batch normalisation, which start at zero.
    Shift,
}

/// A parameter tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Such as `conv1.weight`.
    pub name: String,
    /// PyTorch's layout: out, in, height, width; out, in; or out.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
}

/// The whole net.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Height and width of the input.
    side: usize,
    convs: Vec<Conv>,
    linears: Vec<Linear>,
    /// Of each fully connected layer, whether dropout comes before it.
    dropped: [bool; 3],
}

impl Spec {
    /// AlexNet with so many groups in conv2, conv4 and conv5 (2 in the paper, one per GPU; or 1).
    ///
    /// # Errors
    /// [`ModelError::Spec`] for other groups or no class.
    pub fn alexnet(groups: u32, classes: usize) -> Result<Self> {
        Self::narrowed(groups, classes, 1)
    }

    /// The net that a config asks for.
    ///
    /// # Errors
    /// As [`Self::narrowed`].
    pub fn of(model: &Model, classes: usize) -> Result<Self> {
        Self::variant(model.name, model.groups, classes, model.narrow as usize)
    }

    /// The same net with all widths divided by `divisor`, for tests: every code path at a
    /// fraction of the arithmetic.
    ///
    /// # Errors
    /// [`ModelError::Spec`] if the groups do not divide the widths, or there is no class.
    pub fn narrowed(groups: u32, classes: usize, divisor: usize) -> Result<Self> {
        Self::variant(ModelName::Alexnet, groups, classes, divisor)
    }

    /// Any of the nets, with all widths divided by `divisor`.
    ///
    /// # Errors
    /// As [`Self::narrowed`], and for groups in a net that has none.
    pub fn variant(name: ModelName, groups: u32, classes: usize, divisor: usize) -> Result<Self> {
        let refuse = |what: String| Err(ModelError::Spec { what });
        if !matches!(groups, 1 | 2) {
            return refuse(format!("{groups} groups; AlexNet has 1 or 2"));
        }
        if name == ModelName::AlexnetOwt && groups != 1 {
            return refuse(format!("{groups} groups; {name} has 1"));
        }
        if classes == 0 || classes > 65_536 {
            return refuse(format!("{classes} classes; from 1 to 65536 are possible"));
        }
        if divisor == 0 || 32 % divisor != 0 {
            return refuse(format!("widths cannot be divided by {divisor}"));
        }
        let width = |full: usize| full / divisor;
        let owt = name == ModelName::AlexnetOwt;
        let mut convs =
            if owt { owt_convs(width) } else { paper_convs(name, groups as usize, width) };
        let input = name.input_side() as usize;
        let mut side = input;
        for conv in &mut convs {
            conv.side_in = side;
            side = conv.side_end();
        }
        let names = if owt {
            ["classifier.1", "classifier.4", "classifier.6"]
        } else {
            ["fc6", "fc7", "fc8"]
        };
        let widths = [width(256) * side * side, width(4096), width(4096), classes];
        let linear = |layer: usize| Linear {
            name: names[layer],
            inputs: widths[layer],
            outputs: widths[layer + 1],
        };
        let linears = (0..3).map(linear).collect();
        Ok(Self { side: input, convs, linears, dropped: [owt, true, !owt] })
    }

    /// The convolutions, in order.
    pub fn convs(&self) -> &[Conv] {
        &self.convs
    }

    /// The fully connected layers, in order.
    pub fn linears(&self) -> &[Linear] {
        &self.linears
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.linears.last().map_or(0, |last| last.outputs)
    }

    /// Height and width of the input.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Values of one input image: 3 x side x side.
    pub fn input_len(&self) -> usize {
        3 * self.side * self.side
    }

    /// Of each fully connected layer, whether dropout comes before it.
    pub fn dropped(&self) -> [bool; 3] {
        self.dropped
    }

    /// All parameters in the order that gradients, state and checkpoints keep: weight, then bias,
    /// from the first convolution to the last layer. Factor and shift of batch normalisation
    /// follow their convolution.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut all = Vec::new();
        let mut add = |name: &str, what: &str, shape: Vec<usize>, role| {
            all.push(Parameter { name: format!("{name}.{what}"), shape, role });
        };
        for (index, conv) in self.convs.iter().enumerate() {
            let bias = if matches!(index, 1 | 3 | 4) { Role::ConvBias } else { Role::Bias };
            add(conv.name, "weight", conv.weight_shape(), Role::Weight);
            add(conv.name, "bias", vec![conv.outputs], bias);
            if let Norm::Batch(name) = conv.norm {
                add(name, "weight", vec![conv.outputs], Role::Scale);
                add(name, "bias", vec![conv.outputs], Role::Shift);
            }
        }
        for (index, linear) in self.linears.iter().enumerate() {
            let (weight, bias) = if index + 1 == self.linears.len() {
                (Role::LastWeight, Role::Bias)
            } else {
                (Role::Weight, Role::FcBias)
            };
            add(linear.name, "weight", vec![linear.outputs, linear.inputs], weight);
            add(linear.name, "bias", vec![linear.outputs], bias);
        }
        all
    }

    /// Number of the trunk's parameter tensors; those of the head come after them.
    pub fn trunk_parameters(&self) -> usize {
        self.convs.iter().map(Conv::parameters).sum()
    }

    /// Names and lengths of the running statistics of batch normalisation: mean and variance of
    /// each place that has it, in order.
    pub fn statistics(&self) -> Vec<(String, usize)> {
        let norms = self.convs.iter().filter_map(|conv| match conv.norm {
            Norm::Batch(name) => Some((name, conv.outputs)),
            _ => None,
        });
        norms
            .flat_map(|(name, channels)| {
                ["running_mean", "running_var"].map(|what| (format!("{name}.{what}"), channels))
            })
            .collect()
    }

    /// Number of values in the trunk's flat gradient: all its parameters, then the statistics of
    /// batch normalisation, which are summed over the batch like gradients.
    pub fn trunk_len(&self) -> usize {
        let parameters = self.parameters();
        let gradient = parameters[..self.trunk_parameters()]
            .iter()
            .map(|parameter| parameter.shape.iter().product::<usize>());
        let statistics = self.statistics();
        gradient.chain(statistics.iter().map(|(_, length)| *length)).sum()
    }
}

/// One convolution; its input's side is filled in later.
fn conv(
    name: &'static str,
    [inputs, outputs]: [usize; 2],
    [kernel, stride, padding]: [usize; 3],
    groups: usize,
    norm: Norm,
    pooled: bool,
) -> Conv {
    Conv { name, inputs, outputs, kernel, stride, padding, groups, side_in: 0, norm, pooled }
}

/// The convolutions of the paper (section 3.5).
fn paper_convs(name: ModelName, groups: usize, width: impl Fn(usize) -> usize) -> Vec<Conv> {
    let [first, second] = match name {
        ModelName::AlexnetBn => [Norm::Batch("bn1"), Norm::Batch("bn2")],
        _ => [Norm::Response; 2],
    };
    let [a, b, c] = [96, 256, 384].map(width);
    vec![
        conv("conv1", [3, a], [11, 4, 0], 1, first, true),
        conv("conv2", [a, b], [5, 1, 2], groups, second, true),
        conv("conv3", [b, c], [3, 1, 1], 1, Norm::None, false),
        conv("conv4", [c, c], [3, 1, 1], groups, Norm::None, false),
        conv("conv5", [c, b], [3, 1, 1], groups, Norm::None, true),
    ]
}

/// The convolutions of torchvision's `alexnet`, by its names.
fn owt_convs(width: impl Fn(usize) -> usize) -> Vec<Conv> {
    let [a, b, c, d] = [64, 192, 384, 256].map(width);
    vec![
        conv("features.0", [3, a], [11, 4, 2], 1, Norm::None, true),
        conv("features.3", [a, b], [5, 1, 2], 1, Norm::None, true),
        conv("features.6", [b, c], [3, 1, 1], 1, Norm::None, false),
        conv("features.8", [c, d], [3, 1, 1], 1, Norm::None, false),
        conv("features.10", [d, d], [3, 1, 1], 1, Norm::None, true),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(spec: &Spec) -> (u64, u64) {
        let table = spec.table();
        (table.iter().map(|r| r.parameters).sum(), table.iter().map(|r| r.neurons).sum())
    }

    #[test]
    fn two_groups_have_the_papers_parameters_and_neurons() {
        assert_eq!(totals(&Spec::alexnet(2, 1000).unwrap()), (60_965_224, 659_272));
    }

    #[test]
    fn one_group_has_more_parameters_and_the_same_neurons() {
        assert_eq!(totals(&Spec::alexnet(1, 1000).unwrap()), (62_378_344, 659_272));
    }

    #[test]
    fn the_variant_of_torchvision_has_its_parameters_and_their_names() {
        let spec = Spec::variant(ModelName::AlexnetOwt, 1, 1000, 1).unwrap();
        assert_eq!(totals(&spec).0, 61_100_840);
        let names: Vec<String> = spec.parameters().into_iter().map(|p| p.name).collect();
        assert_eq!(names[0], "features.0.weight");
        assert_eq!(names[15], "classifier.6.bias");
        assert_eq!((spec.side(), spec.linears()[0].inputs), (224, 9216));
        assert_eq!(spec.dropped(), [true, true, false]);
    }

    #[test]
    fn batch_normalisation_adds_a_factor_and_a_shift_for_each_channel_where_lrn_was() {
        let spec = Spec::variant(ModelName::AlexnetBn, 2, 1000, 1).unwrap();
        assert_eq!(totals(&spec), (60_965_224 + 2 * (96 + 256), 659_272));
        let names: Vec<String> = spec.parameters().into_iter().map(|p| p.name).collect();
        assert_eq!(names[..4], ["conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"]);
        assert_eq!(spec.statistics()[3], ("bn2.running_var".to_owned(), 256));
        let gradient: usize =
            spec.parameters()[..14].iter().map(|p| p.shape.iter().product::<usize>()).sum();
        assert_eq!((spec.trunk_parameters(), spec.trunk_len()), (14, gradient + 2 * (96 + 256)));
    }

    #[test]
    fn the_parameter_list_agrees_with_the_table() {
        let owt = Spec::variant(ModelName::AlexnetOwt, 1, 10, 4).unwrap();
        let bn = Spec::variant(ModelName::AlexnetBn, 1, 10, 2).unwrap();
        let paper = Spec::alexnet(2, 1000).unwrap();
        for spec in [paper, Spec::narrowed(2, 10, 8).unwrap(), owt, bn] {
            let listed: usize =
                spec.parameters().iter().map(|p| p.shape.iter().product::<usize>()).sum();
            assert_eq!(listed as u64, totals(&spec).0);
        }
    }

    #[test]
    fn shapes_follow_the_paper() {
        let spec = Spec::alexnet(2, 1000).unwrap();
        let sides: Vec<_> =
            spec.convs().iter().map(|c| (c.side_in, c.side_out(), c.side_end())).collect();
        assert_eq!(sides, [(227, 55, 27), (27, 27, 13), (13, 13, 13), (13, 13, 13), (13, 13, 6)]);
        assert_eq!(spec.linears()[0].inputs, 9216);
    }

    #[test]
    fn impossible_nets_are_refused() {
        assert!(Spec::alexnet(3, 10).is_err());
        assert!(Spec::alexnet(2, 0).is_err());
        assert!(Spec::narrowed(2, 10, 5).is_err());
        assert!(Spec::variant(ModelName::AlexnetOwt, 2, 10, 1).is_err());
    }
}
