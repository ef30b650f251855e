//! What models take: a batch of things of one kind, and what all things of a kind have in common.

use super::ImageShape;
use crate::ops::Bags;
use burn::tensor::Tensor;

/// What a model embeds, `n` things of one kind.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "there is one of it at a time")]
pub enum Input {
    /// `[n, channels, size, size]`.
    Images(Tensor<4>),
    /// The tokens of `n` texts.
    Texts(Bags),
    /// Vectors, `[n, dim]`.
    Vectors {
        /// Their numbers.
        values: Tensor<2>,
        /// So many of the first are queries, and the others documents.
        queries: usize,
    },
}

/// What all things that a model embeds have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputShape {
    /// Images of one shape.
    Images(ImageShape),
    /// Texts.
    Texts {
        /// The rows of a table of tokens: one more than the highest token.
        tokens: usize,
    },
    /// Vectors.
    Vectors {
        /// Numbers of one.
        dim: usize,
    },
}

impl Input {
    /// How many things there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Images(images) => images.dims()[0],
            Self::Texts(texts) => texts.len(),
            Self::Vectors { values, .. } => values.dims()[0],
        }
    }

    /// The documents among vectors, `[documents, dim]`; none of other things.
    pub fn documents(&self) -> Option<Tensor<2>> {
        match self {
            Self::Vectors { values, queries } => {
                Some(values.clone().narrow(0, *queries, values.dims()[0] - queries))
            }
            _ => None,
        }
    }

    /// No things.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `count` of them from `first` on.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn narrow(&self, first: usize, count: usize) -> Self {
        match self {
            Self::Images(images) => Self::Images(images.clone().narrow(0, first, count)),
            Self::Texts(texts) => Self::Texts(texts.narrow(first, count)),
            Self::Vectors { values, queries } => Self::Vectors {
                values: values.clone().narrow(0, first, count),
                queries: queries.saturating_sub(first).min(count),
            },
        }
    }
}

impl From<Tensor<4>> for Input {
    fn from(images: Tensor<4>) -> Self {
        Self::Images(images)
    }
}

impl From<Bags> for Input {
    fn from(texts: Bags) -> Self {
        Self::Texts(texts)
    }
}

impl InputShape {
    /// Width and height of images; 0 of other things.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Images(shape) => shape.size,
            Self::Texts { .. } | Self::Vectors { .. } => 0,
        }
    }

    /// What they are called.
    pub(super) fn noun(&self) -> &'static str {
        match self {
            Self::Images(_) => "images",
            Self::Texts { .. } => "texts",
            Self::Vectors { .. } => "vectors",
        }
    }
}

impl From<ImageShape> for InputShape {
    fn from(shape: ImageShape) -> Self {
        Self::Images(shape)
    }
}
