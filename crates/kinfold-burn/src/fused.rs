//! The loss as one Burn operation on the CPU: kinfold's engine reads both tensors where they lie,
//! and computes value and gradients at once; the backward pass scales the gradients it kept.

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
use kinfold::{Element, Embeddings, Error, InfoNce, Real, Temperature};
use std::sync::{Arc, Mutex};

/// Where the operation leaves what went wrong: a Burn operation can return tensors only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failure(Arc<Mutex<Option<Error>>>);

impl Failure {
    fn set(&self, error: Error) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
    }
    fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

pub(crate) fn forward(
    loss: &InfoNce,
    queries: Tensor<2>,
    keys: Tensor<2>,
    log_scale: Option<Tensor<1>>,
) -> Result<Tensor<1>, Error> {
    let device = queries.device();
    let log_scale = log_scale
        .unwrap_or_else(|| Tensor::from_floats([loss.temperature().scale().ln() as f32], &device));
    // A fixed temperature is used as given, not as rounded to f32 on its way through a tensor.
    let learned = log_scale.is_require_grad();
    let failure = Failure::default();
    let value = Tensor::from_dispatch(<Dispatch as Fused>::info_nce(
        queries.into_dispatch(),
        keys.into_dispatch(),
        log_scale.into_dispatch(),
        (*loss, learned),
        failure.clone(),
    ));
    match failure.take() {
        Some(error) => Err(error),
        None => Ok(value),
    }
}

/// What the operation needs of a backend.
#[backend_extension(Autodiff, Flex)]
pub(crate) trait Fused: Backend {
    fn info_nce(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        log_scale: FloatTensor<Self>,
        loss: (InfoNce, bool),
        failure: Failure,
    ) -> FloatTensor<Self>;
}

impl Fused for Flex {
    fn info_nce(
        queries: FlexTensor,
        keys: FlexTensor,
        log_scale: FlexTensor,
        loss: (InfoNce, bool),
        failure: Failure,
    ) -> FlexTensor {
        compute(&queries, &keys, &log_scale, loss, false, &failure).value
    }
}

/// Gradients with respect to queries, keys and log(1/τ), kept for the backward pass.
#[derive(Debug)]
struct InfoNceBackward;

impl Backward<Flex, 3> for InfoNceBackward {
    type State = [FlexTensor; 3];

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = grads.consume::<Flex>(&ops.node);
        for ((node, saved), ones) in ops.parents.into_iter().zip(ops.state).zip([2, 2, 1]) {
            if let Some(node) = node {
                let upstream = Flex::float_reshape(upstream.clone(), Shape::from(vec![1; ones]));
                grads.register::<Flex>(node.id, Flex::float_mul(saved, upstream));
            }
        }
    }
}

impl<C: CheckpointStrategy> Fused for Autodiff<Flex, C> {
    fn info_nce(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        log_scale: FloatTensor<Self>,
        loss: (InfoNce, bool),
        failure: Failure,
    ) -> FloatTensor<Self> {
        let nodes = [queries.node(), keys.node(), log_scale.node()];
        let tracked = InfoNceBackward.prepare::<C>(nodes).compute_bound().stateful();
        let (q, k, s) =
            (queries.into_primitive(), keys.into_primitive(), log_scale.into_primitive());
        match tracked {
            OpsKind::Tracked(prep) => {
                let out = compute(&q, &k, &s, loss, true, &failure);
                prep.finish(out.gradients, out.value)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(compute(&q, &k, &s, loss, false, &failure).value)
            }
        }
    }
}

struct Computed {
    value: FlexTensor,
    /// With respect to queries, keys and log(1/τ); empty tensors where none were asked for.
    gradients: [FlexTensor; 3],
}

fn compute(
    queries: &FlexTensor,
    keys: &FlexTensor,
    log_scale: &FlexTensor,
    loss: (InfoNce, bool),
    gradients: bool,
    failure: &Failure,
) -> Computed {
    let by_type = match queries.dtype() {
        DType::F64 => typed::<f64>,
        DType::F16 => typed::<f16>,
        DType::BF16 => typed::<bf16>,
        _ => typed::<f32>,
    };
    by_type(queries, keys, log_scale, loss, gradients).unwrap_or_else(|error| {
        failure.set(error);
        let nothing = tensor::<f32>(vec![f32::NAN], vec![1]);
        Computed { value: nothing.clone(), gradients: [(); 3].map(|()| nothing.clone()) }
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
    queries: &FlexTensor,
    keys: &FlexTensor,
    log_scale: &FlexTensor,
    (loss, learned): (InfoNce, bool),
    gradients: bool,
) -> Result<Computed, Error> {
    let loss = if learned {
        let log_scale = FlexTensor::storage::<f32>(&log_scale.to_contiguous())[0];
        loss.with_temperature(Temperature::new((-f64::from(log_scale)).exp())?)
    } else {
        loss
    };
    let (queries, keys) = (queries.to_contiguous(), keys.to_contiguous());
    let (q, k) = (matrix::<T>(&queries)?, matrix::<T>(&keys)?);
    if !gradients {
        let value = tensor(vec![T::narrow(loss.value(q, k)?.mean)], vec![1]);
        return Ok(Computed { value, gradients: [(); 3].map(|()| tensor::<T>(vec![], vec![0])) });
    }
    let out = loss.value_and_gradient(q, k)?;
    let narrow = |x: Vec<T::Real>, rows: usize| {
        tensor(x.into_iter().map(|x| T::narrow(x.f64())).collect(), vec![rows, q.dim()])
    };
    Ok(Computed {
        value: tensor(vec![T::narrow(out.mean)], vec![1]),
        gradients: [
            narrow(out.queries, q.rows()),
            narrow(out.keys, k.rows()),
            tensor(vec![out.log_scale as f32], vec![1]),
        ],
    })
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
