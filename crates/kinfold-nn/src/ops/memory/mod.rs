//! How operations reach numbers, each way once.
//!
//! - [`tensor`]: Flex's tensors as slices and images, and results as tensors.
//! - [`images`]: a batch of images with any strides, copied with its channels last.
//! - [`buffer`]: aligned memory that is used again, scratch memory of a thread, and memory that threads
//!   share.
//! - [`vector`]: SIMD registers, and code compiled for the best of this machine.
//! - [`loops`]: element-wise passes, sums and `exp`, which the compiler turns into vectors.

pub(crate) mod buffer;
pub(crate) mod images;
pub(crate) mod loops;
pub(crate) mod tensor;
pub(crate) mod vector;
