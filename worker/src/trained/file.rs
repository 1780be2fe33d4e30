//! The file: one safetensors file that holds a trained net and all that is needed to use it.
//!
//! ```text
//! tensors   the parameters under the net's own names (conv1.weight ... fc8.bias), F32, as PyTorch
//!           lays them out: out, in, height, width; out, in; or out
//!           mean_image, 3 x 256 x 256, RGB, 0 to 255
//! metadata  format         "convoy 1"
//!           model          the model section of the run's config, as JSON
//!           class_names    JSON list; a class's place is its number
//!           input_side     side of the net's input, in pixels
//!           pixel_scale    what mean-subtracted pixels are multiplied by
//!           preprocessing  how pixels are made, in words
//!           trained        JSON: run, checkpoint, epoch, step, state digest, data set digest
//! ```
//!
//! Equal nets make equal files, byte for byte.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use convoy_common::config::Model;
use convoy_common::store::Store;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::TrainedError;
use crate::data::{MEAN_VALUES, STORED_SIDE};
use crate::model::Net;

const FORMAT: &str = "convoy 1";
const MEAN_IMAGE: &str = "mean_image";
const PREPROCESSING: &str = "RGB, 0 to 255; scaled so that the shorter side is 256 (antialiased \
     bilinear); the centre 256 x 256; less mean_image; the centre input_side x input_side; times \
     pixel_scale";

/// What a file says besides its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// The net.
    pub model: Model,
    /// The classes' names, in order.
    pub class_names: Vec<String>,
    /// `3 x 256 x 256`, RGB, 0 to 255.
    pub mean_image: Vec<f32>,
    /// Where it comes from.
    pub trained: Value,
}

/// A safetensors file in memory.
pub struct Weights {
    file: String,
    bytes: Vec<u8>,
}

/// Names and shapes of the net's state that belong into a file, with their place in the state: all
/// but momentum.
fn exported(net: &Net) -> Vec<(usize, String, Vec<usize>)> {
    let all = net.state_specs().into_iter().enumerate();
    all.filter(|(_, (name, _))| !name.ends_with(".momentum"))
        .map(|(index, (name, shape))| (index, name, shape))
        .collect()
}

fn rows(shape: &[usize]) -> usize {
    shape.first().copied().unwrap_or(1)
}

/// Writes the file under another name and renames it, so that it is whole or not there.
///
/// # Errors
/// [`TrainedError::Exists`] unless `replace`, [`TrainedError::File`], or what the device says.
pub fn write(
    path: &Path,
    net: &Net,
    facts: &Facts,
    replace: bool,
) -> Result<u64, convoy_common::failure::Failure> {
    // What is no file is never replaced.
    if path.exists() && !(replace && path.is_file()) {
        return Err(TrainedError::Exists { path: path.to_owned() }.into());
    }
    let failed = |source| TrainedError::File { action: "write", path: path.to_owned(), source };
    let mut staged = path.as_os_str().to_owned();
    staged.push(format!(".{}", std::process::id()));
    let staged = PathBuf::from(staged);
    let outcome = write_to(&staged, net, facts).and_then(|bytes| {
        fs::rename(&staged, path).map_err(failed)?;
        Ok(bytes)
    });
    if outcome.is_err() {
        // What is left of it is of no use; that it cannot be removed changes nothing.
        let _ = fs::remove_file(&staged);
    }
    outcome
}

fn write_to(path: &Path, net: &Net, facts: &Facts) -> Result<u64, convoy_common::failure::Failure> {
    let failed = |source| TrainedError::File { action: "write", path: path.to_owned(), source };
    let tensors = exported(net);
    let header = header(&tensors, facts, net.spec().side());
    let mut out = BufWriter::new(File::create(path).map_err(failed)?);
    let mut bytes = 0;
    let mut put = |data: &[u8]| -> io::Result<()> {
        bytes += data.len() as u64;
        out.write_all(data)
    };
    put(&header).map_err(failed)?;
    for (index, _, shape) in &tensors {
        put(&net.read_rows(*index, 0..rows(shape))?).map_err(failed)?;
    }
    let mean: Vec<u8> = facts.mean_image.iter().flat_map(|it| it.to_le_bytes()).collect();
    put(&mean).map_err(failed)?;
    out.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
    Ok(bytes)
}

