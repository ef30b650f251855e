"""The loss as two PyTorch operations, `kinfold::info_nce` and the backward pass of its rows.

Input: tensors whose shapes `_functional` has seen to, and settings. Output: the loss, and all its gradients,
which are computed together. On the CPU kinfold's engine reads the tensors where they lie; on every other
device `_strips` does the same in PyTorch's operations.

Without a reduction, what gradients are of is known in the backward pass alone, and they are computed
there, by the second operation.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _engine, _strips
from ._batch import (
    LEAVES, TENSORS, Batch, computed_in, exact_numbers, loss, loss_of, parsed, rows_of, settings_text, summed,
)

_BATCH = ", ".join("Tensor? " + name for name in Batch._fields).replace("?", "", 1)
# Besides the tensors: settings, `check_finite`, `unreduced` and `gradients`.
_INPUTS = TENSORS + 4

# After the value: of queries, of keys, of negatives, and of 1/τ and the bias, `[2]`. What was not asked
# for, or is of something that was not given, has no numbers.
_GRADIENTS = "Tensor, Tensor, Tensor, Tensor"

_library = torch.library.Library("kinfold", "DEF")
# The host asks the device whether all is finite, which no CUDA graph can record.
_TAGS = [tag] if (tag := getattr(torch.Tag, "cudagraph_unsafe", None)) is not None else []
_library.define(
    f"info_nce({_BATCH}, str settings, bool check_finite, bool unreduced, bool gradients) -> (Tensor, {_GRADIENTS})",
    tags=_TAGS,
)
_library.define(f"info_nce_of_rows(Tensor upstream, {_BATCH}, str settings) -> ({_GRADIENTS})", tags=_TAGS)


# --- on the CPU -------------------------------------------------------------------------------------


def _on_cpu(*given):
    *tensors, settings, check_finite, unreduced, gradients = given
    value, out, numbers = _engine.compute(
        Batch(*tensors), loss_of(settings), check_finite, unreduced, gradients
    )
    exact = computed_in(tensors[0].dtype)
    value = value.to(exact, copy=True) if unreduced else torch.tensor(value, dtype=exact)
    out = [torch.empty(0, dtype=exact) if x is None else x for x in out]
    return value, *out, torch.tensor(numbers if gradients else [], dtype=torch.float64)


# --- wherever it is computed ------------------------------------------------------------------------


def _shapes(queries, keys, negatives, *rest):
    """What comes out, without its numbers."""
    *_, settings, _, unreduced, gradients = rest
    exact = computed_in(queries.dtype)
    rows = [rows_of(parsed(settings).form, queries, keys)] if unreduced else []
    value = queries.new_empty(rows, dtype=exact)
    return value, *_shapes_of_gradients(queries, keys, negatives, gradients)


def _shapes_of_gradients(queries, keys, negatives, gradients=True):
    exact = computed_in(queries.dtype)
    out = [queries.new_empty(x.shape if gradients and x is not None else [0], dtype=exact)
           for x in (queries, keys, negatives)]
    numbers = queries.new_empty([2 if gradients else 0], dtype=exact_numbers(queries.device))
    return *out, numbers


def _keep(ctx, inputs, output):
    """What the backward pass needs: the gradients, or where they are still to be computed the inputs."""
    *batch, ctx.settings, _, unreduced, _ = inputs
    ctx.unreduced = unreduced
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*batch, *(() if unreduced else output[1:]))


def _scaled(ctx, upstream, *_):
    """The gradients that were kept, times the upstream one; or those of the rows."""
    if upstream is None:
        return (None,) * _INPUTS
    batch, kept = ctx.saved_tensors[:TENSORS], ctx.saved_tensors[TENSORS:]
    wanted = ctx.needs_input_grad[:LEAVES]
    with torch.no_grad():
        if ctx.unreduced:
            kept = torch.ops.kinfold.info_nce_of_rows(upstream, *batch, ctx.settings)
            upstream = 1.0
        of = (*kept[:3], kept[3][0], kept[3][1])
        of = [upstream * x if w else None for x, w in zip(of, wanted)]
    return *_handed_on(of, batch[:LEAVES], wanted), *(None,) * (_INPUTS - LEAVES)


def _handed_on(of, leaves, wanted):
    """Gradients in their leaves' types, where they are wanted."""
    with torch.no_grad():
        of = [torch.as_tensor(x, dtype=leaf.dtype) if w else None for x, leaf, w in zip(of, leaves, wanted)]
    if torch.is_grad_enabled():
        of = [x if x is None else _FirstOnly.apply(x, *leaves) for x in of]
    return of


