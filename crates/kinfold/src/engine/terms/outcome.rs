//! Outcomes: of one row, and of a whole batch.

/// The outcome of one row (or column): its loss, and the factors that turn its terms into weights, the
/// derivatives by its logits.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RowOutcome {
    pub(crate) loss: f64,
    /// What the first and second terms are multiplied by.
    pub(crate) factors: [f64; 2],
    /// The weight of the positive.
    pub(crate) positive: f64,
    /// The part of the derivative by log(1/τ) that does not go through the logits: margins, and a lower
    /// bound that depends on τ.
    pub(crate) direct_log_scale: f64,
    /// The derivative by the sigmoid's bias.
    pub(crate) bias: f64,
    /// The shift of the first terms.
    pub(crate) shift: f64,
}

impl RowOutcome {
    /// Multiplies every derivative.
    pub(crate) fn weigh(&mut self, weight: f64) {
        let Self { factors: [first, second], positive, direct_log_scale, bias, .. } = self;
        for x in [first, second, positive, direct_log_scale, bias] {
            *x *= weight;
        }
    }
}

/// The outcome of a batch, before rows are averaged and gradients go back through the normalisation.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Each row's loss.
    pub(crate) losses: Vec<f64>,
    /// The derivative by log(1/τ) through the logits, `Σ s ∂L/∂s`, margins left out.
    pub(crate) log_scale: f64,
    /// The rest of that derivative; see [`RowOutcome::direct_log_scale`].
    pub(crate) direct_log_scale: f64,
    /// The derivative by the sigmoid's bias.
    pub(crate) bias: f64,
}

impl Outcome {
    pub(crate) fn of(rows: &[RowOutcome]) -> Self {
        Self {
            losses: rows.iter().map(|row| row.loss).collect(),
            log_scale: 0.0,
            direct_log_scale: rows.iter().map(|row| row.direct_log_scale).sum(),
            bias: rows.iter().map(|row| row.bias).sum(),
        }
    }

    /// Of rows without a loss yet.
    pub(crate) fn none(rows: usize) -> Self {
        Self { losses: vec![0.0; rows], log_scale: 0.0, direct_log_scale: 0.0, bias: 0.0 }
    }

    /// Adds another outcome of the same rows, `weight` times.
    pub(crate) fn add(&mut self, other: &Self, weight: f64) {
        self.losses.iter_mut().zip(&other.losses).for_each(|(all, one)| *all += weight * one);
        self.log_scale += weight * other.log_scale;
        self.direct_log_scale += weight * other.direct_log_scale;
        self.bias += weight * other.bias;
    }

    /// The mean of rows and columns. Their gradients are added up, and halved at the end.
    pub(crate) fn of_both(rows: &[RowOutcome], columns: &[RowOutcome]) -> Self {
        let (rows, columns) = (Self::of(rows), Self::of(columns));
        let losses = rows.losses.iter().zip(&columns.losses);
        Self {
            losses: losses.map(|(a, b)| 0.5 * (a + b)).collect(),
            log_scale: 0.0,
            direct_log_scale: rows.direct_log_scale + columns.direct_log_scale,
            bias: rows.bias + columns.bias,
        }
    }
}
