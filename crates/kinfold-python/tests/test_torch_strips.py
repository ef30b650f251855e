"""The losses in strips of PyTorch's operations, held against the engine: values, gradients, refusals."""

import itertools

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from kinfold.torch import _operation, _strips, contrastive  # noqa: E402
from kinfold.torch._batch import settings_text, summed  # noqa: E402

N, D = 11, 5

SETTINGS = {
    "one way": {},
    "both ways": {"form": "both-ways"},
    "nt-xent": {"form": "nt-xent"},
    "dot": {"normalize": False, "temperature": 2.0},
    "margin": {"margin": 0.3, "form": "both-ways"},
    "smoothed": {"label_smoothing": 0.2, "form": "nt-xent"},
    "smoothed, margin": {"label_smoothing": 0.2, "margin": -0.1},
    "factor": {"factor": 3.0, "form": "nt-xent", "norm_floor": 5.0},
    "cold": {"temperature": 0.002},
    "decoupled": {"objective": "decoupled"},
    "decoupled over views": {"objective": "decoupled", "form": "nt-xent"},
    "weighted": {"objective": "decoupled-weighted", "form": "nt-xent"},
    "weighted both ways": {"objective": "decoupled-weighted", "form": "both-ways"},
    "debiased": {"objective": "debiased", "form": "nt-xent", "temperature": 0.5},
    "debiased, bounded": {"objective": "debiased", "positive_share": 0.9, "temperature": 0.5},
    "hard": {"objective": "hard-negatives", "form": "nt-xent", "temperature": 0.5},
    "hard one way": {"objective": "hard-negatives", "concentration": 0.5, "positive_share": 0.3},
    "sigmoid": {"objective": "sigmoid", "bias": -2.0},
    "sigmoid both ways": {"objective": "sigmoid", "bias": 1.0, "form": "both-ways"},
    "rince": {"objective": "rince", "temperature": 0.5},
    "rince over views": {"objective": "rince", "q": 1.0, "lam": 0.3, "form": "nt-xent", "temperature": 0.5},
    "within views": {"within_views": True},
}


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def batch(**more):
    out = {"queries": numbers(N, D), "keys": numbers(N, D) + numbers(N, D, seed=1)}
    return {**out, **more}


CASES = {name: {**batch(), **settings} for name, settings in SETTINGS.items()} | {
    "shared": batch(negatives=numbers(7, D, seed=2)),
    "shared alone": batch(negatives=numbers(7, D, seed=2), in_batch_negatives=False),
    "of each": batch(negatives=numbers(N, 3, D, seed=2)),
    "of each alone": batch(negatives=numbers(N, 3, D, seed=2), in_batch_negatives=False, margin=0.1),
    "offset": batch(queries=numbers(4, D, seed=3), offset=5),
    "ids": batch(ids=torch.arange(N) % 4),
    "ids both ways": batch(ids=torch.arange(N) % 4, form="both-ways"),
    "ids over views": batch(ids=torch.arange(N) % 4, form="nt-xent"),
    "ids of negatives": batch(ids=torch.arange(N + 7) % 4, negatives=numbers(7, D, seed=2)),
    "weights": batch(weights=torch.arange(N)),
    "weights both ways": batch(weights=torch.arange(N), form="both-ways"),
    "weights over views": batch(weights=torch.arange(2 * N), form="nt-xent"),
    "guide": batch(guide=(numbers(N, 3, seed=4), numbers(N, 3, seed=5))),
    "guide within views": batch(
        guide=(numbers(N, 3, seed=4), numbers(N, 3, seed=5), numbers(7, 3, seed=6)),
        within_views=True,
        negatives=numbers(7, D, seed=2),
    ),
    "a guide's ties": batch(
        guide=(numbers(N, 30, seed=4), 3 * numbers(N, 30, seed=4)), within_views=True, ids=torch.arange(N) % 9
    ),
    "labels": {
        "queries": numbers(N, D),
        "labels": torch.arange(N) % 4,
        "form": "nt-xent",
        "objective": "sup-con-outside",
    },
    "labels, alone": {
        "queries": numbers(N, D),
        "labels": torch.tensor([0, 1, 2, 2, 2, 1, 1, 3, 4, 4, 5]),
        "form": "nt-xent",
        "objective": "sup-con-inside",
    },
    "labels of pairs": batch(labels=torch.arange(N) % 3, form="nt-xent", objective="sup-con-outside"),
    "labels, smoothed": batch(
        labels=torch.arange(N) % 3, form="nt-xent", objective="sup-con-outside", label_smoothing=0.1
    ),
    "matryoshka": batch(matryoshka_dims=[2, 5], matryoshka_weights=[0.5, 2.0]),
    "matryoshka both ways": batch(matryoshka_dims=[1, 3], form="both-ways", margin=0.1),
    "matryoshka over views": batch(matryoshka_dims=[2, 3, 5], form="nt-xent", ids=torch.arange(N) % 4),
    "matryoshka, negatives": batch(matryoshka_dims=[2, 4], negatives=numbers(7, D, seed=2)),
    "matryoshka, of each": batch(matryoshka_dims=[4, 2], negatives=numbers(N, 3, D, seed=2)),
    "matryoshka, sigmoid": batch(matryoshka_dims=[2, 5], objective="sigmoid", bias=-2.0),
    "a zero row": batch(keys=numbers(N, D) * (torch.arange(N) != 3)[:, None]),
}


