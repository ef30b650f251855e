//! A model that follows another slowly: its weights, and batch norm's statistics, are an exponential moving
//! average of the other's.
//!
//! Input: a model before its first step, and then after each. Output: the average, which makes the keys of MoCo and
//! BYOL.

use crate::Error;
use crate::run::State;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use kinfold_nn::encoders::Model;
use std::collections::VecDeque;

/// See the module.
#[derive(Debug)]
pub(crate) struct MovingAverage(Model);

impl MovingAverage {
    /// Begins as this model, which nobody trains.
    pub(crate) fn new(model: Model) -> Self {
        Self(model.no_grad())
    }

    pub(crate) fn model(&self) -> &Model {
        &self.0
    }

    /// Keeps a part of what it is, and takes the rest from `model`, which lies on the same device.
    pub(crate) fn follow(&mut self, model: &Model, keep: f64) {
        let mut weights = Weights(VecDeque::new());
        model.visit(&mut weights);
        self.0 = self.0.clone().map(&mut Follow { weights, keep });
    }

    pub(crate) fn state(&self, name: &str, into: &mut State) {
        into.put_module(name, &self.0.snapshot());
    }

    pub(crate) fn restore(&mut self, name: &str, from: &mut State) -> Result<(), Error> {
        self.0 = from.take_module(name, self.0.clone())?;
        Ok(())
    }
}

/// A model's weights in order, each flat.
struct Weights(VecDeque<Tensor<1>>);

impl ModuleVisitor for Weights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let x = param.val().detach();
        let count = x.shape().num_elements();
        self.0.push_back(x.reshape([count]));
    }
}

struct Follow {
    weights: Weights,
    keep: f64,
}

impl ModuleMapper for Follow {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(other) = self.weights.0.pop_front() else { return param };
        param.map(|x| {
            let other = other.reshape(x.shape());
            x.detach() * self.keep + other * (1.0 - self.keep)
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use burn::tensor::Device;
    use kinfold_nn::encoders::{EncoderSettings, ImageShape};

    /// All weights and statistics of a model.
    pub(crate) fn numbers(model: &Model) -> Vec<f32> {
        let mut state = State::default();
        state.put_module("model", model);
        let all = state.take_all("model").into_iter();
        all.flat_map(|(_, data)| data.iter::<f32>().collect::<Vec<_>>()).collect()
    }

    #[test]
    fn it_keeps_a_part_and_takes_the_rest() -> Result<(), Error> {
        let device = Device::flex();
        let model = |seed| {
            let shape = ImageShape { size: 8, channels: 1 };
            Model::random(&EncoderSettings::default(), shape, seed, &device)
        };
        let (first, second) = (model(1)?, model(2)?);
        let mut average = MovingAverage::new(first.snapshot());
        for _ in 0..3 {
            average.follow(&second, 0.5);
        }
        let (first, second) = (numbers(&first), numbers(&second));
        assert!(first.iter().zip(&second).any(|(a, b)| a != b));
        for ((x, a), b) in numbers(average.model()).into_iter().zip(&first).zip(&second) {
            assert!((x - (a / 8.0 + b * 7.0 / 8.0)).abs() < 1e-6);
        }
        let mut state = State::default();
        average.state("average", &mut state);
        let mut other = MovingAverage::new(model(3)?);
        other.restore("average", &mut state)?;
        assert_eq!(numbers(other.model()), numbers(average.model()));
        Ok(())
    }
}
