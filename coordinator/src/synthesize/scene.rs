//! One picture: a background, clutter, the object, a little clutter before it, light and noise.
//!
//! Lengths are in units of the picture's shorter side, from its centre, so that the central square
//! that training sees is -0.5 to 0.5 both ways; the object lies within it.

use std::f32::consts::TAU;

use convoy_common::dataset::Split;
use convoy_common::image::{Chroma, ImageError, Rgb8, encode_jpeg};
use convoy_common::random::{Random, Stream};

use super::background::Background;
use super::classes::Class;
use super::colour::{Colour, any, between, hsv, mix, scale};
use super::shapes::{Point, Shape};
use super::textures::Texture;

/// Draws and encodes one picture.
pub(super) fn draw(
    seed: u64,
    split: Split,
    number: u64,
    class: usize,
) -> Result<Vec<u8>, ImageError> {
    let epoch = match split {
        Split::Train => 0,
        Split::Validation => 1,
    };
    let mut random = Random::new(seed, Stream::Drawing, epoch, 0, number);
    let random = &mut random;
    let (width, height) = (200 + random.below(301), 200 + random.below(301));
    let image = Scene::draw(random, class).render(random, width, height);
    let quality = 65 + random.below(31) as u8;
    let chroma = if random.below(4) == 0 { Chroma::Full } else { Chroma::Quarter };
    encode_jpeg(&image, quality, chroma)
}

struct Scene {
    background: Background,
    behind: Vec<Clutter>,
    object: Object,
    before: Vec<Clutter>,
    light: Light,
}

impl Scene {
    fn draw(random: &mut Random, class: usize) -> Self {
        let background = Background::draw(random);
        let behind = (0..3 + random.below(6)).map(|_| Clutter::draw(random)).collect();
        let object = Object::draw(random, Class::of(class));
        let before = (0..random.below(3)).map(|_| Clutter::draw(random)).collect();
        Self { background, behind, object, before, light: Light::draw(random) }
    }

    fn render(&self, random: &mut Random, width: u32, height: u32) -> Rgb8 {
        let pixels_per_unit = width.min(height) as f32;
        let mut pixels = Vec::with_capacity(width as usize * height as usize * 3);
        for row in 0..height {
            for column in 0..width {
                let p = [
                    (column as f32 + 0.5 - width as f32 / 2.0) / pixels_per_unit,
                    (row as f32 + 0.5 - height as f32 / 2.0) / pixels_per_unit,
                ];
                let mut colour = self.background.colour(p);
                for clutter in &self.behind {
                    colour = clutter.over(colour, p, pixels_per_unit);
                }
                colour = self.object.over(colour, p, pixels_per_unit);
                for clutter in &self.before {
                    colour = clutter.over(colour, p, pixels_per_unit);
                }
                pixels.extend_from_slice(&self.light.expose(colour, random));
            }
        }
        Rgb8 { width, height, pixels }
    }
}

/// How much of a pixel lies within an outline at a signed distance, for smooth edges.
fn coverage(distance: f32, pixels_per_unit: f32) -> f32 {
    (0.5 - distance * pixels_per_unit).clamp(0.0, 1.0)
}

/// Turns a vector by the angle of (cosine, sine), backwards.
fn unturn(p: Point, (cosine, sine): (f32, f32)) -> Point {
    [p[0] * cosine + p[1] * sine, p[1] * cosine - p[0] * sine]
}

/// What makes the class.
struct Object {
    shape: Shape,
    texture: Texture,
    colours: [Colour; 2],
    middle: Point,
    radius: f32,
    turn: (f32, f32),
    stretch: f32,
    shade: Point,
    shadow: Point,
}

impl Object {
    fn draw(random: &mut Random, class: Class) -> Self {
        let radius = between(random, 0.3, 0.65) / 2.0;
        let room = 0.5 - 0.92 * radius;
        let angle = between(random, 0.0, TAU);
        let hue = class.hue + between(random, -13.0, 13.0);
        let main = hsv(hue, between(random, 0.6, 1.0), between(random, 0.6, 1.0));
        // The second colour is a dark or a pale one of about the same hue.
        let other = hue + between(random, -10.0, 10.0);
        let second = if random.below(2) == 0 {
            hsv(other, between(random, 0.6, 1.0), between(random, 0.12, 0.35))
        } else {
            hsv(other, between(random, 0.05, 0.3), between(random, 0.85, 1.0))
        };
        let light = between(random, 0.0, TAU);
        let strength = between(random, 0.0, 0.25);
        let shadow = between(random, 0.0, 0.12);
        Self {
            shape: Shape::of(class.shape),
            texture: Texture::draw(class.texture, random),
            colours: [main, second],
            middle: [between(random, -room, room), between(random, -room, room)],
            radius,
            turn: (angle.cos(), angle.sin()),
            stretch: between(random, 0.85, 1.15),
            shade: [strength * light.cos(), strength * light.sin()],
            shadow: [shadow * light.cos(), shadow * light.sin()],
        }
    }

