//! An adapter: a small network over vectors that some model has made already. It begins as what leaves them as
//! they are (but for `mlp`), so that weight decay pulls it back to that.

use super::layers::linear;
use super::settings::{AdapterForm, EncoderSettings, Towers};
use burn::module::{Initializer, Module};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};

/// What queries go through, and documents where these do not stay as they are.
#[derive(Module, Debug)]
pub(super) struct Adapter {
    queries: Tower,
    documents: Option<Tower>,
}

#[derive(Module, Debug)]
enum Tower {
    /// x + D x, with D = 0 at first.
    Linear(Linear),
    /// x + V relu(U x + u) + v, with V = v = 0 at first.
    Residual(Perceptron),
    /// V relu(U x + u) + v.
    Mlp(Perceptron),
}

#[derive(Module, Debug)]
struct Perceptron {
    hidden: Linear,
    output: Linear,
}

impl Perceptron {
    fn new(settings: &EncoderSettings, output: Initializer, device: &Device) -> Self {
        let (dim, hidden) = (settings.embedding(), settings.hidden());
        Self {
            hidden: LinearConfig::new(dim, hidden).init(device),
            output: LinearConfig::new(hidden, dim).with_initializer(output).init(device),
        }
    }

    fn arrays(&self) -> Vec<(&'static str, TensorData)> {
        let mut arrays = Vec::new();
        let names = [("hidden_weight", "hidden_bias"), ("output_weight", "output_bias")];
        for (layer, (weight, bias)) in [&self.hidden, &self.output].into_iter().zip(names) {
            arrays.push((weight, layer.weight.val().transpose().into_data()));
            arrays.extend(layer.bias.as_ref().map(|numbers| (bias, numbers.val().into_data())));
        }
        arrays
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        linear(relu(linear(x, &self.hidden)), &self.output)
    }
}

impl Tower {
    fn new(settings: &EncoderSettings, device: &Device) -> Self {
        let dim = settings.embedding();
        match settings.form() {
            AdapterForm::Linear => {
                let zeros = LinearConfig::new(dim, dim).with_initializer(Initializer::Zeros);
                Self::Linear(zeros.with_bias(false).init(device))
            }
            AdapterForm::Residual => {
                Self::Residual(Perceptron::new(settings, Initializer::Zeros, device))
            }
            AdapterForm::Mlp => {
                let usual = LinearConfig::new(dim, dim).initializer;
                Self::Mlp(Perceptron::new(settings, usual, device))
            }
        }
    }

    fn arrays(&self) -> Vec<(&'static str, TensorData)> {
        match self {
            Self::Linear(change) => {
                let change = change.weight.val().transpose();
                let [dim, _] = change.dims();
                let matrix = change.clone() + Tensor::eye(dim, &change.device());
                vec![("matrix", matrix.into_data())]
            }
            Self::Residual(layers) | Self::Mlp(layers) => layers.arrays(),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Linear(change) => x.clone() + linear(x, change),
            Self::Residual(change) => x.clone() + change.forward(x),
            Self::Mlp(layers) => layers.forward(x),
        }
    }
}

impl Adapter {
    pub(super) fn new(settings: &EncoderSettings, device: &Device) -> Self {
        let documents = settings.towers() == Towers::Each;
        Self {
            queries: Tower::new(settings, device),
            documents: documents.then(|| Tower::new(settings, device)),
        }
    }

    /// See [`Model::adapter_arrays`](super::Model::adapter_arrays).
    pub(super) fn arrays(&self) -> Vec<(String, TensorData)> {
        let sides = [("queries", Some(&self.queries)), ("documents", self.documents.as_ref())];
        let of_side = |(side, tower): (&str, Option<&Tower>)| {
            let arrays = tower.map(Tower::arrays).unwrap_or_default();
            let named = arrays.into_iter().map(|(name, array)| (format!("{side}_{name}"), array));
            named.collect::<Vec<_>>()
        };
        sides.into_iter().flat_map(of_side).collect()
    }

    /// Whether documents stay as they are.
    pub(super) fn leaves_documents(&self) -> bool {
        self.documents.is_none()
    }

    /// `[n, dim]` to the same, of which the first `queries` are queries and the others documents.
    pub(super) fn forward(&self, x: Tensor<2>, queries: usize) -> Tensor<2> {
        let documents = x.dims()[0] - queries;
        let of_documents = |x: Tensor<2>| match &self.documents {
            Some(tower) => tower.forward(x),
            None => x,
        };
        match (queries, documents) {
            (_, 0) => self.queries.forward(x),
            (0, _) => of_documents(x),
            _ => {
                let asked = self.queries.forward(x.clone().narrow(0, 0, queries));
                Tensor::cat(vec![asked, of_documents(x.narrow(0, queries, documents))], 0)
            }
        }
    }
}
