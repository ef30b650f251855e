"""The loss as PyTorch sees it: values, gradients, and everything that autograd may ask."""

import os

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import torch.nn.functional as F  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from kinfold.torch import (  # noqa: E402
    ClipLoss, HardNegativesLoss, InfoNCE, NTXentLoss, SigLipLoss, SupConLoss, contrastive, info_nce,
)
from kinfold.torch import _operation  # noqa: E402
from kinfold.torch._batch import settings_text  # noqa: E402


class Watch(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.seen.append(operation)
        return operation(*args, **(kwargs or {}))


def pairs(n=24, d=7, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(n, d, generator=generator, dtype=torch.float64)
    k = q + torch.randn(n, d, generator=generator, dtype=torch.float64)
    return q.to(dtype).requires_grad_(), k.to(dtype).requires_grad_()


def dense(q, k, tau=0.1):
    return F.cross_entropy(F.normalize(q) @ F.normalize(k).T / tau, torch.arange(len(q)))


def close(ours, theirs, leaves, rtol=1e-10, retain_graph=True):
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=0)
    for a, b in zip(*(torch.autograd.grad(x, leaves, retain_graph=retain_graph) for x in (ours, theirs))):
        torch.testing.assert_close(a, b, rtol=rtol * 10, atol=rtol)


def test_value_and_gradients_are_those_of_cross_entropy():
    q, k = pairs()
    close(info_nce(q, k), dense(q, k), (q, k))


@pytest.mark.parametrize("settings", [{"form": "both-ways"}, {"form": "nt-xent", "reduction": "none"},
                                      {"objective": "hard-negatives", "form": "nt-xent"},
                                      {"objective": "rince", "form": "nt-xent"}], ids=str)
def test_gradcheck(settings):
    q, k = pairs(5, 3)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    loss = lambda q, k, tau: contrastive(q, k, temperature=tau, **settings)  # noqa: E731
    assert torch.autograd.gradcheck(loss, (q, k, tau))


def test_gradcheck_with_negatives_and_bias():
    q, k = pairs(4, 3)
    own = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q, k, x: contrastive(q, k, x), (q, k, own))
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    sigmoid = lambda q, k, b: contrastive(q, k, objective="sigmoid", bias=b)  # noqa: E731
    assert torch.autograd.gradcheck(sigmoid, (q, k, bias))


@pytest.mark.parametrize("unreduced, gradients", [(False, True), (False, False), (True, False)])
def test_opcheck(unreduced, gradients):
    q, k = pairs(6, 3)
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    given = (q, k, None, scale, *(None,) * 7, settings_text(form="both-ways"), True, unreduced, gradients)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    if gradients:
        tests += ("test_aot_dispatch_dynamic",)
    torch.library.opcheck(_operation.info_nce, given, test_utils=tests)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_the_dispatcher_changes_no_bit(monkeypatch, factor):
    def results():
        q, k = pairs(dtype=torch.float32)
        tau = torch.tensor(0.2, requires_grad=True)
        loss = contrastive(q, k, form="both-ways", temperature=tau, label_smoothing=0.1)
        return loss, *torch.autograd.grad(loss * factor, (q, k, tau))

    fast = results()
    monkeypatch.setattr(_operation, "_plain", lambda batch: False)
    assert all(torch.equal(a, b) for a, b in zip(fast, results()))


def test_many_upstreams_at_once_and_somebody_who_watches():
    q, k = pairs()
    loss = info_nce(q, k)
    (gradient,) = torch.autograd.grad(loss, q, retain_graph=True)
    (batched,) = torch.autograd.grad(loss, q, torch.tensor([1.0, 2.0]), is_grads_batched=True)
    torch.testing.assert_close(batched, torch.stack([gradient, 2 * gradient]))
    with Watch() as watch:
        assert torch.equal(info_nce(q, k), loss)
    assert _operation.info_nce in watch.seen


