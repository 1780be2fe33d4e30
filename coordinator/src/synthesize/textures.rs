//! The textures: how much of the second colour there is at a point of the object, 0 to 1.

use std::f32::consts::TAU;

use convoy_common::random::Random;

use super::background::Noise;
use super::colour::between;
use super::shapes::Point;

/// A texture with its scale and phase drawn.
pub(super) struct Texture {
    kind: usize,
    frequency: f32,
    phase: Point,
    noise: Noise,
}

impl Texture {
    /// The texture of a kind (0 to 9) at a drawn scale.
    pub(super) fn draw(kind: usize, random: &mut Random) -> Self {
        let frequency = between(random, 0.8, 1.25);
        let phase = [between(random, 0.0, 1.0), between(random, 0.0, 1.0)];
        Self { kind, frequency, phase, noise: Noise::draw(random) }
    }

    /// Share of the second colour at a point of the shape's frame.
    pub(super) fn share(&self, p: Point) -> f32 {
        let f = self.frequency;
        let [x, y] = [p[0] * f + self.phase[0], p[1] * f + self.phase[1]];
        match self.kind {
            // Bars.
            0 => edge(wave(x * 2.6)),
            // A chessboard.
            1 => edge(wave(x * 1.5) * wave(y * 1.5)),
            // Dots.
            2 => {
                let cell = |v: f32| (v * 3.0).rem_euclid(1.0) - 0.5;
                edge(2.0 - 6.0 * cell(x).hypot(cell(y)))
            }
            // Rings around the middle.
            3 => edge(wave(p[0].hypot(p[1]) * f * 2.6 + self.phase[0])),
            // Marble.
            4 => edge(6.0 * (self.noise.layered(x * 2.5, y * 2.5) - 0.5)),
            // Zigzag bars.
            5 => edge(wave(y * 2.4 + 0.8 * ((x * 3.0).rem_euclid(1.0) - 0.5).abs())),
            // A grid of thin lines.
            6 => edge(1.6 * wave(x * 3.0).max(wave(y * 3.0)) - 1.0),
            // Plain, with its middle lit.
            7 => 0.8 * (1.0 - p[0].hypot(p[1])).clamp(0.0, 1.0),
            // Rays.
            8 => edge(wave(p[1].atan2(p[0]) / TAU * 9.0 + self.phase[0])),
            // Bricks.
            _ => {
                let row = (y * 3.2).floor();
                let mortar_x = wave((x + 0.25 * row) * 2.0);
                let mortar_y = wave(y * 3.2);
                edge(4.0 * mortar_x.max(mortar_y) - 3.4)
            }
        }
    }
}

fn wave(cycles: f32) -> f32 {
    (TAU * cycles).cos()
}

/// A soft step from 0 to 1 around zero.
fn edge(value: f32) -> f32 {
    (value * 3.0 + 0.5).clamp(0.0, 1.0)
}
