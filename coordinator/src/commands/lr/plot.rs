//! A curve as text.

use std::fmt::Write as _;

/// Rows of a plot.
const ROWS: usize = 12;
/// Columns of the scale on the left.
const SCALE: usize = 11;
/// From this ratio of largest to smallest on, the scale is logarithmic.
const WIDE: f64 = 50.0;

/// What a plot is drawn with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// Columns in all.
    pub(super) width: usize,
    /// Box-drawing letters, for a terminal.
    pub(super) fancy: bool,
    /// A logarithmic scale where values lie far apart. Not for a curve that falls to nothing, which
    /// would be all tail.
    pub(super) logarithmic: bool,
}

impl Style {
    /// Columns of the curve itself: so many points are wanted.
    pub(super) fn columns(self) -> usize {
        self.width.saturating_sub(SCALE + 2).clamp(20, 120)
    }
}

/// `points` from left to right, one for each column, none of them negative; `left` and `right` name
/// the ends of the axis.
pub(super) fn draw(points: &[f64], style: Style, left: &str, right: &str) -> String {
    let largest = points.iter().copied().fold(0.0, f64::max);
    let smallest = points.iter().copied().fold(f64::INFINITY, f64::min);
    let logarithmic = style.logarithmic && smallest > 0.0 && largest / smallest >= WIDE;
    let (floor, top) =
        if logarithmic { (smallest.log10(), largest.log10()) } else { (0.0, largest) };
    let row_of = |value: f64| {
        let value = if logarithmic { value.log10() } else { value };
        let share = if top > floor { (value - floor) / (top - floor) } else { 0.0 };
        ((1.0 - share) * (ROWS - 1) as f64).round().clamp(0.0, (ROWS - 1) as f64) as usize
    };
    let mut cells = vec![vec![false; points.len()]; ROWS];
    let mut last: Option<usize> = None;
    for (column, value) in points.iter().enumerate() {
        let row = row_of(*value);
        // A drop is drawn as a line and not as a gap.
        let from = last.map_or(row, |last| if last < row { last + 1 } else { last.min(row) });
        for cells in &mut cells[from.min(row)..=row] {
            cells[column] = true;
        }
        last = Some(row);
    }
    let (dot, bar, corner, line) =
        if style.fancy { ('█', '│', '└', '─') } else { ('*', '|', '+', '-') };
    let mut text = String::new();
    for (row, cells) in cells.iter().enumerate() {
        let share = 1.0 - row as f64 / (ROWS - 1) as f64;
        let value = floor + share * (top - floor);
        let value = if logarithmic { 10f64.powf(value) } else { value };
        let label = if row % 3 == 0 || row == ROWS - 1 { rate(value) } else { String::new() };
        let curve: String = cells.iter().map(|on| if *on { dot } else { ' ' }).collect();
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{label:>SCALE$} {bar}{}", curve.trim_end());
    }
    let axis: String = std::iter::repeat_n(line, points.len()).collect();
    let _ = writeln!(text, "{:>SCALE$} {corner}{axis}", "");
    let gap = points.len().saturating_sub(left.len() + right.len()).max(1);
    let _ = writeln!(text, "{:>SCALE$}  {left}{:gap$}{right}", "", "");
    if logarithmic {
        let _ = writeln!(text, "{:>SCALE$}  (logarithmic)", "");
    }
    text
}

/// A rate in four digits.
pub(super) fn rate(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-4..1e4).contains(&value) {
        return format!("{value:.3e}");
    }
    let digits = (3 - value.log10().floor() as i32).max(0) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { width: 60, fancy: false, logarithmic: true };

    #[test]
    fn a_line_falls_from_the_top_left_to_the_bottom_right() {
        let points: Vec<f64> = (0..47).map(|n| 0.4 * (1.0 - f64::from(n) / 46.0)).collect();
        let text = draw(&points, PLAIN, "epoch 0", "epoch 9");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), ROWS + 2);
        assert!(lines[0].starts_with("        0.4 |**"), "{text}");
        assert!(lines[ROWS - 1].starts_with("          0 |") && lines[ROWS - 1].ends_with('*'));
        assert!(lines[ROWS + 1].ends_with("epoch 9"), "{text}");
        assert!(text.is_ascii() && lines.iter().all(|line| line.len() <= 60), "{text}");
    }

    #[test]
    fn rates_far_apart_are_drawn_on_a_logarithmic_scale_without_gaps() {
        let points: Vec<f64> = [0.01, 0.001, 0.0001].iter().flat_map(|rate| [*rate; 10]).collect();
        let text = draw(&points, PLAIN, "", "");
        assert!(text.contains("(logarithmic)") && text.contains("0.0001 |"), "{text}");
        for line in text.lines().take(ROWS) {
            assert!(line.contains('*'), "{text}");
        }
    }

    #[test]
    fn a_curve_that_falls_to_almost_nothing_is_drawn_on_a_linear_scale() {
        let points: Vec<f64> = (0..40).map(|n| (1.0 - f64::from(n) / 40.0).powi(8)).collect();
        let text = draw(&points, Style { logarithmic: false, ..PLAIN }, "", "");
        assert!(text.contains("0 |") && !text.contains("logarithmic"), "{text}");
    }

    #[test]
    fn a_constant_and_a_curve_of_nothing_are_drawn_too() {
        for value in [0.0, 0.01] {
            let text =
                draw(&[value; 20], Style { width: 10, fancy: true, logarithmic: true }, "a", "b");
            assert_eq!(text.matches('█').count(), 20, "{text}");
        }
    }

    #[test]
    fn rates_are_written_short() {
        let all = [0.0, 0.4, 0.01, 0.000_012_345, 12.0, 1000.0, 0.123_456].map(rate);
        assert_eq!(all, ["0", "0.4", "0.01", "1.234e-5", "12", "1000", "0.1235"]);
    }
}