def test_what_was_changed_or_freed_cannot_be_differentiated():
    q, k = pairs()
    x = q * 1
    loss = info_nce(x, k)
    x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    loss = info_nce(q, k)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_compile():
    losses = [
        lambda q, k: info_nce(q, k) * 2,
        lambda q, k: contrastive(q, k, form="nt-xent", reduction="none").square().mean(),
    ]
    for loss in losses:  # What is compiled gives its buffers away.
        q, k = pairs(dtype=torch.float32)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        close(compiled(q.sin(), k), loss(q.sin(), k), (q, k), rtol=1e-6, retain_graph=False)
        # Another size compiles anew, or not at all; it is right all the same.
        q, k = pairs(9, dtype=torch.float32)
        close(compiled(q.sin(), k), loss(q.sin(), k), (q, k), rtol=1e-6, retain_graph=False)


def test_compile_with_settings_that_change():
    """Each call compiles anew; numbers that have changed are symbols to the compiler."""
    loss = lambda q, k, tau, offset: contrastive(q, k, temperature=tau, offset=offset)  # noqa: E731
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    q, k = pairs(9, dtype=torch.float32)
    for tau, offset in ((0.1, 0), (0.2, 1), (0.3, 2), (0.4, 3)):
        torch.testing.assert_close(compiled(q[:4], k, tau, offset), loss(q[:4], k, tau, offset))


def test_compile_with_a_learned_temperature():
    criterion = InfoNCE(temperature=torch.nn.Parameter(torch.tensor(0.2)), form="both-ways")
    assert [x.shape for x in criterion.parameters()] == [()]
    q, k = pairs(dtype=torch.float32)
    leaves = (q, k, criterion.temperature)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    close(compiled(q, k), criterion(q, k), leaves, rtol=1e-6)


@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_other_floats(dtype, rtol):
    q, k = pairs(dtype=dtype)
    loss = info_nce(q, k)
    wide = [x.detach().double().requires_grad_() for x in (q, k)]
    expected = info_nce(*wide)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    loss.backward()
    expected.backward()
    for x, y in zip((q, k), wide):
        assert x.grad.dtype == dtype
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=rtol, atol=1e-4)


def test_mixed_floats_meet_in_the_wider_one():
    q, _ = pairs(dtype=torch.bfloat16)
    _, k = pairs(dtype=torch.float32)
    close(info_nce(q, k), info_nce(q.float(), k), (k,), rtol=1e-7)
    (gradient,) = torch.autograd.grad(info_nce(q, k), q)
    assert gradient.dtype == torch.bfloat16


def test_strides():
    q, k = pairs(12, 6)
    for layout in (
        lambda x: x[::2],
        lambda x: x.T,
        lambda x: x[:, ::2],
        lambda x: x[:1].expand(12, 6),
        lambda x: x[:, :3],
        lambda x: x.T.contiguous().T,
        lambda x: torch.complex(x, x).conj().imag,
    ):
        a, b = layout(q), layout(k)
        close(info_nce(a, b), info_nce(a * 1, b * 1), (q, k), rtol=1e-14)


def test_leaf_or_not_twice_or_once():
    q, k = pairs()
    a, b = q * 2, k.sin()
    loss = info_nce(a, b) + 3 * info_nce(b, a, temperature=0.5) + info_nce(a, a.detach())
    expected = dense(a, b) + 3 * dense(b, a, 0.5) + dense(a, a.detach())
    close(loss, expected, (q, k))


def test_one_side_and_no_side():
    q, k = pairs()
    close(info_nce(q, k.detach()), dense(q, k.detach()), (q,))
    close(info_nce(q.detach(), k), dense(q.detach(), k), (k,))
    loss = info_nce(q.detach(), k.detach())
    assert not loss.requires_grad
    with torch.no_grad():
        assert not info_nce(q, k).requires_grad
        assert info_nce(q, k) == loss
    with torch.inference_mode():
        assert info_nce(q, k).item() == loss.item()


