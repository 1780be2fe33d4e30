//! Decoding, scaling and cropping against PIL and torchvision, on the pictures that
//! `deploy/parity/make_pictures.py` made.
//!
//! Not bit for bit: decoders round their transforms and the colours' conversion, and interpolate
//! shared chroma, each in its own way. The tolerances below are those that Convoy states.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::PathBuf;

use convoy_common::image::{Decoder, Rgb8, centre_crop, decode, shorter_side_256};
use serde_json::Value;

/// Places whose values are compared.
const SAMPLES: u32 = 256;

/// How far values may be apart, in units of 0 to 255.
#[derive(Clone, Copy)]
struct Tolerance {
    largest: u32,
    mean: f64,
}

/// Whatever the file.
const ANY: Tolerance = Tolerance { largest: 4, mean: 0.5 };
/// For pixels that are in the file as they are.
const EXACT: Tolerance = Tolerance { largest: 0, mean: 0.0 };
/// The same, scaled.
const SCALED: Tolerance = Tolerance { largest: 1, mean: 0.1 };

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures")
}

/// The `lowbias32` hash of C. Wellons.
fn mix(x: u32) -> u32 {
    let x = (x ^ x >> 16).wrapping_mul(0x7feb_352d);
    let x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
    x ^ x >> 16
}

/// Largest and mean difference of the chosen values.
fn compare(found: &Rgb8, expected: &Value, tolerance: Tolerance, what: &str) {
    let number = |name: &str| expected[name].as_u64().unwrap();
    assert_eq!(
        (u64::from(found.width), u64::from(found.height)),
        (number("width"), number("height"))
    );
    let values = expected["values"].as_array().unwrap();
    assert_eq!(values.len() as u32, SAMPLES);
    let differences: Vec<u32> = (0..SAMPLES)
        .zip(values)
        .map(|(number, value)| {
            let place = mix(number) as usize % found.pixels.len();
            u32::from(found.pixels[place]).abs_diff(value.as_u64().unwrap() as u32)
        })
        .collect();
    let largest = *differences.iter().max().unwrap();
    let mean = f64::from(differences.iter().sum::<u32>()) / f64::from(SAMPLES);
    assert!(largest <= tolerance.largest, "{what}: {largest} apart");
    assert!(mean <= tolerance.mean, "{what}: {mean} apart in the mean");
    for (channel, expected) in expected["means"].as_array().unwrap().iter().enumerate() {
        let sum: u64 = found.pixels.iter().skip(channel).step_by(3).map(|&it| u64::from(it)).sum();
        let mean = sum as f64 / (found.pixels.len() / 3) as f64;
        let apart = (mean - expected.as_f64().unwrap()).abs();
        assert!(apart <= tolerance.mean + 1e-4, "{what}: channel {channel} {apart} apart");
    }
}

#[test]
fn pictures_are_decoded_scaled_and_cropped_as_pil_and_torchvision_do() {
    let expected: Value =
        serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap();
    let pictures = expected["pictures"].as_object().unwrap();
    assert_eq!(pictures.len(), 8);
    let mut decoder = Decoder::new();
    for (name, steps) in pictures {
        let bytes = std::fs::read(folder().join(name)).unwrap();
        let exact = name.ends_with(".png");
        let (plain, scaled) = if exact { (EXACT, SCALED) } else { (ANY, ANY) };
        let picture = decode(&bytes).unwrap();
        compare(&picture, &steps["decoded"], plain, &format!("{name}, decoded"));
        let picture = shorter_side_256(picture).unwrap();
        compare(&picture, &steps["scaled"], scaled, &format!("{name}, scaled"));
        // The decoder of the pipeline does the same in its own memory.
        let again = decoder.decode(&bytes).unwrap().scale(256).unwrap();
        assert_eq!((again.width, again.height), (picture.width, picture.height));
        assert!(again.pixels == picture.pixels, "{name}");
        let centre = centre_crop(&picture, 256).unwrap();
        compare(&centre, &steps["centre"], scaled, &format!("{name}, centre"));
    }
}
