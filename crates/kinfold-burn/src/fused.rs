//! The loss as one Burn operation on the CPU: kinfold's engine reads the tensors where they lie, and
//! computes value and gradients at once; the backward pass scales the gradients it kept. Without a
//! reduction what gradients are of is known in the backward pass alone, and they are computed there.

use crate::PairBatch;
use crate::batch::Negatives;
use crate::config::Reduction;
use crate::info_nce::Learned;
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
    Batch, ContrastiveLoss, Element, Embeddings, Error, GradientMut, Objective, Real, Temperature,
    Value,
};
use std::sync::{Arc, Mutex, PoisonError};

/// Where the operation leaves what went wrong: a Burn operation can return tensors only.
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

/// The loss, and what the batch has beside tensors with gradients.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    loss: ContrastiveLoss,
    /// A row each.
    unreduced: bool,
    /// What is fixed is used as given, not as rounded to f32 on its way through a tensor.
    learned_scale: bool,
    learned_bias: bool,
    keys: bool,
    /// None, shared, or per query.
    negatives: Option<bool>,
    /// Whether these want a gradient; a queue does not.
    of_negatives: bool,
    ids: Option<Arc<[u64]>>,
    labels: Option<Arc<[u64]>>,
    row_weights: Option<Arc<[f64]>>,
    guide: Option<Arc<Guide>>,
}

/// A guide's embeddings and their dimensions.
#[derive(Debug)]
struct Guide {
    queries: (Vec<f64>, usize),
    keys: (Vec<f64>, usize),
    negatives: Option<(Vec<f64>, usize)>,
}

