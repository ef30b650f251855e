"""The losses and measures over NumPy's arrays. Needs NumPy alone."""

import os
import threading

import numpy
import pytest

from kinfold.numpy import (
    alignment,
    ceiling,
    diagnose,
    effective_rank,
    floor,
    knn_accuracy,
    linear_probe_accuracy,
    one_shot_accuracy,
    recall,
    row_losses,
    uniformity,
    value,
    value_and_gradients,
)


def pairs(n=20, d=6, dtype=numpy.float64, seed=0):
    random = numpy.random.default_rng(seed)
    q = random.standard_normal((n, d))
    return q.astype(dtype), (q + random.standard_normal((n, d))).astype(dtype)


def unit(x):
    return x / numpy.linalg.norm(x, axis=-1, keepdims=True)


def dense(q, k, tau=0.1):
    """Each row's loss, from the n × n matrix."""
    logits = unit(q) @ unit(k).T / tau
    top = logits.max(1, keepdims=True)
    return numpy.log(numpy.exp(logits - top).sum(1)) + top[:, 0] - numpy.diag(logits)


def test_value_and_rows():
    q, k = pairs()
    rows = dense(q, k)
    assert numpy.allclose(row_losses(q, k), rows, rtol=1e-12)
    assert value(q, k) == pytest.approx(rows.mean(), rel=1e-12)
    assert value(q, k, reduction="sum") == pytest.approx(rows.sum(), rel=1e-12)
    both = (rows.mean() + dense(k, q).mean()) / 2
    assert value(q, k, form="both-ways") == pytest.approx(both, rel=1e-12)
    assert row_losses(q, k, form="nt-xent").shape == (40,)
    weights = numpy.arange(20)
    assert value(q, k, weights=weights) == pytest.approx(rows @ weights / weights.sum(), rel=1e-12)


def test_rince():
    q, k = pairs()
    logits = unit(q) @ unit(k).T / 0.5
    rows = ((0.1 * numpy.exp(logits).sum(1)) ** 0.3 - numpy.exp(0.3 * numpy.diag(logits))) / 0.3
    assert numpy.allclose(row_losses(q, k, objective="rince", q=0.3, lam=0.1, temperature=0.5), rows, rtol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"form": "nt-xent"}, {"objective": "sigmoid", "bias": -1.0}], ids=str)
def test_gradients_are_differences(settings):
    q, k = pairs(5, 3)
    loss, gradients = value_and_gradients(q, k, **settings)
    assert loss == value(q, k, **settings) and gradients.negatives is None
    step = 1e-6
    for x, gradient in ((q, gradients.queries), (k, gradients.keys)):
        for at in numpy.ndindex(x.shape):
            before = x[at]
            x[at] = before + step
            above = value(q, k, **settings)
            x[at] = before - step
            below = value(q, k, **settings)
            x[at] = before
            assert gradient[at] == pytest.approx((above - below) / (2 * step), abs=1e-7)
    warmer, colder = (value(q, k, **settings, temperature=0.1 * numpy.exp(s)) for s in (step, -step))
    assert gradients.log_scale == pytest.approx((colder - warmer) / (2 * step), abs=1e-6)


def test_matryoshka():
    q, k = pairs()
    each = [value_and_gradients(q[:, :dim], k[:, :dim], temperature=0.2) for dim in (2, 3)]
    loss, gradients = value_and_gradients(q, k, temperature=0.2, matryoshka_dims=[3, 2], matryoshka_weights=[1.0, 0.5])
    assert loss == pytest.approx(0.5 * each[0][0] + each[1][0])
    expected = numpy.zeros_like(gradients.queries)
    for weight, dim, (_, one) in zip((0.5, 1.0), (2, 3), each):
        expected[:, :dim] += weight * one.queries
    numpy.testing.assert_allclose(gradients.queries, expected, rtol=1e-5, atol=1e-7)
    assert floor(20, matryoshka_dims=[2, 3]) == pytest.approx(2 * floor(20))
    with pytest.raises(ValueError, match="longest prefix"):
        value(q, k, matryoshka_dims=[q.shape[1] + 1])


def test_negatives_ids_labels_guide():
    q, k = pairs()
    shared, own = pairs(7, seed=1)[0], numpy.random.default_rng(2).standard_normal((20, 3, 6))
    all_keys = numpy.concatenate([k, shared])
    rows = dense(numpy.concatenate([q, shared]), all_keys)[:20]
    loss, gradients = value_and_gradients(q, k, shared)
    assert loss == pytest.approx(rows.mean(), rel=1e-12) and gradients.negatives.shape == shared.shape
    assert value_and_gradients(q, k, own)[1].negatives.shape == own.shape
    assert value(q, k, own, in_batch_negatives=False) < value(q, k, own)
    assert value(q, k, ids=numpy.arange(20) % 5) < value(q, k)
    labels = numpy.arange(20) % 4
    assert value(q, labels=labels, form="nt-xent", objective="sup-con-outside") > 0
    assert value(q, k, guide=pairs(20, 4)) <= value(q, k)


