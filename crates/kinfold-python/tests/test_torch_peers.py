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


@pytest.mark.filterwarnings("ignore")
def test_lightly_weights_and_banks():
    theirs = peer("lightly.loss")
    q, k = pairs()
    apart = lambda a, b: (a - b).square().sum(1)  # noqa: E731
    for tau in (0.1, 0.7):
        same(ours.DCLLoss(tau, apart)(q, k), theirs.DCLLoss(tau, apart)(q, k), (q, k))
    # So many rows, of the dimension that comes.
    loss = ours.NTXentLoss(0.2, 24)
    twin = ours.NTXentLoss(0.2, (24, 8))
    first = loss(q.float(), k.float())
    assert loss.bank.shape == (24, 8) and first.isfinite()
    twin.bank.copy_(loss.bank)
    twin.bank_ptr.copy_(loss.bank_ptr)
    for _ in range(3):
        assert loss(q.float(), k.float()) == twin(q.float(), k.float())


def test_what_lightlys_suite_asks(monkeypatch):
    """The cases of its tests, from what they say of the loss."""
    q, k = pairs()
    for loss in (ours.NTXentLoss(0.3), ours.DCLLoss(0.3), ours.DCLWLoss(0.3)):
        torch.testing.assert_close(loss(q, k), loss(k, q))
    # One pair has nothing to be told from.
    assert ours.NTXentLoss()(q[:1], k[:1]) == 0
    # Embeddings that are all equal leave the choice among 2n − 1.
    same_rows = torch.ones(16, 8, dtype=torch.float64)
    torch.testing.assert_close(ours.NTXentLoss()(same_rows, same_rows), torch.tensor(31.0, dtype=torch.float64).log())
    for make in (ours.NTXentLoss, ours.DCLLoss, ours.DCLWLoss):
        for tau in (0.0, -1.0):
            with pytest.raises(ValueError, match="temperature"):
                make(tau)
    for size in (-1, (-1, 8), (5, 0), (5, 8, 2)):
        with pytest.raises(ValueError, match="memory_bank_size"):
            ours.NTXentLoss(memory_bank_size=size)
    # The bank stays as it is where nothing is differentiated.
    loss = ours.NTXentLoss(memory_bank_size=(64, 8))
    before = loss.bank.clone()
    loss(q.detach().float(), k.detach().float())
    assert torch.equal(loss.bank, before)
    loss(q.float(), k.float())
    assert not torch.equal(loss.bank, before)
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    for make in (ours.NTXentLoss, ours.DCLLoss, ours.DCLWLoss):
        with pytest.raises(ValueError, match="torch.distributed"):
            make(gather_distributed=True)


def test_what_optaxs_suite_asks():
    """Its published numbers, of NT-Xent of each pair of one label."""
    z = torch.tensor([[-1.9540, 1.0780], [0.2380, -0.5703], [1.8745, -0.0195], [-0.6719, -1.9210]])
    for labels, expected in (([0, 0, 1, 1], 14.01032), ([0, 0, 0, 1], 8.968544)):
        loss = ours.metric_learning.NTXentLoss()(z, torch.tensor(labels))
        torch.testing.assert_close(loss, torch.tensor(expected))


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
    same(ours.metric_learning.NTXentLoss()(z, labels), theirs.NTXentLoss()(z, labels), (q, k))


def batches_of_labels():
    """Labels that occur once, twice and more often; all the same; all different."""
    torch.manual_seed(1)
    yield torch.randint(0, 6, (32,)).index_fill(0, torch.tensor(0), 9)
    yield torch.arange(32) // 4
    yield torch.arange(32) % 16
    yield torch.zeros(32, dtype=torch.int64)
    yield torch.arange(32)


@pytest.mark.parametrize("name", ["NTXentLoss", "SupConLoss"])
def test_pytorch_metric_learning_settings(name):
    theirs = peer("pytorch_metric_learning.losses")
    distances, reducers, miners = (
        peer(f"pytorch_metric_learning.{kind}") for kind in ("distances", "reducers", "miners")
    )
    ours_of, theirs_of = getattr(ours.metric_learning, name), getattr(theirs, name)
    q, k = pairs()
    z = torch.cat([q, k])
    ref = torch.randn(20, 8, dtype=torch.float64)
    for labels in batches_of_labels():
        of_ref = torch.arange(20) % 7
        settings = [{}, {"temperature": 0.4}]
        # Far from 0: what of a loss rounds to 0 there, its mean leaves out.
        settings += [{"distance": distances.DotProductSimilarity(normalize_embeddings=unit), "temperature": 5.0}
                     for unit in (True, False)]
        settings += [{"reducer": reducer} for reducer in (
            reducers.MeanReducer(), reducers.SumReducer(), reducers.ThresholdReducer(low=0.5),
            reducers.AvgNonZeroReducer(), reducers.DoNothingReducer(),
        )]
        for more in settings:
            a, b = ours_of(**more), theirs_of(**more)
            given = [(z, labels), (z, labels, None, ref, of_ref)]
            for miner in (miners.MultiSimilarityMiner(), miners.TripletMarginMiner(margin=0.5)):
                given += [(z, labels, miner(z, labels)), (z, labels, miner(z, labels, ref, of_ref), ref, of_ref)]
            for case in given:
                mine, right = a(*case), b(*case)
                if isinstance(right, dict):
                    mine, right = mine["loss"]["losses"], right["loss"]["losses"]
                    mine, right = (torch.as_tensor(x, dtype=torch.float64).sum() for x in (mine, right))
                    torch.testing.assert_close(mine, right)
                elif not right.requires_grad or right == 0:
                    assert mine == 0
                else:
                    same(mine, right, (q, k), atol=1e-7)


