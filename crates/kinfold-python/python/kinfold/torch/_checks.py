"""What the engine checks of a batch, for batches that it does not see.

Comes in: a problem whose tensors are of one type, on one device, with one dimension (`_functional` has
seen to that). Goes out: nothing, or a `ValueError` in the engine's words.
"""

from __future__ import annotations

import torch
from torch import Tensor


# Tensors that the operation is given, before the settings.
TENSORS = 11


def batch(problem, ids, labels, weights, guide) -> None:
    queries, keys, negatives = problem.given
    n, form = queries.shape[0], problem.form
    with_labels = problem.objective.startswith("sup-con")
    if n == 0:
        raise ValueError("queries have no rows, but at least 1 are needed")
    if queries.shape[1] == 0:
        raise ValueError("embeddings need a dimension of at least 1, but it is 0")
    if with_labels and labels is None:
        raise ValueError("a loss over labels needs labels")
    if labels is not None and not with_labels:
        raise ValueError(
            "labels have a meaning for the losses over labels alone; to leave known duplicates out, give ids"
        )
    if with_labels:
        _count("labels", labels, n)
        if ids is not None or guide[0] is not None:
            raise ValueError(
                "with labels, rows that belong together are positives; there is nothing for ids or a "
                "guide to leave out"
            )
    if keys is None and not with_labels:
        raise ValueError("keys have no rows, but at least 1 are needed")
    if keys is not None:
        _keys(problem, n, keys.shape[0])
    _negatives(problem, negatives)
    m = 0 if keys is None else keys.shape[0]
    if ids is not None:
        shared = negatives.shape[0] if negatives is not None and negatives.dim() == 2 else 0
        if len(ids) not in (m, m + shared):
            raise ValueError(
                f"the number of ids is {len(ids)}, but it must lie between {m} and {m + shared}"
            )
    if weights is not None:
        _count("row weights", weights, n + m if form == "nt-xent" else n)
        wrong = ~(torch.isfinite(weights) & (weights >= 0))
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"the weight of row {row} is {weights[row].item()}, but it must be a finite number of at "
                "least 0"
            )
        if not weights.any():
            raise ValueError("all row weights are 0, so there is nothing to average")
    if guide[0] is not None:
        _guide(problem, guide)
    scale, bias = problem.learned
    if scale is not None and not 0 < scale < float("inf"):
        raise ValueError(
            f"temperature is {1 / scale.item()}, but it must be a finite number above 0"
        )
    if bias is not None and not torch.isfinite(bias):
        raise ValueError(f"the bias is {bias.item()}, but it must be a finite number")


def _keys(problem, n: int, m: int) -> None:
    if m == 0:
        raise ValueError("keys have no rows, but at least 1 are needed")
    if problem.form == "one-way" and not problem.within_views:
        if problem.offset + n > m:
            raise ValueError(
                f"query {n - 1} has its positive at key {n - 1} + {problem.offset}, but there are only {m} "
                "keys"
            )
    elif m != n:
        raise ValueError(f"keys have {m} rows but queries have {n}")


def _negatives(problem, negatives: Tensor | None) -> None:
    if negatives is None:
        if not problem.in_batch:
            raise ValueError(
                "without the in-batch negatives there are only those that are given, and none were"
            )
        return
    if problem.form != "one-way" or problem.objective == "sigmoid":
        raise ValueError(
            "explicit negatives are negatives of queries, so they have a meaning where queries choose "
            "among keys, one way, alone"
        )
    if problem.within_views and negatives.dim() == 3:
        raise ValueError(
            "pushing within views has no meaning with negatives per query; give them as shared negatives"
        )


def _guide(problem, guide) -> None:
    queries, keys, negatives = problem.given
    if problem.form != "one-way" or problem.objective != "softmax" or not problem.in_batch:
        raise ValueError(
            "a guide has a meaning for the plain loss one way with in-batch negatives alone"
        )
    if problem.offset or (negatives is not None and negatives.dim() == 3):
        raise ValueError(
            "a guide knows queries, keys and shared negatives; it has no meaning with an offset or with "
            "negatives per query"
        )
    if problem.label_smoothing:
        raise ValueError(
            "label smoothing spreads the target over all candidates, and a guide says which of them are "
            "not to be trusted"
        )
    if (negatives is None) != (guide[2] is None):
        raise ValueError("a guide needs negatives where there are shared negatives, and there alone")
    for name, x, theirs in zip(("queries", "keys", "negatives"), problem.given, guide):
        if theirs is None:
            continue
        if theirs.shape[0] != x.shape[0]:
            raise ValueError(
                f"the guide's {name} have {theirs.shape[0]} rows but {name} have {x.shape[0]}"
            )
        if theirs.shape[1] != guide[0].shape[1]:
            raise ValueError(
                f"the guide's queries have dimension {guide[0].shape[1]} but the guide's {name} have "
                f"dimension {theirs.shape[1]}"
            )
        if not torch.isfinite(theirs).all():
            raise not_finite(f"the guide's {name}", theirs)


def _count(what: str, x: Tensor, needed: int) -> None:
    if len(x) != needed:
        raise ValueError(
            f"the number of {what} is {len(x)}, but it must lie between {needed} and {needed}"
        )


def not_finite(matrix: str, x: Tensor) -> ValueError:
    """An error that names the first number that is not finite."""
    row, column = (~torch.isfinite(x)).nonzero()[0].tolist()
    value = str(x[row, column].item()).replace("nan", "NaN")
    return ValueError(
        f"{matrix} hold {value} at row {row}, column {column}; every number must be finite"
    )
