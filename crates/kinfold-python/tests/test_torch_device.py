"""The losses on an accelerator, held against the engine on the CPU. Needs one: CUDA, XPU or MPS."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from kinfold.torch import InfoNCE, contrastive  # noqa: E402
from test_torch_strips import CASES, WRONG  # noqa: E402

DEVICE = next((name for name in ("cuda", "xpu", "mps") if getattr(torch, name).is_available()), None)
pytestmark = pytest.mark.skipif(DEVICE is None, reason="there is no accelerator")


def there(x, dtype):
    """A batch or a setting on the device."""
    if isinstance(x, tuple):
        return tuple(there(each, dtype) for each in x)
    if not isinstance(x, torch.Tensor):
        return x
    return x.to(DEVICE, dtype) if x.is_floating_point() else x.to(DEVICE)


def outcome(case, where, dtype, reduction):
    case = {name: where(x, dtype) for name, x in case.items()}
    leaves = []
    for name in ("queries", "keys", "negatives"):
        if name in case:
            case[name] = case[name].detach().clone().requires_grad_()
            leaves.append(case[name])
    value = contrastive(**case, reduction=reduction)
    total = value if reduction != "none" else (value * torch.linspace(-1, 2, len(value)).to(value)).sum()
    return value.detach().cpu(), [x.cpu() for x in torch.autograd.grad(total, leaves)]


def here(x, dtype):
    if isinstance(x, tuple):
        return tuple(here(each, dtype) for each in x)
    return x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", CASES)
def test_same_value_and_gradients(name, reduction):
    kinds = [(torch.float32, 2e-5, 2e-5)]
    if DEVICE != "mps":
        kinds.append((torch.float64, 1e-8, 1e-10))
    for dtype, rtol, atol in kinds:
        if name == "cold" and dtype == torch.float32:
            continue  # Logits of ±500 have an absolute error of 3e-5 of their own.
        value, of = outcome(CASES[name], there, dtype, reduction)
        expected, of_engine = outcome(CASES[name], here, dtype, reduction)
        torch.testing.assert_close(value, expected, rtol=rtol, atol=atol)
        for a, b in zip(of, of_engine):
            torch.testing.assert_close(a, b, rtol=rtol * 10, atol=atol * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize("name", WRONG)
def test_same_refusals(name):
    case = WRONG[name]
    with pytest.raises(ValueError) as by_engine:
        contrastive(**case)
    with pytest.raises(ValueError) as by_device:
        contrastive(**{key: there(x, torch.float64) for key, x in case.items()})
    assert str(by_device.value) == str(by_engine.value)


def test_the_memory_of_a_strip():
    """The largest batch takes a fraction of its matrix of similarities."""
    if DEVICE != "cuda":
        pytest.skip("memory is measured on CUDA alone")
    n, d = 65536, 64
    generator = torch.Generator(DEVICE).manual_seed(0)
    q = torch.randn(n, d, device=DEVICE, generator=generator, requires_grad=True)
    k = torch.randn(n, d, device=DEVICE, generator=generator)
    torch.cuda.reset_peak_memory_stats()
    InfoNCE()(q, k).backward()
    assert torch.cuda.max_memory_allocated() < 4 * n * n / 10