/// Length in 8 bytes, little-endian, then JSON padded to a multiple of 8, keys in order.
fn header(tensors: &[(usize, String, Vec<usize>)], facts: &Facts, side: usize) -> Vec<u8> {
    let mut entries = BTreeMap::new();
    let text = |value: &Value| value.to_string();
    entries.insert(
        "__metadata__".to_owned(),
        json!({
            "format": FORMAT,
            "model": text(&json!(facts.model)),
            "class_names": text(&json!(facts.class_names)),
            "input_side": side.to_string(),
            "pixel_scale": text(&json!(facts.model.pixel_scale)),
            "preprocessing": PREPROCESSING,
            "trained": text(&facts.trained),
        }),
    );
    let mean = (MEAN_IMAGE.to_owned(), vec![3, STORED_SIDE, STORED_SIDE]);
    let all = tensors.iter().map(|(_, name, shape)| (name.clone(), shape.clone()));
    let mut end = 0;
    for (name, shape) in all.chain([mean]) {
        let start = end;
        end += shape.iter().product::<usize>() * size_of::<f32>();
        entries
            .insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
    }
    let mut text = json!(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    header
}

impl Weights {
    /// Reads a file: a path, or a URL of an object store.
    ///
    /// # Errors
    /// [`TrainedError::File`], [`TrainedError::NotSafetensors`], or what the store says.
    pub async fn read(file: &str) -> Result<Self, convoy_common::failure::Failure> {
        let bytes = match file.rsplit_once('/').filter(|_| file.contains("://")) {
            Some((folder, name)) => Store::open(folder)?.get(name).await?.to_vec(),
            None => tokio::fs::read(file).await.map_err(|source| TrainedError::File {
                action: "read",
                path: file.into(),
                source,
            })?,
        };
        let weights = Self { file: file.to_owned(), bytes };
        weights.tensors()?;
        Ok(weights)
    }

    fn tensors(&self) -> Result<SafeTensors<'_>, TrainedError> {
        SafeTensors::deserialize(&self.bytes).map_err(|error| TrainedError::NotSafetensors {
            file: self.file.clone(),
            reason: error.to_string(),
        })
    }

    fn metadata(&self, key: &str) -> Option<String> {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).ok()?;
        metadata.metadata().as_ref()?.get(key).cloned()
    }

    /// What the file says besides its weights.
    ///
    /// # Errors
    /// [`TrainedError::Lacks`] if it was not made by [`write()`].
    pub fn facts(&self) -> Result<Facts, TrainedError> {
        let lacks = |what| TrainedError::Lacks { file: self.file.clone(), what };
        let json = |key, what| {
            let text = self.metadata(key).ok_or_else(|| lacks(what))?;
            serde_json::from_str::<Value>(&text).map_err(|_| lacks(what))
        };
        if self.metadata("format").as_deref() != Some(FORMAT) {
            return Err(lacks("what its weights are for (metadata format = \"convoy 1\")"));
        }
        let what = "which net it is (metadata model)";
        let model = serde_json::from_value(json("model", what)?).map_err(|_| lacks(what))?;
        let what = "the names of the classes (metadata class_names)";
        let class_names =
            serde_json::from_value(json("class_names", what)?).map_err(|_| lacks(what))?;
        let what = "the mean image (tensor mean_image, F32, 3 x 256 x 256)";
        let mean_image = match self.tensors()?.tensor(MEAN_IMAGE) {
            Ok(it) if it.dtype() == Dtype::F32 && it.data().len() == MEAN_VALUES * 4 => {
                it.data().as_chunks().0.iter().map(|it| f32::from_le_bytes(*it)).collect()
            }
            _ => return Err(lacks(what)),
        };
        let trained = json("trained", "where it comes from (metadata trained)")?;
        Ok(Facts { model, class_names, mean_image, trained })
    }

    /// The scale of pixels that the weights are for, if the file says it.
    pub fn pixel_scale(&self) -> Option<f64> {
        self.metadata("pixel_scale")?.parse().ok()
    }

    /// Checks that the weights are for pixels of that scale, as far as the file says.
    ///
    /// # Errors
    /// [`TrainedError::PixelScale`]
    pub fn check_pixel_scale(&self, config_scale: f64) -> Result<(), TrainedError> {
        match self.pixel_scale().filter(|it| *it != config_scale) {
            None => Ok(()),
            Some(file_scale) => {
                Err(TrainedError::PixelScale { file: self.file.clone(), file_scale, config_scale })
            }
        }
    }

    /// Writes the file's weights into the net; those of the last layer only with `last_layer`.
    /// After an error the net is not usable.
    ///
    /// # Errors
    /// [`TrainedError::NoTensor`], [`TrainedError::OtherTensor`], or what the device says.
    pub fn fill(
        &self,
        net: &mut Net,
        last_layer: bool,
    ) -> Result<(), convoy_common::failure::Failure> {
        let tensors = self.tensors()?;
        // Weight and bias of the last layer are the last two parameters.
        let parameters = net.spec().parameters();
        let kept = parameters.len() - if last_layer { 0 } else { 2 };
        let fresh: Vec<String> = parameters.into_iter().skip(kept).map(|it| it.name).collect();
        for (index, name, shape) in exported(net) {
            if fresh.contains(&name) {
                continue;
            }
            let tensor = tensors.tensor(&name).map_err(|_| TrainedError::NoTensor {
                file: self.file.clone(),
                name: name.clone(),
                has: tensors.names().into_iter().map(str::to_owned).collect(),
            })?;
            if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
                return Err(TrainedError::OtherTensor {
                    file: self.file.clone(),
                    name,
                    expected: format!("F32 {shape:?}"),
                    found: format!("{:?} {:?}", tensor.dtype(), tensor.shape()),
                }
                .into());
            }
            let (values, _) = tensor.data().as_chunks::<4>();
            if !values.iter().all(|it| f32::from_le_bytes(*it).is_finite()) {
                return Err(TrainedError::NotFinite { file: self.file.clone(), name }.into());
            }
            net.write_rows(index, 0..rows(&shape), tensor.data())?;
        }
        Ok(())
    }
}