def test_pytorch_metric_learning_in_half_and_compiled():
    q, k = pairs()
    z = torch.cat([q, k]).detach()
    labels = torch.cat([torch.arange(16), torch.arange(16).flip(0)])
    for loss in (ours.metric_learning.NTXentLoss(), ours.metric_learning.SupConLoss()):
        half = loss(z.half(), labels)
        assert half.dtype == torch.float16
        torch.testing.assert_close(half.double(), loss(z, labels), rtol=1e-2, atol=1e-2)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        leaf = z.float().requires_grad_()
        same(compiled(leaf, labels), loss(leaf, labels), (leaf,))
        if isinstance(loss, ours.metric_learning.NTXentLoss):
            with pytest.raises(Exception, match="each label must occur twice"):
                compiled(leaf, torch.arange(32) % 7)
        with pytest.raises(ValueError, match="distance is"):
            type(loss)(distance=object())


@pytest.mark.parametrize("name", ["NTXentLoss", "SupConLoss"])
def test_cross_batch_memory(name):
    theirs = peer("pytorch_metric_learning.losses")
    miners = peer("pytorch_metric_learning.miners")
    for miner in (None, miners.MultiSimilarityMiner()):
        a, b = (
            theirs.CrossBatchMemory(getattr(of, name)(), 8, memory_size=48, miner=miner)
            for of in (ours.metric_learning, theirs)
        )
        generator = torch.Generator().manual_seed(3)
        for _ in range(5):
            z = torch.randn(16, 8, generator=generator, requires_grad=True)
            labels = torch.randint(0, 5, (16,), generator=generator)
            same(a(z, labels), b(z, labels), (z,), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["NTXentLoss", "SupConLoss"])