class _FirstOnly(torch.autograd.Function):
    """A gradient that cannot be differentiated again, and says so rather than give a part."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient, *_):
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *_):
        _FirstOnly._refuse()

    @staticmethod
    def jvp(ctx, *_):
        _FirstOnly._refuse()

    @staticmethod
    def _refuse():
        raise RuntimeError(
            "kinfold's losses have first derivatives only: their gradient was differentiated again, as "
            "by create_graph=True and a second backward()"
        )


def _of_rows(upstream, *rest):
    """The gradients of `Σ upstream_i · L_i`. Row weights are not negative, so the rows whose upstream
    gradient is are a sum of their own, which is taken off."""
    *tensors, settings = rest
    batch, settings = Batch(*tensors), summed(settings)
    weights = upstream.to(exact_numbers(upstream.device))
    total = None
    for sign in (1.0, -1.0):
        batch = batch._replace(weights=(weights * sign).clamp_min(0))
        if not batch.weights.any():
            continue
        # Embeddings have been checked on the way there; an upstream gradient may be NaN.
        of = torch.ops.kinfold.info_nce(*batch, settings, False, False, True)[1:]
        total = of if total is None else [x - y for x, y in zip(total, of)]
        if sign < 0 and total is of:
            total = [-x for x in of]
    return tuple(total or [torch.zeros_like(x) for x in _shapes_of_gradients(*batch[:3])])


_library.impl("info_nce", _on_cpu, "CPU")
_library.impl("info_nce", _strips.info_nce, "CompositeExplicitAutograd")
_library.impl("info_nce_of_rows", _of_rows, "CompositeExplicitAutograd")
torch.library.register_fake("kinfold::info_nce", _shapes, lib=_library)
torch.library.register_fake(
    "kinfold::info_nce_of_rows",
    lambda upstream, *rest: _shapes_of_gradients(*rest[:3]),
    lib=_library,
)
torch.library.register_autograd("kinfold::info_nce", _scaled, setup_context=_keep, lib=_library)

info_nce = torch.ops.kinfold.info_nce.default


class _OnCpu(torch.autograd.Function):
    """The operation without PyTorch's dispatcher, which takes longer than the engine for small batches."""

    @staticmethod
    def forward(ctx, *given):
        *leaves, others, loss, check_finite = given
        value, out, ctx.numbers = _engine.compute((*leaves, *others), loss, check_finite, False, True)
        ctx.save_for_backward(*leaves, *out)
        return torch.scalar_tensor(value, dtype=computed_in(leaves[0].dtype))

    @staticmethod
    def backward(ctx, upstream):
        saved = ctx.saved_tensors
        leaves, of = saved[:LEAVES], (*saved[LEAVES:], *ctx.numbers)
        # Most often it is 1, and multiplying would copy all.
        if not _is_one(upstream):
            with torch.no_grad():
                of = [None if x is None else upstream * x for x in of]
        return *_handed_on(of, leaves, ctx.needs_input_grad), None, None, None


