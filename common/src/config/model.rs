//! `[model]`: the net and how its weights start.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `[model]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Which net.
    pub name: ModelName,
    /// Groups of conv2, conv4 and conv5: 2 as in the paper (its two GPUs), or 1.
    pub groups: u32,
    /// What all widths are divided by: 1 is the net of the paper, more are small nets for tests.
    pub narrow: u32,
    /// Probability of dropping a unit of fc6 and fc7 (section 4.2 of the paper: 0.5).
    pub dropout: f64,
    /// Initial weights.
    pub init: Init,
    /// Initial bias of conv2, conv4 and conv5 (section 5 of the paper: 1).
    pub conv_bias: f64,
    /// Initial bias of fc6 and fc7 (section 5 of the paper: 1).
    pub fc_bias: f64,
    /// What mean-subtracted 0-255 pixels are multiplied by (the paper: 1).
    pub pixel_scale: f64,
}

/// The net's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelName {
    /// AlexNet as published in 2012.
    Alexnet,
    /// The net of "One weird trick" (Krizhevsky 2014) in torchvision's form: one group, no
    /// response normalisation, torchvision's widths and parameter names.
    AlexnetOwt,
    /// AlexNet with batch normalisation (Ioffe, Szegedy 2015) where it had response normalisation.
    AlexnetBn,
}

impl ModelName {
    /// Every net.
    pub const ALL: [Self; 3] = [Self::Alexnet, Self::AlexnetOwt, Self::AlexnetBn];

    /// Height and width of the net's input, pixels: the one source for the net and for the data.
    ///
    /// The paper says 224; 227 is what its table of layers needs (55 = (227 - 11) / 4 + 1).
    pub const fn input_side(self) -> u32 {
        match self {
            Self::Alexnet | Self::AlexnetBn => 227,
            Self::AlexnetOwt => 224,
        }
    }

    /// Groups of conv2, conv4 and conv5 where the config says nothing.
    pub const fn default_groups(self) -> u32 {
        match self {
            Self::Alexnet | Self::AlexnetBn => 2,
            Self::AlexnetOwt => 1,
        }
    }

    /// As it is written in a config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alexnet => "alexnet",
            Self::AlexnetOwt => "alexnet-owt",
            Self::AlexnetBn => "alexnet-bn",
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ModelName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = Self::ALL.map(Self::as_str);
        let found = Self::ALL.into_iter().find(|name| name.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no net; there are {}", names.join(", ")))
    }
}

/// How weights start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// N(0, 0.01) everywhere (section 5 of the paper).
    Gaussian,
    /// N(0, sqrt(2 / fan_in)) (He et al. 2015, equation 10); the last layer N(0, 0.01).
    Kaiming,
}
