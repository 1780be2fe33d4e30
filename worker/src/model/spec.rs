//! AlexNet as data: which layers there are, and what each costs.
//!
//! Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks
//! (2012), section 3.5 and figure 2. Plain arithmetic; no tensor is made here.

use convoy_common::config::{Model, ModelName};

use super::{ModelError, Result};

/// Height and width of a pooling window (section 3.4).
pub const POOL_SIZE: usize = 3;
/// Step of a pooling window: less than its size, so windows overlap.
pub const POOL_STRIDE: usize = 2;

/// One convolution and what follows it, always a ReLU first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conv {
    /// `conv1` to `conv5`.
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
    /// Local response normalisation after the ReLU.
    pub normalised: bool,
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

    /// Inputs that one output sees.
    pub fn fan_in(&self) -> usize {
        self.inputs / self.groups * self.kernel * self.kernel
    }
}

/// One fully connected layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    /// `fc6` to `fc8`.
    pub name: &'static str,
    /// Inputs.
    pub inputs: usize,
    /// Outputs.
    pub outputs: usize,
}

/// A parameter tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Such as `conv1.weight`.
    pub name: String,
    /// PyTorch's layout: out, in, height, width; out, in; or out.
    pub shape: Vec<usize>,
}

/// The whole net.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Height and width of the input.
    side: usize,
    convs: Vec<Conv>,
    linears: Vec<Linear>,
}

