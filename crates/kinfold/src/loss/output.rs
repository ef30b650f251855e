//! What a loss returns: its value, its gradients, and how they were computed.

/// The value of a loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// The mean over rows (by their weights, where they have some), in nats.
    pub mean: f64,
    /// The sum over rows, each times its weight.
    pub sum: f64,
    /// Each row's loss, without its weight: `[n]`; both ways the mean of the two; `[2n]` where all
    /// views choose, queries first. For a reduction of one's own: the gradient of `Σ g_i L_i` is that
    /// of the [sum](super::Reduction::Sum) with [row weights](super::Batch::with_row_weights) g.
    pub rows: Vec<f64>,
    /// How it was computed.
    pub statistics: Statistics,
}

/// The value of a loss and its gradients: of the mean, or of the sum where that is the
/// [reduction](super::ContrastiveLoss::with_reduction).
#[derive(Debug, Clone, PartialEq)]
pub struct ValueAndGradient<R> {
    /// The mean over rows (by their weights, where they have some), in nats.
    pub mean: f64,
    /// The sum over rows, each times its weight.
    pub sum: f64,
    /// Each row's loss; see [`Value::rows`].
    pub rows: Vec<f64>,
    /// The derivative with respect to log(1/τ).
    pub log_scale: f64,
    /// The derivative with respect to the sigmoid's bias; 0 for every other objective.
    pub bias: f64,
    /// The gradient with respect to the queries, `[n, d]`.
    pub queries: Vec<R>,
    /// The gradient with respect to the keys, `[n, d]`.
    pub keys: Vec<R>,
    /// The gradient with respect to explicit negatives, in their shape; empty without any.
    pub negatives: Vec<R>,
    /// How it was computed.
    pub statistics: Statistics,
}

/// The gradient with respect to what can be learned of the loss itself.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ParameterGradient {
    /// The derivative with respect to log(1/τ).
    pub log_scale: f64,
    /// The derivative with respect to the bias of [`Objective::Sigmoid`](super::Objective::Sigmoid);
    /// 0 for every other objective.
    pub bias: f64,
}

/// The caller's memory for gradients.
#[derive(Debug)]
pub struct GradientMut<'a, R> {
    /// For the gradient with respect to the queries, `[n, d]` without gaps.
    pub queries: &'a mut [R],
    /// For the gradient with respect to the keys, `[n, d]` without gaps; one way, without explicit negatives
    /// and over all of the embedding, empty where keys are constants, which saves a third of the work.
    pub keys: &'a mut [R],
    /// For the gradient with respect to explicit negatives, in their shape without gaps; empty where
    /// there are none, or where they are constants, as in a queue.
    pub negatives: &'a mut [R],
}

impl<'a, R> GradientMut<'a, R> {
    /// Memory for the gradients of queries and keys.
    pub fn new(queries: &'a mut [R], keys: &'a mut [R]) -> Self {
        Self { queries, keys, negatives: &mut [] }
    }

    /// Memory for the gradient of explicit negatives, too.
    #[must_use]
    pub fn with_negatives(self, negatives: &'a mut [R]) -> Self {
        Self { negatives, ..self }
    }
}

/// How a loss was computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Exponentials were kept between passes, at least in part, rather than computed again.
    pub kept_exponentials: bool,
    /// Bytes allocated beyond inputs and outputs.
    pub scratch_bytes: usize,
}
