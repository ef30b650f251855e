"""The loss as two PyTorch operations, `kinfold::info_nce` and the backward pass of its rows.

Comes in: tensors whose shapes `_functional` has seen to, and settings. Goes out: the loss, and all its
gradients, which are computed together. On the CPU kinfold's engine reads the tensors where they lie; on
every other device `_strips` does the same in PyTorch's operations.

Without a reduction, what gradients are of is known in the backward pass alone, and they are computed
there, by the second operation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _strips, _threads
from ._checks import TENSORS
from ._settings import NAMES, computed_in, exact_numbers, native_loss, rows_of

# The tensors of a batch, and the settings that `_native.Loss` has, in the order of the operations.
_BATCH = """Tensor queries, Tensor? keys, Tensor? negatives, Tensor? scale, Tensor? bias, Tensor? ids,
    Tensor? labels, Tensor? weights, Tensor? guide_queries, Tensor? guide_keys, Tensor? guide_negatives"""
_SETTINGS = """str form, str objective, float temperature, bool cosine, float margin,
    float label_smoothing, float factor, float norm_floor, bool in_batch, bool within_views, int offset,
    float sigma, float positive_share, float concentration, float fixed_bias, bool sum"""

# Those that may want a gradient come first.
_LEAVES, _INPUTS = 5, TENSORS + len(NAMES) + 2

# After the value: of queries, of keys, of negatives, and of 1/τ and the bias, `[2]`. What was not asked
# for, or is of something that was not given, has no numbers.
_GRADIENTS = "Tensor, Tensor, Tensor, Tensor"

_library = torch.library.Library("kinfold", "DEF")
_library.define(
    f"info_nce({_BATCH}, {_SETTINGS}, bool unreduced, bool gradients) -> (Tensor, {_GRADIENTS})"
)
_library.define(f"info_nce_of_rows(Tensor upstream, {_BATCH}, {_SETTINGS}) -> ({_GRADIENTS})")


# --- on the CPU -------------------------------------------------------------------------------------


def _rows(x: Tensor | None):
    """A matrix as the engine takes it, and the tensor that it lies in."""
    if x is None:
        return None, None
    rows, dim = x.shape
    if x.is_contiguous() and not x.is_neg():
        return (x.data_ptr(), rows, dim, dim), x
    x = x.resolve_neg()
    stride = max(x.stride(0), dim) if rows < 2 else x.stride(0)
    if x.stride(1) != 1 and dim > 1 or stride < dim:
        x, stride = x.contiguous(), dim
    return (x.data_ptr(), rows, dim, stride), x


def _numbers(x: Tensor | None):
    x = None if x is None else x.resolve_neg().contiguous()
    return _address(x), x


_DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.float16: "float16",
           torch.bfloat16: "bfloat16"}


def _compute(batch, settings, unreduced: bool, gradients: bool):
    """The value, or without a reduction each row's, in f64; the gradients of queries, keys and negatives,
    None where there are none; and those of 1/τ and the bias."""
    queries, keys, negatives, scale, bias = batch[:_LEAVES]
    loss = native_loss(*settings)
    exact = computed_in(queries.dtype)
    per_query = negatives is not None and negatives.dim() == 3
    flat = negatives.flatten(0, 1) if per_query else negatives
    # Whatever had to be copied is held until the call is over.
    matrices, held = _each(_rows, queries, keys, flat, *batch[8:])
    numbers, held_too = _each(_numbers, *batch[5:8])
    out, rows = (None,) * 3, None
    if gradients:
        side_by_side = {"dtype": exact, "memory_format": torch.contiguous_format}
        out = [None if x is None else torch.empty_like(x, **side_by_side) for x in batch[:3]]
    if unreduced:
        rows = torch.empty(rows_of(settings[0], queries, keys), dtype=torch.float64)
    scale = None if scale is None else scale.item()
    value, of_log_scale, of_bias = loss.compute(
        _DTYPES.get(queries.dtype) or str(queries.dtype),
        torch.get_num_threads(),
        _threads.open_mp,
        *matrices[:3],
        per_query,
        *numbers,
        None if matrices[3] is None else matrices[3:],
        scale,
        None if bias is None else bias.item(),
        _address(rows),
        tuple([_address(x) or (0, 0) for x in out]) if gradients else None,
    )
    del held, held_too
    return value if rows is None else rows, out, (of_log_scale / (scale or 1.0), of_bias)


def _address(x: Tensor | None):
    return None if x is None else (x.data_ptr(), x.numel())


def _on_cpu(*given):
    *batch_and_settings, unreduced, gradients = given
    batch = batch_and_settings[:TENSORS]
    value, out, numbers = _compute(batch, batch_and_settings[TENSORS:], unreduced, gradients)
    exact = computed_in(batch[0].dtype)
    value = value.to(exact, copy=True) if unreduced else torch.tensor(value, dtype=exact)
    out = [torch.empty(0, dtype=exact) if x is None else x for x in out]
    return value, *out, torch.tensor(numbers if gradients else [], dtype=torch.float64)


def _each(how, *tensors):
    return zip(*map(how, tensors))


# --- wherever it is computed ------------------------------------------------------------------------


def _shapes(queries, keys, negatives, *rest):
    """What comes out, without its numbers."""
    form, *_, unreduced, gradients = rest[8:]
    exact = computed_in(queries.dtype)
    value = queries.new_empty([rows_of(form, queries, keys)] if unreduced else [], dtype=exact)
    return value, *_shapes_of_gradients(queries, keys, negatives, gradients)


def _shapes_of_gradients(queries, keys, negatives, gradients=True):
    exact = computed_in(queries.dtype)
    out = [queries.new_empty(x.shape if gradients and x is not None else [0], dtype=exact)
           for x in (queries, keys, negatives)]
    numbers = queries.new_empty([2 if gradients else 0], dtype=exact_numbers(queries.device))
    return *out, numbers


def _keep(ctx, inputs, output):
    """What the backward pass needs: the gradients, or where they are still to be computed the inputs."""
    *batch_and_settings, unreduced, _ = inputs
    ctx.unreduced = unreduced
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.settings = batch_and_settings[TENSORS:]
    ctx.save_for_backward(*inputs[:TENSORS], *(() if unreduced else output[1:]))


def _scaled(ctx, upstream, *_):
    """The gradients that were kept, times the upstream one; or those of the rows."""
    if upstream is None:
        return (None,) * _INPUTS
    batch, kept = ctx.saved_tensors[:TENSORS], ctx.saved_tensors[TENSORS:]
    wanted = ctx.needs_input_grad[:_LEAVES]
    with torch.no_grad():
        if ctx.unreduced:
            kept = torch.ops.kinfold.info_nce_of_rows(upstream, *batch, *ctx.settings)
            upstream = 1.0
        of = (*kept[:3], kept[3][0], kept[3][1])
        of = [upstream * x if w else None for x, w in zip(of, wanted)]
    return *_handed_on(of, batch[:_LEAVES], wanted), *(None,) * (_INPUTS - _LEAVES)


def _handed_on(of, leaves, wanted):
    """Gradients in their leaves' types, where they are wanted."""
    with torch.no_grad():
        of = [torch.as_tensor(x, dtype=leaf.dtype) if w else None for x, leaf, w in zip(of, leaves, wanted)]
    if torch.is_grad_enabled():
        of = [x if x is None else _FirstOnly.apply(x, *leaves) for x in of]
    return of


