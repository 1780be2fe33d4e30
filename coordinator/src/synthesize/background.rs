//! What lies behind the object: two or three colours in a pattern, roughened by noise.

use std::f32::consts::TAU;

use convoy_common::random::Random;

use super::colour::{Colour, any, between, mix, scale};
use super::shapes::Point;

/// Smooth noise: random numbers on a lattice, blended in between.
pub(super) struct Noise {
    lattice: [f32; Self::SIDE * Self::SIDE],
}

impl Noise {
    const SIDE: usize = 16;
    const SHIFT: f32 = 256.0;

    /// Draws the lattice.
    pub(super) fn draw(random: &mut Random) -> Self {
        Self { lattice: std::array::from_fn(|_| random.unit() as f32) }
    }

    /// Noise of 0 to 1 whose features are one unit wide.
    fn smooth(&self, x: f32, y: f32) -> f32 {
        // Shifted so far that cutting off is rounding down; the shift is whole turns of the lattice.
        let (x, y) = (x + Self::SHIFT, y + Self::SHIFT);
        let (left, top) = (x as usize, y as usize);
        let fade = |t: f32| t * t * (3.0 - 2.0 * t);
        let (fx, fy) = (fade(x - left as f32), fade(y - top as f32));
        let value = |dx: usize, dy: usize| {
            self.lattice[(top + dy) % Self::SIDE * Self::SIDE + (left + dx) % Self::SIDE]
        };
        let upper = value(0, 0) + (value(1, 0) - value(0, 0)) * fx;
        let lower = value(0, 1) + (value(1, 1) - value(0, 1)) * fx;
        upper + (lower - upper) * fy
    }

    /// Noise of 0 to 1 with features of one unit, and finer ones within.
    pub(super) fn layered(&self, x: f32, y: f32) -> f32 {
        0.57 * self.smooth(x, y)
            + 0.29 * self.smooth(2.03 * x + 3.7, 2.03 * y + 1.3)
            + 0.14 * self.smooth(4.1 * x + 7.1, 4.1 * y + 5.9)
    }
}

/// A background with all its choices made.
pub(super) struct Background {
    pattern: Pattern,
    colours: [Colour; 3],
    direction: Point,
    frequency: f32,
    middle: Point,
    roughness: f32,
    grain: f32,
    noise: Noise,
}

enum Pattern {
    Gradient,
    Glow,
    Clouds,
    Bands,
    Patches,
}

impl Background {
    /// Draws one; nothing in it depends on the class.
    pub(super) fn draw(random: &mut Random) -> Self {
        let pattern = match random.below(5) {
            0 => Pattern::Gradient,
            1 => Pattern::Glow,
            2 => Pattern::Clouds,
            3 => Pattern::Bands,
            _ => Pattern::Patches,
        };
        let angle = between(random, 0.0, TAU);
        Self {
            pattern,
            colours: [any(random), any(random), any(random)],
            direction: [angle.cos(), angle.sin()],
            frequency: between(random, 1.5, 5.0),
            middle: [between(random, -0.6, 0.6), between(random, -0.6, 0.6)],
            roughness: between(random, 0.1, 0.5),
            grain: between(random, 5.0, 16.0),
            noise: Noise::draw(random),
        }
    }

    /// Its colour at a point, in units of the shorter side from the picture's centre.
    pub(super) fn colour(&self, p: Point) -> Colour {
        let along = p[0] * self.direction[0] + p[1] * self.direction[1];
        let [a, b, c] = self.colours;
        let base = match self.pattern {
            Pattern::Gradient => mix(a, b, (along + 0.5).clamp(0.0, 1.0)),
            Pattern::Glow => {
                let away = [p[0] - self.middle[0], p[1] - self.middle[1]];
                let far = (away[0] * away[0] + away[1] * away[1]).sqrt();
                mix(a, b, (far * 1.4).min(1.0))
            }
            Pattern::Clouds => {
                let thick = self.noise.layered(p[0] * self.frequency, p[1] * self.frequency);
                mix(mix(a, b, (thick * 2.4 - 0.7).clamp(0.0, 1.0)), c, p[1].abs() * 0.4)
            }
            Pattern::Bands => {
                let wave = (TAU * along * self.frequency * 0.7).sin();
                mix(a, mix(a, b, 0.6), (wave * 2.0 + 0.5).clamp(0.0, 1.0))
            }
            Pattern::Patches => {
                let height = self.noise.smooth(p[0] * self.frequency, p[1] * self.frequency);
                let sharp = |level: f32| ((height - level) * 30.0).clamp(0.0, 1.0);
                mix(mix(a, b, sharp(0.4)), c, sharp(0.62))
            }
        };
        let rough = self.noise.layered(p[0] * self.grain + 9.0, p[1] * self.grain + 4.0) - 0.5;
        scale(base, 1.0 + self.roughness * rough * 2.0)
    }
}
