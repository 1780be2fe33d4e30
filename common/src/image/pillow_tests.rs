//! Odd files as they occur, decoded as Pillow does it (`deploy/parity/make_images.py` made both).

use super::*;

/// Largest difference of a channel to Pillow's pixels where every value has a sample of its own.
/// Decoders may round differently in the transform and in the colours.
const FULL: u8 = 3;

/// The same where colours were subsampled: filters differ at edges.
const SHARED: u8 = 24;

/// Mean difference, whatever the sampling.
const MEAN: f64 = 1.0;

macro_rules! fixture {
    ($name:literal) => {
        (
            $name,
            &include_bytes!(concat!("fixtures/", $name, ".jpg"))[..],
            &include_bytes!(concat!("fixtures/", $name, ".rgb"))[..],
        )
    };
}

#[test]
fn inks_greys_and_every_sampling_become_the_colours_that_pillow_gives() {
    for ((name, file, expected), most) in [
        (fixture!("cmyk"), FULL),
        (fixture!("ycck"), FULL),
        (fixture!("cmyk_without_marker"), FULL),
        (fixture!("grey"), FULL),
        (fixture!("rgb_components"), FULL),
        (fixture!("rotated"), SHARED),
        (fixture!("progressive"), SHARED),
        (fixture!("subsampled"), SHARED),
        (fixture!("half_subsampled"), SHARED),
    ] {
        let (size, pixels) = expected.split_at(8);
        let image = decode(file).unwrap();
        let found = [image.width.to_le_bytes(), image.height.to_le_bytes()].concat();
        assert_eq!(found, size, "{name}: its orientation tag is ignored");
        let differences = image.pixels.iter().zip(pixels).map(|(a, b)| a.abs_diff(*b));
        let largest = differences.clone().max().unwrap_or(0);
        let mean = differences.map(f64::from).sum::<f64>() / pixels.len() as f64;
        assert!(largest <= most && mean <= MEAN, "{name}: {largest} at most, {mean:.3} on average");
    }
}
