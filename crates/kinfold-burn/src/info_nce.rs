//! The loss as a Burn module: `Config → init → forward`, as burn-nn's losses are.

use crate::{fused, strips};
use burn::backend::DispatchDevice;
use burn::config::Config;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use kinfold::{Error, Form, InfoNce, Similarity, Temperature};

/// Settings of an [`InfoNceLoss`].
#[derive(Config, Debug)]
pub struct InfoNceLossConfig {
    /// The temperature τ that similarities are divided by; above 0.
    #[config(default = 0.1)]
    pub temperature: f64,
    /// Learn the temperature, from the one given; the parameter is log(1/τ).
    #[config(default = false)]
    pub learned: bool,
    /// Who is a candidate for whom: InfoNCE one way, both ways (CLIP), or NT-Xent (SimCLR).
    #[config(default = "Form::OneWay")]
    pub form: Form,
    /// Cosine similarity, or the dot product as it is.
    #[config(default = "Similarity::Cosine")]
    pub similarity: Similarity,
}

impl InfoNceLossConfig {
    /// The module.
    ///
    /// # Panics
    /// When the temperature is not a finite number above 0. Where it comes from outside, check it
    /// with [`Temperature::new`] and use [`InfoNceLoss::new`].
    pub fn init(&self, device: &Device) -> InfoNceLoss {
        let temperature = Temperature::new(self.temperature).unwrap_or_else(|e| panic!("{e}"));
        let loss = match self.form {
            Form::OneWay => InfoNce::new(temperature),
            Form::BothWays => InfoNce::new(temperature).symmetric(),
            Form::NtXent => InfoNce::nt_xent(temperature),
        };
        let module = InfoNceLoss::new(loss.with_similarity(self.similarity));
        if self.learned { module.learned(device) } else { module }
    }
}

/// Exact InfoNCE, one way, both ways or NT-Xent; see [`InfoNce`] for the definitions.
#[derive(Module, Debug)]
pub struct InfoNceLoss {
    /// log(1/τ), `[1]`, where it is learned.
    pub log_scale: Option<Param<Tensor<1>>>,
    #[module(skip)]
    loss: InfoNce,
}

impl InfoNceLoss {
    /// A loss with settings that are already validated, and a fixed temperature.
    pub fn new(loss: InfoNce) -> Self {
        Self { log_scale: None, loss }
    }

    /// The same with a learned temperature that starts at the present one.
    #[must_use]
    pub fn learned(self, device: &Device) -> Self {
        let start = self.loss.temperature().scale().ln();
        let log_scale = Tensor::from_floats([start as f32], device);
        Self { log_scale: Some(Param::from_tensor(log_scale)), ..self }
    }

    /// The loss, in nats.
    ///
    /// # Shapes
    /// - queries: `[n, d]`
    /// - keys: `[n, d]`; key i is query i's positive
    /// - output: `[1]`
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
    /// As [`InfoNce::value`]. On devices other than the CPU numbers are not looked at: there a NaN in
    /// the input is a NaN in the loss.
    pub fn try_forward(&self, queries: Tensor<2>, keys: Tensor<2>) -> Result<Tensor<1>, Error> {
        let log_scale = self.log_scale.as_ref().map(Param::val);
        match queries.device().inner().as_dispatch() {
            DispatchDevice::Flex(_) => fused::forward(&self.loss, queries, keys, log_scale),
            #[allow(
                unreachable_patterns,
                reason = "which devices exist depends on Burn's features"
            )]
            _ => strips::forward(&self.loss, queries, keys, log_scale),
        }
    }

    /// The same in strips of tensor operations, which run on any device.
    #[doc(hidden)]
    pub fn forward_in_strips(
        &self,
        queries: Tensor<2>,
        keys: Tensor<2>,
    ) -> Result<Tensor<1>, Error> {
        let log_scale = self.log_scale.as_ref().map(Param::val);
        strips::forward(&self.loss, queries, keys, log_scale)
    }
}
