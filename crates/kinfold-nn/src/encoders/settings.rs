//! What an encoder is made of, as it stands in `config.toml` and `model.toml`.
//!
//! Input: what was given. Output: a value for every setting that the encoder has, or an error
//! that names the one that it cannot have. Nothing is built here.

use crate::Error;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Images up to this size, in pixels, are small ones.
const SMALL: usize = 64;

/// An encoder, and the projector that training puts behind it. What is not given has the encoder's
/// own default; what the encoder does not have is refused.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncoderSettings {
    /// Which one.
    pub name: EncoderName,
    /// Of `convnet`, the channels of each convolution (48, 96, 192); of `mlp`, the width of each
    /// hidden layer (1024, 1024).
    pub widths: Option<Vec<usize>>,
    /// Of `convnet`, the side of each convolution's kernel, an odd number of pixels (3 everywhere).
    pub kernels: Option<Vec<usize>>,
    /// Of `convnet`, by how much each convolution shrinks the sides (1, then 2).
    pub strides: Option<Vec<usize>>,
    /// Of `convnet` and `mlp`, the dimension of the embedding (128); of `static`, too (256, or that of the
    /// weights to begin with); of `adapter`, that of the vectors, which it keeps.
    pub embedding: Option<usize>,
    /// Of a ResNet, what stands before its blocks (`small` for images up to 64 pixels).
    pub stem: Option<Stem>,
    /// Of `vit`, the side of a patch in pixels (4 for images up to 64 pixels, else 16).
    pub patch: Option<usize>,
    /// Of `vit`, the width of its tokens and so of the embedding (192).
    pub width: Option<usize>,
    /// Of `vit`, the number of blocks (6).
    pub depth: Option<usize>,
    /// Of `vit`, the heads of each attention (3).
    pub heads: Option<usize>,
    /// What training puts behind the encoder (`linear` for `convnet` and `mlp`, else `mlp`).
    pub projector: Option<ProjectorForm>,
    /// Dimension of the projector's output, which the loss sees (64 behind `linear`, 128 behind
    /// `mlp`).
    pub projection: Option<usize>,
    /// The width of the hidden layer of a predictor behind the projector, which makes of a view's projection
    /// another view's (by default there is none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predictor: Option<usize>,
    /// Of `static`, the power of its inverse frequency in the texts that a token's vector is multiplied by
    /// before training (0.5; 0 leaves it as it is).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idf: Option<f32>,
    /// Of `adapter`, what it is made of (`residual`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<AdapterForm>,
    /// Of an `adapter` that is not linear, the width of its hidden layer (that of the vectors).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<usize>,
    /// Of `adapter`, what goes through it (`queries`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub towers: Option<Towers>,
    /// Weights to begin with: for `static`, a folder of model2vec or of sentence-transformers' StaticEmbedding,
    /// a .safetensors file of one table, or a run; for images, torchvision's (.safetensors, .pth, .pt), or a run or its
    /// model.safetensors. By default they are random.
    pub init: Option<PathBuf>,
}

/// An encoder by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EncoderName {
    /// A few convolutions and a linear layer.
    #[default]
    ConvNet,
    /// Hidden layers over the pixels, and a linear layer.
    Mlp,
    /// ResNet-18; its embedding is its 512 pooled features.
    ResNet18,
    /// ResNet-50; its embedding is its 2048 pooled features.
    ResNet50,
    /// A small vision transformer.
    Vit,
    /// A vector for each token, and the mean over a text's tokens.
    Static,
    /// A small network over vectors that another model has made.
    Adapter,
}

impl EncoderName {
    /// As settings name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConvNet => "convnet",
            Self::Mlp => "mlp",
            Self::ResNet18 => "resnet18",
            Self::ResNet50 => "resnet50",
            Self::Vit => "vit",
            Self::Static => "static",
            Self::Adapter => "adapter",
        }
    }

    /// What it embeds, as one calls it.
    pub(super) fn takes(self) -> &'static str {
        match self {
            Self::Static => "texts",
            Self::Adapter => "vectors",
            _ => "images",
        }
    }
}

impl fmt::Display for EncoderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What stands before a ResNet's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// A 3×3 convolution at stride 1, as for CIFAR's 32×32 images.
    Small,
    /// A 7×7 convolution at stride 2 and a max-pool at stride 2, as for ImageNet's.
    ImageNet,
}

/// What an adapter is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterForm {
    /// A matrix, at first the identity.
    Linear,
    /// What the vectors are, and a hidden layer's output added to it, at first nothing.
    Residual,
    /// A hidden layer, which knows nothing of the vectors at first.
    Mlp,
}

