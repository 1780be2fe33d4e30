//! Real encoders' files in, pixels or a typed error out.

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use proptest::prelude::*;

use super::*;

/// A smooth picture, so that JPEG changes it little.
fn smooth(width: u32, height: u32) -> Rgb8 {
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let across = (x * 200 / width) as u8;
            let down = (y * 200 / height) as u8;
            pixels.extend_from_slice(&[across + 20, down + 30, 220 - across]);
        }
    }
    Rgb8 { width, height, pixels }
}

fn encoded(image: &Rgb8, change: impl FnOnce(&mut Encoder<&mut Vec<u8>>)) -> Vec<u8> {
    encoded_as(&image.pixels, image.width, image.height, ColorType::Rgb, change)
}

fn encoded_as(
    pixels: &[u8],
    width: u32,
    height: u32,
    colour: ColorType,
    change: impl FnOnce(&mut Encoder<&mut Vec<u8>>),
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 95);
    change(&mut encoder);
    encoder.encode(pixels, width as u16, height as u16, colour).unwrap();
    bytes
}

fn png(image: &Rgb8) -> Vec<u8> {
    let picture =
        ::image::RgbImage::from_raw(image.width, image.height, image.pixels.clone()).unwrap();
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ::image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn largest_difference(a: &Rgb8, b: &Rgb8) -> u8 {
    assert_eq!((a.width, a.height), (b.width, b.height));
    a.pixels.iter().zip(&b.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

#[test]
fn baseline_and_progressive_files_with_full_and_shared_chroma_decode_to_what_was_encoded() {
    let image = smooth(97, 61);
    for progressive in [false, true] {
        for sampling in [SamplingFactor::F_1_1, SamplingFactor::F_2_1, SamplingFactor::F_2_2] {
            for restart in [0, 3] {
                let bytes = encoded(&image, |encoder| {
                    encoder.set_progressive(progressive);
                    encoder.set_sampling_factor(sampling);
                    encoder.set_restart_interval(restart);
                });
                let decoded = decode(&bytes).unwrap();
                let difference = largest_difference(&image, &decoded);
                assert!(difference < 16, "{progressive} {sampling:?} {restart}: {difference}");
            }
        }
    }
}

/// One scan per colour is baseline too; some encoders and `cjpeg -scans` write it.
#[test]
fn baseline_files_with_a_scan_for_each_colour_keep_their_colours() {
    for (width, height) in [(256, 256), (97, 61), (200, 17)] {
        let image = smooth(width, height);
        for sampling in [SamplingFactor::F_1_1, SamplingFactor::F_2_1, SamplingFactor::F_2_2] {
            let bytes = encoded(&image, |encoder| {
                encoder.set_sampling_factor(sampling);
                encoder.set_optimized_huffman_tables(true);
            });
            let scans = bytes.windows(2).filter(|pair| *pair == [0xff, 0xda]).count();
            assert_eq!(scans, 3, "the encoder writes what this test is about");
            let difference = largest_difference(&image, &decode(&bytes).unwrap());
            assert!(difference < 16, "{width}x{height} {sampling:?}: {difference}");
        }
    }
}

#[test]
fn what_is_encoded_here_is_one_scan_and_decodes_to_the_same_picture() {
    let image = smooth(256, 256);
    for chroma in [Chroma::Full, Chroma::Quarter] {
        let bytes = encode_jpeg(&image, 90, chroma).unwrap();
        assert_eq!(bytes.windows(2).filter(|pair| *pair == [0xff, 0xda]).count(), 1);
        let difference = largest_difference(&image, &decode(&bytes).unwrap());
        assert!(difference < 16, "{chroma:?}: {difference}");
    }
}

#[test]
fn a_grey_file_becomes_three_equal_channels() {
    let grey: Vec<u8> = (0..40 * 30).map(|place| (place % 40 * 6) as u8).collect();
    let decoded = decode(&encoded_as(&grey, 40, 30, ColorType::Luma, |_| {})).unwrap();
    assert_eq!((decoded.width, decoded.height), (40, 30));
    for (pixel, grey) in decoded.pixels.chunks(3).zip(&grey) {
        assert!(pixel[0] == pixel[1] && pixel[1] == pixel[2]);
        assert!(pixel[0].abs_diff(*grey) < 8);
    }
}

/// Stored inks are inverted, as Adobe writes them: 255 is no ink. So a channel of RGB is the
/// product of its stored ink and the stored black, over 255.
#[test]
fn cmyk_and_ycck_files_are_read_with_inverted_inks() {
    let (width, height) = (48, 32);
    let stored: Vec<u8> = (0..width * height)
        .flat_map(|place| {
            let x = (place % width * 5) as u8;
            [x, 255 - x, 180, 230]
        })
        .collect();
    // The encoder takes inks and inverts them itself.
    let inks: Vec<u8> = stored.iter().map(|&value| 255 - value).collect();
    for colour in [ColorType::Cmyk, ColorType::CmykAsYcck] {
        let bytes = encoded_as(&inks, width, height, colour, |_| {});
        let decoded = decode(&bytes).unwrap();
        for (pixel, stored) in decoded.pixels.chunks(3).zip(stored.chunks(4)) {
            for channel in 0..3 {
                let expected = u32::from(stored[channel]) * u32::from(stored[3]) / 255;
                let difference = u32::from(pixel[channel]).abs_diff(expected);
                assert!(difference < 16, "{colour:?}: {pixel:?} of {stored:?}");
            }
        }
    }
}

#[test]
fn a_png_is_read_by_its_content_whatever_it_is_called() {
    let image = smooth(31, 17);
    assert_eq!(decode(&png(&image)).unwrap(), image);
}

#[test]
fn bytes_behind_the_end_of_a_jpeg_do_no_harm() {
    let image = smooth(64, 64);
    let mut bytes = encoded(&image, |_| {});
    let plain = decode(&bytes).unwrap();
    bytes.extend_from_slice(b"\0\0trailing");
    assert_eq!(decode(&bytes).unwrap(), plain);
}

#[test]
fn a_jpeg_cut_anywhere_is_truncated_and_never_a_half_grey_picture() {
    for progressive in [false, true] {
        let bytes = encoded(&smooth(160, 120), |encoder| encoder.set_progressive(progressive));
        for length in 2..bytes.len() - 1 {
            let outcome = decode(&bytes[..length]);
            assert_eq!(outcome, Err(ImageError::Truncated), "{length} of {}", bytes.len());
        }
    }
}

#[test]
fn a_png_cut_anywhere_is_an_error() {
    let bytes = png(&smooth(64, 48));
    // Behind the pixels only the empty end chunk of 12 bytes follows.
    for length in (8..bytes.len() - 12).step_by(7) {
        assert!(decode(&bytes[..length]).is_err(), "{length} of {}", bytes.len());
    }
    assert_eq!(decode(&bytes[..bytes.len() / 2]), Err(ImageError::Truncated));
}

#[test]
fn what_is_no_picture_says_so() {
    assert_eq!(decode(b""), Err(ImageError::Empty));
    assert_eq!(decode(b"hello, this is text"), Err(ImageError::NotAnImage));
    assert_eq!(decode(&[0xff]), Err(ImageError::NotAnImage));
    let gif = decode(b"GIF89a\x01\0\x01\0");
    assert_eq!(gif, Err(ImageError::Unsupported { what: "GIF".to_owned() }));
}

#[test]
fn an_enormous_picture_is_refused_on_its_header() {
    let limits = Limits { side: 100, pixels: 5_000 };
    for bytes in [encoded(&smooth(80, 70), |_| {}), png(&smooth(80, 70))] {
        let outcome = decode_within(&bytes, limits);
        assert_eq!(outcome, Err(ImageError::TooLarge { width: 80, height: 70, limits }));
    }
    // A header that claims 65,500 pixels a side, in a file of a few hundred bytes.
    let mut bytes = encoded(&smooth(16, 16), |_| {});
    let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    let limits = Limits::default();
    let outcome = decode(&bytes);
    assert_eq!(outcome, Err(ImageError::TooLarge { width: 65_500, height: 65_500, limits }));
}

#[test]
fn lossless_arithmetic_and_12_bit_jpegs_are_unsupported() {
    for marker in [0xc3, 0xc9] {
        let mut bytes = encoded(&smooth(16, 16), |_| {});
        let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        bytes[frame + 1] = marker;
        assert!(matches!(decode(&bytes), Err(ImageError::Unsupported { .. })), "{marker:x}");
        bytes[frame + 1] = 0xc1;
        bytes[frame + 4] = 12;
        assert!(matches!(decode(&bytes), Err(ImageError::Unsupported { .. })));
    }
}

#[test]
fn the_shorter_side_becomes_256_and_the_longer_follows() {
    for ((width, height), expected) in [
        ((512, 384), (341, 256)),
        ((384, 512), (256, 341)),
        ((100, 100), (256, 256)),
        ((256, 700), (256, 700)),
        ((333, 500), (256, 384)),
    ] {
        let scaled = shorter_side_256(smooth(width, height)).unwrap();
        assert_eq!((scaled.width, scaled.height), expected);
        assert_eq!(scaled.pixels.len(), (expected.0 * expected.1 * 3) as usize);
    }
    let outcome = shorter_side_256(Rgb8::new(1, 16_000, vec![0; 48_000]).unwrap());
    assert!(matches!(outcome, Err(ImageError::TooNarrow { .. })));
}

#[test]
fn the_square_alone_is_the_middle_of_the_whole_scaled_picture() {
    let mut decoder = Decoder::new();
    for (width, height) in
        [(500, 375), (375, 500), (256, 300), (301, 256), (256, 256), (90, 61), (1, 1), (700, 2000)]
    {
        let mut image = smooth(width, height);
        let noise = |at: usize| (at.wrapping_mul(2_654_435_761) >> 13) as u8 % 40;
        let noisy = image.pixels.iter().enumerate().map(|(at, it)| it.saturating_sub(noise(at)));
        image.pixels = noisy.collect();
        let bytes = png(&image);
        let expected = centre_crop(&shorter_side_256(image).unwrap(), 256).unwrap();
        let square = decoder.decode(&bytes).unwrap().centre_square(256).unwrap();
        assert_eq!((square.width, square.height), (256, 256));
        let differences = square.pixels.iter().zip(&expected.pixels).map(|(a, b)| a.abs_diff(*b));
        assert!(differences.clone().max() <= Some(1), "{width}x{height}");
        let ones: usize = differences.map(usize::from).sum();
        assert!(ones <= expected.pixels.len() / 200, "{width}x{height}: {ones} values differ");
    }
}

/// Reduction by 2 with a triangle of support 2: weights 1/8, 3/8, 3/8, 1/8, renormalised where the
/// picture ends (3/7, 3/7, 1/7); so says the filter's definition.
#[test]
fn scaling_down_weighs_pixels_with_a_triangle_twice_as_wide() {
    let row: Vec<u8> = [0, 40, 200, 80, 160, 240, 20, 100].to_vec();
    let pixels = row.iter().flat_map(|&v| [v; 3]).collect::<Vec<_>>().repeat(8);
    let scaled = shorter_side(Rgb8::new(8, 8, pixels).unwrap(), 4).unwrap();
    let weigh = |weights: &[f64], values: &[u8]| -> f64 {
        let sum: f64 = weights.iter().sum();
        weights.iter().zip(values).map(|(w, &v)| w / sum * f64::from(v)).sum()
    };
    let expected = [
        weigh(&[3.0, 3.0, 1.0], &row[0..3]),
        weigh(&[1.0, 3.0, 3.0, 1.0], &row[1..5]),
        weigh(&[1.0, 3.0, 3.0, 1.0], &row[3..7]),
        weigh(&[1.0, 3.0, 3.0], &row[5..8]),
    ];
    for (column, expected) in expected.iter().enumerate() {
        let got = f64::from(scaled.pixels[column * 3]);
        assert!((got - expected).abs() <= 1.0, "column {column}: {got} for {expected}");
    }
}

#[test]
fn crops_take_their_pixels_and_refuse_to_leave_the_picture() {
    let image = smooth(10, 8);
    let part = crop(&image, 3, 2, 4).unwrap();
    assert_eq!((part.width, part.height), (4, 4));
    assert_eq!(part.pixels[..12], image.pixels[(2 * 10 + 3) * 3..(2 * 10 + 7) * 3]);
    assert!(matches!(crop(&image, 7, 0, 4), Err(ImageError::OutOfBounds { .. })));
    assert!(matches!(crop(&image, u32::MAX, 0, 4), Err(ImageError::OutOfBounds { .. })));
    assert!(matches!(centre_crop(&image, 9), Err(ImageError::OutOfBounds { .. })));
}

/// torchvision: `int(round((size - crop) / 2))`, and Python rounds halves to even.
#[test]
fn the_centre_is_where_torchvision_puts_it() {
    for (length, side, offset) in [(10, 10, 0), (10, 9, 0), (10, 8, 1), (10, 7, 2), (10, 5, 2)] {
        let image = smooth(length, length);
        let expected = crop(&image, offset, offset, side).unwrap();
        assert_eq!(centre_crop(&image, side).unwrap(), expected, "{side} of {length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn flipped_bytes_give_a_picture_of_the_claimed_size_or_an_error(
        progressive: bool,
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..6),
    ) {
        let mut bytes = encoded(&smooth(70, 50), |encoder| encoder.set_progressive(progressive));
        for (place, flip) in flips {
            let place = place.index(bytes.len());
            bytes[place] ^= flip;
        }
        let limits = Limits { side: 4_096, pixels: 1 << 20 };
        if let Ok(image) = decode_within(&bytes, limits) {
            prop_assert_eq!(image.pixels.len(), (image.width * image.height * 3) as usize);
            prop_assert!(u64::from(image.width) * u64::from(image.height) <= limits.pixels);
        }
    }

    #[test]
    fn any_bytes_behind_a_known_start_give_an_error_and_no_panic(
        start in prop::sample::select(vec![&b"\xff\xd8\xff"[..], b"\x89PNG\r\n\x1a\n", b""]),
        rest in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let bytes = [start, &rest].concat();
        prop_assert!(decode(&bytes).is_err());
    }
}