def test_a_loss_is_differentiated_once_for_each_retained_graph():
    q, k = pairs()
    loss = info_nce(q, k)
    loss.backward(retain_graph=True)
    once = q.grad.clone()
    loss.backward()
    torch.testing.assert_close(q.grad, 2 * once)


def test_second_derivatives_are_refused():
    for reduction in ("mean", "none"):
        q, k = pairs()
        loss = contrastive(q, k, reduction=reduction).sum()
        (gradient,) = torch.autograd.grad(loss, q, create_graph=True)
        with pytest.raises(RuntimeError, match="first derivatives only"):
            gradient.square().sum().backward()


def test_reductions():
    q, k = pairs()
    rows = F.cross_entropy(F.normalize(q) @ F.normalize(k).T / 0.1, torch.arange(len(q)), reduction="none")
    upstream = torch.linspace(-1, 2, len(q), dtype=q.dtype)
    close((info_nce(q, k, reduction="none") * upstream).sum(), (rows * upstream).sum(), (q, k))
    close((info_nce(q, k, reduction="none") * 0).sum(), (rows * 0).sum(), (q, k))
    close(info_nce(q, k, reduction="sum"), rows.sum(), (q, k))
    weights = torch.arange(len(q), dtype=q.dtype)
    close(info_nce(q, k, weights=weights), (rows * weights).sum() / weights.sum(), (q, k))
    close(info_nce(q, k, weights=weights, reduction="none").sum(), (rows * weights).sum(), (q, k))


def test_learned_scales():
    q, k = pairs()
    q1, k1 = F.normalize(q), F.normalize(k)
    scale = torch.tensor(14.0, dtype=torch.float64, requires_grad=True)
    logits, labels = scale * q1 @ k1.T, torch.arange(len(q))
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    close(ClipLoss()(q1, k1, scale), expected, (q, k, scale))
    bias = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True)
    signs = 2 * torch.eye(len(q), dtype=torch.float64) - 1
    expected = -F.logsigmoid(signs * (logits + bias)).sum() / len(q)
    close(SigLipLoss()(q1, k1, scale, bias), expected, (q, k, scale, bias))
    tau = torch.tensor([0.25], dtype=torch.float32, requires_grad=True)
    info_nce(q, k, temperature=tau).backward()
    assert tau.grad.shape == (1,) and tau.grad.dtype == torch.float32


def test_views_with_labels():
    features = F.normalize(torch.randn(6, 3, 4, dtype=torch.float64), dim=-1).requires_grad_()
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    z = features.transpose(0, 1).reshape(18, 4)
    same = labels.repeat(3)[:, None] == labels.repeat(3)
    others = ~torch.eye(18, dtype=torch.bool)
    logits = z @ z.T / 0.2
    log_p = logits - logits.masked_fill(~others, -torch.inf).logsumexp(1, keepdim=True)
    expected = -(log_p * (same & others)).sum(1) / (same & others).sum(1)
    close(SupConLoss(0.2)(features, labels), 0.2 / 0.07 * expected.mean(), (features,))


