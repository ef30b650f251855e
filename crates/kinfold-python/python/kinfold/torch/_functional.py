"""The losses as functions.

Input: tensors, whatever they are. Output: a loss that can be differentiated; or a `TypeError` or a
`ValueError` that says what was given and what was needed.
"""

from __future__ import annotations

import difflib
import inspect
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from .._settings import NAMES, Fixed, Form, Objective, Reduction
from . import _distributed
from ._batch import Batch, exact_numbers, loss
from ._operation import computed

if TYPE_CHECKING:
    from typing_extensions import Unpack

_FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_REDUCTIONS = ("mean", "sum", "none")

NegativeMode = Literal["unpaired", "paired"]


class ContrastiveSettings(Fixed, total=False):
    """Settings of `contrastive` but for the temperature and the reduction."""

    bias: float | Tensor
    ids: Tensor | None
    labels: Tensor | None
    weights: Tensor | None
    guide: tuple[Tensor, ...] | None
    logit_scale: float | Tensor | None
    check_finite: bool | None
    gather: bool
    group: dist.ProcessGroup | None


def contrastive(
    queries: Tensor,
    keys: Tensor | None = None,
    negatives: Tensor | None = None,
    *,
    form: Form = "one-way",
    objective: Objective = "softmax",
    temperature: float | Tensor = 0.1,
    reduction: Reduction | Literal["none"] = "mean",
    normalize: bool = True,
    margin: float = 0.0,
    label_smoothing: float = 0.0,
    factor: float = 1.0,
    norm_floor: float = 1e-12,
    in_batch_negatives: bool = True,
    within_views: bool = False,
    offset: int = 0,
    sigma: float = 0.5,
    positive_share: float = 0.1,
    concentration: float = 1.0,
    q: float = 0.5,
    lam: float = 0.025,
    bias: float | Tensor = -10.0,
    ids: Tensor | None = None,
    labels: Tensor | None = None,
    weights: Tensor | None = None,
    guide: tuple[Tensor, ...] | None = None,
    logit_scale: float | Tensor | None = None,
    matryoshka_dims: Sequence[int] = (),
    matryoshka_weights: Sequence[float] | None = None,
    check_finite: bool | None = None,
    gather: bool = False,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Any loss of the family: the settings of the crate `kinfold`, by name.

    Args:
        queries: `[n, d]`, float32, float64, float16 or bfloat16.
        keys: `[n, d]`, row i the positive of query i; `[m, d]` with an offset; None with `labels` where
            rows are all there is.
        negatives: `[m, d]`, of every query, or `[n, m, d]`, m of each.
        form: "one-way", "both-ways" (CLIP) or "nt-xent" (SimCLR).
        objective: "softmax", "decoupled", "decoupled-weighted", "debiased", "hard-negatives",
            "sup-con-outside", "sup-con-inside", "rince" or "sigmoid".
        temperature: τ; a tensor of one number where it is learned.
        reduction: "mean", "sum" or "none", a loss for each row: `[n]`, or `[2n]` in the form "nt-xent".
        normalize: whether to compare by the cosine, or else by the dot product as it is.
        margin: what the positive's similarity must be ahead by.
        label_smoothing: the part of the target that is spread over all candidates.
        factor: what the loss is multiplied by.
        norm_floor: the least length that the cosine divides by.
        in_batch_negatives: whether the other keys are negatives, too, where `negatives` are given.
        within_views: whether queries are pushed from queries, and keys from keys (GISTEmbed).
        offset: query i's positive is key i + offset.
        sigma: of "decoupled-weighted", the temperature of its weights.
        positive_share, concentration: τ⁺ of "debiased" and "hard-negatives", and β of the latter.
        q, lam: of "rince", how robust it is, and λ, the weight of the denominator.
        bias: of "sigmoid", what is added to every logit; a tensor of one number where it is learned.
        ids: `[n]` integers, what each pair is of: pairs of one id are known duplicates and not pushed
            apart. Ids of shared negatives may follow them.
        labels: `[n]` integers, for SupCon.
        weights: what each row counts, at least 0: `[n]`, or `[2n]` in the form "nt-xent".
        guide: another model's embeddings of queries, keys and, where there are any, shared negatives:
            what it finds closer to a query than its key is no negative.
        logit_scale: 1/τ, in place of the temperature.
        matryoshka_dims: the loss is the sum of those over so many first features, each compared by its own
            cosine; none for all features. A softmax is computed at the price of little more than one loss.
        matryoshka_weights: what each of these counts; None for 1.
        check_finite: whether a NaN or an infinity among the numbers is an error; or else the loss is NaN,
            as a `GradScaler` expects of f16 that overflows. None: it is one but under autocast and for
            float16. With `gather` it is one in all processes, or in none.
        gather: whether to share the batch with the other processes of `torch.distributed`: the loss is
            that of all rows together, and gradients are exact where those of the processes are
            averaged, as DistributedDataParallel does.
        group: the processes that share it; None for all.

    Returns:
        The loss in nats, float64 for float64 and else float32: `[]`, or `[rows]` without a reduction.

    Raises:
        TypeError, ValueError: what was given, and what was needed.
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}, but must be one of {', '.join(_REDUCTIONS)}")
    _matrix("queries", queries)
    if keys is None and labels is None:
        raise ValueError("keys are needed, or labels in their place")
    if not isinstance(offset, (int, torch.SymInt)) or not 0 <= offset < 2**62:
        raise ValueError(f"offset is {offset!r}, but it must be an integer of at least 0")
    like = queries
    queries, keys, negatives = _together(queries=queries, keys=keys, negatives=negatives)
    guide = _guide(guide, like, queries.dtype)
    scale, temperature = _scale(temperature, logit_scale, like)
    learned_bias, bias = _learned("bias", bias, like)
    if learned_bias is not None and objective != "sigmoid":
        raise ValueError(f"a learned bias has a meaning for the objective sigmoid alone, not {objective}")
    for name, x in (("form", form), ("objective", objective)):
        if not isinstance(x, str):
            raise TypeError(f"{name} must be a string, but is of type {type(x).__name__}")
    settings = {
        "form": form,
        "objective": objective,
        "temperature": temperature,
        "normalize": bool(normalize),
        "margin": _number("margin", margin),
        "label_smoothing": _number("label_smoothing", label_smoothing),
        "factor": _number("factor", factor),
        "norm_floor": _number("norm_floor", norm_floor),
        "in_batch_negatives": bool(in_batch_negatives),
        "within_views": bool(within_views),
        "offset": operator.index(offset),
        "sigma": _number("sigma", sigma),
        "positive_share": _number("positive_share", positive_share),
        "concentration": _number("concentration", concentration),
        "q": _number("q", q),
        "lam": _number("lam", lam),
        "bias": bias,
        "matryoshka_dims": tuple(operator.index(dim) for dim in matryoshka_dims),
        "matryoshka_weights": None if matryoshka_weights is None else tuple(map(float, matryoshka_weights)),
    }
    ids, labels = _integers("ids", ids, like), _integers("labels", labels, like)
    batch = Batch(queries, keys, negatives, scale, learned_bias, ids, labels, _weights(weights, like), *guide)
    if check_finite is None:
        device = like.device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        check_finite = not autocast and queries.dtype != torch.float16
    if gather and _distributed.world_size(group) > 1:
        return _distributed.contrastive(batch, settings, bool(check_finite), reduction, group)
    return computed(batch, settings, bool(check_finite), reduction)