/// What goes through an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Towers {
    /// Queries alone: documents, and an index of them, stay as they are.
    Queries,
    /// Queries and documents, each through their own.
    Each,
}

/// What training puts behind the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProjectorForm {
    /// Nothing: the loss sees the embedding.
    None,
    /// A linear layer.
    Linear,
    /// A hidden layer as wide as the embedding with batch norm and ReLU, and a linear layer
    /// (SimCLR's).
    Mlp,
}

impl EncoderSettings {
    /// This encoder with its own defaults.
    pub fn named(name: EncoderName) -> Self {
        Self { name, ..Self::default() }
    }

    /// What can be said of them for images of `size` × `size` pixels.
    ///
    /// # Errors
    /// [`Error::Setting`], naming the setting, what it is and what it must be.
    pub fn check(&self, size: usize) -> Result<(), Error> {
        self.refusal(size).map_or(Ok(()), |text| Err(Error::Setting(text)))
    }

    /// What is wrong, if anything is.
    fn refusal(&self, size: usize) -> Option<String> {
        let name = self.name;
        if let Some((setting, _, whose)) =
            self.given().into_iter().find(|(_, given, whose)| *given && !whose.contains(&name))
        {
            let whose: Vec<_> = whose.iter().map(ToString::to_string).collect();
            let whose = whose.join(", ");
            return Some(format!("{setting} is a setting of {whose}, but the encoder is {name}"));
        }
        if self.projector() == ProjectorForm::None && self.projection.is_some() {
            return Some("projection is given, but there is no projector".into());
        }
        let widths = self.widths();
        if widths.is_empty() || widths.contains(&0) {
            return Some(format!(
                "widths is {widths:?}, but it must name at least one layer of at least 1"
            ));
        }
        for (setting, list) in [("kernels", self.kernels()), ("strides", self.strides())] {
            if list.len() != widths.len() {
                return Some(format!(
                    "{setting} is {list:?}, but it must have one number for each of the widths \
                     {widths:?}"
                ));
            }
        }
        let kernels = self.kernels();
        if kernels.iter().any(|kernel| kernel % 2 == 0) {
            return Some(format!("kernels is {kernels:?}, but each must be odd"));
        }
        let positive = [
            ("strides", self.strides().into_iter().min().unwrap_or(1)),
            ("embedding", self.embedding()),
            ("patch", self.patch(size)),
            ("width", self.width()),
            ("depth", self.depth()),
            ("heads", self.heads()),
            ("hidden", self.hidden()),
            ("projection", self.projection()),
            ("predictor", self.predictor.unwrap_or(1)),
        ];
        if let Some((setting, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Some(format!("{setting} is 0, but it must be at least 1"));
        }
        let (patch, width, heads) = (self.patch(size), self.width(), self.heads());
        if name == EncoderName::Vit && !size.is_multiple_of(patch) {
            return Some(format!(
                "image size is {size}, but it must be a multiple of the vit's patch of {patch} \
                 pixels"
            ));
        }
        if name == EncoderName::Adapter && self.init.is_some() {
            return Some(
                "init is given, but an adapter begins with the vectors as they are".into(),
            );
        }
        if self.hidden.is_some() && self.form() == AdapterForm::Linear {
            return Some("hidden is given, but a linear adapter has no hidden layer".into());
        }
        let idf = self.idf();
        if !(0.0..=2.0).contains(&idf) {
            return Some(format!("idf is {idf}, but it must be from 0 to 2"));
        }
        (!width.is_multiple_of(heads)).then(|| {
            format!("width is {width}, but it must be a multiple of the vit's {heads} heads")
        })
    }

    /// Each setting that not every encoder has, whether it is given, and whose it is.
    fn given(&self) -> [(&'static str, bool, &'static [EncoderName]); 13] {
        use EncoderName::{Adapter, ConvNet, Mlp, ResNet18, ResNet50, Static, Vit};
        [
            ("widths", self.widths.is_some(), &[ConvNet, Mlp]),
            ("kernels", self.kernels.is_some(), &[ConvNet]),
            ("strides", self.strides.is_some(), &[ConvNet]),
            ("embedding", self.embedding.is_some(), &[ConvNet, Mlp, Static, Adapter]),
            ("form", self.form.is_some(), &[Adapter]),
            ("hidden", self.hidden.is_some(), &[Adapter]),
            ("towers", self.towers.is_some(), &[Adapter]),
            ("idf", self.idf.is_some(), &[Static]),
            ("stem", self.stem.is_some(), &[ResNet18, ResNet50]),
            ("patch", self.patch.is_some(), &[Vit]),
            ("width", self.width.is_some(), &[Vit]),
            ("depth", self.depth.is_some(), &[Vit]),
            ("heads", self.heads.is_some(), &[Vit]),
        ]
    }

    /// The same with every setting that this encoder has, for images of `size` × `size` pixels.
    pub fn decided(&self, size: usize) -> Self {
        use EncoderName::{ConvNet, Mlp, ResNet18, ResNet50, Vit};
        let (layers, convnet) = (matches!(self.name, ConvNet | Mlp), self.name == ConvNet);
        let (resnet, vit) = (matches!(self.name, ResNet18 | ResNet50), self.name == Vit);
        let tokens = self.name == EncoderName::Static;
        let adapter = self.name == EncoderName::Adapter;
        let projected = self.projector() != ProjectorForm::None;
        Self {
            name: self.name,
            widths: layers.then(|| self.widths()),
            kernels: convnet.then(|| self.kernels()),
            strides: convnet.then(|| self.strides()),
            embedding: (layers || tokens || adapter).then(|| self.embedding()),
            stem: resnet.then(|| self.stem(size)),
            patch: vit.then(|| self.patch(size)),
            width: vit.then(|| self.width()),
            depth: vit.then(|| self.depth()),
            heads: vit.then(|| self.heads()),
            projector: Some(self.projector()),
            projection: projected.then(|| self.projection()),
            idf: tokens.then(|| self.idf()),
            form: adapter.then(|| self.form()),
            hidden: (adapter && self.form() != AdapterForm::Linear).then(|| self.hidden()),
            towers: adapter.then(|| self.towers()),
            predictor: self.predictor,
            init: self.init.clone(),
        }
    }

    pub(super) fn widths(&self) -> Vec<usize> {
        let default: &[usize] =
            if self.name == EncoderName::Mlp { &[1024, 1024] } else { &[48, 96, 192] };
        self.widths.clone().unwrap_or_else(|| default.to_vec())
    }

    pub(super) fn kernels(&self) -> Vec<usize> {
        self.kernels.clone().unwrap_or_else(|| vec![3; self.widths().len()])
    }

    pub(super) fn strides(&self) -> Vec<usize> {
        let default = || (0..self.widths().len()).map(|i| if i == 0 { 1 } else { 2 }).collect();
        self.strides.clone().unwrap_or_else(default)
    }

    /// Dimension of the embedding.
    pub fn embedding(&self) -> usize {
        match self.name {
            EncoderName::ConvNet | EncoderName::Mlp => self.embedding.unwrap_or(128),
            EncoderName::ResNet18 => 512,
            EncoderName::ResNet50 => 2048,
            EncoderName::Vit => self.width(),
            EncoderName::Static | EncoderName::Adapter => self.embedding.unwrap_or(256),
        }
    }

    /// See [`idf`](field@Self::idf).
    pub fn idf(&self) -> f32 {
        self.idf.unwrap_or(0.5)
    }

    /// See [`form`](field@Self::form).
    pub fn form(&self) -> AdapterForm {
        self.form.unwrap_or(AdapterForm::Residual)
    }

    pub(super) fn hidden(&self) -> usize {
        self.hidden.unwrap_or(self.embedding())
    }

    /// See [`towers`](field@Self::towers).
    pub fn towers(&self) -> Towers {
        self.towers.unwrap_or(Towers::Queries)
    }

    pub(super) fn stem(&self, size: usize) -> Stem {
        self.stem.unwrap_or(if size <= SMALL { Stem::Small } else { Stem::ImageNet })
    }

    pub(super) fn patch(&self, size: usize) -> usize {
        self.patch.unwrap_or(if size <= SMALL { 4 } else { 16 })
    }

    pub(super) fn width(&self) -> usize {
        self.width.unwrap_or(192)
    }

    pub(super) fn depth(&self) -> usize {
        self.depth.unwrap_or(6)
    }

    pub(super) fn heads(&self) -> usize {
        self.heads.unwrap_or(3)
    }

    pub(super) fn projector(&self) -> ProjectorForm {
        self.projector.unwrap_or(match self.name {
            EncoderName::ConvNet | EncoderName::Mlp => ProjectorForm::Linear,
            EncoderName::Static | EncoderName::Adapter => ProjectorForm::None,
            _ => ProjectorForm::Mlp,
        })
    }

    /// Numbers of what the loss sees: the projector's output, or the encoder's where there is none.
    pub fn seen_by_loss(&self) -> usize {
        match self.projector() {
            ProjectorForm::None => self.embedding(),
            ProjectorForm::Linear | ProjectorForm::Mlp => self.projection(),
        }
    }

    pub(super) fn projection(&self) -> usize {
        self.projection.unwrap_or(match self.projector() {
            ProjectorForm::Mlp => 128,
            _ => 64,
        })
    }
}
