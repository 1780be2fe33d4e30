//! Where a worker computes: the CPU or one GPU.

use std::fmt;
use std::str::FromStr;

use super::{ModelError, Result, cuda_load};

/// What the user asks for: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// One GPU by its index.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| ModelError::DeviceSyntax { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// A device that was found to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device(tch::Device);

impl Device {
    /// The CPU.
    pub const CPU: Self = Self(tch::Device::Cpu);

    /// Finds the device that is asked for.
    ///
    /// # Errors
    /// [`ModelError::NoCuda`] if it is a GPU that is not there, with the reason.
    pub fn find(choice: DeviceChoice) -> Result<Self> {
        match choice {
            DeviceChoice::Cpu => Ok(Self::CPU),
            DeviceChoice::Cuda(index) => cuda(index),
            DeviceChoice::Auto => Ok(cuda(0).unwrap_or(Self::CPU)),
        }
    }

    /// Whether it is a GPU.
    pub fn is_cuda(self) -> bool {
        self.0.is_cuda()
    }

    /// Its index, if it is a GPU.
    pub(super) fn cuda_index(self) -> Option<usize> {
        match self.0 {
            tch::Device::Cuda(index) => Some(index),
            _ => None,
        }
    }

    pub(super) fn tensor_device(self) -> tch::Device {
        self.0
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            tch::Device::Cuda(index) => write!(f, "cuda:{index}"),
            _ => f.write_str("cpu"),
        }
    }
}

fn cuda(index: usize) -> Result<Device> {
    let loaded = cuda_load::load();
    if !tch::Cuda::is_available() {
        let reason = match loaded {
            Err(reason) => format!("libtorch has no CUDA support here ({reason})"),
            Ok(()) => "no usable GPU or driver was found".to_owned(),
        };
        return Err(ModelError::NoCuda { index, reason });
    }
    let count = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
    if index >= count {
        let reason = format!("this machine has {count} GPU(s), counted from 0");
        return Err(ModelError::NoCuda { index, reason });
    }
    Ok(Device(tch::Device::Cuda(index)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for text in ["auto", "cpu", "cuda:0", "cuda:11"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
    }

    #[test]
    fn what_is_no_device_is_refused() {
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            assert!(matches!(text.parse::<DeviceChoice>(), Err(ModelError::DeviceSyntax { .. })));
        }
    }

    #[test]
    fn a_gpu_beyond_the_last_one_is_refused_with_a_reason() {
        let error = Device::find(DeviceChoice::Cuda(4096)).unwrap_err();
        assert!(matches!(error, ModelError::NoCuda { index: 4096, .. }), "{error}");
    }
}