def info_nce(
    query: Tensor,
    positive_key: Tensor,
    negative_keys: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    reduction: Reduction | Literal["none"] = "mean",
    negative_mode: NegativeMode = "unpaired",
    **settings: Unpack[ContrastiveSettings],
) -> Tensor:
    """InfoNCE one way, with the arguments of info-nce-pytorch, and its number.

    Args:
        query: `[n, d]`.
        positive_key: `[n, d]`, row i the positive of query i; with `offset=0` there may be more keys than
            queries, and the further ones are negatives.
        negative_keys: negatives in place of the other keys: `[m, d]`, or `[n, m, d]` when "paired".
        temperature: τ; a tensor of one number where it is learned.
        reduction: "mean", "sum" or "none".
        negative_mode: "unpaired" or "paired".
        settings: more of `contrastive`: `form="both-ways"`, `label_smoothing`, `ids`, `gather`, ...
    """
    if negative_mode not in ("unpaired", "paired"):
        raise ValueError(f"negative_mode is {negative_mode!r}, but must be 'unpaired' or 'paired'")
    if isinstance(negative_keys, Tensor):
        needed = 3 if negative_mode == "paired" else 2
        if negative_keys.dim() != needed:
            shape = "[n, m, d]" if needed == 3 else "[m, d]"
            raise ValueError(
                f"negative_keys have shape {_shape(negative_keys)}, but must be {shape} when {negative_mode}"
            )
        settings.setdefault("in_batch_negatives", False)
    # Elsewhere an error, and mostly a batch that was put together wrongly.
    both = isinstance(query, Tensor) and isinstance(positive_key, Tensor)
    if both and "offset" not in settings and query.shape[:1] != positive_key.shape[:1]:
        raise ValueError(
            f"query has shape {_shape(query)} and positive_key {_shape(positive_key)}, but each query needs its "
            "key; where there are more keys than queries, give offset=0"
        )
    return contrastive(
        query, positive_key, negative_keys, temperature=temperature, reduction=reduction, **settings
    )


