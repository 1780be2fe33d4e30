//! The layer table: what each layer puts out, holds and computes.

use super::spec::{Norm, POOL_SIZE, POOL_STRIDE, Spec};

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
    /// The layer table.
    pub fn table(&self) -> Vec<Row> {
        let mut rows = vec![Row {
            name: "input".to_owned(),
            operation: "image, mean subtracted".to_owned(),
            output: vec![3, self.side(), self.side()],
            parameters: 0,
            neurons: 0,
            flop: 0,
        }];
        let count = |n: usize| n as u64;
        for (index, conv) in self.convs().iter().enumerate() {
            let (side, number) = (conv.side_out(), index + 1);
            let values = conv.outputs * side * side;
            let groups =
                if conv.groups > 1 { format!(", {} groups", conv.groups) } else { String::new() };
            let padding =
                if conv.padding > 0 { format!(", pad {}", conv.padding) } else { String::new() };
            let k = conv.kernel;
            let relu = if matches!(conv.norm, Norm::Batch(_)) { "" } else { ", ReLU" };
            rows.push(Row {
                name: conv.name.to_owned(),
                operation: format!("{k}x{k} / {}{padding}{groups}{relu}", conv.stride),
                output: vec![conv.outputs, side, side],
                parameters: count(conv.outputs * (conv.fan_in() + 1)),
                neurons: count(values),
                // Per output: fan_in multiplications and additions, the bias's included, and the ReLU.
                flop: count(values * (2 * conv.fan_in() + 1)),
            });
            let norm = match conv.norm {
                Norm::None => None,
                // Square, sum of five, scale and shift, power, product.
                Norm::Response => {
                    Some((format!("norm{number}"), "response normalisation over 5 channels", 0, 9))
                }
                // As in evaluation: one factor and one shift.
                Norm::Batch(name) => {
                    Some((name.to_owned(), "batch normalisation, ReLU", 2 * conv.outputs, 2))
                }
            };
            if let Some((name, operation, parameters, flop)) = norm {
                rows.push(Row {
                    name,
                    operation: operation.to_owned(),
                    output: vec![conv.outputs, side, side],
                    parameters: count(parameters),
                    neurons: 0,
                    flop: count(values * flop),
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
        let last = self.linears().len() - 1;
        for (index, linear) in self.linears().iter().enumerate() {
            let before = if index == 0 && self.dropped()[0] { "dropout, " } else { "" };
            let tail = match self.dropped().get(index + 1) {
                _ if index == last => "softmax",
                Some(true) => "ReLU, dropout",
                _ => "ReLU",
            };
            rows.push(Row {
                name: linear.name.to_owned(),
                operation: format!("{before}linear, {tail}"),
                output: vec![linear.outputs],
                parameters: count(linear.outputs * (linear.inputs + 1)),
                neurons: count(linear.outputs),
                flop: count(linear.outputs * (2 * linear.inputs + 1)),
            });
        }
        rows
    }
}
