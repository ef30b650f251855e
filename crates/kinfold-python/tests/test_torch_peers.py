"""The number, and the gradients, of each library whose names we bear, where that library is installed."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import kinfold.torch as ours  # noqa: E402


def pairs(n=16, d=8, normalized=False):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(n, d, generator=generator, dtype=torch.float64)
    k = q + torch.randn(n, d, generator=generator, dtype=torch.float64)
    if normalized:
        q, k = torch.nn.functional.normalize(q), torch.nn.functional.normalize(k)
    return q.requires_grad_(), k.requires_grad_()


def same(a, b, leaves, atol=1e-8):
    torch.testing.assert_close(a.double(), b.double(), rtol=1e-6, atol=0)
    of_a, of_b = torch.autograd.grad(a, leaves), torch.autograd.grad(b, leaves)
    for x, y in zip(of_a, of_b):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=atol)


def peer(name):
    return pytest.importorskip(name, reason=f"{name} is not installed", exc_type=ImportError)


def test_info_nce_pytorch():
    theirs = peer("info_nce")
    q, k = pairs()
    shared, own = torch.randn(5, 8, dtype=torch.float64), torch.randn(16, 3, 8, dtype=torch.float64)
    same(ours.info_nce(q, k), theirs.info_nce(q, k), (q, k))
    same(ours.info_nce(q, k, shared), theirs.info_nce(q, k, shared), (q, k))
    paired = {"negative_mode": "paired", "temperature": 0.3, "reduction": "sum"}
    same(ours.InfoNCE(**paired)(q, k, own), theirs.InfoNCE(**paired)(q, k, own), (q, k))
    rows = ours.InfoNCE(reduction="none")(q, k)
    torch.testing.assert_close(rows, theirs.InfoNCE(reduction="none")(q, k))


@pytest.mark.filterwarnings("ignore")
def test_lightly():
    theirs = peer("lightly.loss")
    q, k = pairs()
    for name in ("NTXentLoss", "DCLLoss", "DCLWLoss"):
        same(getattr(ours, name)()(q, k), getattr(theirs, name)()(q, k), (q, k))
    a, b = ours.NTXentLoss(0.2, (40, 8)), theirs.NTXentLoss(0.2, (40, 8))
    a.bank.copy_(b.memory_bank.bank)
    for _ in range(4):
        # Their bank is of float32, and so is everything with it.
        same(a(q.float(), k.float()), b(q.float(), k.float()), (q, k), atol=1e-6)
        assert torch.allclose(a.bank, b.memory_bank.bank) and a.bank_ptr == b.memory_bank.bank_ptr


def test_open_clip():
    theirs = peer("open_clip.loss")
    q, k = pairs(normalized=True)
    scale = torch.tensor(1 / 0.07, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True)
    same(ours.ClipLoss()(q, k, scale), theirs.ClipLoss()(q, k, scale), (q, k, scale))
    same(ours.SigLipLoss()(q, k, scale, bias), theirs.SigLipLoss()(q, k, scale, bias), (q, k, scale, bias))
    out = ours.ClipLoss()(q, k, scale, output_dict=True)
    assert list(out) == list(theirs.ClipLoss()(q, k, scale, output_dict=True))


def test_pytorch_metric_learning():
    theirs = peer("pytorch_metric_learning.losses")
    q, k = pairs()
    z, labels = torch.cat([q, k]), torch.cat([torch.arange(16), torch.randperm(16)])
    same(ours.metric_learning.NTXentLoss()(z, labels), theirs.NTXentLoss()(z, labels), (q, k))
    labels = torch.randint(0, 6, (32,))
    labels[0] = 9
    same(ours.metric_learning.SupConLoss()(z, labels), theirs.SupConLoss()(z, labels), (q, k))
    with pytest.raises(ValueError, match="must occur twice"):
        ours.metric_learning.NTXentLoss()(z, labels)


def test_sentence_transformers():
    theirs = peer("sentence_transformers.sentence_transformer.losses")
    util = peer("sentence_transformers.util")
    q, k = pairs()
    hard = [torch.randn(16, 8, dtype=torch.float64) for _ in range(2)]
    two = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    for settings in ({}, {"scale": 1.0, "similarity_fct": util.dot_score}, two):
        for more in ([], hard):
            a = ours.MultipleNegativesRankingLoss(torch.nn.Identity(), **settings)
            b = theirs.MultipleNegativesRankingLoss(torch.nn.Identity(), **settings)
            given = [q, k, *more]
            same(a.compute_loss_from_embeddings(given), b.compute_loss_from_embeddings(given, None), (q, k))

    class Model(torch.nn.Module):
        def forward(self, features):
            return {"sentence_embedding": features["x"]}

    loss = ours.MultipleNegativesRankingLoss(Model())
    assert loss([{"x": q}, {"x": k}]) == ours.info_nce(q, k, temperature=0.05)


def test_the_presets_of_the_papers():
    q, k = pairs()
    for loss in (ours.DebiasedLoss(), ours.HardNegativesLoss()):
        assert torch.isfinite(loss(q, k))


def test_what_has_no_meaning_here_is_refused():
    for wrong in (
        lambda: ours.ClipLoss(use_horovod=True),
        lambda: ours.ClipLoss(world_size=2),
        lambda: ours.DCLLoss(weight_fn=print),
        lambda: ours.SupConLoss(contrast_mode="one"),
        lambda: ours.MultipleNegativesRankingLoss(None, directions=("doc_to_doc",)),
        lambda: ours.MultipleNegativesRankingLoss(None, similarity_fct=print),
        lambda: ours.NTXentLoss(memory_bank_size=5),
    ):
        with pytest.raises(ValueError):
            wrong()