/// A line of the layer table.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Row {
    /// Such as `conv1`.
    pub name: String,
    /// What the layer does, in words.
    pub operation: String,
    /// Channels, height, width; or units.
    pub output: Vec<usize>,
    /// Weights and biases.
    pub parameters: u64,
    /// Units with weights of their own (the paper counts these).
    pub neurons: u64,
    /// Floating-point operations of one image's forward pass; a multiplication and an addition
    /// are two.
    pub flop: u64,
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
        match model.name {
            ModelName::Alexnet => Self::narrowed(model.groups, classes, model.narrow as usize),
        }
    }

    /// The same net with all widths divided by `divisor`, for tests: every code path at a
    /// fraction of the arithmetic.
    ///
    /// # Errors
    /// [`ModelError::Spec`] if the groups do not divide the widths, or there is no class.
    pub fn narrowed(groups: u32, classes: usize, divisor: usize) -> Result<Self> {
        let refuse = |what: String| Err(ModelError::Spec { what });
        if !matches!(groups, 1 | 2) {
            return refuse(format!("{groups} groups; AlexNet has 1 or 2"));
        }
        if classes == 0 || classes > 65_536 {
            return refuse(format!("{classes} classes; from 1 to 65536 are possible"));
        }
        if divisor == 0 || 32 % divisor != 0 {
            return refuse(format!("widths cannot be divided by {divisor}"));
        }
        let groups = groups as usize;
        let conv =
            |name, inputs, outputs, kernel, stride, padding, groups, end: (bool, bool)| Conv {
                name,
                inputs,
                outputs,
                kernel,
                stride,
                padding,
                groups,
                side_in: 0,
                normalised: end.0,
                pooled: end.1,
            };
        let width = |full: usize| full / divisor;
        let (lrn_pool, none, pool) = ((true, true), (false, false), (false, true));
        let mut convs = vec![
            conv("conv1", 3, width(96), 11, 4, 0, 1, lrn_pool),
            conv("conv2", width(96), width(256), 5, 1, 2, groups, lrn_pool),
            conv("conv3", width(256), width(384), 3, 1, 1, 1, none),
            conv("conv4", width(384), width(384), 3, 1, 1, groups, none),
            conv("conv5", width(384), width(256), 3, 1, 1, groups, pool),
        ];
        let input = ModelName::Alexnet.input_side() as usize;
        let mut side = input;
        for conv in &mut convs {
            conv.side_in = side;
            side = conv.side_end();
        }
        let linears = vec![
            Linear { name: "fc6", inputs: width(256) * side * side, outputs: width(4096) },
            Linear { name: "fc7", inputs: width(4096), outputs: width(4096) },
            Linear { name: "fc8", inputs: width(4096), outputs: classes },
        ];
        Ok(Self { side: input, convs, linears })
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

    /// All parameters in the order that gradients, state and checkpoints keep: weight, then bias,
    /// from conv1 to fc8.
    pub fn parameters(&self) -> Vec<Parameter> {
        let convs = self.convs.iter().map(|conv| (conv.name, conv.weight_shape(), conv.outputs));
        let linears = self
            .linears
            .iter()
            .map(|linear| (linear.name, vec![linear.outputs, linear.inputs], linear.outputs));
        convs
            .chain(linears)
            .flat_map(|(name, weight, outputs)| {
                [
                    Parameter { name: format!("{name}.weight"), shape: weight },
                    Parameter { name: format!("{name}.bias"), shape: vec![outputs] },
                ]
            })
            .collect()
    }

    /// Number of values in the trunk's flat gradient: weights and biases of the convolutions.
    pub fn trunk_len(&self) -> usize {
        self.convs
            .iter()
            .map(|conv| conv.weight_shape().iter().product::<usize>() + conv.outputs)
            .sum()
    }

    /// The layer table.
    pub fn table(&self) -> Vec<Row> {
        let mut rows = vec![Row {
            name: "input".to_owned(),
            operation: "image, mean subtracted".to_owned(),
            output: vec![3, self.side, self.side],
            parameters: 0,
            neurons: 0,
            flop: 0,
        }];
        let count = |n: usize| n as u64;
        for (index, conv) in self.convs.iter().enumerate() {
            let (side, number) = (conv.side_out(), index + 1);
            let values = conv.outputs * side * side;
            let groups =
                if conv.groups > 1 { format!(", {} groups", conv.groups) } else { String::new() };
            let padding =
                if conv.padding > 0 { format!(", pad {}", conv.padding) } else { String::new() };
            let k = conv.kernel;
            rows.push(Row {
                name: conv.name.to_owned(),
                operation: format!("{k}x{k} / {}{padding}{groups}, ReLU", conv.stride),
                output: vec![conv.outputs, side, side],
                parameters: count(conv.outputs * (conv.fan_in() + 1)),
                neurons: count(values),
                // Per output: fan_in multiplications and additions, the bias's included, and the ReLU.
                flop: count(values * (2 * conv.fan_in() + 1)),
            });
            if conv.normalised {
                rows.push(Row {
                    name: format!("norm{number}"),
                    operation: "response normalisation over 5 channels".to_owned(),
                    output: vec![conv.outputs, side, side],
                    parameters: 0,
                    neurons: 0,
                    // Square, sum of five, scale and shift, power, product.
                    flop: count(values * 9),
                });
            }
            if conv.pooled {
                let end = conv.side_end();
                rows.push(Row {
                    name: format!("pool{number}"),
                    operation: format!("max {POOL_SIZE}x{POOL_SIZE} / {POOL_STRIDE}"),
                    output: vec![conv.outputs, end, end],
                    parameters: 0,
                    neurons: 0,
                    flop: count(conv.outputs * end * end * (POOL_SIZE * POOL_SIZE - 1)),
                });
            }
        }
        let last = self.linears.len() - 1;
        for (index, linear) in self.linears.iter().enumerate() {
            let tail = if index == last { "softmax" } else { "ReLU, dropout" };
            rows.push(Row {
                name: linear.name.to_owned(),
                operation: format!("linear, {tail}"),
                output: vec![linear.outputs],
                parameters: count(linear.outputs * (linear.inputs + 1)),
                neurons: count(linear.outputs),
                flop: count(linear.outputs * (2 * linear.inputs + 1)),
            });
        }
        rows
    }
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
    fn the_parameter_list_agrees_with_the_table() {
        for spec in [Spec::alexnet(2, 1000).unwrap(), Spec::narrowed(2, 10, 8).unwrap()] {
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
    }
}
