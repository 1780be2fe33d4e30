//! Colours as red, green and blue in 0 to 1, in sRGB throughout.

use convoy_common::random::Random;

/// Red, green and blue, each 0 to 1.
pub(super) type Colour = [f32; 3];

/// A colour from hue (degrees), saturation and value (0 to 1 each).
pub(super) fn hsv(hue: f32, saturation: f32, value: f32) -> Colour {
    let channel = |offset: f32| {
        let k = (offset + hue.rem_euclid(360.0) / 60.0) % 6.0;
        value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

/// From `a` at 0 to `b` at 1.
pub(super) fn mix(a: Colour, b: Colour, share: f32) -> Colour {
    std::array::from_fn(|channel| a[channel] + (b[channel] - a[channel]) * share)
}

/// Brighter or darker by a factor.
pub(super) fn scale(colour: Colour, factor: f32) -> Colour {
    colour.map(|channel| channel * factor)
}

/// A number between two others, evenly drawn.
pub(super) fn between(random: &mut Random, low: f32, high: f32) -> f32 {
    low + (high - low) * random.unit() as f32
}

/// Any colour at all, for what must not tell of the class.
pub(super) fn any(random: &mut Random) -> Colour {
    let hue = between(random, 0.0, 360.0);
    let saturation = between(random, 0.05, 0.85);
    hsv(hue, saturation, between(random, 0.15, 0.95))
}
