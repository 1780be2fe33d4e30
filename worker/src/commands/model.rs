//! `convoy-worker model`: the layer table.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use convoy_common::config::ModelName;
use convoy_common::exit;
use convoy_common::failure::Failure;

use crate::model::Spec;
use crate::model::table::Row;

/// Prints the net: each layer's output, parameters, neurons and arithmetic, and the totals.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy-worker model                            the net of the paper
  convoy-worker model alexnet-owt                torchvision's alexnet
  convoy-worker model --classes 10 --groups 1    ten classes, no groups
  convoy-worker model --json                     for programs")]
pub(crate) struct Args {
    /// Which net: alexnet, alexnet-owt or alexnet-bn.
    #[arg(default_value_t = ModelName::Alexnet, value_name = "NAME")]
    name: ModelName,
    /// Number of classes; in training it comes from the data set.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    classes: usize,
    /// Groups of conv2, conv4 and conv5: 2 as in the paper, or 1 [default: the net's own].
    #[arg(long, value_name = "N")]
    groups: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Report {
    model: ModelName,
    input_side: u32,
    classes: usize,
    groups: u32,
    layers: Vec<Row>,
    parameters: u64,
    neurons: u64,
    flop_per_image: u64,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let groups = args.groups.unwrap_or(args.name.default_groups());
    let layers = Spec::variant(args.name, groups, args.classes, 1)?.table();
    let total = |value: fn(&Row) -> u64| layers.iter().map(value).sum();
    let report = Report {
        model: args.name,
        input_side: args.name.input_side(),
        classes: args.classes,
        groups,
        parameters: total(|row| row.parameters),
        neurons: total(|row| row.neurons),
        flop_per_image: total(|row| row.flop),
        layers,
    };
    let text = if args.json {
        let json = serde_json::to_string_pretty(&report);
        json.map_err(|error| Failure::new(exit::FAILURE, error))? + "\n"
    } else {
        table(&report)
    };
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::new(exit::FAILURE, error))?;
    Ok(ExitCode::SUCCESS)
}

fn table(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |cells: [&str; 6]| {
        let [name, output, parameters, neurons, mflop, operation] = cells;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{name:<12} {output:>13} {parameters:>12} {neurons:>9} {mflop:>9}  {operation}"
        );
    };
    let mflop = |flop: u64| format!("{:.1}", flop as f64 / 1e6);
    line(["layer", "output", "parameters", "neurons", "MFLOP", "operation"]);
    for row in &report.layers {
        let output: Vec<_> = row.output.iter().map(usize::to_string).collect();
        let cells = [row.parameters, row.neurons].map(grouped);
        let [parameters, neurons] = cells.each_ref().map(String::as_str);
        line([
            &row.name,
            &output.join(" x "),
            parameters,
            neurons,
            &mflop(row.flop),
            &row.operation,
        ]);
    }
    let (parameters, neurons) = (grouped(report.parameters), grouped(report.neurons));
    let note = "MFLOP: one image forward; training takes about three times as much";
    line(["total", "", &parameters, &neurons, &mflop(report.flop_per_image), note]);
    text
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_its_table() {
        for (name, parameters, marks) in [
            ("alexnet", "60,965,224", ["norm2", "response normalisation"]),
            ("alexnet-owt", "61,100,840", ["features.10", "dropout, linear, ReLU, dropout"]),
            ("alexnet-bn", "60,965,928", ["bn2", "batch normalisation, ReLU"]),
        ] {
            let model: ModelName = name.parse().unwrap();
            let layers = Spec::variant(model, model.default_groups(), 1000, 1).unwrap().table();
            let report = Report {
                model,
                input_side: model.input_side(),
                classes: 1000,
                groups: model.default_groups(),
                parameters: layers.iter().map(|row| row.parameters).sum(),
                neurons: layers.iter().map(|row| row.neurons).sum(),
                flop_per_image: layers.iter().map(|row| row.flop).sum(),
                layers,
            };
            let text = table(&report);
            for mark in [parameters].into_iter().chain(marks) {
                assert!(text.contains(mark), "{name} lacks {mark}:\n{text}");
            }
        }
    }

    #[test]
    fn long_numbers_are_grouped_by_three() {
        assert_eq!([0, 999, 1000, 60_965_224].map(grouped), ["0", "999", "1,000", "60,965,224"]);
    }
}