def test_threads_change_no_bit():
    q, k = pairs(300, 20, dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(torch.autograd.grad(info_nce(q, k), (q, k)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_computes_the_same():
    q, k = pairs(600, 32, dtype=torch.float32)
    expected = info_nce(q, k).item()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, str(info_nce(q, k).item()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    assert float(answer) == expected


def test_gradients_reach_parameters_of_half_under_autocast():
    layer = torch.nn.Linear(7, 5)
    q, k = pairs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce(layer(q), layer(k))
    loss.backward()
    assert torch.isfinite(layer.weight.grad).all() and layer.weight.grad.abs().sum() > 0


BROKEN = [float("nan"), float("inf")]


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_what_is_not_finite_is_an_error_or_nan(broken, reduction):
    for at in ("queries", "keys"):
        q, k = (x.detach() for x in pairs(dtype=torch.float32))
        (q if at == "queries" else k)[3, 2] = broken
        tau = torch.tensor(0.2, requires_grad=True)
        q, k = q.requires_grad_(), k.requires_grad_()
        with pytest.raises(ValueError, match=f"{at} hold .* at row 3, column 2"):
            contrastive(q, k, temperature=tau, reduction=reduction)
        loss = contrastive(q, k, temperature=tau, reduction=reduction, check_finite=False)
        assert loss.isnan().all()
        for x in torch.autograd.grad(loss.sum(), (q, k, tau)):
            assert x.isnan().all()


def test_what_is_checked_by_default():
    q, k = (x.detach() for x in pairs(dtype=torch.float32))
    q[0, 0] = torch.inf
    for loss in (lambda q, k: info_nce(q, k), InfoNCE()):
        with pytest.raises(ValueError):
            loss(q, k)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert loss(q, k).isnan()
        assert loss(q.half(), k.half()).isnan()
    with pytest.raises(ValueError):
        info_nce(q.half(), k.half(), check_finite=True)
    tau = torch.tensor(torch.nan)
    with pytest.raises(ValueError):
        info_nce(k, k, temperature=tau)
    assert info_nce(k, k, temperature=tau, check_finite=False).isnan()


def test_a_scaler_goes_on_after_an_overflow():
    torch.manual_seed(0)
    layer = torch.nn.Linear(7, 5)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    scales, losses = [], []
    for _ in range(40):
        x = torch.randn(16, 7)
        with torch.autocast("cpu", dtype=torch.float16):
            loss = info_nce(layer(x), layer(x + 0.1 * torch.randn(16, 7)))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        losses.append(loss.item())
    assert scales[0] == 2.0**39 and scales[-1] == scales[-2] and losses[-1] < losses[0]


def test_an_upstream_that_is_not_finite():
    q, k = pairs()
    rows = info_nce(q, k, reduction="none")
    (of,) = torch.autograd.grad(rows, q, torch.full_like(rows, torch.nan))
    assert of.isnan().all()


def test_weights_get_no_gradient_and_say_so():
    q, k = pairs()
    weights = torch.ones(len(q), requires_grad=True)
    with pytest.raises(ValueError, match="weights want a gradient"):
        info_nce(q, k, weights=weights)
    info_nce(q, k, weights=weights.detach())
    with torch.no_grad():
        info_nce(q, k, weights=weights)


def test_settings_are_checked_when_a_module_is_built():
    for wrong, says in (
        (lambda: InfoNCE(from_="both-ways"), "there is no setting 'from_'"),
        (lambda: InfoNCE(label_smothing=0.1), "did you mean 'label_smoothing'"),
        (lambda: InfoNCE(form="both-wys"), "both-wys"),
        (lambda: InfoNCE(temperature=-0.1), "temperature is -0.1"),
        (lambda: InfoNCE(reduction="median"), "reduction is 'median'"),
        (lambda: InfoNCE(negative_mode="pair"), "negative_mode"),
        (lambda: NTXentLoss(-0.5), "temperature is -0.5"),
        (lambda: HardNegativesLoss(positive_share=2.0), "share of positives is 2"),
        (lambda: SupConLoss(0.0), "temperature is 0"),
    ):
        with pytest.raises((TypeError, ValueError), match=says):
            wrong()


def test_repr_shows_what_differs():
    assert repr(InfoNCE()) == "InfoNCE()"
    shown = repr(InfoNCE(0.2, reduction="sum", form="both-ways"))
    assert shown == "InfoNCE(temperature=0.2, reduction='sum', form='both-ways')"
    learned = InfoNCE(torch.nn.Parameter(torch.tensor(0.25)))
    assert repr(learned) == "InfoNCE(temperature=0.25 (learned))"
    assert repr(NTXentLoss(0.5, 64)) == "NTXentLoss(memory_bank_size=64)"
    assert repr(SupConLoss()) == "SupConLoss()" and "one" in repr(SupConLoss(contrast_mode="one"))


def test_a_module_keeps_its_learned_temperature():
    import copy

    criterion = InfoNCE(temperature=torch.nn.Parameter(torch.tensor(0.25)))
    other = copy.deepcopy(criterion)
    with torch.no_grad():
        other.temperature.fill_(0.5)
    q, k = pairs()
    assert criterion(q, k) == info_nce(q, k, temperature=0.25) and other(q, k) == info_nce(q, k, temperature=0.5)
    assert list(criterion.state_dict()) == ["temperature"]


def test_a_batch_with_more_keys_has_to_be_asked_for():
    q, k = torch.randn(3, 5), torch.randn(4, 5)
    for wrong in ((q, k), (k, q)):
        with pytest.raises(ValueError, match="each query needs its key"):
            info_nce(*wrong)
        with pytest.raises(ValueError, match="each query needs its key"):
            InfoNCE()(*wrong)
    asked = info_nce(q, k, offset=0)
    torch.testing.assert_close(asked, contrastive(q, k))


@pytest.mark.parametrize("form", ["one-way", "both-ways", "nt-xent"])
def test_transforms_and_forward_mode(form):
    q, k = (x.detach() for x in pairs())
    tau = torch.tensor(0.2, dtype=torch.float64)

    def loss(q, k, tau):
        return contrastive(q, k, temperature=tau, form=form)

    leaves = [x.clone().requires_grad_() for x in (q, k, tau)]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    of = torch.func.grad(loss, argnums=(0, 1, 2))(q, k, tau)
    for mine, theirs in zip(of, expected):
        torch.testing.assert_close(mine, theirs)
    tangents = [torch.randn_like(x) for x in (q, k, tau)]
    along = sum((x * t).sum() for x, t in zip(expected, tangents))
    value, tangent = torch.func.jvp(loss, (q, k, tau), tuple(tangents))
    torch.testing.assert_close(value, loss(q, k, tau))
    torch.testing.assert_close(tangent, along)
    _, linear = torch.func.linearize(loss, q, k, tau)
    torch.testing.assert_close(linear(*tangents), along)
    with torch.autograd.forward_ad.dual_level():
        duals = [torch.autograd.forward_ad.make_dual(x, t) for x, t in zip((q, k, tau), tangents)]
        told = torch.autograd.forward_ad.unpack_dual(loss(*duals)).tangent
        torch.testing.assert_close(told, along)
    torch.testing.assert_close(torch.func.jacrev(loss)(q, k, tau), expected[0])
    # Many batches at once are one after the other.
    many = torch.stack([q, q + 0.1, -q])
    of_many = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None, None))(many, k, tau)
    for one, x in zip(of_many, many):
        torch.testing.assert_close(one, torch.func.grad(loss)(x, k, tau))
    with pytest.raises(RuntimeError, match="has to be reduced"):
        torch.func.grad(lambda q: contrastive(q, k, form=form, reduction="none").sum())(q)


def test_transforms_of_transforms_are_refused():
    q, k = (x.detach() for x in pairs())
    once = torch.func.grad(lambda q: info_nce(q, k))
    for twice in (
        lambda: torch.func.grad(lambda q: once(q).square().sum())(q),
        lambda: torch.func.hessian(lambda q: info_nce(q, k))(q),
        lambda: torch.func.jacrev(once)(q),
        lambda: torch.func.jvp(once, (q,), (q,)),
    ):
        with pytest.raises(RuntimeError, match="first derivatives only"):
            twice()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
def test_a_trace_computes_anew():
    q, k = (x.detach() for x in pairs(dtype=torch.float32))
    traced = torch.jit.trace(lambda q, k: info_nce(q, k), (q, k), check_trace=False)
    torch.testing.assert_close(traced(2 * q + 1, k), info_nce(2 * q + 1, k))
