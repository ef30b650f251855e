"""One batch over several processes, held against one process that has all of it."""

import datetime
import traceback

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as multiprocessing  # noqa: E402

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("torch has no gloo", allow_module_level=True)

from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from kinfold.torch import DCLLoss, NTXentLoss, SupConLoss, contrastive  # noqa: E402

LABELS = torch.tensor([0, 1, 2, 0, 1, 3, 2, 2, 4, 0, 1, 1, 5, 0, 2])
SETTINGS = {
    "one way": {},
    "both ways": {"form": "both-ways", "label_smoothing": 0.1},
    "views": {"form": "nt-xent"},
    "views, sum": {"form": "nt-xent", "reduction": "sum"},
    "views, smoothed": {"form": "nt-xent", "label_smoothing": 0.2, "margin": 0.1},
    "ids": {"form": "nt-xent", "ids": LABELS},
    "ids both ways": {"form": "both-ways", "ids": LABELS},
    "weights": {"weights": torch.arange(15.0)},
    "weights over views": {"form": "nt-xent", "weights": torch.arange(30.0)},
    "decoupled": {"form": "nt-xent", "objective": "decoupled"},
    "weighted": {"form": "nt-xent", "objective": "decoupled-weighted"},
    "debiased": {"form": "nt-xent", "objective": "debiased"},
    "hard": {"form": "nt-xent", "objective": "hard-negatives"},
    "rince": {"form": "both-ways", "objective": "rince"},
    "labels": {"form": "nt-xent", "objective": "sup-con-outside", "labels": LABELS},
    "SupConLoss without labels": {"module": "SupConLoss"},
    "DCLLoss with weights": {"module": "DCLLoss"},
    "sigmoid": {"objective": "sigmoid"},
    "negatives": {"negatives": True},
    "negatives of each": {"negatives": "each", "in_batch_negatives": False},
    "rows": {"reduction": "none"},
    "rows over views": {"form": "nt-xent", "reduction": "none"},
    "rows of labels": {
        "form": "nt-xent", "objective": "sup-con-outside", "labels": LABELS, "reduction": "none",
    },
}
# Rows of each process: as many for all, and not.
SHARES = {2: [[8, 7], [1, 14], [15, 0]], 3: [[5, 5, 5], [2, 9, 4]]}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
        self.tau = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, x, y, settings, gather):
        settings = dict(settings)
        if settings.get("objective") == "sigmoid":
            settings["bias"] = self.tau * 2
        negatives = settings.pop("negatives", None)
        if isinstance(negatives, torch.Tensor):
            settings["negatives"] = self.encoder(negatives)
        a, b = self.encoder(x), self.encoder(y.flip(-1))
        module = settings.pop("module", None)
        if module == "DCLLoss":
            return DCLLoss(self.tau, lambda a, b: (a - b).square().sum(1), gather)(a, b)
        if module == "SupConLoss":
            features = torch.nn.functional.normalize(torch.stack([a, b], dim=1), dim=-1) / self.tau.sqrt()
            return SupConLoss(temperature=1.0, base_temperature=1.0, gather=gather)(features)
        return contrastive(a, b, temperature=self.tau, gather=gather, **settings)


def data(settings):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(15, 6, generator=generator)
    y = x + torch.randn(15, 6, generator=generator)
    kind = settings.get("negatives")
    negatives = torch.randn(*((15, 2, 6) if kind == "each" else (15, 6)), generator=generator)
    return x, y, {**settings, **({"negatives": negatives} if kind else {})}


def part(settings, here):
    """A process's own share of what stands beside the rows."""
    out = dict(settings)
    for name in ("ids", "labels", "negatives"):
        if name in out:
            out[name] = out[name][here]
    if "weights" in out:
        out["weights"] = torch.cat([half[here] for half in out["weights"].split(15)])
    return out


def of_loss(loss, settings, of_all=None):
    """What is differentiated: the loss, or the mean of the rows there are."""
    if settings.get("reduction") != "none":
        return loss
    return loss.square().sum() if of_all is None else loss.square().sum() * of_all


def process(rank, world, port, answers):
    """A worker: what each loss came to, or what went wrong."""
    try:
        torch.set_num_threads(1)
        store = dist.TCPStore("127.0.0.1", port, world, rank == 0)
        patience = datetime.timedelta(seconds=120)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=patience)
        others(rank, world)
        answers.put((rank, [work(rank, shares) for shares in SHARES[world]]))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        answers.put((rank, traceback.format_exc()))


def others(rank, world):
    """Groups, numbers that are not finite in one process alone, and banks of uneven shares."""
    torch.manual_seed(rank)
    a, b = torch.randn(3 + rank, 4), torch.randn(3 + rank, 4)
    of_all = contrastive(a, b, gather=True)
    groups = [dist.new_group([each]) for each in range(world)]
    everyone = dist.new_group(list(range(world)))
    assert contrastive(a, b, gather=True, group=groups[rank]) == contrastive(a, b) != of_all
    assert contrastive(a, b, gather=True, group=everyone) == of_all
    if rank == 1:
        a[0, 0] = torch.nan
    for settings in ({}, {"form": "nt-xent"}, {"reduction": "none"}):
        with pytest.raises(ValueError, match="in the batch of process 1$"):
            contrastive(a, b, gather=True, **settings)
    assert contrastive(a, b, gather=True, check_finite=False).isnan()
    loss = NTXentLoss(0.2, 16, gather_distributed=True)
    loss(b.requires_grad_(), b)
    assert loss.bank_ptr == sum(3 + each for each in range(world))
    expected = [torch.empty_like(loss.bank) for _ in range(world)]
    dist.all_gather(expected, loss.bank)
    rows = int(loss.bank_ptr)
    assert all(torch.equal(x[:rows], loss.bank[:rows]) for x in expected)


def work(rank, shares):
    world = len(shares)
    start = sum(shares[:rank])
    here = slice(start, start + shares[rank])
    out = {}
    for name, settings in SETTINGS.items():
        x, y, settings = data(settings)
        mine = part(settings, here)
        model = DistributedDataParallel(Model())
        loss = model(x[here], y[here], mine, True)
        of_loss(loss, settings, world).backward()
        gradients = [p.grad for p in model.module.parameters()]
        out[name] = (loss.detach().numpy(), [g.numpy() for g in gradients])
    return out


@pytest.mark.parametrize("world", SHARES)
def test_the_whole_batch_in_one_process(world):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    store = dist.TCPStore("127.0.0.1", 0, 1, True)
    port = store.port
    del store
    workers = [context.Process(target=process, args=(rank, world, port, answers)) for rank in range(world)]
    for worker in workers:
        worker.start()
    results = []
    for _ in workers:
        rank, out = answers.get(timeout=600)
        assert isinstance(out, list), out
        results.append((rank, out))
    for worker in workers:
        worker.join()
    for name, settings in SETTINGS.items():
        x, y, settings = data(settings)
        model = Model()
        loss = model(x, y, settings, False)
        of_loss(loss, settings).backward()
        for rank, of_shares in results:
            for shares, out in zip(SHARES[world], of_shares):
                value, gradients = out[name]
                says = f"{name}, process {rank} of {shares}"
                if settings.get("reduction") != "none":
                    same(value, loss.detach(), 1e-5, 1e-6, says)
                for mine, p in zip(gradients, model.parameters()):
                    same(mine, p.grad, 1e-4, 1e-5 * p.grad.abs().max().item() + 1e-9, says)


def same(array, tensor, rtol, atol, says):
    torch.testing.assert_close(torch.tensor(array), tensor, rtol=rtol, atol=atol, msg=lambda m: f"{says}: {m}")