def outcome(case, reduction, in_strips, monkeypatch, rows=1024):
    """Value and gradients, computed by the engine or in strips."""
    monkeypatch.setattr(_strips, "ROWS", rows)
    computed = _operation.info_nce
    if in_strips:
        # Below autograd, as on another device.
        computed = _InStrips.apply
        monkeypatch.setattr(_operation, "_plain", lambda batch: False)
    case = dict(case)
    monkeypatch.setattr(_operation, "info_nce", computed)
    tau = torch.tensor(case.pop("temperature", 0.1), dtype=torch.float64, requires_grad=True)
    leaves = [tau]
    for name in ("queries", "keys", "negatives"):
        if name in case:
            case[name] = case[name].clone().requires_grad_()
            leaves.append(case[name])
    if case.get("objective") == "sigmoid":
        case["bias"] = torch.tensor(case["bias"], dtype=torch.float64, requires_grad=True)
        leaves.append(case["bias"])
    value = contrastive(**case, temperature=tau, reduction=reduction)
    total = value
    if reduction == "none":
        total = (value * torch.linspace(-1, 2, len(value), dtype=value.dtype)).sum()
    gradients = torch.autograd.grad(total, leaves)
    return value.detach(), gradients


class _InStrips(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        output = _strips.info_nce(*inputs)
        _operation._keep(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx, upstream, *rest):
        batch, kept = list(ctx.saved_tensors[:11]), ctx.saved_tensors[11:]
        if ctx.unreduced:
            settings = summed(ctx.settings)
            of = [0] * 4
            for sign in (1.0, -1.0):
                batch[7] = (upstream.double() * sign).clamp_min(0)
                part = _strips.info_nce(*batch, settings, True, False, True)[1:]
                of = [x + sign * y for x, y in zip(of, part)]
        else:
            of = [upstream * x for x in kept]
        out = [*of[:3], of[3][0], of[3][1]]
        out = [x if wanted else None for x, wanted in zip(out, ctx.needs_input_grad)]
        return *out, *(None,) * (len(ctx.needs_input_grad) - 5)


@pytest.mark.parametrize("name", CASES)
def test_same_value_and_gradients(name, monkeypatch):
    for reduction, rows in itertools.product(("mean", "sum", "none"), (3, 1024)):
        expected, of_engine = outcome(CASES[name], reduction, False, monkeypatch)
        monkeypatch.undo()
        value, of_strips = outcome(CASES[name], reduction, True, monkeypatch, rows)
        monkeypatch.undo()
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
        for a, b in zip(of_strips, of_engine):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


WRONG = {
    "rows": batch(keys=numbers(N - 1, D)),
    "rows both ways": batch(keys=numbers(N - 1, D), form="both-ways"),
    "offset": batch(offset=3),
    "no rows": {"queries": numbers(0, D), "keys": numbers(0, D)},
    "no dimension": {"queries": numbers(3, 0), "keys": numbers(3, 0)},
    "no keys": {"queries": numbers(N, D)},
    "no negatives": batch(in_batch_negatives=False),
    "negatives both ways": batch(negatives=numbers(3, D), form="both-ways"),
    "ids": batch(ids=torch.arange(3)),
    "labels": batch(labels=torch.arange(N)),
    "no labels": {"queries": numbers(N, D), "form": "nt-xent", "objective": "sup-con-inside"},
    "weights": batch(weights=torch.ones(3)),
    "negative weight": batch(weights=torch.arange(N) - 2),
    "no weight": batch(weights=torch.zeros(N)),
    "NaN": batch(keys=numbers(N, D).index_fill(0, torch.tensor(2), float("nan"))),
    "guide's rows": batch(guide=(numbers(3, 2), numbers(N, 2))),
    "guide's dimensions": batch(guide=(numbers(N, 2), numbers(N, 3))),
    "guide without negatives": batch(guide=(numbers(N, 2), numbers(N, 2)), negatives=numbers(3, D)),
    "NaN of a guide": batch(guide=(numbers(N, 2) * float("inf"), numbers(N, 2))),
    "ids beside labels": batch(
        ids=torch.arange(N), labels=torch.arange(N), form="nt-xent", objective="sup-con-inside"
    ),
    "within views": batch(within_views=True, keys=numbers(N + 1, D)),
    "q": batch(objective="rince", q=2.0),
    "temperature": batch(temperature=-1.0),
    "prefix": batch(matryoshka_dims=[2, D + 1]),
    "prefix twice": batch(matryoshka_dims=[2, 2]),
    "prefixes": batch(matryoshka_dims=[0]),
    "weights of prefixes": batch(matryoshka_dims=[2], matryoshka_weights=[1.0, 2.0]),
    "objective": batch(objective="hinge"),
    "smoothed": batch(objective="decoupled", label_smoothing=0.5),
}


@pytest.mark.parametrize("name", WRONG)
def test_same_refusals(name, monkeypatch):
    with pytest.raises(ValueError) as by_engine:
        outcome(WRONG[name], "mean", False, monkeypatch)
    monkeypatch.undo()
    with pytest.raises(ValueError) as in_strips:
        outcome(WRONG[name], "mean", True, monkeypatch)
    assert str(in_strips.value) == str(by_engine.value)


def test_float32_and_halves(monkeypatch):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        case = {name: x.to(dtype) for name, x in batch().items()}
        expected, of_engine = outcome(case, "mean", False, monkeypatch)
        monkeypatch.undo()
        value, of_strips = outcome(case, "mean", True, monkeypatch)
        monkeypatch.undo()
        assert value.dtype == expected.dtype == torch.float32
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
        for a, b in zip(of_strips, of_engine):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_strip_is_the_largest_thing():
    """No tensor of n × n numbers is made, nor one that grows so."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(x, torch.Tensor):
                    largest = max(largest, x.numel())
            return out

    n = 3000
    q, k = numbers(n, 4, dtype=torch.float32), numbers(n, 4, seed=1, dtype=torch.float32)
    with Watch():
        _strips.info_nce(q, k, *(None,) * 9, settings_text(form="nt-xent"), True, False, True)
    assert largest <= _strips.ROWS * 2 * n < (2 * n) ** 2 / 5


class _Questions(torch.utils._python_dispatch.TorchDispatchMode):
    """What the host asks the device, and how precise products are meanwhile."""

    def __init__(self):
        super().__init__()
        self.asked, self.precisions = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.asked += name in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select")
        if name in ("mm", "bmm"):
            self.precisions |= {matmul.fp32_precision for matmul in _strips._MATMULS}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CASES)
def test_the_device_is_asked_once(name, monkeypatch):
    """Whether all is finite, and nothing where nobody wants to know; products are whole meanwhile."""
    seen = []
    monkeypatch.setattr(_operation, "info_nce", lambda *given: seen.append(given) or _operation._shapes(*given))
    monkeypatch.setattr(_operation, "_plain", lambda batch: False)
    contrastive(**CASES[name])
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        for check_finite in (True, False):
            *batch_and_settings, _, _, _ = seen[0]
            with _Questions() as questions:
                _strips.info_nce(*batch_and_settings, check_finite, False, True)
            assert questions.asked == check_finite and questions.precisions <= {"ieee"}
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_no_cuda_graph_records_it():
    for operation in (torch.ops.kinfold.info_nce.default, torch.ops.kinfold.info_nce_of_rows.default):
        assert torch.Tag.cudagraph_unsafe in operation.tags


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_not_finite_is_nan(name, broken, monkeypatch):
    case = dict(CASES[name])
    case["queries"] = case["queries"].index_fill(0, torch.tensor(1), broken)
    value, gradients = outcome({**case, "check_finite": False}, "mean", True, monkeypatch)
    assert value.isnan() and any(x.isnan().any() for x in gradients)


def test_shapes_on_a_device_without_numbers():
    q, k = torch.empty(8, 3, device="meta", requires_grad=True), torch.empty(8, 3, device="meta")
    loss = contrastive(q, k, form="both-ways")
    loss.backward()
    assert loss.shape == () and q.grad.shape == q.shape and q.grad.device.type == "meta"
    rows = contrastive(q, k, form="nt-xent", reduction="none")
    assert rows.shape == (16,)


