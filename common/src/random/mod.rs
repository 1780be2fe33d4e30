//! The one source of everything random: a generator without state.
//!
//! [`Random`] is a pure function of (seed, stream, epoch, step, sample). Any worker, lane or
//! thread can therefore draw any number again at any time: nothing random is ever shipped, stored
//! in a checkpoint, or dependent on who asks first. That is what makes a resumed run the same run.
//!
//! ```text
//!   seed, stream, epoch ──(bijection of 64 bits for each seed)──> key, 64 bits
//!   step (32), sample (64), block (32) ───────────────────────> counter, 128 bits
//!                          Philox4x32-10(key, counter) ──> four words; block counts them
//! ```
//!
//! Nothing overlaps, and within a run this is certain, not just likely. For one seed, no two pairs
//! of (stream, epoch) have the same key, because the key is a bijection of them. Under one key,
//! Philox is a bijection of the counter, and the counter is written out of (step, sample, block)
//! without loss. Two seeds can share keys only by chance (one in 2^64 for each pair).
//!
//! | stream | epoch | step | sample | what is drawn |
//! |---|---|---|---|---|
//! | [`Order`](Stream::Order) | yes | | | the epoch's order of samples and shards, see [`crate::sampling`] |
//! | [`Crop`](Stream::Crop) | yes | yes | index in the split | where the crop lies: x, then y |
//! | [`Flip`](Stream::Flip) | yes | yes | index in the split | whether the image is mirrored |
//! | [`Colour`](Stream::Colour) | yes | yes | index in the split | shift of the colours: three normals |
//! | [`DropoutFc6`](Stream::DropoutFc6) | yes | yes | index in the split | mask of fc6 |
//! | [`DropoutFc7`](Stream::DropoutFc7) | yes | yes | index in the split | mask of fc7 |
//! | [`Weights`](Stream::Weights) | 0 | 0 | number of the tensor | initial weights |
//! | [`Drawing`](Stream::Drawing) | 0 | 0 | number of the image | synthetic images |
//! | [`Rehearsal`](Stream::Rehearsal) | 0 | 0 | number of the round | faults of a drill |
//!
//! Words are 32 bits; a 64-bit draw takes two, low half first. All arithmetic is in integers, or in
//! basic `f64` operations that IEEE 754 defines to the last bit, so that every machine draws the
//! same numbers.

mod normal;
mod philox;

pub(crate) use philox::{Key, philox4x32};

use philox::Counter;

/// Words of one block.
const BLOCK: usize = 4;

/// Words that [`Random::fill_normal`] turns into normals at a time; even, so that pairs stay whole.
const CHUNK: usize = 256;

/// What a draw is for. The numbers are part of what a run record means: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Stream {
    /// The order of samples in an epoch.
    Order = 1,
    /// Place of the training crop.
    Crop = 2,
    /// Horizontal flip.
    Flip = 3,
    /// Colour shift.
    Colour = 4,
    /// Dropout mask of fc6.
    DropoutFc6 = 5,
    /// Dropout mask of fc7.
    DropoutFc7 = 6,
    /// Initial weights; `sample` is the tensor's number.
    Weights = 7,
    /// Synthetic images.
    Drawing = 8,
    /// Faults that a drill inflicts.
    Rehearsal = 9,
}

impl Stream {
    /// Every stream.
    pub const ALL: [Self; 9] = [
        Self::Order,
        Self::Crop,
        Self::Flip,
        Self::Colour,
        Self::DropoutFc6,
        Self::DropoutFc7,
        Self::Weights,
        Self::Drawing,
        Self::Rehearsal,
    ];
}

/// The numbers of one (seed, stream, epoch, step, sample), from the first on.
///
/// Draws may be mixed freely. How a fill is split makes no difference: two fills of 3 and 5 give
/// what one of 8 gives. There are 2^34 words; after those it starts over.
#[derive(Clone, Debug)]
pub struct Random {
    key: Key,
    /// Of the next block; word 0 counts blocks.
    counter: Counter,
    block: [u32; BLOCK],
    /// Words of `block` that are gone.
    used: usize,
    /// The second normal of a pair whose first has been drawn.
    spare: Option<f64>,
}

