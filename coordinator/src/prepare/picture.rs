//! From an entry's content to the bytes that are packed.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use convoy_common::dataset::{Encoding, PixelSums, SIDE};
use convoy_common::image::{
    Chroma, ImageError, Rgb8, centre_crop, decode, encode_jpeg, shorter_side_256,
};
use convoy_common::store::StoreError;

use super::PrepareError;
use super::source::{Content, Place, Remote};

/// Files beyond this size are not read; the largest pictures of ImageNet have 15 MB.
pub(super) const MOST_FILE_BYTES: u64 = 256 << 20;

/// What became of an entry.
pub(super) enum Made {
    /// The bytes to pack.
    Picture(Vec<u8>),
    /// Nothing, for this reason.
    Unusable(String),
}

/// How pictures are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recipe {
    pub(super) encoding: Encoding,
    /// Of [`Encoding::Jpeg256`].
    pub(super) quality: u8,
}

impl Recipe {
    /// Makes one picture, and adds its pixels to `sums`.
    ///
    /// # Errors
    /// A store that fails; what is wrong with the picture is no error here.
    pub(super) fn make(
        &self,
        content: Content,
        sums: Option<&mut PixelSums>,
    ) -> Result<Made, PrepareError> {
        let bytes = match content {
            Content::Bytes(bytes) => Ok(bytes),
            Content::Local(path) => read_file(&path),
            Content::Remote(object) => read_object(&object)?,
            Content::Unusable(why) => Err(why),
            Content::Passed => Err("was not read".to_owned()),
        };
        let made = bytes.and_then(|bytes| {
            let square = square(&bytes).map_err(|error| error.to_string())?;
            let packed = match self.encoding {
                Encoding::Jpeg256 => encode_jpeg(&square, self.quality, Chroma::Quarter)
                    .map_err(|error| error.to_string())?,
                Encoding::Original => bytes,
                Encoding::Raw256 => {
                    if let Some(sums) = sums {
                        sums.add(&square.pixels);
                    }
                    return Ok(square.pixels);
                }
            };
            if let Some(sums) = sums {
                sums.add(&square.pixels);
            }
            Ok(packed)
        });
        Ok(made.map_or_else(Made::Unusable, Made::Picture))
    }
}

/// The 256x256 pixels that training sees.
fn square(bytes: &[u8]) -> Result<Rgb8, ImageError> {
    centre_crop(&shorter_side_256(decode(bytes)?)?, SIDE)
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let about = fs::metadata(path).map_err(cannot)?;
    if !about.is_file() {
        // A pipe would never end.
        return Err("is no regular file".to_owned());
    }
    if about.len() > MOST_FILE_BYTES {
        return Err(too_large(about.len()));
    }
    let file = Place::open_local(path).map_err(cannot)?;
    let mut bytes = Vec::with_capacity(about.len() as usize + 1);
    file.take(MOST_FILE_BYTES).read_to_end(&mut bytes).map_err(cannot)?;
    Ok(bytes)
}

fn read_object(object: &Remote) -> Result<Result<Vec<u8>, String>, PrepareError> {
    match object.get() {
        Ok(bytes) => Ok(Ok(bytes.to_vec())),
        Err(StoreError::NotFound { .. }) => Ok(Err("is not there any more".to_owned())),
        Err(error) => Err(error.into()),
    }
}

fn too_large(size: u64) -> String {
    format!("a file of {size} bytes is too large (at most {MOST_FILE_BYTES})")
}
