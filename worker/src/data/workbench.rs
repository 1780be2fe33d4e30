//! What a decode thread does to one image, in memory that it keeps for the next.

use convoy_common::dataset::{Encoded, Encoding};
use convoy_common::image::Decoder;

use super::augment::{self, STORED_SIDE, Treatment};
use super::error::Unusable;

/// A part of the work on an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// From the file's bytes to pixels; raw pixels have no such part.
    Decode,
    /// To a shorter side of 256; nothing for a picture that has it.
    Resize,
    /// From pixels to the net's input.
    Augment,
}

/// The buffers of one thread.
#[derive(Debug, Default)]
pub(crate) struct Workbench {
    decoder: Decoder,
}

impl Workbench {
    /// Writes the window of one image into `out` (`3 x side x side`), and tells `done` when each part
    /// of the work is.
    ///
    /// A file is decoded, and resized if its shorter side is not 256; raw pixels are taken as they
    /// are.
    pub(super) fn write(
        &mut self,
        image: &Encoded,
        treatment: Treatment,
        mean: &[f32],
        out: &mut [f32],
        mut done: impl FnMut(Work),
    ) -> Result<(), Unusable> {
        let side = STORED_SIDE as u32;
        match image.encoding {
            Encoding::Raw256 => {
                augment::write_window(&image.bytes, (side, side), treatment, mean, out)?;
            }
            Encoding::Jpeg256 | Encoding::Original => {
                let decoded = self.decoder.decode(&image.bytes)?;
                done(Work::Decode);
                let picture = decoded.scale(side)?;
                done(Work::Resize);
                let size = (picture.width, picture.height);
                augment::write_window(picture.pixels, size, treatment, mean, out)?;
            }
        }
        done(Work::Augment);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use convoy_common::image::{Chroma, Rgb8, centre_crop, decode, encode_jpeg, shorter_side_256};
    use convoy_common::random::{Random, Stream};

    use super::super::augment::{MEAN_VALUES, Window, image_values};
    use super::*;

    const WHOLE: Treatment = Treatment {
        window: Window { x: 0, y: 0, flip: false },
        side: STORED_SIDE,
        shift: [0.0; 3],
        pixel_scale: 1.0,
    };

    fn noise(number: u64, width: u32, height: u32) -> Rgb8 {
        let mut random = Random::new(number, Stream::Drawing, 0, 0, 0);
        let mut pixels = vec![0; (width * height * 3) as usize];
        pixels.iter_mut().enumerate().for_each(|(at, it)| {
            *it = ((at / 3) as u32 % width * 190 / width) as u8 + (random.next_u32() % 64) as u8;
        });
        Rgb8 { width, height, pixels }
    }

    fn jpeg(number: u64, width: u32, height: u32) -> Encoded {
        let bytes = encode_jpeg(&noise(number, width, height), 90, Chroma::Quarter).unwrap();
        Encoded { bytes: Bytes::from(bytes), label: 0, encoding: Encoding::Original }
    }

    fn write(workbench: &mut Workbench, image: &Encoded) -> (Result<(), Unusable>, Vec<f32>) {
        let mut out = vec![f32::NAN; image_values(STORED_SIDE)];
        let written = workbench.write(image, WHOLE, &[0.0; MEAN_VALUES], &mut out, |_| ());
        (written, out)
    }

    /// The centre square, channel by channel.
    fn planes(picture: &Rgb8) -> Vec<f32> {
        let pixels = |channel| picture.pixels.iter().skip(channel).step_by(3);
        (0..3).flat_map(pixels).map(|it| f32::from(*it)).collect()
    }

    #[test]
    fn a_picture_comes_out_the_same_whatever_came_before_it() {
        let mut workbench = Workbench::default();
        let sizes = [(500, 375), (256, 256), (300, 700), (259, 256), (80, 90), (256, 263)];
        for (number, (width, height)) in sizes.into_iter().enumerate() {
            let image = jpeg(number as u64, width, height);
            let mut damaged = image.clone();
            damaged.bytes = damaged.bytes.slice(..damaged.bytes.len() * 2 / 3);
            assert!(write(&mut workbench, &damaged).0.is_err());
            let (written, out) = write(&mut workbench, &image);
            written.unwrap();
            let picture = shorter_side_256(decode(&image.bytes).unwrap()).unwrap();
            assert!(out == planes(&centre_crop(&picture, 256).unwrap()), "{width}x{height}");
        }
    }

    #[test]
    fn damaged_files_leave_nothing_behind_of_the_picture_before() {
        let mut random = Random::new(9, Stream::Drawing, 0, 0, 0);
        let mut used = Workbench::default();
        let mut differ = 0;
        for number in 0..60 {
            let whole = jpeg(number, 256, 256);
            write(&mut used, &whole).0.unwrap();
            let mut bytes = whole.bytes.to_vec();
            for _ in 0..3 {
                let place = random.below(bytes.len() as u32) as usize;
                bytes[place] = random.next_u32() as u8;
            }
            let damaged = Encoded { bytes: Bytes::from(bytes), ..whole };
            let (first, from_used) = write(&mut used, &damaged);
            let (second, from_new) = write(&mut Workbench::default(), &damaged);
            assert_eq!(first.is_ok(), second.is_ok());
            if first.is_ok() {
                assert!(from_used == from_new, "picture {number}");
                differ += 1;
            }
        }
        assert!(differ > 5, "the decoder takes some damaged files");
    }

    #[test]
    fn raw_pixels_are_taken_as_they_are_and_must_be_as_many_as_they_should() {
        let picture = noise(1, 256, 256);
        let raw = |bytes: &[u8]| Encoded {
            bytes: Bytes::copy_from_slice(bytes),
            label: 0,
            encoding: Encoding::Raw256,
        };
        let mut workbench = Workbench::default();
        let (written, out) = write(&mut workbench, &raw(&picture.pixels));
        written.unwrap();
        assert!(out == planes(&picture));
        for bytes in [&picture.pixels[1..], &[]] {
            let outcome = write(&mut workbench, &raw(bytes)).0;
            assert!(matches!(outcome, Err(Unusable::Size { .. })));
        }
    }
}
