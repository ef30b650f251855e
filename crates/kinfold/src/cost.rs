//! What a loss costs, counted.
//!
//! Input: a loss and a shape. Output: operations. The unit is one product of `[n, d]` with
//! `[d, m]`, `2 n m d` operations; the exponentials and everything else that is not a product come
//! on top and are not counted, so that shares of a machine's speed never flatter.

use crate::{ContrastiveLoss, Element, engine};

/// How many products of n × m × d a loss with its gradients comes down to. For NT-Xent n and m both
/// count the 2n stacked views.
///
/// One way: 3 (the logits, and each side's gradient). Both ways: 4, as the logits are computed
/// twice, less the part of them that the memory budget has kept. NT-Xent: half of that, as its
/// matrix is symmetric.
pub fn products<T: Element>(
    loss: &ContrastiveLoss,
    queries: usize,
    keys: usize,
    dim: usize,
) -> f64 {
    engine::products::<T>(loss, queries, keys, dim)
}

/// Additions and multiplications in the products of a loss with its gradients.
pub fn flops<T: Element>(loss: &ContrastiveLoss, queries: usize, keys: usize, dim: usize) -> f64 {
    let (n, m) = match loss.form() {
        crate::Form::NtXent => (queries + keys, queries + keys),
        crate::Form::OneWay | crate::Form::BothWays => (queries, keys),
    };
    2.0 * n as f64 * m as f64 * dim as f64 * products::<T>(loss, queries, keys, dim)
}