pub(crate) fn forward(
    loss: &ContrastiveLoss,
    reduction: Reduction,
    batch: PairBatch,
    learned: Learned,
) -> Result<Tensor<1>, Error> {
    batch.check_per_query()?;
    let task = Task {
        loss: *loss,
        unreduced: reduction == Reduction::None,
        learned_scale: learned.log_scale.is_some(),
        learned_bias: learned.bias.is_some(),
        keys: batch.keys.is_some(),
        negatives: batch.negatives.as_ref().map(|x| matches!(x, Negatives::PerQuery(_))),
        of_negatives: batch.negatives.as_ref().is_some_and(|x| match x {
            Negatives::Shared(x) => x.is_tracked(),
            Negatives::PerQuery(x) => x.is_tracked(),
        }),
        ids: batch.ids.map(integers),
        labels: batch.labels.map(integers),
        row_weights: batch.row_weights.map(|x| floats(x).into()),
        guide: batch.guide.map(|guide| {
            let matrix = |x: Tensor<2>| (floats(x.clone()), x.dims()[1]);
            let (queries, keys) = (matrix(guide.queries), matrix(guide.keys));
            Arc::new(Guide { queries, keys, negatives: guide.negatives.map(matrix) })
        }),
    };
    let device = batch.queries.device();
    // An operation has tensors for all its inputs; those that there are none of are not looked at.
    let nothing = || Tensor::<2>::zeros([1, 1], &device);
    let negatives = batch.negatives.map_or_else(nothing, |negatives| negatives.rows().0);
    let number = |x: Option<Tensor<1>>| x.unwrap_or_else(|| Tensor::zeros([1], &device));
    let failure = Failure::default();
    let value = Tensor::from_dispatch(<Dispatch as Fused>::info_nce(
        batch.queries.into_dispatch(),
        batch.keys.unwrap_or_else(nothing).into_dispatch(),
        negatives.into_dispatch(),
        number(learned.log_scale).into_dispatch(),
        number(learned.bias).into_dispatch(),
        task,
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
    fn info_nce(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        negatives: FloatTensor<Self>,
        log_scale: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        task: Task,
        failure: Failure,
    ) -> FloatTensor<Self>;
}

impl Fused for Flex {
    fn info_nce(
        queries: FlexTensor,
        keys: FlexTensor,
        negatives: FlexTensor,
        log_scale: FlexTensor,
        bias: FlexTensor,
        task: Task,
        failure: Failure,
    ) -> FlexTensor {
        compute(&[queries, keys, negatives, log_scale, bias], &task, false, &failure).value
    }
}

/// What the backward pass of a loss works from.
#[derive(Clone, Debug)]
enum Kept {
    /// With respect to queries, keys, negatives, log(1/τ) and the bias.
    Gradients([FlexTensor; 5]),
    /// The inputs.
    Inputs([FlexTensor; 5], Box<Task>),
}

#[derive(Debug)]
struct InfoNceBackward;

impl Backward<Flex, 5> for InfoNceBackward {
    type State = Kept;

    fn backward(
        self,
        ops: Ops<Self::State, 5>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = grads.consume::<Flex>(&ops.node);
        let (gradients, upstream) = match ops.state {
            Kept::Gradients(kept) => (kept, Some(upstream)),
            Kept::Inputs(inputs, task) => {
                let upstream = Tensor::<1>::from_primitive::<Flex>(upstream);
                (of_rows(&inputs, &task, &floats(upstream)), None)
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

/// The gradients of `Σ upstream_i · w_i · L_i`. Row weights are not negative, so the rows whose
/// upstream gradient is are a sum of their own, which is taken off.
fn of_rows(inputs: &[FlexTensor; 5], task: &Task, upstream: &[f64]) -> [FlexTensor; 5] {
    let own = |row: usize| task.row_weights.as_ref().map_or(1.0, |weights| weights[row]);
    let weights: Vec<f64> = upstream.iter().enumerate().map(|(row, g)| g * own(row)).collect();
    let part = |sign: f64| {
        // A NaN from above stays one: the engine refuses it, and the gradients become NaN, too.
        let of_sign = |w: &f64| if w * sign <= 0.0 { 0.0 } else { w * sign };
        let weights: Arc<[f64]> = weights.iter().map(of_sign).collect();
        let task = Task { row_weights: Some(weights.clone()), unreduced: false, ..task.clone() };
        let some = weights.iter().any(|&w| w != 0.0);
        some.then(|| compute(inputs, &task, true, &Failure::default()).gradients)
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
    fn info_nce(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        negatives: FloatTensor<Self>,
        log_scale: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        task: Task,
        failure: Failure,
    ) -> FloatTensor<Self> {
        let nodes = [queries.node(), keys.node(), negatives.node(), log_scale.node(), bias.node()];
        let tracked = InfoNceBackward.prepare::<C>(nodes).compute_bound().stateful();
        let inputs = [queries, keys, negatives, log_scale, bias].map(|x| x.into_primitive());
        match tracked {
            OpsKind::Tracked(prep) if task.unreduced => {
                let value = compute(&inputs, &task, false, &failure).value;
                prep.finish(Kept::Inputs(inputs, Box::new(task)), value)
            }
            OpsKind::Tracked(prep) => {
                let out = compute(&inputs, &task, true, &failure);
                prep.finish(Kept::Gradients(out.gradients), out.value)
            }
            OpsKind::UnTracked(prep) => prep.finish(compute(&inputs, &task, false, &failure).value),
        }
    }
}

struct Computed {
    value: FlexTensor,
    /// With respect to the inputs; empty tensors where none were asked for.
    gradients: [FlexTensor; 5],
}

fn compute(inputs: &[FlexTensor; 5], task: &Task, gradients: bool, failure: &Failure) -> Computed {
    let by_type = match inputs[0].dtype() {
        DType::F64 => typed::<f64>,
        DType::F16 => typed::<f16>,
        DType::BF16 => typed::<bf16>,
        _ => typed::<f32>,
    };
    by_type(inputs, task, gradients).unwrap_or_else(|error| {
        failure.set(error);
        // In the backward pass nobody asks what failed: NaN says that something did.
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
    task: &Task,
    gradients: bool,
) -> Result<Computed, Error> {
    let [queries, keys, negatives, log_scale, bias] =
        inputs.each_ref().map(FlexTensor::to_contiguous);
    let mut loss = task.loss;
    if task.learned_scale {
        loss = loss.with_temperature(Temperature::new((-number(&log_scale)).exp())?);
    }
    if task.learned_bias {
        loss = loss.with_objective(Objective::Sigmoid { bias: number(&bias) })?;
    }
    let queries = matrix::<T>(&queries)?;
    let keys = task.keys.then(|| matrix::<T>(&keys)).transpose()?;
    let negatives = task.negatives.map(|_| matrix::<T>(&negatives)).transpose()?;
    let guide = task.guide.as_ref().map(|guide| guide.narrowed::<T>());
    let mut batch = task.batch(queries, keys, negatives)?;
    if let Some((queries, keys, negatives)) = &guide {
        let negatives = negatives.as_ref().map(|x| Embeddings::new(&x.0, x.1)).transpose()?;
        batch = batch.with_guide(
            Embeddings::new(&queries.0, queries.1)?,
            Embeddings::new(&keys.0, keys.1)?,
            negatives,
        );
    }
    if !gradients {
        let value = task.reduced::<T>(&loss, &loss.value(&batch)?);
        return Ok(Computed { value, gradients: [(); 5].map(|()| tensor::<T>(vec![], vec![0])) });
    }
    let zeros = |x: Option<Embeddings<'_, T>>| {
        vec![T::Real::default(); x.map_or(0, |x| x.rows() * x.dim())]
    };
    let mut of_queries = zeros(Some(queries));
    let mut of_keys = zeros(keys);
    let mut of_negatives = zeros(negatives.filter(|_| task.of_negatives));
    let gradient =
        GradientMut::new(&mut of_queries, &mut of_keys).with_negatives(&mut of_negatives);
    let (value, parameters) = loss.value_and_gradient_into(&batch, gradient)?;
    let narrow = |x: Vec<T::Real>| {
        let rows = x.len() / queries.dim();
        tensor(x.into_iter().map(|x| T::narrow(x.f64())).collect(), vec![rows, queries.dim()])
    };
    Ok(Computed {
        value: task.reduced::<T>(&loss, &value),
        gradients: [
            narrow(of_queries),
            narrow(of_keys),
            narrow(of_negatives),
            tensor(vec![parameters.log_scale as f32], vec![1]),
            tensor(vec![parameters.bias as f32], vec![1]),
        ],
    })
}

impl Task {
    fn batch<'a, T: Element>(
        &'a self,
        queries: Embeddings<'a, T>,
        keys: Option<Embeddings<'a, T>>,
        negatives: Option<Embeddings<'a, T>>,
    ) -> Result<Batch<'a, T>, Error> {
        let mut batch = match (keys, &self.labels) {
            (Some(keys), _) => Batch::new(queries, keys),
            (None, Some(labels)) => Batch::labelled(queries, labels),
            (None, None) => return Err(Error::Empty { matrix: "keys", needed: 1 }),
        };
        if let Some(labels) = &self.labels {
            batch = batch.with_labels(labels);
        }
        batch = match (negatives, self.negatives) {
            (None, _) => batch,
            (Some(own), Some(true)) => batch.with_negatives_per_query(own),
            (Some(shared), _) => batch.with_negatives(shared),
        };
        if let Some(ids) = &self.ids {
            batch = batch.with_ids(ids);
        }
        if let Some(weights) = &self.row_weights {
            batch = batch.with_row_weights(weights);
        }
        Ok(batch)
    }

    fn reduced<T: Shared>(&self, loss: &ContrastiveLoss, value: &Value) -> FlexTensor {
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

/// Numbers row by row, and the dimension.
type Numbers<T> = (Vec<T>, usize);

impl Guide {
    fn narrowed<T: Shared>(&self) -> (Numbers<T>, Numbers<T>, Option<Numbers<T>>) {
        let narrow = |(x, dim): &Numbers<f64>| (x.iter().map(|&x| T::narrow(x)).collect(), *dim);
        (narrow(&self.queries), narrow(&self.keys), self.negatives.as_ref().map(narrow))
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
