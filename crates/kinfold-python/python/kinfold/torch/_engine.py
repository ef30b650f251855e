"""kinfold's engine over PyTorch's tensors on the CPU, which it reads where they lie."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import _native
from . import _threads
from ._batch import Batch, computed_in, parsed, rows_of

_DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.float16: "float16",
           torch.bfloat16: "bfloat16"}


def compute(batch: Batch | tuple, loss: _native.Loss, check_finite: bool, unreduced: bool, gradients: bool):
    """The value, or without a reduction each row's, in f64; the gradients of queries, keys and negatives,
    None where there are none; and those of 1/τ and the bias. Of embeddings that are not finite all of
    this is NaN, unless that is checked."""
    queries, keys, negatives, scale, bias, ids, labels, weights, *guide = batch
    exact = computed_in(queries.dtype)
    per_query = negatives is not None and negatives.dim() == 3
    flat = negatives.flatten(0, 1) if per_query else negatives
    # Whatever had to be copied is held until the call is over.
    matrices, held = _each(_rows, queries, keys, flat, *guide)
    numbers, held_too = _each(_numbers, ids, labels, weights)
    out, rows = (None,) * 3, None
    if gradients:
        side_by_side = {"dtype": exact, "memory_format": torch.contiguous_format}
        out = [None if x is None else torch.empty_like(x, **side_by_side) for x in batch[:3]]
    if unreduced:
        rows = torch.empty(rows_of(parsed(loss.settings).form, queries, keys), dtype=torch.float64)
    scale = None if scale is None else scale.item()
    bias = None if bias is None else bias.item()
    call = lambda: loss.compute(  # noqa: E731
        _DTYPES.get(queries.dtype) or str(queries.dtype),
        torch.get_num_threads(),
        _threads.open_mp,
        *matrices[:3],
        per_query,
        *numbers,
        None if matrices[3] is None else matrices[3:],
        scale,
        bias,
        _address(rows),
        tuple([_address(x) or (0, 0) for x in out]) if gradients else None,
    )
    if check_finite:
        value, of_log_scale, of_bias = call()
    else:
        value, of_log_scale, of_bias = _or_nan(call, (scale, bias), (rows, *(out or ())))
    del held, held_too
    return value if rows is None else rows, out, (of_log_scale / (scale or 1.0), of_bias)


def _or_nan(call, numbers, buffers):
    """What `call` gives; or NaN, written to its buffers, too, where something given is not finite."""
    try:
        if all(x is None or math.isfinite(x) for x in numbers):
            return call()
    except _native.NotFinite:
        pass
    for buffer in buffers:
        if buffer is not None:
            buffer.fill_(math.nan)
    return (math.nan,) * 3


def check(batch: Batch, loss: _native.Loss) -> None:
    """Refuses, by their shapes, tensors that are elsewhere."""
    shape = lambda x: None if x is None else list(x.shape)  # noqa: E731
    count = lambda x: None if x is None else len(x)  # noqa: E731
    guide = None if batch.guide_queries is None else tuple(map(shape, batch.guide))
    matrices = map(shape, (batch.queries, batch.keys, batch.negatives))
    loss.check(*matrices, *map(count, (batch.ids, batch.labels, batch.weights)), guide)


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


def _address(x: Tensor | None):
    return None if x is None else (x.data_ptr(), x.numel())


def _each(how, *tensors):
    return zip(*map(how, tensors))
