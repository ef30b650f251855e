"""The losses and measures over NumPy's arrays.

    from kinfold.numpy import value, value_and_gradients

    loss = value(queries, keys, temperature=0.1)
    loss, gradients = value_and_gradients(queries, keys, temperature=0.1, form="both-ways")

Arrays are `[n, d]` and float32, float64 or float16 (or bfloat16, as ml_dtypes has it). They are read where
they lie, strided and read-only ones too, as long as each row's numbers are side by side. Whatever is wrong
is a `TypeError` or a `ValueError` that says what was given and what was needed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy
from numpy.typing import ArrayLike, NDArray

from . import _native
from ._settings import NAMES, Settings

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Gradients",
    "alignment",
    "ceiling",
    "diagnose",
    "effective_rank",
    "floor",
    "knn_accuracy",
    "linear_probe_accuracy",
    "one_shot_accuracy",
    "recall",
    "row_losses",
    "uniformity",
    "value",
    "value_and_gradients",
]

_DTYPES = ("float16", "float32", "float64", "bfloat16")


class Given(Settings, total=False):
    """Settings, and what a batch may have beside its matrices; `value` says what each is."""

    ids: ArrayLike
    labels: ArrayLike
    weights: ArrayLike
    guide: tuple[ArrayLike, ...]
    threads: int


class Gradients(NamedTuple):
    """The derivatives of a loss, in float64 for float64 and else in float32; those of what was not given
    are None."""

    queries: NDArray
    keys: NDArray | None
    negatives: NDArray | None
    #: With respect to log(1/τ).
    log_scale: float
    #: With respect to the sigmoid's bias.
    bias: float


def value(
    queries: ArrayLike, keys: ArrayLike | None = None, negatives: ArrayLike | None = None, **settings: Unpack[Given]
) -> float:
    """The loss, in nats.

    Args:
        queries: `[n, d]`.
        keys: `[n, d]`, row i the positive of query i; `[m, d]` with an offset; None with `labels` where
            rows are all there is.
        negatives: `[m, d]`, of every query, or `[n, m, d]`, m of each.
        ids: `[n]` integers; pairs of one id are known duplicates and not pushed apart.
        labels: `[n]` integers, for SupCon.
        weights: what each row counts, at least 0: `[n]`, or `[2n]` in the form "nt-xent".
        guide: another model's embeddings of queries, keys and, where there are any, shared negatives.
        threads: at most so many; 0 for as many as there are.
        settings: form, objective, temperature, reduction ("mean" or "sum"), normalize, margin,
            label_smoothing, factor, norm_floor, in_batch_negatives, within_views, offset, sigma,
            positive_share, concentration, q, lam, bias, matryoshka_dims, matryoshka_weights: as
            `kinfold.torch.contrastive` has them.
    """
    return _Task(queries, keys, negatives, settings).compute()[0]


def value_and_gradients(
    queries: ArrayLike, keys: ArrayLike | None = None, negatives: ArrayLike | None = None, **settings: Unpack[Given]
) -> tuple[float, Gradients]:
    """The loss and its derivatives; what is given is what `value` is given."""
    task = _Task(queries, keys, negatives, settings)
    out = [None if x is None else numpy.empty(x.shape, task.exact) for x in task.arrays]
    value, log_scale, bias = task.compute(gradients=out)
    return value, Gradients(*out, log_scale, bias)


def row_losses(
    queries: ArrayLike, keys: ArrayLike | None = None, negatives: ArrayLike | None = None, **settings: Unpack[Given]
) -> NDArray[numpy.float64]:
    """Each row's loss, without its weight: `[n]`, or `[2n]` in the form "nt-xent", queries first; what is
    given is what `value` is given."""
    task = _Task(queries, keys, negatives, settings)
    rows = numpy.empty(task.rows, numpy.float64)
    task.compute(rows=rows)
    return rows


def floor(pairs: int, **settings: Unpack[Settings]) -> float | None:
    """The least value that so many pairs can reach, in nats; None where it is not known."""
    return _loss(settings).floor(pairs)


def ceiling(pairs: int, **settings: Unpack[Given]
) -> float:
    """The value when nothing has been learned, or all has collapsed into one point, in nats."""
    return _loss(settings).ceiling(pairs)


# --- measures ---------------------------------------------------------------------------------------


def knn_accuracy(
    train: ArrayLike, train_labels: ArrayLike, test: ArrayLike, test_labels: ArrayLike, k: int = 200
) -> float:
    """The share of `test` `[m, d]` whose label wins the vote of its k nearest in `train` `[n, d]`, each vote
    weighing exp(cosine / 0.1) (Wu et al. 2018). With fewer than k rows, all of them vote."""
    sample, k = _Samples(train, train_labels, test, test_labels), _count("k", k)
    return _native.knn_accuracy(*sample.given, min(k, len(sample.train)) if sample.train.size else k)


def one_shot_accuracy(
    train: ArrayLike,
    train_labels: ArrayLike,
    test: ArrayLike,
    test_labels: ArrayLike,
    draws: int = 100,
    seed: int = 0,
) -> float:
    """With a single labelled example for each class, drawn from `train` `[n, d]`, the share of `test` `[m, d]`
    whose nearest example has its label; the mean over draws."""
    sample = _Samples(train, train_labels, test, test_labels)
    return _native.one_shot_accuracy(*sample.given, _count("draws", draws), _count("seed", seed))


def linear_probe_accuracy(
    train: ArrayLike, train_labels: ArrayLike, test: ArrayLike, test_labels: ArrayLike
) -> float:
    """The share of `test` `[m, d]` that a logistic regression, fitted on standardised features of `train`
    `[n, d]`, gives its own label: as `make_pipeline(StandardScaler(), LogisticRegression())` does."""
    return _native.linear_probe_accuracy(*_Samples(train, train_labels, test, test_labels).given)


def recall(queries: ArrayLike, keys: ArrayLike, k: int = 1) -> float:
    """The share of `queries` `[n, d]` whose own row of `keys` `[m, d]`, m ≥ n, is among the k nearest by cosine."""
    pairs = _Pairs(queries, keys)
    return _native.recall(*pairs.given, _count("k", k))


def alignment(queries: ArrayLike, keys: ArrayLike) -> float:
    """The mean squared distance of the unit rows of a pair (Wang and Isola 2020): 0 where all pairs agree."""
    pairs = _Pairs(queries, keys)
    return _native.alignment(*pairs.given)


def uniformity(x: ArrayLike) -> float:
    """ln of the mean of exp(−2 · squared distance) over all pairs of different unit rows of `[n, d]` (Wang and
    Isola 2020): the lower, the more evenly spread."""
    x = _one(x)
    return _native.uniformity(x.dtype.name, _rows(x))


def effective_rank(x: ArrayLike) -> float:
    """The exponential of the entropy of the singular values of `[n, d]` as shares (Roy and Vetterli 2007,
    RankMe), uncentred: from 1 to the lesser of n and d."""
    x = _one(x)
    return _native.effective_rank(x.dtype.name, _rows(x))


def diagnose(
    queries: ArrayLike,
    keys: ArrayLike,
    temperature: float = 0.1,
    *,
    labels: ArrayLike | None = None,
    sample: int = 4096,
    seed: int = 0,
) -> dict:
    """Where the loss of these pairs `[n, d]` stands, why, and what to change: what `kinfold diagnose --json`
    prints. `verdict` says it in words, `findings` has what is wrong, what matters most first. Of more than
    `sample` pairs so many, drawn by `seed`, are compared with all others."""
    pairs, labels = _Pairs(queries, keys), _integers("labels", labels)
    counts = _count("sample", sample), _count("seed", seed)
    return json.loads(_native.diagnose(*pairs.given, float(temperature), _numbers(labels), *counts))


# --- what was given ---------------------------------------------------------------------------------


def _loss(settings) -> _native.Loss:
    unknown = sorted(set(settings) - set(NAMES))
    if unknown:
        raise TypeError(f"there is no setting {unknown[0]!r}; there are: {', '.join(NAMES)}")
    if "offset" in settings:
        settings = {**settings, "offset": _count("offset", settings["offset"])}
    if "matryoshka_dims" in settings:
        dims = [_count("matryoshka_dims", dim) for dim in settings["matryoshka_dims"]]
        settings = {**settings, "matryoshka_dims": dims}
    return _native.Loss(**settings)


class _Task:
    """A loss and its batch."""

    def __init__(self, queries, keys, negatives, settings):
        settings = dict(settings)
        self.threads = _count("threads", settings.pop("threads", 0))
        ids, labels = (_integers(name, settings.pop(name, None)) for name in ("ids", "labels"))
        self.weights = _weights(settings.pop("weights", None))
        guide = settings.pop("guide", None)
        if guide is not None and (not isinstance(guide, (tuple, list)) or len(guide) not in (2, 3)):
            raise TypeError("guide must be a tuple of two or three arrays: of queries, keys and negatives")
        guide = (None,) * 3 if guide is None else (*guide, None)[:3]
        self.loss = _loss(settings)
        self.form = settings.get("form")
        names = ("queries", "keys", "negatives", *(f"the guide's {x}" for x in ("queries", "keys", "negatives")))
        arrays = [_matrix(name, x) for name, x in zip(names, (queries, keys, negatives, *guide))]
        if arrays[0] is None:
            raise TypeError("queries must be an array [n, d], but are None")
        self.dtype = numpy.result_type(*(x for x in arrays if x is not None))
        arrays = [None if x is None else _side_by_side(x, self.dtype) for x in arrays]
        self.arrays, self.guide = arrays[:3], arrays[3:]
        self.ids, self.labels = ids, labels
        self.exact = numpy.float64 if self.dtype == numpy.float64 else numpy.float32
        self._same_dimension()

    def _same_dimension(self) -> None:
        queries, _, negatives = self.arrays
        for name, x in zip(("keys", "negatives"), self.arrays[1:]):
            if x is not None and x.shape[-1] != queries.shape[1]:
                raise ValueError(
                    f"{name} have shape {list(x.shape)}, but queries have shape {list(queries.shape)}: their "
                    "last dimensions must be equal"
                )
        if negatives is not None and negatives.ndim == 3 and len(negatives) != len(queries):
            raise ValueError(
                f"negatives have shape {list(negatives.shape)}, but queries have shape {list(queries.shape)}: "
                "[n, m, d] must have a row for each query"
            )

    @property
    def rows(self) -> int:
        queries, keys, _ = self.arrays
        return len(queries) + (len(keys) if self.form == "nt-xent" and keys is not None else 0)

    def compute(self, rows=None, gradients=None):
        queries, keys, negatives = self.arrays
        guide = None if self.guide[0] is None else tuple(map(_rows, self.guide))
        if gradients is not None:
            gradients = tuple(_numbers(x) or (0, 0) for x in gradients)
        return self.loss.compute(
            self.dtype.name,
            self.threads,
            None,
            _rows(queries),
            _rows(keys),
            _rows(negatives),
            negatives is not None and negatives.ndim == 3,
            _numbers(self.ids),
            _numbers(self.labels),
            _numbers(self.weights),
            guide,
            None,
            None,
            _numbers(rows),
            gradients,
        )


class _Samples:
    """Embeddings with labels, some to learn from and some to test."""

    def __init__(self, train, train_labels, test, test_labels):
        train, test = _matrix("train", train, (2,)), _matrix("test", test, (2,))
        labels = [_integers(name, x) for name, x in (("train_labels", train_labels), ("test_labels", test_labels))]
        for name, x, of in zip(("train", "test"), (train, test), labels):
            if x is None or of is None:
                raise TypeError(f"{name} and its labels must be arrays, but one is None")
            if len(of) != len(x):
                raise ValueError(f"{name} has {len(x)} rows but {len(of)} labels")
        dtype = numpy.result_type(train, test)
        self.train, self.test = _side_by_side(train, dtype), _side_by_side(test, dtype)
        # Labels count from 0 without gaps there.
        _, counted = numpy.unique(numpy.concatenate(labels), return_inverse=True)
        self.labels = numpy.split(counted.astype(numpy.int64).ravel(), [len(train)])
        sides = zip((self.train, self.test), self.labels)
        self.given = (dtype.name, *((_rows(x), _numbers(of)) for x, of in sides))


class _Pairs:
    """Two matrices of one type, alive as long as what the engine is given of them."""

    def __init__(self, queries, keys):
        queries, keys = _matrix("queries", queries), _matrix("keys", keys)
        dtype = numpy.result_type(queries, keys)
        self.queries, self.keys = _side_by_side(queries, dtype), _side_by_side(keys, dtype)
        self.given = (dtype.name, _rows(self.queries), _rows(self.keys))


def _one(x) -> NDArray:
    x = _matrix("embeddings", x)
    return _side_by_side(x, x.dtype)


def _count(name: str, x) -> int:
    if not isinstance(x, (int, numpy.integer)):
        raise TypeError(f"{name} must be an integer, but is of type {type(x).__name__}")
    if not 0 <= x < 2**62:
        raise ValueError(f"{name} is {x}, but it must be at least 0, and below 2**62")
    return int(x)


def _array(name: str, x) -> NDArray:
    if isinstance(x, numpy.ma.MaskedArray):
        raise TypeError(f"{name} are a masked array, but every number is needed")
    try:
        return numpy.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} are no array: {error}") from None


def _matrix(name: str, x, dims: tuple[int, ...] | None = None) -> NDArray | None:
    if x is None:
        return None
    x = _array(name, x)
    if x.dtype.name not in _DTYPES:
        raise TypeError(f"{name} are {x.dtype}, but must be float16, float32 or float64")
    dims = dims or ((2, 3) if name == "negatives" else (2,))
    if x.ndim not in dims:
        shapes = " or ".join({2: "[n, d]", 3: "[n, m, d]"}[dim] for dim in dims)
        raise ValueError(f"{name} have shape {list(x.shape)}, but must be {shapes}")
    return x


def _integers(name: str, x) -> NDArray | None:
    if x is None:
        return None
    x = _array(name, x)
    if x.dtype.kind not in "iu":
        raise TypeError(f"{name} are {x.dtype}, but must be integers")
    if x.ndim != 1:
        raise ValueError(f"{name} have shape {list(x.shape)}, but must be [n]")
    return numpy.ascontiguousarray(x, numpy.int64)


def _weights(x) -> NDArray | None:
    if x is None:
        return None
    x = _array("weights", x)
    if x.dtype.kind not in "fiub":
        raise TypeError(f"weights are {x.dtype}, but must be numbers")
    if x.ndim != 1:
        raise ValueError(f"weights have shape {list(x.shape)}, but must be [n]")
    return numpy.ascontiguousarray(x, numpy.float64)


def _side_by_side(x: NDArray, dtype) -> NDArray:
    """The array as it is, where the engine can read it, and a copy of it otherwise."""
    x = x.astype(dtype, copy=False)
    rows = x.reshape(-1, x.shape[-1]) if x.ndim == 3 and x.flags.c_contiguous else x
    apart, within = rows.strides[-2], rows.strides[-1]
    readable = (
        rows.ndim == 2
        and within == x.itemsize
        and apart >= x.shape[-1] * x.itemsize
        and apart % x.itemsize == 0
        and x.flags.aligned
        and x.dtype.isnative
    )
    return x if readable else numpy.array(x, x.dtype.newbyteorder("="), order="C")


def _rows(x: NDArray | None):
    """A matrix as the engine takes it."""
    if x is None:
        return None
    dim = x.shape[-1]
    rows = x.size // dim if dim else len(x)
    apart = dim if x.ndim == 3 or len(x) < 2 else x.strides[0] // x.itemsize
    return x.__array_interface__["data"][0], rows, dim, max(apart, dim)


def _numbers(x: NDArray | None):
    return None if x is None else (x.__array_interface__["data"][0], x.size)