class _Transformed(torch.autograd.Function):
    """The operation under `torch.func` and in forward mode: what it is told of its inputs' tangents is their
    products with the gradients, which are there with the value."""

    @staticmethod
    def forward(*given):
        return info_nce(*given, False, True)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:LEAVES], *output[1:])
        ctx.save_for_forward(*inputs[:LEAVES], *output[1:])

    @staticmethod
    def _gradients(ctx):
        leaves, (*kept, numbers) = ctx.saved_tensors[:LEAVES], ctx.saved_tensors[LEAVES:]
        return leaves, (*kept, numbers[..., 0], numbers[..., 1])

    @staticmethod
    def backward(ctx, upstream, *_):
        if upstream is None:
            return (None,) * (TENSORS + 2)
        leaves, of = _Transformed._gradients(ctx)
        wanted = ctx.needs_input_grad[:LEAVES]
        of = [upstream * x if w else None for x, w in zip(of, wanted)]
        return *_handed_on(of, leaves, wanted), *(None,) * (TENSORS + 2 - LEAVES)

    @staticmethod
    def jvp(ctx, *tangents):
        leaves, of = _Transformed._gradients(ctx)
        told = [(x * tangent.to(x.dtype)).sum() for x, tangent in zip(of, tangents[:LEAVES]) if tangent is not None]
        exact = computed_in(leaves[0].dtype)
        return sum(told, torch.zeros((), dtype=exact, device=leaves[0].device)).to(exact), *(None,) * 4

    @staticmethod
    def vmap(info, in_dims, *given):
        """One after the other: a batch of batches has no product of its own."""
        def at(i):
            return [x if dim is None else x.select(dim, i) for x, dim in zip(given, in_dims)]
        outputs = [_Transformed.apply(*at(i)) for i in range(info.batch_size)]
        stacked = tuple(torch.stack(of) for of in zip(*outputs))
        return stacked, (0,) * len(stacked)


def _forward_mode(batch) -> bool:
    """Whether one of these has a tangent."""
    level = getattr(forward_ad, "_current_level", 0)
    return level >= 0 and any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in batch)


def _is_one(upstream: Tensor) -> bool:
    try:
        return upstream.item() == 1.0
    except RuntimeError:  # Where there are many at once, as for a Jacobian, there is no one number.
        return False


# Whether somebody watches or transforms what tensors do; private, so that it may be gone one day.
_watched = getattr(torch._C, "_len_torch_dispatch_stack", lambda: True)
_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def _plain(batch) -> bool:
    """Whether these are tensors of numbers on the CPU and nothing else."""
    if torch.compiler.is_compiling() or _watched() or _transformed() or torch.jit.is_tracing():
        return False
    return all([x is None or type(x) in _PLAIN and x.device.type == "cpu" for x in batch])


_PLAIN = (Tensor, torch.nn.Parameter)


def computed(batch: Batch, settings: dict, check_finite: bool, reduction: str) -> Tensor:
    """The loss, and gradients with it where there will be a backward pass. Rows count their weights."""
    unreduced = reduction == "none"
    reduced_to = "sum" if reduction == "sum" else "mean"
    if not torch.compiler.is_compiling() and (_transformed() or _forward_mode(batch)):
        if unreduced:
            raise RuntimeError(
                "under torch.func and in forward mode a loss has to be reduced: give reduction='mean' or 'sum'"
            )
        text = settings_text(reduction=reduced_to, **settings)
        return _Transformed.apply(*batch, text, check_finite)[0]
    wanted = torch.is_grad_enabled() and any([x is not None and x.requires_grad for x in batch])
    if not unreduced and _plain(batch):
        one = loss(reduction=reduced_to, **settings)
        if wanted:
            return _OnCpu.apply(*batch[:LEAVES], batch[LEAVES:], one, check_finite)
        value, *_ = _engine.compute(batch, one, check_finite, False, False)
        return torch.scalar_tensor(value, dtype=computed_in(batch.queries.dtype))
    if torch.compiler.is_compiling():
        # A number that changes from call to call is a symbol there; written down, it is a constant.
        settings = {name: float(f"{x}") if isinstance(x, float) else x for name, x in settings.items()}
    text = settings_text(reduction=reduced_to, **settings)
    value, *_ = info_nce(*batch, text, check_finite, unreduced, wanted and not unreduced)
    if unreduced and batch.weights is not None:
        value = value * batch.weights.to(value.dtype)
    return value