    fn over(&self, under: Colour, p: Point, pixels_per_unit: f32) -> Colour {
        let offset = [(p[0] - self.middle[0]) / self.radius, (p[1] - self.middle[1]) / self.radius];
        if offset[0] * offset[0] + offset[1] * offset[1] > 2.5 {
            return under;
        }
        let own = |offset: Point| {
            let turned = unturn(offset, self.turn);
            [turned[0] * self.stretch, turned[1] / self.stretch]
        };
        let pixels = pixels_per_unit * self.radius;
        let cast = [offset[0] + self.shadow[0], offset[1] + self.shadow[1]];
        let dark = coverage(self.shape.distance(own(cast)), pixels * 0.15);
        let under = scale(under, 1.0 - 0.4 * dark);
        let at = own(offset);
        let share = coverage(self.shape.distance(at), pixels);
        if share == 0.0 {
            return under;
        }
        let paint = mix(self.colours[0], self.colours[1], self.texture.share(at));
        let lit = 1.0 + offset[0] * self.shade[0] + offset[1] * self.shade[1];
        mix(under, scale(paint, lit), share)
    }
}

/// Something that is there and means nothing: a line, a spot, a scrap.
struct Clutter {
    kind: u32,
    middle: Point,
    turn: (f32, f32),
    size: Point,
    colour: Colour,
}

impl Clutter {
    fn draw(random: &mut Random) -> Self {
        let kind = random.below(3);
        let size = match kind {
            0 => [between(random, 0.1, 0.5), between(random, 0.003, 0.012)],
            1 => [between(random, 0.015, 0.06); 2],
            _ => [between(random, 0.02, 0.09), between(random, 0.015, 0.06)],
        };
        let angle = between(random, 0.0, TAU);
        Self {
            kind,
            middle: [between(random, -0.8, 0.8), between(random, -0.8, 0.8)],
            turn: (angle.cos(), angle.sin()),
            size,
            colour: any(random),
        }
    }

    fn over(&self, under: Colour, p: Point, pixels_per_unit: f32) -> Colour {
        let offset = [p[0] - self.middle[0], p[1] - self.middle[1]];
        let reach = self.size[0] + self.size[1] + 0.01;
        if offset[0].abs() > reach || offset[1].abs() > reach {
            return under;
        }
        let at = unturn(offset, self.turn);
        let distance = match self.kind {
            1 => at[0].hypot(at[1]) - self.size[0],
            _ => (at[0].abs() - self.size[0]).max(at[1].abs() - self.size[1]),
        };
        mix(under, self.colour, coverage(distance, pixels_per_unit))
    }
}

/// Brightness, contrast, a cast of colour, and the sensor's noise.
struct Light {
    gain: Colour,
    lift: f32,
    noise: f32,
}

impl Light {
    fn draw(random: &mut Random) -> Self {
        let contrast = between(random, 0.75, 1.15);
        let cast = |random: &mut Random| contrast * between(random, 0.94, 1.06);
        let gain = [cast(random), cast(random), cast(random)];
        let brightness = between(random, -0.1, 0.1);
        let noise = between(random, 0.0, 0.045);
        Self { gain, lift: 0.5 - 0.5 * contrast + brightness, noise }
    }

    fn expose(&self, colour: Colour, random: &mut Random) -> [u8; 3] {
        // The sum of four bytes is close enough to a bell: mean 510, deviation 147.8.
        let bits = random.next_u32().to_le_bytes();
        let sum: u32 = bits.iter().map(|&byte| u32::from(byte)).sum();
        let bright = (sum as f32 - 510.0) / 147.8 * self.noise;
        std::array::from_fn(|channel| {
            let tint = (f32::from(bits[channel]) - 127.5) / 73.9 * self.noise * 0.5;
            let value = colour[channel] * self.gain[channel] + self.lift + bright + tint;
            (value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8
        })
    }
}
