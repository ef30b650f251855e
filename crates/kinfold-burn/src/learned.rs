//! The numbers of a loss that are learned, as tensors of one number each.

use burn::tensor::Tensor;

/// What can be learned of a loss, where it is.
#[derive(Clone, Default)]
pub(crate) struct Learned {
    pub(crate) log_scale: Option<Tensor<1>>,
    pub(crate) bias: Option<Tensor<1>>,
}