class _FirstOnly(torch.autograd.Function):
    """A gradient that cannot be differentiated again, and says so rather than give a part."""

    @staticmethod
    def forward(ctx, gradient, *_):
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(
            "kinfold's losses have first derivatives only: their gradient was differentiated again, as "
            "by create_graph=True and a second backward()"
        )


def _of_rows(upstream, *rest):
    """The gradients of `Σ upstream_i · L_i`. Row weights are not negative, so the rows whose upstream
    gradient is are a sum of their own, which is taken off."""
    batch, settings = list(rest[:TENSORS]), list(rest[TENSORS:])
    settings[-1] = True
    weights = upstream.to(exact_numbers(upstream.device))
    total = None
    for sign in (1.0, -1.0):
        batch[7] = (weights * sign).clamp_min(0)
        if not batch[7].any():
            continue
        of = torch.ops.kinfold.info_nce(*batch, *settings, False, True)[1:]
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
    def forward(ctx, *leaves_others_settings):
        *leaves, others, settings = leaves_others_settings
        value, out, ctx.numbers = _compute((*leaves, *others), settings, False, True)
        ctx.save_for_backward(*leaves, *out)
        return torch.scalar_tensor(value, dtype=computed_in(leaves[0].dtype))

    @staticmethod
    def backward(ctx, upstream):
        saved = ctx.saved_tensors
        leaves, of = saved[:_LEAVES], (*saved[_LEAVES:], *ctx.numbers)
        # Most often it is 1, and multiplying would copy all.
        if not _is_one(upstream):
            with torch.no_grad():
                of = [None if x is None else upstream * x for x in of]
        return *_handed_on(of, leaves, ctx.needs_input_grad), None, None


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
    if torch.compiler.is_compiling() or _watched() or _transformed():
        return False
    return all([x is None or type(x) in _PLAIN and x.device.type == "cpu" for x in batch])


_PLAIN = (Tensor, torch.nn.Parameter)


def computed(batch, settings, reduction: str) -> Tensor:
    """The loss, and gradients with it where there will be a backward pass. Rows count their weights."""
    wanted = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in batch)
    unreduced = reduction == "none"
    if not unreduced and _plain(batch):
        settings = (*settings, reduction == "sum")
        if wanted:
            return _OnCpu.apply(*batch[:_LEAVES], batch[_LEAVES:], settings)
        value, *_ = _compute(batch, settings, False, False)
        return torch.scalar_tensor(value, dtype=computed_in(batch[0].dtype))
    value, *_ = info_nce(*batch, *settings, reduction == "sum", unreduced, wanted and not unreduced)
    if unreduced and batch[7] is not None:
        value = value * batch[7].to(value.dtype)
    return value
