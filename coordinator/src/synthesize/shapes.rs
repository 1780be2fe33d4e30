//! The shapes, as signed distances: negative within, about the distance to the outline elsewhere.
//!
//! All fit into a circle of radius 1 around the origin; y points down. The formulas are the usual
//! ones for distance fields in the plane (Inigo Quilez, "2D distance functions").

use std::f32::consts::{PI, TAU};

/// A point in the shape's own frame.
pub(super) type Point = [f32; 2];

/// A shape that is ready to be measured.
pub(super) enum Shape {
    /// Straight outline through these points.
    Polygon(Vec<Point>),
    /// Anything else.
    Field(fn(Point) -> f32),
}

impl Shape {
    /// The shape of a class; see `classes::NAMES`.
    pub(super) fn of(class: usize) -> Self {
        match class {
            0 => Self::Field(|p| length(p) - 0.85),
            1 => Self::Polygon(regular(4, 0.98, PI / 4.0)),
            2 => Self::Polygon(star(5, 1.0, 0.44)),
            3 => Self::Field(|p| (length(p) - 0.7).abs() - 0.24),
            4 => Self::Polygon(regular(3, 1.0, -PI / 2.0)),
            5 => Self::Polygon(cross(0.95, 0.31)),
            6 => Self::Polygon(heart()),
            7 => Self::Polygon(regular(6, 0.95, 0.0)),
            8 => Self::Field(|p| (length(p) - 0.92).max(0.74 - length([p[0] - 0.42, p[1]]))),
            9 => Self::Field(|p| 0.75 * (length(p) - 0.66 - 0.28 * (5.0 * p[1].atan2(p[0])).cos())),
            10 => Self::Polygon(vec![
                [1.0, 0.0],
                [0.2, 0.75],
                [0.2, 0.3],
                [-0.95, 0.3],
                [-0.95, -0.3],
                [0.2, -0.3],
                [0.2, -0.75],
            ]),
            11 => Self::Field(|p| (length([p[0], p[1] + 0.4]) - 0.95).max(-p[1] - 0.4)),
            12 => Self::Polygon(vec![[1.0, 0.0], [0.0, 0.48], [-1.0, 0.0], [0.0, -0.48]]),
            13 => Self::Polygon(gear()),
            14 => Self::Field(drop_shape),
            15 => Self::Polygon(vec![
                [0.9, 0.0],
                [0.3, 0.87],
                [-0.45, 0.87],
                [0.1, 0.0],
                [-0.45, -0.87],
                [0.3, -0.87],
            ]),
            16 => Self::Field(|p| {
                let ends = length([p[0].abs() - 0.6, p[1]]) - 0.38;
                ends.min((p[0].abs() - 0.6).max(p[1].abs() - 0.14))
            }),
            17 => Self::Field(|p| (length(p) - 0.92).max(notch(p))),
            18 => Self::Polygon(vec![
                [-0.65, -0.75],
                [-0.15, -0.75],
                [-0.15, 0.22],
                [0.7, 0.22],
                [0.7, 0.7],
                [-0.65, 0.7],
            ]),
            _ => Self::Polygon(star(6, 1.0, 0.3)),
        }
    }

    /// Signed distance of a point.
    pub(super) fn distance(&self, point: Point) -> f32 {
        match self {
            Self::Polygon(points) => polygon(points, point),
            Self::Field(field) => field(point),
        }
    }
}

fn length(p: Point) -> f32 {
    p[0].hypot(p[1])
}

/// Positive in the wedge's mouth, 40 degrees to either side of the x axis.
fn notch(p: Point) -> f32 {
    p[0] * 0.643 - p[1].abs() * 0.766
}

fn drop_shape(p: Point) -> f32 {
    let round = length([p[0], p[1] - 0.38]) - 0.58;
    let tip = (p[0].abs() * 0.87 - (p[1] + 0.95) * 0.49).max(p[1] - 0.1);
    round.min(tip)
}

fn polygon(points: &[Point], p: Point) -> f32 {
    let mut nearest = f32::INFINITY;
    let mut inside = false;
    let mut from = points[points.len() - 1];
    for &to in points {
        let edge = [to[0] - from[0], to[1] - from[1]];
        let offset = [p[0] - from[0], p[1] - from[1]];
        let along =
            (offset[0] * edge[0] + offset[1] * edge[1]) / (edge[0] * edge[0] + edge[1] * edge[1]);
        let along = along.clamp(0.0, 1.0);
        let away = [offset[0] - edge[0] * along, offset[1] - edge[1] * along];
        nearest = nearest.min(away[0] * away[0] + away[1] * away[1]);
        if (from[1] > p[1]) != (to[1] > p[1]) && p[0] < from[0] + edge[0] * offset[1] / edge[1] {
            inside = !inside;
        }
        from = to;
    }
    if inside { -nearest.sqrt() } else { nearest.sqrt() }
}

fn at(radius: f32, angle: f32) -> Point {
    [radius * angle.cos(), radius * angle.sin()]
}

fn regular(corners: u32, radius: f32, turn: f32) -> Vec<Point> {
    (0..corners).map(|corner| at(radius, turn + TAU * corner as f32 / corners as f32)).collect()
}

fn star(arms: u32, outer: f32, inner: f32) -> Vec<Point> {
    let angle = |corner: u32| PI * corner as f32 / arms as f32 - PI / 2.0;
    (0..arms * 2)
        .map(|corner| at(if corner % 2 == 0 { outer } else { inner }, angle(corner)))
        .collect()
}

fn cross(a: f32, b: f32) -> Vec<Point> {
    vec![
        [b, -a],
        [b, -b],
        [a, -b],
        [a, b],
        [b, b],
        [b, a],
        [-b, a],
        [-b, b],
        [-a, b],
        [-a, -b],
        [-b, -b],
        [-b, -a],
    ]
}

fn heart() -> Vec<Point> {
    let point = |step: u32| {
        let t = TAU * step as f32 / 28.0;
        let x = 16.0 * t.sin().powi(3);
        let y = 13.0 * t.cos() - 5.0 * (2.0 * t).cos() - 2.0 * (3.0 * t).cos() - (4.0 * t).cos();
        [x / 17.5, -(y + 2.5) / 17.5]
    };
    (0..28).map(point).collect()
}

fn gear() -> Vec<Point> {
    let corner = |step: u32| {
        let radius = if step % 4 < 2 { 0.98 } else { 0.68 };
        at(radius, TAU * step as f32 / 32.0)
    };
    (0..32).map(corner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_an_inside_of_some_size_and_stays_within_its_circle() {
        for class in 0..super::super::classes::NAMES.len() {
            let shape = Shape::of(class);
            let (mut inside, mut total) = (0, 0);
            for row in -30..=30 {
                for column in -30..=30 {
                    let p = [column as f32 / 20.0, row as f32 / 20.0];
                    let within = shape.distance(p) < 0.0;
                    assert!(!within || length(p) <= 1.06, "class {class} at {p:?}");
                    inside += u32::from(within);
                    total += 1;
                }
            }
            let share = f64::from(inside) / f64::from(total);
            assert!((0.08..0.40).contains(&share), "class {class} covers {share}");
        }
    }
}
