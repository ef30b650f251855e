//! How weights are moved: AdamW, SGD with momentum, or LARS, each step one pass over every weight
//! (`kinfold_nn::step`), with clipping by the global norm and a schedule by steps.
//!
//! Input: settings, a learning rate, a module and its gradients. Output: the module moved. What
//! an optimizer keeps from step to step can be taken out and put back.

use crate::Error;
use crate::settings::{OptimizerName, OptimizerSettings};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Shape, Tensor, TensorData};
use kinfold_nn::step::{Moment, Rule, squares, step};
use std::collections::BTreeMap;

/// What LARS trusts a layer's gradient with: "eeta" in SimCLR's code.
const TRUST: f32 = 0.001;
/// The name of the number of steps taken, in the state.
const STEPS: &str = "steps";

pub(crate) struct Optimizer {
    settings: OptimizerSettings,
    steps: usize,
    /// For each weight that is trained, by its path in the module.
    kept: BTreeMap<String, Kept>,
    gradient_norm: f64,
}

/// What is kept for a weight.
struct Kept {
    shape: Shape,
    device: Device,
    /// Flat, one for each name that the rule gives.
    tensors: Vec<Tensor<1>>,
}

impl Optimizer {
    /// An optimizer of this module's trained weights.
    pub(crate) fn new<M: Module>(settings: &OptimizerSettings, module: &M) -> Self {
        let mut begin = Begin {
            path: Vec::new(),
            names: rule(settings, 0).keeps().len(),
            kept: BTreeMap::new(),
        };
        module.visit(&mut begin);
        Self { settings: *settings, steps: 0, kept: begin.kept, gradient_norm: 0.0 }
    }

    /// Moves every weight of `module` that has a gradient.
    pub(crate) fn step<M: Module>(
        &mut self,
        rate: f64,
        module: M,
        gradients: GradientsParams,
    ) -> M {
        self.steps += 1;
        let mut norm = Norm { gradients: &gradients, squares: 0.0 };
        module.visit(&mut norm);
        self.gradient_norm = norm.squares.sqrt();
        // As torch.nn.utils.clip_grad_norm_ does it.
        let scale = match self.settings.clip {
            Some(most) => (most / (self.gradient_norm + 1e-6)).min(1.0) as f32,
            None => 1.0,
        };
        let moment = Moment { rate, step: self.steps, scale };
        let (settings, kept) = (&self.settings, &mut self.kept);
        module.map(&mut Move { path: Vec::new(), settings, moment, kept, gradients })
    }

    /// Forgets what it keeps: no step follows.
    pub(crate) fn release(&mut self) {
        self.kept.clear();
    }

    /// The norm of all gradients of the last step together, before clipping.
    pub(crate) fn gradient_norm(&self) -> f64 {
        self.gradient_norm
    }

    /// All that the steps to come depend on, by name.
    pub(crate) fn state(&self) -> Vec<(String, TensorData)> {
        let mut state = vec![(STEPS.to_owned(), TensorData::new(vec![self.steps as i64], [1]))];
        for (path, kept) in &self.kept {
            for (name, tensor) in self.names().iter().zip(&kept.tensors) {
                let numbers: Vec<f32> = tensor.to_data().iter().collect();
                let data = TensorData::new(numbers, kept.shape.clone());
                state.push((format!("{path}.{name}"), data));
            }
        }
        state
    }

