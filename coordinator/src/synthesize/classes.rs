//! What the classes are: a shape, a texture and a hue for each.

/// Most classes that can be drawn.
pub(crate) const MOST_CLASSES: u32 = NAMES.len() as u32;

/// Folder names of the classes, after their shapes; the order is that of [`Class::of`].
pub(super) const NAMES: [&str; 20] = [
    "disc",
    "square",
    "star",
    "ring",
    "triangle",
    "cross",
    "heart",
    "hexagon",
    "crescent",
    "flower",
    "arrow",
    "half-disc",
    "rhombus",
    "gear",
    "drop",
    "chevron",
    "dumbbell",
    "wedge",
    "corner",
    "asterisk",
];

/// What makes a class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Class {
    /// Which of the shapes; each class has its own.
    pub(super) shape: usize,
    /// Which of the textures; two classes share one.
    pub(super) texture: usize,
    /// Middle of its hues in degrees; two classes share it.
    pub(super) hue: f32,
}

impl Class {
    /// The class of a number below [`MOST_CLASSES`].
    ///
    /// Classes 2t and 2t + 1 share a texture; c and c + 5 within a ten share a hue.
    pub(super) fn of(number: usize) -> Self {
        let hue = 72.0 * (number % 5) as f32 + 36.0 * (number / 10) as f32;
        Self { shape: number, texture: number / 2, hue }
    }
}