impl Random {
    /// The numbers that belong to these; see the module for what each stream puts in.
    pub fn new(seed: u64, stream: Stream, epoch: u32, step: u32, sample: u64) -> Self {
        Self {
            key: key(seed, stream, epoch),
            counter: [0, sample as u32, (sample >> 32) as u32, step],
            block: [0; BLOCK],
            used: BLOCK,
            spare: None,
        }
    }

    /// One word.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == BLOCK {
            self.block = philox4x32(self.key, self.counter);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        let word = self.block[self.used];
        self.used += 1;
        word
    }

    /// Two words, the first as the low half.
    pub fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        low | u64::from(self.next_u32()) << 32
    }

    /// Uniform in 0..n, each value exactly as likely as any other; 0 when `n` is 0.
    ///
    /// Takes one word, and another one with probability below n / 2^32 (Lemire, "Fast Random
    /// Integer Generation in an Interval", 2019, algorithm 5).
    pub fn below(&mut self, n: u32) -> u32 {
        let mut product = u64::from(self.next_u32()) * u64::from(n);
        if (product as u32) < n {
            // 2^32 mod n: as many of the low halves are one too many.
            let surplus = n.wrapping_neg() % n;
            while (product as u32) < surplus {
                product = u64::from(self.next_u32()) * u64::from(n);
            }
        }
        (product >> 32) as u32
    }

    /// Uniform in [0, 1): a multiple of 2^-53. Takes two words.
    pub fn unit(&mut self) -> f64 {
        const ULP: f64 = 1.0 / (1_u64 << 53) as f64;
        (self.next_u64() >> 11) as f64 * ULP
    }

    /// From N(0, 1), by Box and Muller (1958) in `f64`; at most 6.77 away from 0, because its
    /// uniform numbers have 32 bits. A pair of normals takes two words; the second one is kept for
    /// the next call.
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let words = [self.next_u32(), self.next_u32()];
        let [first, second] = normal::pair(words);
        self.spare = Some(second);
        first
    }

    /// As many words as there is room for: the same that [`Self::next_u32`] would give, but faster.
    pub fn fill_u32(&mut self, out: &mut [u32]) {
        let begun = (BLOCK - self.used).min(out.len());
        let (begun, rest) = out.split_at_mut(begun);
        begun.fill_with(|| self.next_u32());
        let (blocks, rest) = rest.as_chunks_mut::<BLOCK>();
        for block in blocks {
            *block = philox4x32(self.key, self.counter);
            self.counter[0] = self.counter[0].wrapping_add(1);
        }
        rest.fill_with(|| self.next_u32());
    }

    /// As many draws from N(0, std²) as there is room for: what [`Self::normal`] would give, times
    /// `std` in `f64`, rounded to `f32` once.
    pub fn fill_normal(&mut self, out: &mut [f32], std: f32) {
        let std = f64::from(std);
        let kept = usize::from(self.spare.is_some()).min(out.len());
        let (kept, rest) = out.split_at_mut(kept);
        kept.fill_with(|| (self.normal() * std) as f32);
        let (chunks, rest) = rest.as_chunks_mut::<CHUNK>();
        let mut words = [0; CHUNK];
        for out in chunks {
            self.fill_u32(&mut words);
            normal::fill(&words, std, out);
        }
        rest.fill_with(|| (self.normal() * std) as f32);
    }
}

/// The key of a stream in an epoch: distinct for each, whatever the seed.
///
/// `mix` scatters the seed, so that seeds 1 and 2 have nothing in common; xor with (stream, epoch)
/// and another `mix` are bijections of (stream, epoch).
pub(crate) fn key(seed: u64, stream: Stream, epoch: u32) -> Key {
    let key = mix(mix(seed) ^ (u64::from(stream as u32) << 32 | u64::from(epoch)));
    [key as u32, (key >> 32) as u32]
}

/// A bijection of 64 bits in which every bit of the input moves every bit of the output: one step
/// of `SplitMix64` (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests;