    /// Puts back what [`state`](Self::state) took out of an optimizer of the same kind and of the same
    /// module.
    ///
    /// # Errors
    /// [`Error::Data`], naming what is missing, has a wrong shape or belongs to no weight. Nothing is
    /// changed then.
    pub(crate) fn restore(&mut self, state: Vec<(String, TensorData)>) -> Result<(), Error> {
        let mut given: BTreeMap<String, TensorData> = state.into_iter().collect();
        let mut take = |name: &str, shape: &Shape| {
            let data = given.remove(name).ok_or_else(|| wrong(format!("has no {name}")))?;
            if data.shape() != shape {
                let [is, needed] = [data.shape(), shape].map(|shape| shape.to_vec());
                return Err(wrong(format!("has {name} of shape {is:?}, but {needed:?} is needed")));
            }
            Ok(data)
        };
        let steps = take(STEPS, &Shape::new([1]))?.iter::<i64>().next().unwrap_or_default();
        let steps = usize::try_from(steps)
            .map_err(|_| wrong(format!("has {STEPS} {steps}, but it must be at least 0")))?;
        let mut restored = BTreeMap::new();
        for (path, kept) in &self.kept {
            let flat = [kept.shape.num_elements()];
            let tensors = self.names().iter().map(|name| {
                let data = take(&format!("{path}.{name}"), &kept.shape)?;
                let data: Vec<f32> = data.iter::<f32>().collect();
                Ok(Tensor::from_data(TensorData::new(data, flat), &kept.device))
            });
            restored.insert(path.clone(), tensors.collect::<Result<Vec<_>, Error>>()?);
        }
        if let Some(name) = given.keys().next() {
            return Err(wrong(format!("has {name}, which belongs to no weight of this model")));
        }
        self.steps = steps;
        for (kept, tensors) in self.kept.values_mut().zip(restored.into_values()) {
            kept.tensors = tensors;
        }
        Ok(())
    }

    fn names(&self) -> &'static [&'static str] {
        rule(&self.settings, 0).keeps()
    }
}

fn wrong(what: String) -> Error {
    Error::Data(format!("the optimizer's state {what}"))
}

/// How weights of this rank move. What has one dimension or none is a bias or belongs to a norm:
/// LARS neither decays nor adapts these.
fn rule(settings: &OptimizerSettings, rank: usize) -> Rule {
    let OptimizerSettings { name, weight_decay, momentum, .. } = *settings;
    match name {
        OptimizerName::AdamW => Rule::AdamW { weight_decay },
        OptimizerName::Sgd => Rule::Sgd { momentum, weight_decay },
        OptimizerName::Lars if rank > 1 => {
            Rule::Lars { momentum, weight_decay, trust: Some(TRUST) }
        }
        OptimizerName::Lars => Rule::Lars { momentum, weight_decay: 0.0, trust: None },
    }
}

/// Collects the weights that are trained. Running statistics are none.
struct Begin {
    path: Vec<String>,
    names: usize,
    kept: BTreeMap<String, Kept>,
}

impl ModuleVisitor for Begin {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            let (shape, device) = (param.lazy_shape(), param.lazy_device().inner());
            let zeros = Tensor::zeros([shape.num_elements()], &device);
            // Each has numbers of its own, which steps overwrite.
            let tensors = (0..self.names).map(|_| zeros.clone() * 1.0).collect();
            self.kept.insert(self.path.join("."), Kept { shape, device, tensors });
        }
    }
}

struct Norm<'a> {
    gradients: &'a GradientsParams,
    squares: f64,
}

impl ModuleVisitor for Norm<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.squares += self.gradients.get::<D>(param.id).map_or(0.0, squares);
    }
}

struct Move<'a> {
    path: Vec<String>,
    settings: &'a OptimizerSettings,
    moment: Moment,
    kept: &'a mut BTreeMap<String, Kept>,
    gradients: GradientsParams,
}

impl Move<'_> {
    fn weight<const D: usize>(&mut self, id: ParamId, weight: Tensor<D>) -> Tensor<D> {
        let kept = self.kept.get_mut(&self.path.join("."));
        let (Some(gradient), Some(kept)) = (self.gradients.remove::<D>(id), kept) else {
            return weight;
        };
        let rule = rule(self.settings, D);
        let tensors = std::mem::take(&mut kept.tensors);
        let (weight, tensors) = step(&rule, self.moment, weight.inner(), gradient, tensors);
        kept.tensors = tensors;
        Tensor::from_inner(weight).require_grad()
    }
}

impl ModuleMapper for Move<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, weight, mapper) = param.consume();
        Param::from_mapped_value(id, self.weight(id, weight), mapper)
    }
}

/// The learning rate at a step counted from 0: up in a line over the warm-up, then down in half a
/// cosine to 0 at the end.
pub(crate) fn learning_rate(
    settings: &OptimizerSettings,
    batch: usize,
    step: usize,
    steps: usize,
) -> f64 {
    let highest = settings.highest_rate(batch);
    let warmup = settings.warmup.min(steps);
    if step < warmup {
        return highest * (step + 1) as f64 / warmup as f64;
    }
    let done = (step - warmup) as f64 / (steps - warmup).max(1) as f64;
    highest * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
}

#[cfg(test)]
mod tests;