def check_settings(**settings: Any) -> None:
    """Refuses settings of `contrastive` that are wrong whatever the batch."""
    known = [p.name for p in inspect.signature(contrastive).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise TypeError(f"there is no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if (reduction := settings.get("reduction", "mean")) not in _REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}, but must be one of {', '.join(_REDUCTIONS)}")
    numbers = {name: x for name, x in settings.items() if name in NAMES and not isinstance(x, Tensor)}
    for name in ("matryoshka_dims", "matryoshka_weights"):
        if numbers.get(name) is not None:
            numbers[name] = tuple(numbers[name])
    loss(**{**numbers, "reduction": "mean"})
    if settings.get("gather") and not dist.is_available():
        raise ValueError("processes are to share a batch, but this PyTorch has no torch.distributed")


# --- what was given ---------------------------------------------------------------------------------


def _shape(x: Tensor) -> str:
    return f"[{', '.join(map(str, x.shape))}]"


def _tensor(name: str, x) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, but are of type {type(x).__name__}")
    if x.layout != torch.strided:
        raise TypeError(f"{name} are {x.layout}, but must be dense")


def _matrix(name: str, x, dims: tuple[int, ...] = (2,)) -> None:
    _tensor(name, x)
    if x.dtype not in _FLOATING:
        raise TypeError(f"{name} are {x.dtype}, but must be float32, float64, float16 or bfloat16")
    if x.dim() not in dims:
        shapes = " or ".join({2: "[n, d]", 3: "[n, m, d]"}[dim] for dim in dims)
        raise ValueError(f"{name} have shape {_shape(x)}, but must be {shapes}")


def _placed(name: str, x: Tensor, like: Tensor) -> None:
    if x.device != like.device:
        raise ValueError(f"{name} are on {x.device}, but queries are on {like.device}")


def _together(queries: Tensor, **others: Tensor | None):
    """All matrices in one type, the one that holds the numbers of all."""
    dtype = queries.dtype
    for name, x in others.items():
        if x is None:
            continue
        _matrix(name, x, (2, 3) if name == "negatives" else (2,))
        _placed(name, x, queries)
        if x.shape[-1] != queries.shape[1]:
            raise ValueError(
                f"{name} have shape {_shape(x)}, but queries have shape {_shape(queries)}: their last "
                "dimensions must be equal"
            )
        if x.dim() == 3 and x.shape[0] != queries.shape[0]:
            raise ValueError(
                f"{name} have shape {_shape(x)}, but queries have shape {_shape(queries)}: [n, m, d] must "
                "have a row for each query"
            )
        if x.dtype != dtype:
            dtype = torch.promote_types(dtype, x.dtype)
    return [x if x is None or x.dtype == dtype else x.to(dtype) for x in (queries, *others.values())]


def _guide(guide, like: Tensor, dtype: torch.dtype):
    if guide is None:
        return None, None, None
    if not isinstance(guide, (tuple, list)) or len(guide) not in (2, 3):
        raise TypeError("guide must be a tuple of two or three tensors: of queries, keys and negatives")
    guide = tuple(guide) + (None,) * (3 - len(guide))
    for name, x in zip(("queries", "keys", "negatives"), guide):
        if x is not None or name != "negatives":
            _matrix(f"the guide's {name}", x)
            _placed(f"the guide's {name}", x, like)
    return tuple(None if x is None else x.detach().to(dtype) for x in guide)


def _scale(temperature, logit_scale, like: Tensor):
    """1/τ where it is learned, and τ where it is not."""
    if logit_scale is None:
        tau, fixed = _learned("temperature", temperature, like)
        return (None if tau is None else tau.reciprocal()), fixed
    scale, fixed = _learned("logit_scale", logit_scale, like)
    if not fixed > 0:
        raise ValueError(f"logit_scale is {fixed}, but it must be a finite number above 0")
    return scale, 1.0 / fixed


def _learned(name: str, x, like: Tensor):
    """A number that is learned, and the one in its place where it is not."""
    if not isinstance(x, Tensor):
        return None, _number(name, x)
    if x.numel() != 1 or not x.dtype.is_floating_point:
        raise ValueError(
            f"{name} is a tensor of shape {_shape(x)} and {x.dtype}, but must be one floating number"
        )
    return x.reshape(()).to(device=like.device, dtype=exact_numbers(like.device)), 1.0


def _number(name: str, x) -> float:
    try:
        return float(x)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, but is of type {type(x).__name__}") from None


def _integers(name: str, x, like: Tensor) -> Tensor | None:
    if x is None:
        return None
    _tensor(name, x)
    if x.dtype not in _INTEGERS:
        raise TypeError(f"{name} are {x.dtype}, but must be integers")
    if x.dim() != 1:
        raise ValueError(f"{name} have shape {_shape(x)}, but must be [n]")
    _placed(name, x, like)
    return x.to(torch.int64)


def _weights(x, like: Tensor) -> Tensor | None:
    if x is None:
        return None
    _tensor("weights", x)
    if x.dim() != 1:
        raise ValueError(f"weights have shape {_shape(x)}, but must be [n]")
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "weights want a gradient, and get none here: detach them, or multiply the losses of "
            "reduction='none' by them"
        )
    _placed("weights", x, like)
    return x.detach().to(exact_numbers(like.device))
