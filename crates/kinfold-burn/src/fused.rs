//! The loss as one Burn operation on the CPU: kinfold's engine reads the tensors where they lie.
//!
//! Input: a batch of tensors. Output: the loss, whose gradients are computed with the value; the
//! backward pass scales them by the upstream gradient. Without a reduction the upstream gradient has a
//! number for each row, so gradients are computed in the backward pass.

use crate::PairBatch;
use crate::batch::Negatives;
use crate::learned::Learned;
use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Bytes, DType, Shape, Tensor, bf16, f16};
use kinfold::{
    Batch, ContrastiveLoss, Element, Embeddings, Error, GradientMut, Objective, Real, Reduction,
    Temperature, Value,
};
use std::sync::{Arc, Mutex, PoisonError};

/// Where the operation leaves an error: a Burn operation can return tensors only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failure(Arc<Mutex<Option<Error>>>);

impl Failure {
    fn set(&self, error: Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
    fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The settings, and the parts of the batch that have no gradient.
#[derive(Clone, Debug)]
pub(crate) struct Constants {
    loss: ContrastiveLoss,
    /// The loss is a number for each row.
    unreduced: bool,
    /// Fixed numbers are used as given, not as rounded to f32 on their way through a tensor.
    learned_scale: bool,
    learned_bias: bool,
    has_keys: bool,
    /// Whether the keys have a gradient, or need one all the same; those of a model that stays as it is have none.
    keys_tracked: bool,
    negatives: NegativesGiven,
    /// Whether the negatives have a gradient; those of a queue have none.
    negatives_tracked: bool,
    ids: Option<Arc<[u64]>>,
    labels: Option<Arc<[u64]>>,
    row_weights: Option<Arc<[f64]>>,
    /// The guide's queries, keys and negatives, in the type of the queries.
    guide: Option<[Option<FlexTensor>; 3]>,
}

#[derive(Clone, Copy, Debug)]
enum NegativesGiven {
    None,
    Shared,
    PerQuery,
}

/// The loss of a batch; of each row without a reduction.
pub(crate) fn forward(
    loss: &ContrastiveLoss,
    reduction: Option<Reduction>,
    batch: PairBatch,
    learned: Learned,
) -> Result<Tensor<1>, Error> {
    let (device, dtype) = (batch.queries.device(), batch.queries.dtype());
    let constants = Constants {
        loss: loss.with_reduction(reduction.unwrap_or(Reduction::Sum)),
        unreduced: reduction.is_none(),
        learned_scale: learned.log_scale.is_some(),
        learned_bias: learned.bias.is_some(),
        has_keys: batch.keys.is_some(),
        keys_tracked: batch.keys.as_ref().is_some_and(Tensor::is_tracked)
            || batch.negatives.is_some()
            || !loss.may_have_constant_keys(),
        negatives: match &batch.negatives {
            None => NegativesGiven::None,
            Some(Negatives::Shared(_)) => NegativesGiven::Shared,
            Some(Negatives::PerQuery(_)) => NegativesGiven::PerQuery,
        },
        negatives_tracked: batch.negatives.as_ref().is_some_and(Negatives::is_tracked),
        ids: batch.ids.map(integers),
        labels: batch.labels.map(integers),
        row_weights: batch.row_weights.map(|x| floats(x).into()),
        guide: batch.guide.map(|guide| {
            let primitive = |x: Tensor<2>| {
                let data = x.into_data().convert_dtype(dtype);
                Flex::float_from_data(data, &Default::default())
            };
            let guide = [Some(guide.queries), Some(guide.keys), guide.negatives];
            guide.map(|x| x.map(primitive))
        }),
    };
    // The operation has a tensor for each input; one that stands for nothing is not read.
    let nothing = || Tensor::<2>::zeros([1, 1], &device);
    let number = |x: Option<Tensor<1>>| x.unwrap_or_else(|| Tensor::zeros([1], &device));
    let negatives = batch.negatives.map_or_else(nothing, |negatives| negatives.rows().0);
    let failure = Failure::default();
    let value = Tensor::from_dispatch(<Dispatch as Fused>::contrastive_loss(
        batch.queries.into_dispatch(),
        batch.keys.unwrap_or_else(nothing).into_dispatch(),
        negatives.into_dispatch(),
        number(learned.log_scale).into_dispatch(),
        number(learned.bias).into_dispatch(),
        constants,
        failure.clone(),
    ));
    match failure.take() {
        Some(error) => Err(error),
        None => Ok(value),
    }
}

/// Integers are compared with each other only, so it does not matter that −1 becomes 2⁶⁴ − 1.
fn integers(x: Tensor<1, burn::tensor::Int>) -> Arc<[u64]> {
    x.into_data().iter::<i64>().map(|x| x as u64).collect()
}

fn floats<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

/// What the operation needs of a backend.
#[backend_extension(Autodiff, Flex)]
pub(crate) trait Fused: Backend {
    fn contrastive_loss(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        negatives: FloatTensor<Self>,
        log_scale: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        constants: Constants,
        failure: Failure,
    ) -> FloatTensor<Self>;
}

impl Fused for Flex {
    fn contrastive_loss(
        queries: FlexTensor,
        keys: FlexTensor,
        negatives: FlexTensor,
        log_scale: FlexTensor,
        bias: FlexTensor,
        constants: Constants,
        failure: Failure,
    ) -> FlexTensor {
        compute(&[queries, keys, negatives, log_scale, bias], &constants, false, &failure).value
    }
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
enum Saved {
    /// With respect to queries, keys, negatives, log(1/τ) and the bias.
    Gradients([FlexTensor; 5]),
    /// Without a reduction: the inputs.
    Inputs([FlexTensor; 5], Box<Constants>),
}

#[derive(Debug)]
struct ContrastiveLossBackward;

impl Backward<Flex, 5> for ContrastiveLossBackward {
    type State = Saved;

    fn backward(
        self,
        ops: Ops<Self::State, 5>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = grads.consume::<Flex>(&ops.node);
        let (gradients, upstream) = match ops.state {
            Saved::Gradients(gradients) => (gradients, Some(upstream)),
            Saved::Inputs(inputs, constants) => {
                let upstream = floats(Tensor::<1>::from_primitive::<Flex>(upstream));
                (unreduced_gradients(&inputs, &constants, &upstream), None)
            }
        };
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = node {
                let gradient = match &upstream {
                    Some(upstream) => scaled(gradient, upstream),
                    None => gradient,
                };
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

/// A gradient times the upstream one, a number of perhaps another type.
fn scaled(gradient: FlexTensor, upstream: &FlexTensor) -> FlexTensor {
    let ones = vec![1; gradient.layout().shape().num_dims()];
    let upstream = Flex::float_reshape(upstream.clone(), Shape::from(ones));
    let upstream = Flex::float_cast(upstream, gradient.dtype().into());
    Flex::float_mul(gradient, upstream)
}

/// The gradients of `Σ upstream_i · w_i · L_i`. The engine's row weights are at least 0, so the rows
/// with a negative upstream gradient are a sum of their own, which is subtracted.
fn unreduced_gradients(
    inputs: &[FlexTensor; 5],
    constants: &Constants,
    upstream: &[f64],
) -> [FlexTensor; 5] {
    let weight = |row: usize| constants.row_weights.as_ref().map_or(1.0, |weights| weights[row]);
    let weights: Vec<f64> = upstream.iter().enumerate().map(|(i, g)| g * weight(i)).collect();
    let part = |sign: f64| {
        // An upstream NaN stays one: the engine refuses it, and the gradients become NaN.
        let of_sign = |w: &f64| if w * sign <= 0.0 { 0.0 } else { w * sign };
        let weights: Arc<[f64]> = weights.iter().map(of_sign).collect();
        let some = weights.iter().any(|&w| w != 0.0);
        let constants =
            Constants { row_weights: Some(weights), unreduced: false, ..constants.clone() };
        some.then(|| compute(inputs, &constants, true, &Failure::default()).gradients)
    };
    let times = |x: FlexTensor, by: f64| Flex::float_mul_scalar(x, by.into());
    match (part(1.0), part(-1.0)) {
        (Some(up), None) => up,
        (None, Some(down)) => down.map(|x| times(x, -1.0)),
        (Some(up), Some(down)) => {
            let mut down = down.into_iter();
            up.map(|up| match down.next() {
                Some(down) => Flex::float_sub(up, down),
                None => up,
            })
        }
        (None, None) => inputs.each_ref().map(|x| times(x.clone(), 0.0)),
    }
}

impl<C: CheckpointStrategy> Fused for Autodiff<Flex, C> {
    fn contrastive_loss(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        negatives: FloatTensor<Self>,
        log_scale: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        constants: Constants,
        failure: Failure,
    ) -> FloatTensor<Self> {
        let nodes = [queries.node(), keys.node(), negatives.node(), log_scale.node(), bias.node()];
        let operation = ContrastiveLossBackward.prepare::<C>(nodes).compute_bound().stateful();
        let inputs = [queries, keys, negatives, log_scale, bias].map(|x| x.into_primitive());
        let computed = |gradients| compute(&inputs, &constants, gradients, &failure);
        match operation {
            OpsKind::Tracked(prep) if constants.unreduced => {
                let value = computed(false).value;
                prep.finish(Saved::Inputs(inputs, Box::new(constants)), value)
            }
            OpsKind::Tracked(prep) => {
                let Computed { value, gradients } = computed(true);
                prep.finish(Saved::Gradients(gradients), value)
            }
            OpsKind::UnTracked(prep) => prep.finish(computed(false).value),
        }
    }
}

struct Computed {
    value: FlexTensor,
    /// With respect to the inputs; empty tensors where none were asked for.
    gradients: [FlexTensor; 5],
}

fn compute(
    inputs: &[FlexTensor; 5],
    constants: &Constants,
    gradients: bool,
    failure: &Failure,
) -> Computed {
    let by_type = match inputs[0].dtype() {
        DType::F64 => typed::<f64>,
        DType::F16 => typed::<f16>,
        DType::BF16 => typed::<bf16>,
        _ => typed::<f32>,
    };
    by_type(inputs, constants, gradients).unwrap_or_else(|error| {
        failure.set(error);
        // The backward pass cannot return an error: its gradients are NaN.
        let nan = |x: &FlexTensor| Flex::float_mul_scalar(x.clone(), f32::NAN.into());
        let value = tensor(vec![f32::NAN], vec![1]);
        Computed { value, gradients: inputs.each_ref().map(nan) }
    })
}

/// A number that Burn's tensors and kinfold's embeddings are both made of.
trait Shared: Element + burn::tensor::Element + bytemuck::Pod {
    fn narrow(x: f64) -> Self;
}
impl Shared for f32 {
    fn narrow(x: f64) -> Self {
        x as f32
    }
}
impl Shared for f64 {
    fn narrow(x: f64) -> Self {
        x
    }
}
impl Shared for f16 {
    fn narrow(x: f64) -> Self {
        f16::from_f64(x)
    }
}
impl Shared for bf16 {
    fn narrow(x: f64) -> Self {
        bf16::from_f64(x)
    }
}

fn typed<T: Shared>(
    inputs: &[FlexTensor; 5],
    constants: &Constants,
    gradients: bool,
) -> Result<Computed, Error> {
    let [queries, keys, negatives, log_scale, bias] =
        inputs.each_ref().map(FlexTensor::to_contiguous);
    let mut loss = constants.loss;
    if constants.learned_scale {
        loss = loss.with_temperature(Temperature::new((-number(&log_scale)).exp())?);
    }
    if constants.learned_bias {
        loss = loss.with_objective(Objective::Sigmoid { bias: number(&bias) })?;
    }
    let batch = constants.batch::<T>(&queries, &keys, &negatives)?;
    if !gradients {
        let value = constants.value::<T>(&loss, &loss.value(batch)?);
        return Ok(Computed { value, gradients: [(); 5].map(|()| tensor::<T>(vec![], vec![0])) });
    }
    let (rows, dim) = (|x: &FlexTensor| x.layout().shape()[0], queries.layout().shape()[1]);
    let zeros = |wanted: bool, x| vec![T::Real::default(); if wanted { rows(x) * dim } else { 0 }];
    let mut of_queries = zeros(true, &queries);
    let mut of_keys = zeros(constants.has_keys && constants.keys_tracked, &keys);
    let mut of_negatives = zeros(constants.negatives_tracked, &negatives);
    let into = GradientMut::new(&mut of_queries, &mut of_keys).with_negatives(&mut of_negatives);
    let (value, parameters) = loss.value_and_gradient_into(batch, into)?;
    let narrow = |x: Vec<T::Real>| {
        let rows = x.len() / dim;
        tensor(x.into_iter().map(|x| T::narrow(x.f64())).collect(), vec![rows, dim])
    };
    Ok(Computed {
        value: constants.value::<T>(&loss, &value),
        gradients: [
            narrow(of_queries),
            narrow(of_keys),
            narrow(of_negatives),
            tensor(vec![parameters.log_scale as f32], vec![1]),
            tensor(vec![parameters.bias as f32], vec![1]),
        ],
    })
}

impl Constants {
    /// The batch of kinfold's that tensors without gaps and these constants are.
    fn batch<'a, T: Shared>(
        &'a self,
        queries: &'a FlexTensor,
        keys: &'a FlexTensor,
        negatives: &'a FlexTensor,
    ) -> Result<Batch<'a, T>, Error> {
        let queries = matrix::<T>(queries)?;
        let mut batch = match (self.has_keys, &self.labels) {
            (true, _) => Batch::new(queries, matrix(keys)?),
            (false, Some(labels)) => Batch::labelled(queries, labels),
            (false, None) => return Err(Error::Empty { matrix: "keys", needed: 1 }),
        };
        if let Some(labels) = &self.labels {
            batch = batch.with_labels(labels);
        }
        batch = match self.negatives {
            NegativesGiven::None => batch,
            NegativesGiven::Shared => batch.with_negatives(matrix(negatives)?),
            NegativesGiven::PerQuery => batch.with_negatives_per_query(matrix(negatives)?),
        };
        if let Some(ids) = &self.ids {
            batch = batch.with_ids(ids);
        }
        if let Some(weights) = &self.row_weights {
            batch = batch.with_row_weights(weights);
        }
        if let Some([Some(queries), Some(keys), negatives]) = &self.guide {
            let negatives = negatives.as_ref().map(matrix).transpose()?;
            batch = batch.with_guide(matrix(queries)?, matrix(keys)?, negatives);
        }
        Ok(batch)
    }

    /// The loss as a tensor.
    fn value<T: Shared>(&self, loss: &ContrastiveLoss, value: &Value) -> FlexTensor {
        if !self.unreduced {
            return tensor(vec![T::narrow(loss.reduced(value.mean, value.sum))], vec![1]);
        }
        let weights = self.row_weights.as_deref();
        let weighted = |(row, loss): (usize, &f64)| {
            T::narrow(loss * weights.map_or(1.0, |weights| weights[row]))
        };
        let rows: Vec<T> = value.rows.iter().enumerate().map(weighted).collect();
        let count = rows.len();
        tensor(rows, vec![count])
    }
}

/// The one number of a tensor of any type.
fn number(x: &FlexTensor) -> f64 {
    floats(Tensor::<1>::from_primitive::<Flex>(x.clone()))[0]
}

fn matrix<T: Shared>(x: &FlexTensor) -> Result<Embeddings<'_, T>, Error> {
    let shape = x.layout().shape();
    let (rows, dim) = (shape[0], shape[1]);
    Embeddings::strided(x.as_slice::<T>().unwrap_or(&[]), rows, dim, dim)
}

fn tensor<T: Shared>(data: Vec<T>, shape: Vec<usize>) -> FlexTensor {
    let layout = Layout::contiguous(Shape::from(shape));
    FlexTensor::new(Bytes::from_elems(data), layout, <T as burn::tensor::Element>::dtype())
}