def test_wrappers_and_trainers(name):
    theirs = peer("pytorch_metric_learning.losses")
    trainers = peer("pytorch_metric_learning.trainers")
    q, k = pairs()
    a, b = (theirs.SelfSupervisedLoss(getattr(of, name)()) for of in (ours.metric_learning, theirs))
    same(a(q, k), b(q, k), (q, k))
    weights = []
    for of in (ours.metric_learning, theirs):
        torch.manual_seed(0)
        data = torch.utils.data.TensorDataset(torch.randn(64, 8), torch.arange(64) % 16)
        trunk = torch.nn.Linear(8, 4)
        trainers.MetricLossOnly(
            models={"trunk": trunk},
            optimizers={"trunk_optimizer": torch.optim.SGD(trunk.parameters(), lr=0.1)},
            batch_size=32,
            loss_funcs={"metric_loss": getattr(of, name)()},
            dataset=data,
            dataloader_num_workers=0,
            data_device="cpu",
        ).train(num_epochs=2)
        weights.append(trunk.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


def test_memory_of_many_labels():
    """Pairs of a batch with itself are its positives alone: no list of all."""
    n = 4096
    z, labels = torch.randn(n, 16), torch.arange(n) // 4
    assert len(ours.metric_learning._positive_pairs(labels)[0]) == 3 * n
    assert ours.metric_learning.NTXentLoss()(z, labels).isfinite()


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


class Dropping(torch.nn.Module):
    """A model of which half is left to chance."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layer, self.dropout = torch.nn.Linear(8, 6).double(), torch.nn.Dropout(0.5)

    def __getitem__(self, i):
        return (self.layer, self.dropout)[i]

    def forward(self, features):
        return {"sentence_embedding": self.dropout(self.layer(features["x"]).tanh())}


def columns(count=3, n=16):
    generator = torch.Generator().manual_seed(5)
    return [{"x": torch.randn(n, 8, generator=generator, dtype=torch.float64), "of": "text"} for _ in range(count)]


def trained(loss, model, given):
    """The value, and the model's gradients of three times it."""
    model.zero_grad()
    torch.manual_seed(11)
    value = loss(given, None)
    (3 * value).backward()
    return value.detach(), [p.grad.clone() for p in model.parameters()]


def alike(a, b):
    torch.testing.assert_close(a[0], b[0], rtol=1e-6, atol=1e-9)
    for x, y in zip(a[1], b[1]):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("mini_batch_size", [1, 5, 16, 64])
def test_cached_gradients_are_those_of_the_whole_batch(mini_batch_size):
    model = Dropping().eval()
    whole = ours.MultipleNegativesRankingLoss(model)
    cached = ours.CachedMultipleNegativesRankingLoss(model, mini_batch_size=mini_batch_size)
    alike(trained(cached, model, columns()), trained(whole, model, columns()))
    with torch.no_grad():
        torch.testing.assert_close(cached(columns()), whole(columns()))
    # With the same dropout when it is encoded again: the peer's own numbers.
    theirs = peer("sentence_transformers.sentence_transformer.losses")
    model.train()
    right = theirs.CachedMultipleNegativesRankingLoss(model, mini_batch_size=mini_batch_size)
    alike(trained(cached, model, columns()), trained(right, model, columns()))


@pytest.mark.filterwarnings("ignore")
def test_matryoshka():
    theirs = peer("sentence_transformers.sentence_transformer.losses")
    model = Dropping().eval()
    model.get_embedding_dimension = lambda: 6
    for weights in (None, [0.3, 1.0, 2.0]):
        right = theirs.MatryoshkaLoss(model, theirs.MultipleNegativesRankingLoss(model), [2, 5, 6], weights)
        for kind in (ours.MultipleNegativesRankingLoss, ours.CachedMultipleNegativesRankingLoss):
            mine = ours.MatryoshkaLoss(model, kind(model), [2, 5, 6], weights)
            for given in (columns(2), columns(4)):
                alike(trained(mine, model, given), trained(right, model, given))
    one = ours.MatryoshkaLoss(model, ours.MultipleNegativesRankingLoss(model), [2, 5, 6], n_dims_per_step=1)
    values = {one(columns(2)).item() for _ in range(30)}
    assert len(values) == 3
    for wrong in (lambda: ours.MatryoshkaLoss(model, torch.nn.L1Loss(), [2]),
                  lambda: ours.MatryoshkaLoss(model, ours.InfoNCE(), []),
                  lambda: ours.MatryoshkaLoss(model, ours.InfoNCE(), [2, 2])):
        with pytest.raises((TypeError, ValueError)):
            wrong()


def test_gist_embed():
    theirs = peer("sentence_transformers.sentence_transformer.losses")
    tokenizer = type("Tokenizer", (peer("transformers").PreTrainedTokenizerBase,), {
        "__init__": lambda self: None, "get_vocab": lambda self: {"a": 0}, "__repr__": lambda self: "a tokenizer",
    })()
    model, guide = Dropping().eval(), Dropping(1).eval()
    for each in (model, guide):
        each.tokenizer, each.max_seq_length = tokenizer, 8
    for given in (columns(2), columns(3)):
        for more in ({}, {"temperature": 0.2}, {"contrast_anchors": False, "contrast_positives": False}):
            a, b = (of.GISTEmbedLoss(model, guide, **more) for of in (ours, theirs))
            alike(trained(a, model, given), trained(b, model, given))
    for wrong in ({"margin": 0.1}, {"margin_strategy": "relative"}, {"contrast_anchors": False}):
        with pytest.raises(ValueError):
            ours.GISTEmbedLoss(model, guide, **wrong)


def test_sup_contrast_masks_and_modes():
    features = torch.nn.functional.normalize(torch.randn(10, 3, 6, dtype=torch.float64), dim=-1).requires_grad_()
    labels = torch.arange(10) % 4
    mask = labels[:, None] == labels

    def formula(mode):
        n, views = features.shape[:2]
        all_views = features.transpose(0, 1).flatten(0, 1)
        anchors = n if mode == "one" else n * views
        logits = all_views[:anchors] @ all_views.T / 0.07
        others = ~torch.eye(n * views, dtype=torch.bool)[:anchors]
        positive = mask.repeat(views, views)[:anchors] & others
        log_p = logits - logits.masked_fill(~others, -torch.inf).logsumexp(1, keepdim=True)
        return -(log_p * positive).sum(1).div(positive.sum(1)).mean()

    for mode in ("all", "one"):
        loss = ours.SupConLoss(contrast_mode=mode)
        for given in ({"labels": labels}, {"mask": mask}, {"mask": mask.double()}):
            same(loss(features, **given), formula(mode), (features,), atol=1e-7)
    assert ours.SupConLoss()(features, mask=torch.eye(10)) == ours.SupConLoss()(features)
    for wrong in (torch.ones(9, 9), torch.eye(10)[[1, 0, *range(2, 10)]], 1 - torch.eye(10), torch.ones(10, 10).tril()):
        with pytest.raises(ValueError, match="mask"):
            ours.SupConLoss()(features, mask=wrong)
    with pytest.raises(ValueError, match="give one of them"):
        ours.SupConLoss()(features, labels, mask)


def test_the_presets_of_the_papers():
    q, k = pairs()
    for loss in (ours.DebiasedLoss(), ours.HardNegativesLoss()):
        assert torch.isfinite(loss(q, k))


def test_what_has_no_meaning_here_is_refused():
    for wrong in (
        lambda: ours.ClipLoss(use_horovod=True),
        lambda: ours.ClipLoss(world_size=2),
        lambda: ours.SupConLoss(contrast_mode="two"),
        lambda: ours.MultipleNegativesRankingLoss(None, directions=("doc_to_doc",)),
        lambda: ours.MultipleNegativesRankingLoss(None, similarity_fct=print),
        lambda: ours.NTXentLoss(memory_bank_size=(5, 0)),
    ):
        with pytest.raises(ValueError):
            wrong()
