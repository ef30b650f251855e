//! The losses as a Burn module: `Config → init → forward`, as burn-nn's losses are.

use crate::config::Reduction;
use crate::{PairBatch, fused, strips};
use burn::backend::DispatchDevice;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use kinfold::{ContrastiveLoss, Error, Objective, Preset};

/// The exact contrastive losses; see [`ContrastiveLoss`] and [`Objective`] for the definitions.
#[derive(Module, Debug)]
pub struct InfoNceLoss {
    /// log(1/τ), `[1]`, where it is learned.
    pub log_scale: Option<Param<Tensor<1>>>,
    /// The bias of [`Objective::Sigmoid`], `[1]`, where it is learned.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    loss: ContrastiveLoss,
    #[module(skip)]
    reduction: Reduction,
    #[module(skip)]
    log_scale_bounds: (f64, f64),
}

/// What can be learned of a loss, as numbers or as parameters.
#[derive(Clone, Default)]
pub(crate) struct Learned {
    pub(crate) log_scale: Option<Tensor<1>>,
    pub(crate) bias: Option<Tensor<1>>,
}

impl InfoNceLoss {
    /// A loss with settings that are already validated, and a fixed temperature. Its reduction is the
    /// mean or the sum, as `loss` has it.
    pub fn new(loss: ContrastiveLoss) -> Self {
        let reduction = match loss.reduction() {
            kinfold::Reduction::Mean => Reduction::Mean,
            kinfold::Reduction::Sum => Reduction::Sum,
        };
        let log_scale_bounds = (f64::NEG_INFINITY, f64::INFINITY);
        Self { log_scale: None, bias: None, loss, reduction, log_scale_bounds }
    }

    /// The loss that a preset stands for, at its own temperature; its bounds on a learned one, too.
    pub fn preset(preset: Preset) -> Self {
        let module = Self::new(preset.loss());
        let log_scale_bounds = preset.log_scale_bounds().unwrap_or(module.log_scale_bounds);
        Self { log_scale_bounds, ..module }
    }

    /// Another reduction.
    #[must_use]
    pub fn with_reduction(self, reduction: Reduction) -> Self {
        let of_engine = match reduction {
            Reduction::Mean => kinfold::Reduction::Mean,
            Reduction::None | Reduction::Sum => kinfold::Reduction::Sum,
        };
        Self { reduction, loss: self.loss.with_reduction(of_engine), ..self }
    }

    /// The least and the greatest log(1/τ) that [`clamped`](Self::clamped) leaves.
    ///
    /// # Errors
    /// When one is NaN, or the least is above the greatest.
    pub fn with_log_scale_bounds(self, least: f64, most: f64) -> Result<Self, Error> {
        if least <= most {
            return Ok(Self { log_scale_bounds: (least, most), ..self });
        }
        let (name, needed) = ("the least log(1/τ)", "a number that is not above the greatest");
        Err(Error::Setting { name, given: least, needed })
    }

    /// The same with a learned temperature that starts at the present one and, where the objective is
    /// the sigmoid, a learned bias that starts at the present one.
    #[must_use]
    pub fn learned(self, device: &Device) -> Self {
        let parameter =
            |start: f64| Some(Param::from_tensor(Tensor::from_floats([start as f32], device)));
        let log_scale = parameter(self.loss.temperature().scale().ln());
        let bias = match self.loss.objective() {
            Objective::Sigmoid { bias } => parameter(bias),
            _ => None,
        };
        Self { log_scale, bias, ..self }
    }

    /// The same with log(1/τ) back within its bounds; call it after each step of the optimizer, as
    /// open-clip does. Without bounds, or where the temperature is fixed, nothing changes.
    #[must_use]
    pub fn clamped(self) -> Self {
        let (least, most) = self.log_scale_bounds;
        if (least, most) == (f64::NEG_INFINITY, f64::INFINITY) {
            return self;
        }
        let clamp = |x: Tensor<1>| {
            let learned = x.is_require_grad();
            x.detach().clamp(least, most).detach().set_require_grad(learned)
        };
        Self { log_scale: self.log_scale.map(|parameter| parameter.map(clamp)), ..self }
    }

    /// The settings; temperature and bias are those that it started with.
    pub fn settings(&self) -> &ContrastiveLoss {
        &self.loss
    }

    /// The loss, in nats.
    ///
    /// # Shapes
    /// - queries: `[n, d]`
    /// - keys: `[n, d]`; key i is query i's positive
    /// - output: `[1]`; without a reduction `[n]`, or `[2n]` where all views choose
    ///
    /// # Panics
    /// When shapes disagree or a number is not finite; [`try_forward`](Self::try_forward) returns
    /// these as errors.
    pub fn forward(&self, queries: Tensor<2>, keys: Tensor<2>) -> Tensor<1> {
        self.try_forward(queries, keys).unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`forward`](Self::forward) that returns what is wrong with the input.
    ///
    /// # Errors
    /// As [`ContrastiveLoss::value`]. On devices other than the CPU numbers are not looked at: there a NaN in
    /// the input is a NaN in the loss.
    pub fn try_forward(&self, queries: Tensor<2>, keys: Tensor<2>) -> Result<Tensor<1>, Error> {
        self.try_forward_batch(PairBatch::new(queries, keys))
    }

    /// The loss of a batch with negatives, ids, labels, weights or a guide, in nats; `[1]`, or a row
    /// each without a reduction.
    ///
    /// # Panics
    /// When something in the batch disagrees with the rest or with the loss, or is not finite;
    /// [`try_forward_batch`](Self::try_forward_batch) returns these as errors.
    pub fn forward_batch(&self, batch: PairBatch) -> Tensor<1> {
        self.try_forward_batch(batch).unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`forward_batch`](Self::forward_batch) that returns what is wrong with the input.
    ///
    /// On devices other than the CPU, and there alone, the gradient of a loss without a reduction
    /// keeps the logits of all rows until the backward pass: it is the one that is not known before.
    ///
    /// # Errors
    /// As [`ContrastiveLoss::value_of`]. On devices other than the CPU numbers are not looked at.
    pub fn try_forward_batch(&self, batch: PairBatch) -> Result<Tensor<1>, Error> {
        match batch.queries.device().inner().as_dispatch() {
            DispatchDevice::Flex(_) => {
                fused::forward(&self.loss, self.reduction, batch, self.parameters())
            }
            #[allow(
                unreachable_patterns,
                reason = "which devices exist depends on Burn's features"
            )]
            _ => self.forward_in_strips(batch, strips::ROWS),
        }
    }

    /// The same in strips of tensor operations, so many rows at a time, which run on any device.
    #[doc(hidden)]
    pub fn forward_in_strips(&self, batch: PairBatch, rows: usize) -> Result<Tensor<1>, Error> {
        batch.check(&self.loss)?;
        Ok(strips::forward(&self.loss, self.reduction, batch, self.parameters(), rows))
    }

    fn parameters(&self) -> Learned {
        Learned {
            log_scale: self.log_scale.as_ref().map(Param::val),
            bias: self.bias.as_ref().map(Param::val),
        }
    }
}