@pytest.mark.parametrize("dtype, exact", [("float16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_floats(dtype, exact):
    q, k = pairs(dtype=dtype)
    loss, gradients = value_and_gradients(q, k)
    assert gradients.queries.dtype == gradients.keys.dtype == exact
    assert loss == pytest.approx(dense(q.astype(float), k.astype(float)).mean(), rel=1e-5)


def test_layouts():
    q, k = pairs(12, 12)
    layouts = {
        "every other row": lambda x: x[::2],
        "every other column": lambda x: x[:, ::2],
        "part of the columns": lambda x: x[:, :5],
        "transposed": lambda x: x.T,
        "backwards": lambda x: x[::-1],
        "one row over again": lambda x: numpy.broadcast_to(x[:1], (4, 12)),
        "by columns": numpy.asfortranarray,
        "the other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
        "not aligned": _misaligned,
        "a list": lambda x: x.tolist(),
    }
    for name, layout in layouts.items():
        a, b = layout(q), layout(k)
        plain = [numpy.array(x, dtype=numpy.float64) for x in (a, b)]
        assert value(a, b) == value(*plain), name
    q.setflags(write=False)
    before = q.copy()
    value_and_gradients(q, k)
    assert numpy.array_equal(q, before)


def _misaligned(x):
    raw = numpy.empty(x.nbytes + 1, numpy.uint8)[1:]
    out = raw.view(x.dtype).reshape(x.shape)
    out[:] = x
    assert not out.flags.aligned
    return out


def test_floor_and_ceiling():
    assert floor(256, temperature=1.0) == pytest.approx(4.548, abs=1e-3)
    assert ceiling(256, temperature=1.0) == pytest.approx(numpy.log(256))
    assert floor(8, objective="sigmoid") is None


def test_measures():
    random = numpy.random.default_rng(0)
    centres = random.standard_normal((3, 8))
    labels = random.integers(0, 3, 60)
    x = centres[labels] + 0.01 * random.standard_normal((60, 8))
    # Labels may be any integers.
    named = numpy.array([-7, 2**40, 5])[labels]
    for dtype in ("float32", "float64", "float16"):
        given = x[:40].astype(dtype), named[:40], x[40:].astype(dtype), named[40:]
        assert knn_accuracy(*given) == one_shot_accuracy(*given) == 1.0
        assert linear_probe_accuracy(*given) == 1.0
    assert knn_accuracy(x[:40], named[:40], x[40:], named[40:] + 1, k=1) == 0.0
    assert linear_probe_accuracy(x[:40], named[:40], x[40:], named[40:] + 1) == 0.0


def test_threads_change_no_bit_and_let_each_other_work():
    q, k = pairs(300, 32, dtype=numpy.float32)
    expected = value_and_gradients(q, k, threads=1)
    results = []
    workers = [
        threading.Thread(target=lambda t=t: results.append(value_and_gradients(q, k, threads=t))) for t in (0, 1, 2, 3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    for loss, gradients in results:
        assert loss == expected[0] and numpy.array_equal(gradients.keys, expected[1].keys)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_measures_the_same():
    q, k = pairs(400, 16)
    labels = numpy.arange(400) % 7
    expected = value(q, k), knn_accuracy(q, labels, k, labels, k=5)
    read, write = os.pipe()
    # The child has none of the threads that have just been at work.
    child = os.fork()
    if child == 0:
        os.write(write, repr((value(q, k), knn_accuracy(q, labels, k, labels, k=5))).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    assert answer == repr(expected)


WRONG = {
    "queries are int64": ((numpy.ones((3, 2), int), numpy.ones((3, 2), int)), {}, TypeError),
    "keys are complex128": ((numpy.ones((3, 2)), numpy.ones((3, 2), complex)), {}, TypeError),
    "queries are <U1": (("a", "b"), {}, TypeError),
    "queries are object": ((numpy.ones((3, 2), object),) * 2, {}, TypeError),
    "masked": ((numpy.ma.ones((3, 2)), numpy.ones((3, 2))), {}, TypeError),
    "queries must be an array": ((None, numpy.ones((3, 2))), {}, TypeError),
    "keys are needed": ((numpy.ones((3, 2)),), {}, ValueError),
    "queries are no array": (([[1.0], [1.0, 2.0]], numpy.ones((2, 2))), {}, ValueError),
    r"queries have shape \[3\], but must be \[n, d\]": ((numpy.ones(3), numpy.ones(3)), {}, ValueError),
    r"keys have shape \[3, 4\], but queries have shape \[3, 2\]": ((numpy.ones((3, 2)), numpy.ones((3, 4))), {}, ValueError),
    "only 2 keys": ((numpy.ones((3, 2)), numpy.ones((2, 2))), {}, ValueError),
    "queries have no rows": ((numpy.ones((0, 2)), numpy.ones((0, 2))), {}, ValueError),
    "a dimension of at least 1": ((numpy.ones((3, 0)), numpy.ones((3, 0))), {}, ValueError),
    "queries hold NaN at row 1, column 1": ((numpy.array([[1, 2], [3, numpy.nan]]), numpy.ones((2, 2))), {}, ValueError),
    "keys hold inf at row 0, column 0": ((numpy.ones((2, 2)), numpy.array([[numpy.inf, 2], [3, 1]])), {}, ValueError),
    "temperature is 0": ((numpy.ones((2, 2)),) * 2, {"temperature": 0}, ValueError),
    "there is no form `round`": ((numpy.ones((2, 2)),) * 2, {"form": "round"}, ValueError),
    "there is no setting 'temprature'": ((numpy.ones((2, 2)),) * 2, {"temprature": 1}, TypeError),
    "ids are float64": ((numpy.ones((2, 2)),) * 2, {"ids": [1.0, 2.0]}, TypeError),
    "number of ids is 3": ((numpy.ones((2, 2)),) * 2, {"ids": [1, 2, 3]}, ValueError),
    "weight of row 1 is -1": ((numpy.ones((2, 2)),) * 2, {"weights": [1, -1]}, ValueError),
    "guide must be a tuple": ((numpy.ones((2, 2)),) * 2, {"guide": 5}, TypeError),
    "offset is -1": ((numpy.ones((2, 2)),) * 2, {"offset": -1}, ValueError),
    "threads must be an integer": ((numpy.ones((2, 2)),) * 2, {"threads": 1.5}, TypeError),
}


@pytest.mark.parametrize("says", WRONG)
def test_refusals(says):
    given, settings, error = WRONG[says]
    with pytest.raises(error, match=says):
        value_and_gradients(*given, **settings)


def test_refusals_of_measures():
    x, labels = numpy.ones((4, 2)), [0, 1, 0, 1]
    for given in (
        (x, labels[:3], x, labels),
        (x, labels, numpy.ones((4, 3)), labels),
        (x[:0], [], x, labels),
        (x * numpy.nan, labels, x, labels),
    ):
        with pytest.raises((ValueError, TypeError)):
            knn_accuracy(*given)
    with pytest.raises(ValueError, match="k, the number of neighbours, is 0"):
        knn_accuracy(x, labels, x, labels, k=0)
    with pytest.raises(ValueError, match="the number of draws is 0"):
        one_shot_accuracy(x, labels, x, labels, draws=0)


def test_measures_of_pairs():
    q, k = pairs(30, 6)
    cosines = unit(q) @ unit(k).T
    rank = (cosines > cosines.diagonal()[:, None]).sum(1)
    assert recall(q, k) == pytest.approx((rank < 1).mean())
    assert recall(q, k, 5) == pytest.approx((rank < 5).mean())
    assert alignment(q, k) == pytest.approx(((unit(q) - unit(k)) ** 2).sum(1).mean())
    assert alignment(q[::2], k.astype(numpy.float32)[::2]) == pytest.approx(alignment(q[::2], k[::2]), rel=1e-5)
    with pytest.raises(ValueError, match="rows"):
        alignment(q, k[1:])


def test_measures_of_rows():
    x, _ = pairs(25, 5)
    distances = ((unit(x)[:, None] - unit(x)[None]) ** 2).sum(-1)[numpy.triu_indices(25, 1)]
    assert uniformity(x) == pytest.approx(numpy.log(numpy.exp(-2 * distances).mean()))
    share = numpy.linalg.svd(x, compute_uv=False)
    share /= share.sum()
    assert effective_rank(x) == pytest.approx(numpy.exp(-(share * numpy.log(share)).sum()))
    with pytest.raises(ValueError, match="must be"):
        effective_rank(x[0])


def test_diagnosis():
    q, k = pairs(200, 16)
    told = diagnose(q, k, 0.1, labels=numpy.arange(200) // 2)
    assert told["pairs"] == 200 and told["loss"]["value"] == pytest.approx(value(q, k, temperature=0.1))
    assert told["verdict"] and told["false_negatives"]["labels"] == 100
    assert told["findings"] != diagnose(q, k[::-1], 0.1)["findings"]
    point = numpy.ones((50, 4)) + 1e-3 * pairs(50, 4)[0]
    assert "collapsed" in diagnose(point, point)["findings"][0]["what"].lower()
    with pytest.raises(ValueError):
        diagnose(q, k, -1.0)
