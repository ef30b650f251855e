"""Whatever is given, the answer is a number, a ValueError or a TypeError: never a panic, never a crash."""

import math
import random

import numpy
import pytest

import kinfold.numpy as of_arrays

ROUNDS = 900
FORMS = ["one-way", "both-ways", "nt-xent", "round", ""]
OBJECTIVES = [
    "softmax", "decoupled", "decoupled-weighted", "debiased", "hard-negatives", "rince", "sup-con-outside",
    "sup-con-inside", "sigmoid", "hinge",
]
NUMBERS = [0.1, 1.0, 1e-3, 0.0, -1.0, math.nan, math.inf, 1e308, 1e-320, 3, None, "x", [1.0]]
DTYPES = ["float32"] * 6 + ["float64"] * 3 + ["float16"] * 2 + ["int64", "bool", "complex64", "object", "S3", "M8[s]"]


def shape(random, dims=None):
    dims = random.choice([2] * 40 + [0, 1, 3, 4]) if dims is None else dims
    return tuple(random.choice([1, 2, 3, 3, 5, 17] * 5 + [0]) for _ in range(dims))


def array(random, like=None):
    """An array that is mostly right."""
    if random.random() < 0.02:
        return random.choice([None, 5, "text", [], [[1.0, 2.0]], object(), math.nan])
    size = like if like is not None and random.random() < 0.93 else shape(random)
    dtype = random.choice(DTYPES if random.random() < 0.08 else DTYPES[:11])
    generator = numpy.random.default_rng(random.getrandbits(32))
    out = generator.standard_normal(size)
    if out.size and random.random() < 0.05:
        out.flat[random.randrange(out.size)] = random.choice([math.nan, math.inf, -math.inf, 1e300, 0.0, 1e-310])
    with numpy.errstate(all="ignore"):
        out = out.astype("int64").astype(dtype) if dtype == "M8[s]" else out.astype(dtype)
    way = random.random()
    if out.ndim and way < 0.1:
        out = numpy.repeat(out, 2, axis=0)[::2]
    elif out.ndim and way < 0.2:
        out = out[::-1]
    elif way < 0.25:
        out = numpy.asfortranarray(out)
    elif way < 0.27:
        out = numpy.broadcast_to(out, (2, *out.shape))
    elif way < 0.35:
        out = out.view(out.dtype.newbyteorder()) if out.dtype.kind != "O" else out
    elif way < 0.4:
        out.setflags(write=False)
    return out


def settings(random):
    given = {"form": random.choice(FORMS[:3] * 15 + FORMS), "objective": random.choice(["softmax"] * 9 + OBJECTIVES)}
    for name in ("temperature", "margin", "label_smoothing", "factor", "norm_floor", "sigma", "positive_share",
                 "concentration", "q", "lam", "bias"):
        if random.random() < 0.04:
            given[name] = random.choice(NUMBERS)
    for name in ("normalize", "in_batch_negatives", "within_views"):
        if random.random() < 0.07:
            given[name] = random.choice([True, False])
    if random.random() < 0.05:
        given["offset"] = random.choice([1, 2, -1, 2**40, 2**63, 2**70, 1.5, None])
    return given


def extras(random, n, m):
    """What stands beside the rows."""
    given = {}
    if random.random() < 0.15:
        given["ids"] = [random.choice([0, 1, -1, 2**62]) for _ in range(random.choice([n, m, n + 1, 2 * n]))]
    if random.random() < 0.08:
        given["labels"] = [random.choice([0, 1, 2]) for _ in range(random.choice([n, n, n + 1]))]
    if random.random() < 0.15:
        weights = [random.choice([0.0, 1.0, 2.0, 1e-30]) for _ in range(random.choice([n, 2 * n]))]
        given["weights"] = weights if random.random() < 0.8 else [math.nan] * n
    return given


def batch(random):
    queries = array(random)
    like = queries.shape if isinstance(queries, numpy.ndarray) else None
    keys = array(random, like)
    given = {"queries": queries, "keys": keys, **settings(random)}
    if random.random() < 0.3:
        deeper = (*like[:1], 2, *like[1:]) if like and len(like) == 2 and random.random() < 0.5 else like
        given["negatives"] = array(random, deeper)
    if random.random() < 0.08:
        given["guide"] = tuple(array(random, like) for _ in range(random.choice([1, 2, 3, 4])))
    n, m = ((len(x) if isinstance(x, numpy.ndarray) and x.ndim else 0) for x in (queries, keys))
    return {**given, **extras(random, n, m)}


def answer(call, given):
    """Whether there was a number."""
    try:
        call(**given)
    except (ValueError, TypeError) as error:
        assert str(error), "an error says what is wrong"
        return False
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {error} for {given}") from error
    return True


@pytest.mark.filterwarnings("ignore")
def test_arrays():
    source = random.Random(0)
    answers = 0
    for _ in range(ROUNDS):
        call = source.choice([of_arrays.value, of_arrays.value_and_gradients, of_arrays.row_losses])
        answers += answer(call, batch(source))
    # A fuzz that is always refused has tested the door alone.
    assert answers > ROUNDS / 10


@pytest.mark.filterwarnings("ignore")
def test_measures():
    source = random.Random(1)
    answers = 0
    for _ in range(ROUNDS // 3):
        train = array(source)
        like = train.shape if isinstance(train, numpy.ndarray) else None
        test = array(source, like)
        labels = [
            [source.choice([0, 1, -5, 2**62]) for _ in range(source.choice([len(x)] * 4 + [2]))]
            if isinstance(x, numpy.ndarray) and x.ndim
            else [0]
            for x in (train, test)
        ]
        k = source.choice([1, 2, 200, 0, -1, 2**64, None])
        given = {"train": train, "train_labels": labels[0], "test": test, "test_labels": labels[1]}
        answers += answer(of_arrays.knn_accuracy, {**given, "k": k})
        answers += answer(of_arrays.linear_probe_accuracy, given)
        answers += answer(of_arrays.one_shot_accuracy, {**given, "draws": 2 if k is None else min(k, 9)})
    assert answers > ROUNDS / 30


@pytest.mark.filterwarnings("ignore")
def test_tensors():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from kinfold.torch import contrastive

    source = random.Random(2)
    answers = 0

    def tensor(x):
        if not isinstance(x, numpy.ndarray) or x.dtype.kind not in "fiubc":
            return x
        out = torch.tensor(x.astype(x.dtype.newbyteorder("="))[()])
        way = source.random()
        if way < 0.1 and out.is_floating_point():
            out = out.bfloat16()
        elif way < 0.4 and out.is_floating_point():
            out.requires_grad_()
        elif way < 0.43 and out.dim() == 2:
            out = out.to_sparse()
        elif way < 0.46:
            out = out.to("meta")
        elif way < 0.5 and out.dim() == 2:
            out = out.T.contiguous().T
        return out

    for _ in range(ROUNDS):
        given = batch(source)
        for name, x in given.items():
            if name == "guide":
                given[name] = tuple(map(tensor, x))
            elif name in ("queries", "keys", "negatives"):
                given[name] = tensor(x)
            elif name in ("ids", "labels", "weights"):
                given[name] = torch.tensor(x)
        if source.random() < 0.1:
            given["temperature"] = torch.tensor(source.choice([0.1, 0.0, -1.0, math.nan, [0.1, 0.2]]))
        given["reduction"] = source.choice(["mean", "sum", "none", "none", "median"])

        def call(**given):
            loss = contrastive(**given)
            if loss.requires_grad:
                loss.sum().backward()

        answers += answer(call, given)
    assert answers > ROUNDS / 12
