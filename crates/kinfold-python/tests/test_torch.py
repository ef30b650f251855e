"""The loss as PyTorch sees it: values, gradients, and everything that autograd may ask."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import torch.nn.functional as F  # noqa: E402

from kinfold.torch import info_nce  # noqa: E402


def pairs(n=24, d=7, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(n, d, generator=generator, dtype=torch.float64)
    k = q + torch.randn(n, d, generator=generator, dtype=torch.float64)
    return q.to(dtype).requires_grad_(), k.to(dtype).requires_grad_()


def dense(q, k, tau=0.1):
    return F.cross_entropy(F.normalize(q) @ F.normalize(k).T / tau, torch.arange(len(q)))


def test_value_and_gradients_are_those_of_cross_entropy():
    q, k = pairs()
    ours = info_nce(q, k)
    theirs = dense(q, k)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for a, b in zip(torch.autograd.grad(ours, (q, k)), torch.autograd.grad(theirs, (q, k))):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_gradcheck():
    q, k = pairs(5, 3)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q, k, tau: info_nce(q, k, temperature=tau), (q, k, tau))
