//! A differentiable operation: what it computes, and how gradients pass back through it. The shell that
//! Burn's dispatch and autodiff need is written here, once for all operations.
//!
//! Input: an [`Operation`] and its tensors, on the CPU or on an autodiff device over it. Output: the
//! result, which is a node of Burn's graph where one of the inputs is.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
    ExtensionType, Flex, backend_extension,
};
use burn::tensor::{Device, Tensor};
use std::fmt::Debug;
use std::marker::PhantomData;

/// An operation on `N` tensors, with its settings.
pub(crate) trait Operation<const N: usize>: Debug + Send + 'static {
    /// What the backward pass needs.
    type Saved: Clone + Debug + Send + 'static;

    /// The result, and what the backward pass needs.
    fn forward(&self, inputs: [FlexTensor; N]) -> (FlexTensor, Self::Saved);

    /// The result alone, where no backward pass will follow.
    fn infer(&self, inputs: [FlexTensor; N]) -> FlexTensor {
        self.forward(inputs).0
    }

    /// The gradients of the inputs, from the gradient of the result. Those that are not `wanted` are
    /// dropped.
    fn backward(
        saved: Self::Saved,
        gradient: FlexTensor,
        wanted: [bool; N],
    ) -> [Option<FlexTensor>; N];
}

/// The result of `operation` on `inputs`, which must all be `f32` and on the CPU.
pub(crate) fn apply<O: Operation<N>, const N: usize, const D: usize>(
    operation: O,
    inputs: [DispatchTensor; N],
) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Apply>::apply::<O, N>(Inputs(inputs.into()), operation))
}

/// A tensor in place of an input that is not given. The operation knows that and does not read it.
pub(crate) fn no_input(device: &Device) -> DispatchTensor {
    Tensor::<1>::zeros([1], device).into_dispatch()
}

/// An operation's tensors: Burn passes on structs of tensors, but no arrays.
struct Inputs<B: Backend>(Vec<FloatTensor<B>>);

impl<B: Backend> Inputs<B> {
    fn array<const N: usize>(self) -> [FloatTensor<B>; N] {
        self.0.try_into().expect("there are as many as `apply` was given")
    }
}

impl<B: Backend> ExtensionType<B> for Inputs<B> {
    type Target = Inputs<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let dispatched = |x| DispatchTensor { kind: map_kind(BackendTensor::Float(x)), autodiff };
        Inputs(self.0.into_iter().map(dispatched).collect())
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        Self(target.0.into_iter().map(|x| unwrap_kind(x).float()).collect())
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        let merge =
            |context: DispatchAutodiffContext, x: &DispatchTensor| context.merge(x.autodiff);
        target.0.iter().fold(DispatchAutodiffContext::Disabled, merge)
    }
}

/// What Burn dispatches to the backend of the inputs.
#[backend_extension(Autodiff, Flex)]
trait Apply: Backend {
    fn apply<O: Operation<N>, const N: usize>(
        #[extension_type] inputs: Inputs<Self>,
        operation: O,
    ) -> FloatTensor<Self>;
}

impl Apply for Flex {
    fn apply<O: Operation<N>, const N: usize>(inputs: Inputs<Self>, operation: O) -> FlexTensor {
        operation.infer(inputs.array())
    }
}

impl<C: CheckpointStrategy> Apply for Autodiff<Flex, C> {
    fn apply<O: Operation<N>, const N: usize>(
        inputs: Inputs<Self>,
        operation: O,
    ) -> FloatTensor<Self> {
        let inputs: [FloatTensor<Self>; N] = inputs.array();
        let nodes = inputs.each_ref().map(|x| x.node());
        let prepared = Step::<O>(PhantomData).prepare::<C>(nodes).compute_bound().stateful();
        let inputs = inputs.map(|x| x.into_primitive());
        match prepared {
            OpsKind::Tracked(prepared) => {
                let (result, saved) = operation.forward(inputs);
                prepared.finish(saved, result)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(operation.infer(inputs)),
        }
    }
}

/// The backward pass of an operation as a step of Burn's graph.
#[derive(Debug)]
struct Step<O>(PhantomData<O>);

impl<O: Operation<N>, const N: usize> Backward<Flex, N> for Step<O> {
    type State = O::Saved;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = gradients.consume::<Flex>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let of_inputs = O::backward(ops.state, gradient, wanted);
        for (input, gradient) in ops.parents.into_iter().zip(of_inputs) {
            if let (Some(input), Some(gradient)) = (input, gradient) {
                gradients.register::<Flex>(input.id, gradient);
            }
        }
    }
}
