#!/usr/bin/env python3
"""Makes the golden data: what each library answers for the preset that bears its name.

    python3 crates/kinfold/tests/golden/make.py                 installs the libraries in .venv beside this file
    python3 crates/kinfold/tests/golden/make.py --python PATH   takes an interpreter that has them
    python3 crates/kinfold/tests/golden/make.py --check         writes nothing; says whether the files would change

One file for each preset. The numbers are the library's own, in float64 unless a case says otherwise.
Beside each call stands the same formula in plain NumPy, written from its description in "what", and
the two must agree before anything is written: that is the proof that the description is right.

Losses that no package on PyPI holds are written here anew, from their papers and repositories, and
their files say "re-derived".
"""

import argparse
import importlib.metadata
import json
import math
import os
import pathlib
import subprocess
import sys
import warnings
import zlib

HERE = pathlib.Path(__file__).resolve().parent

# The golden numbers belong to these versions. What they need in turn is held by constraints.txt.
PINS = {
    "torch": "2.15.0",
    "numpy": "2.4.6",
    "info-nce-pytorch": "0.1.4",
    "lightly": "1.6.0",
    "pytorch-metric-learning": "2.9.0",
    "open-clip-torch": "3.3.0",
    "sentence-transformers": "6.2.0",
}


# ---------------------------------------------------------------------------------------------
# The interpreter
# ---------------------------------------------------------------------------------------------


def missing():
    """The pins that this interpreter does not meet."""
    out = []
    for name, wanted in PINS.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "nothing"
        if found != wanted:
            out.append(f"{name} {wanted} (found {found})")
    return out


def own_environment():
    environment = HERE / ".venv"
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "-c", HERE / "constraints.txt"]
    subprocess.run(install + [f"{name}=={version}" for name, version in PINS.items()], check=True)
    return python


def start_again_where_the_libraries_are():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", help="an interpreter that has the libraries")
    parser.add_argument("--check", action="store_true", help="compare with the files, write nothing")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        python = options.python or (own_environment() if missing() else sys.executable)
        # One thread gives one order of summation. Offline, since nothing here needs a download.
        once = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        once |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        flags = ["--inside"] + (["--check"] if options.check else [])
        os.execve(python, [str(python), __file__, *flags], {**os.environ, **once})
    if missing():
        sys.exit("other versions than the golden data's: " + ", ".join(missing()))
    return options


OPTIONS = start_again_where_the_libraries_are()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

torch.set_num_threads(1)
# lightly's DCLW copies a tensor with torch.tensor, which warns at each call.
warnings.filterwarnings("ignore", message="To copy construct from a tensor")

import info_nce  # noqa: E402
import open_clip.loss  # noqa: E402
import pytorch_metric_learning.distances  # noqa: E402
import pytorch_metric_learning.losses  # noqa: E402
from lightly.loss import DCLLoss, DCLWLoss, NTXentLoss  # noqa: E402
from sentence_transformers.sentence_transformer.losses import (  # noqa: E402
    GISTEmbedLoss,
    MultipleNegativesRankingLoss,
)
from tokenizers import Tokenizer  # noqa: E402
from tokenizers.models import WordLevel  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

# ---------------------------------------------------------------------------------------------
# Inputs: multiples of 1/64, so that they are exact in f32 (and f16) and print short
# ---------------------------------------------------------------------------------------------


def generator(preset, name):
    """One stream for each case: a case added or dropped leaves the others as they are."""
    return np.random.default_rng(zlib.crc32(f"{preset}/{name}".encode()))


def grid(x):
    return np.clip(np.round(x * 64) / 64, -3.984375, 3.984375) + 0.0


def normal(rng, *shape):
    return grid(rng.standard_normal(shape))


def unit(x):
    """Rows of about unit length, on the grid: for the losses that do not normalise."""
    return grid(x / np.linalg.norm(x, axis=-1, keepdims=True))


def pairs(rng, n, d, near, unit_rows=False):
    """Far: keys know nothing of the queries. Near: each key is its query and a little noise."""
    queries = unit(rng.standard_normal((n, d))) if unit_rows else normal(rng, n, d)
    noise = rng.standard_normal((n, d))
    if near:
        keys = grid(queries + noise / (32 if unit_rows else 16))
    else:
        keys = unit(noise) if unit_rows else grid(noise)
    return {"queries": queries, "keys": keys}


# ---------------------------------------------------------------------------------------------
# The call, and its gradients
# ---------------------------------------------------------------------------------------------

TRAINED = ("queries", "keys", "negatives", "embeddings")


def call(loss, inputs, dtype=torch.float64, **settings):
    """The loss of the inputs and its gradient by each trained matrix. `settings` go to the loss."""
    tensors = {}
    for name, x in inputs.items():
        kind = torch.long if name == "labels" else dtype
        tensors[name] = torch.tensor(x, dtype=kind, requires_grad=name in TRAINED)
    value = loss(tensors, **settings)
    value.backward()
    gradients = {}
    for name, x in tensors.items():
        if x.requires_grad:
            gradients[name] = (torch.zeros_like(x) if x.grad is None else x.grad).double().numpy()
    return value.double().item(), gradients


def by_log_scale(loss, inputs, temperature, **settings):
    """dL/d log(1/τ), with the temperature as a tensor: −τ dL/dτ. Everything that holds τ counts."""
    t = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    call(loss, inputs, temperature=t, **settings)
    return -temperature * t.grad.item()


def agree(preset, name, value, formula):
    """The description against the library. The floor is what rounding of logits up to 100 leaves."""
    if not abs(value - formula) <= 1e-10 * abs(formula) + 1e-13:
        sys.exit(f"{preset}/{name}: the library says {value!r}, its description {formula!r}")


class File:
    """One preset's file in the making: `loss` is the call, `formula` its description in NumPy."""

    def __init__(self, preset, library, version, what, loss, formula, defaults):
        self.loss, self.formula, self.defaults = loss, formula, defaults
        # What is differentiated by the temperature: the library's call wherever that can be done.
        self.scale_loss = loss
        self.head = {"preset": preset, "library": library, "version": version, "what": what}
        self.preset, self.cases, self.wrong = preset, [], []

    def add(self, name, inputs, mode=None, notes=None, **changed):
        settings = {**self.defaults, **changed}
        if mode:
            settings["mode"] = mode
        value, gradients = call(self.loss, inputs, **settings)
        agree(self.preset, name, value, self.formula(inputs, **settings))
        case = {"name": name}
        if mode:
            case["mode"] = mode
        rows = inputs["embeddings"] if "embeddings" in inputs else inputs["queries"]
        case["rows" if "embeddings" in inputs else "pairs"] = len(rows)
        case["dim"] = rows.shape[1]
        case |= changed | inputs | (notes or {}) | {"value": value}
        case |= {f"gradient_{key}": x for key, x in gradients.items()}
        rest = {key: x for key, x in settings.items() if key != "temperature"}
        agree(self.preset, name, call(self.scale_loss, inputs, **settings)[0], value)
        case["gradient_log_scale"] = by_log_scale(self.scale_loss, inputs, settings["temperature"], **rest)
        assert math.isfinite(case["gradient_log_scale"]), name
        self.cases.append(case)

    def went_wrong(self, name, explanation, inputs, precision, exact, mode=None, **changed):
        """A case in which the library's answer is not the loss's value. `exact` gives that value in
        float64 from the same inputs, without the step that failed."""
        settings = {**self.defaults, **changed}
        if mode:
            settings["mode"] = mode
        dtype = {"f32": torch.float32, "f64": torch.float64}[precision]
        value, gradients = call(self.loss, inputs, dtype=dtype, **settings)
        true, true_gradients = call(exact, inputs, **settings)
        case = {"name": name, "explanation": explanation}
        if mode:
            case["mode"] = mode
        case |= changed | inputs | {"precision": precision}
        case |= {"library_value": value, "library_gradient_norm": length(gradients)}
        case |= {"exact_value": true, "exact_gradient_norm": length(true_gradients)}
        self.wrong.append(case)

    def content(self):
        return {**self.head, "defaults": self.defaults, "cases": self.cases, "wrong": self.wrong}


def length(gradients):
    """The Euclidean norm of all gradients together."""
    with np.errstate(invalid="ignore"):
        return float(np.sqrt(sum((x * x).sum() for x in gradients.values())))


# ---------------------------------------------------------------------------------------------
# Plain NumPy: the pieces of every description
# ---------------------------------------------------------------------------------------------


def normalized(x, floor=1e-12):
    return x / np.maximum(np.sqrt((x * x).sum(-1, keepdims=True)), floor)


def lse(x):
    top = x.max()
    return float(top + np.log(np.exp(x - top).sum()))


def row(positive, others):
    """log(1 + Σ exp(others − positive)): cross-entropy of one row that holds one positive."""
    others = np.asarray(others, dtype=float)
    if len(others) == 0:
        return 0.0
    gap = others - positive
    return float(np.log1p(np.exp(gap).sum())) if gap.max() < 0 else lse(np.append(gap, 0.0))


def off_diagonal(s, i):
    return np.delete(s[i], i)


def one_way(s):
    return float(np.mean([row(s[i, i], off_diagonal(s, i)) for i in range(len(s))]))


def nt_xent(q, k, temperature):
    """Mean over the 2n rows of [q; k]; a row's candidates are the other 2n − 1."""
    n, z = len(q), np.concatenate([q, k])
    s = z @ z.T / temperature
    rows = []
    for i in range(2 * n):
        other = (i + n) % (2 * n)
        rows.append(row(s[i, other], np.delete(s[i], [i, other])))
    return float(np.mean(rows))


# The same for the cases in "wrong", in torch: autograd then gives the exact gradient as well.


def exact_rows(positive, others):
    """Mean of log(1 + Σ exp(others − positive)), never as a difference of two nearly equal numbers."""
    gap = others - positive[:, None]
    top = gap.detach().max(1).values.clamp_min(0)
    small = torch.log1p(torch.exp(gap).sum(1))
    large = top + torch.log(torch.exp(-top) + torch.exp(gap - top[:, None]).sum(1))
    return torch.where(top == 0, small, large).mean()


def exact_one_way(s):
    n = len(s)
    return exact_rows(s.diagonal(), s[~torch.eye(n, dtype=torch.bool)].view(n, n - 1))


def exact_nt_xent(x, temperature):
    n = len(x["queries"])
    z = F.normalize(torch.cat([x["queries"], x["keys"]]), dim=1)
    s = z @ z.T / temperature
    other = torch.arange(2 * n).roll(n)
    keep = ~torch.eye(2 * n, dtype=torch.bool)
    keep[torch.arange(2 * n), other] = False
    return exact_rows(s[torch.arange(2 * n), other], s[keep].view(2 * n, 2 * n - 2))


# Inputs of the cases in "wrong". Two pairs that point apart, each key a little off its query, so
# that the gradient of the positive does not vanish by symmetry.
APART = {
    "queries": np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]),
    "keys": np.array([[1.0, 0.0625, 0.0], [-1.0, 0.0, 0.0625]]),
}


def at_right_angles(n):
    """n queries at right angles, each key a little off its query."""
    queries = np.eye(n)
    return {"queries": queries, "keys": queries + 0.0625 * np.roll(queries, 1, axis=1)}


# ---------------------------------------------------------------------------------------------
# The presets
# ---------------------------------------------------------------------------------------------

VERSION = {name: importlib.metadata.version(name) for name in PINS}
# What the re-derived losses were computed with.
DERIVED = f"torch {VERSION['torch']}"

SHAPES, SMALL = ((3, 3), (7, 5), (16, 8)), ((3, 3), (7, 5))
LARGE = SHAPES + ((33, 6),)


def usual(file, shapes=SHAPES, near=SMALL, unit_rows=False, extra=None, **given):
    """The shapes that every preset has. `extra(rng, n, d)` adds its further inputs."""
    for close, list_of_shapes in ((False, shapes), (True, near)):
        for n, d in list_of_shapes:
            name = f"{'near' if close else 'far'}-{n}x{d}"
            rng = generator(file.preset, name)
            inputs = pairs(rng, n, d, close, unit_rows)
            if extra:
                inputs |= extra(rng, n, d)
            file.add(name, inputs, **given)


def one(file, name, n, d, near, unit_rows=False, **given):
    """One more case of plain pairs, usually with other settings."""
    file.add(name, pairs(generator(file.preset, name), n, d, near, unit_rows), **given)


def zero_row(file, **given):
    """A row of zeros: its cosine with everything is 0, its gradient is divided by the norm's floor."""
    inputs = pairs(generator(file.preset, "zero-row-3x3"), 3, 3, False)
    inputs["queries"][1] = 0.0
    file.add("zero-row-3x3", inputs, **given)


def info_nce_pytorch():
    def loss(x, temperature, mode):
        negatives = x.get("negatives")
        return info_nce.info_nce(
            x["queries"],
            x["keys"],
            negatives,
            temperature=temperature,
            negative_mode="paired" if mode == "paired" else "unpaired",
        )

    def formula(x, temperature, mode):
        q, k = normalized(x["queries"]), normalized(x["keys"])
        if mode == "in-batch":
            return one_way(q @ k.T / temperature)
        negatives = normalized(x["negatives"])
        rows = []
        for i in range(len(q)):
            own = negatives if mode == "unpaired" else negatives[i]
            rows.append(row(q[i] @ k[i] / temperature, own @ q[i] / temperature))
        return float(np.mean(rows))

    file = File(
        "info-nce-pytorch",
        "info-nce-pytorch",
        VERSION["info-nce-pytorch"],
        "info_nce(queries, keys, negatives, temperature=0.1, reduction='mean', negative_mode=mode): rows "
        "are divided by max(norm, 1e-12); L = mean_i [log Σ_c exp(s_ic) − s_ii], s = cosine/τ. "
        "Candidates c of row i: mode 'in-batch' (no negatives given): all n keys; 'unpaired': key i and "
        "the m shared negatives [m, d], no other key of the batch; 'paired': key i and row i's own m "
        "negatives [n, m, d], no other key. One way (queries as rows), mean over n rows.",
        loss,
        formula,
        {"temperature": 0.1},
    )
    usual(file, LARGE, near=((7, 5), (16, 8)), mode="in-batch")
    one(file, "far-7x5-temperature", 7, 5, False, mode="in-batch", temperature=0.5)
    zero_row(file, mode="in-batch")
    for n, d, m, near in ((7, 5, 4, False), (7, 5, 9, True)):
        name = f"unpaired-{'near' if near else 'far'}-{n}x{d}"
        rng = generator(file.preset, name)
        file.add(name, pairs(rng, n, d, near) | {"negatives": normal(rng, m, d)}, mode="unpaired")
    for n, d, m, near in ((3, 3, 1, False), (7, 5, 3, False), (7, 5, 2, True)):
        name = f"paired-{'near' if near else 'far'}-{n}x{d}x{m}"
        rng = generator(file.preset, name)
        file.add(name, pairs(rng, n, d, near) | {"negatives": normal(rng, n, m, d)}, mode="paired")

    def exact(x, temperature, mode):
        return exact_one_way(F.normalize(x["queries"]) @ F.normalize(x["keys"]).T / temperature)

    file.went_wrong(
        "zero-f32",
        "log_softmax takes log(1 + 2e-9) in f32, which is 0, so the loss is 0 and the positive's pull p "
        "− 1 is 0; half of the gradient is gone.",
        APART,
        "f32",
        exact,
        mode="in-batch",
    )
    file.went_wrong(
        "zero-f64",
        "The same in float64 at a small temperature: the sum of the negatives is below 1e-16 of the "
        "positive.",
        at_right_angles(4),
        "f64",
        exact,
        mode="in-batch",
        temperature=0.02,
    )
    return file


def lightly_ntxent():
    def loss(x, temperature):
        return NTXentLoss(temperature=temperature)(x["queries"], x["keys"])

    def formula(x, temperature):
        return nt_xent(normalized(x["queries"]), normalized(x["keys"]), temperature)

    file = File(
        "lightly-ntxent",
        "lightly",
        VERSION["lightly"],
        "NTXentLoss(temperature=0.5, memory_bank_size=0)(queries, keys): rows are divided by max(norm, "
        "1e-12); z = [queries; keys]; the candidates of each of the 2n rows are the other 2n − 1 rows, "
        "its positive is the other view; L = mean over the 2n rows of [log Σ_{c≠i} exp(z_i·z_c/τ) − "
        "z_i·z_pos/τ].",
        loss,
        formula,
        {"temperature": 0.5},
    )
    usual(file, LARGE, near=((7, 5), (16, 8)))
    one(file, "near-7x5-temperature", 7, 5, True, temperature=0.1)
    zero_row(file)
    file.went_wrong(
        "zero-f32",
        "log_softmax takes log(1 + 4e-9) in f32, which is 0: the loss is 0 and the positive's share of "
        "the gradient is 0.",
        APART,
        "f32",
        exact_nt_xent,
        temperature=0.1,
    )
    file.went_wrong(
        "zero-f64",
        "The same in float64 at a small temperature: the sum of the negatives is below 1e-16 of the "
        "positive.",
        at_right_angles(4),
        "f64",
        exact_nt_xent,
        temperature=0.02,
    )
    return file


def simclr_tf():
    def normalize(x):
        # The sum of squares is floored, so the norm's floor is its root; below it the norm is a constant.
        return x * torch.rsqrt(torch.clamp_min((x * x).sum(1, keepdim=True), 1e-12))

    def loss(x, temperature):
        a, b = normalize(x["queries"]), normalize(x["keys"])
        n = len(a)
        own = 1e9 * torch.eye(n, dtype=a.dtype)
        ab = a @ b.T / temperature
        for_a = torch.cat([ab, a @ a.T / temperature - own], dim=1)
        for_b = torch.cat([ab.T, b @ b.T / temperature - own], dim=1)
        labels = torch.arange(n)
        return F.cross_entropy(for_a, labels) + F.cross_entropy(for_b, labels)

    def formula(x, temperature):
        return 2 * nt_xent(normalized(x["queries"], 1e-6), normalized(x["keys"], 1e-6), temperature)

    file = File(
        "simclr-tf",
        "re-derived: google-research/simclr, tf2/objective.py, add_contrastive_loss",
        DERIVED,
        "loss_a + loss_b with hidden_norm and temperature=0.1 (the default of tf2/run.py; the function's "
        "own is 1.0): rows are multiplied by 1/sqrt(max(Σx², 1e-12)), so the norm's floor is 1e-6; "
        "loss_a is the mean over the n queries of the cross-entropy against all n keys and the n − 1 "
        "other queries, loss_b the same with queries and keys exchanged; the sum is 2 × the NT-Xent mean "
        "over 2n rows. The row itself is left out by −1e9 on its logit.",
        loss,
        formula,
        {"temperature": 0.1},
    )
    usual(file)
    one(file, "far-7x5-temperature", 7, 5, False, temperature=0.5)
    zero_row(file)
    short = pairs(generator(file.preset, "short-row-3x3"), 3, 3, False)
    # Between F.normalize's floor (1e-12) and this one's (1e-6): here the two differ.
    short["queries"][1] = np.array([1.0, -0.5, 1.5]) * 2.0**-22
    file.add("short-row-3x3", short)
    return file


def pml_ntxent():
    def loss(x, temperature, mode):
        criterion = pytorch_metric_learning.losses.NTXentLoss(temperature=temperature)
        if mode == "labels":
            return criterion(x["embeddings"], x["labels"])
        labels = torch.arange(len(x["queries"]))
        return criterion(torch.cat([x["queries"], x["keys"]]), torch.cat([labels, labels]))

    def formula(x, temperature, mode):
        if mode == "views":
            return nt_xent(normalized(x["queries"]), normalized(x["keys"]), temperature)
        z, labels = normalized(x["embeddings"]), np.asarray(x["labels"])
        s, rows = z @ z.T / temperature, []
        for a in range(len(z)):
            for p in range(len(z)):
                if p != a and labels[p] == labels[a]:
                    rows.append(row(s[a, p], s[a][labels != labels[a]]))
        return float(np.mean(rows))

    file = File(
        "pml-ntxent",
        "pytorch-metric-learning",
        VERSION["pytorch-metric-learning"],
        "losses.NTXentLoss(temperature=0.07)(embeddings, labels), cosine, default MeanReducer. Over all "
        "ordered pairs (a, p) with p ≠ a and the same label: L = mean_{(a,p)} −log( e^{s_ap} / (e^{s_ap} "
        "+ Σ_{c: label_c ≠ label_a} e^{s_ac}) + tiny ), s = cosine/τ, tiny = the least normal number of "
        "the type. The other positives of a are in no denominator; a row counts once for each of its "
        "positives; a row without a positive counts nowhere. Mode 'views': embeddings = [queries; keys], "
        "labels = 0..n−1 twice, which is NT-Xent's mean over 2n rows. Mode 'labels': any labels. 0 if "
        "there is no positive pair or no negative pair at all.",
        loss,
        formula,
        {"temperature": 0.07},
    )
    usual(file, near=((7, 5), (16, 8)), mode="views")
    for name, labels, d, near in (
        ("labels-far-12x5", [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4], 5, False),
        ("labels-near-12x5", [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2], 5, True),
        ("labels-far-6x3", [0, 0, 0, 1, 1, 1], 3, False),
    ):
        rng = generator(file.preset, name)
        file.add(name, labelled(rng, labels, d, near, normal), mode="labels")

    def exact(x, temperature, mode):
        return exact_nt_xent(x, temperature)

    # Positives point apart, the negatives lie on the anchor: gap 2/τ.
    crossed = {"queries": APART["queries"], "keys": -APART["keys"]}
    file.went_wrong(
        "capped-f32",
        "The positive's share e^{-100} underflows and the added tiny caps the loss at −ln(1.18e-38) = "
        "87.34, where next to nothing is left of the gradient.",
        crossed,
        "f32",
        exact,
        mode="views",
        temperature=0.02,
    )
    file.went_wrong(
        "zero-f32",
        "At the default temperature numerator/denominator rounds to 1: the loss is 0, and the positive's "
        "share of the gradient is 0.",
        APART,
        "f32",
        exact,
        mode="views",
    )
    return file


def labelled(rng, labels, d, near, rows):
    """Far: independent rows. Near: the rows of a class lie close together."""
    labels = np.asarray(labels)
    x = rows(rng, len(labels), d)
    if near:
        centres = rows(rng, labels.max() + 1, d)
        x = grid(centres[labels] + rng.standard_normal(x.shape) / 16)
    return {"embeddings": x, "labels": labels}


def supcon():
    base = 0.07

    def loss(x, temperature):
        z, labels = x["embeddings"], x["labels"]
        own = torch.eye(len(z), dtype=torch.bool)
        logits = z @ z.T / temperature
        # The maximum is taken with the row itself in it, as in the repository; see "wrong".
        logits = logits - logits.max(dim=1, keepdim=True).values.detach()
        total = (logits.exp() * ~own).sum(1, keepdim=True)
        positive = ((labels[:, None] == labels) & ~own).to(z.dtype)
        mean = (positive * (logits - total.log())).sum(1) / positive.sum(1).clamp_min(1)
        return -(temperature / base) * mean.mean()

    def formula(x, temperature):
        z, labels = x["embeddings"], np.asarray(x["labels"])
        s, rows = z @ z.T / temperature, []
        for i in range(len(z)):
            others = np.delete(np.arange(len(z)), i)
            own = others[labels[others] == labels[i]]
            rows.append(np.mean([lse(s[i, others]) - s[i, p] for p in own]) if len(own) else 0.0)
        return float(temperature / base * np.mean(rows))

    file = File(
        "supcon",
        "re-derived: HobbitLong/SupContrast, losses.py, SupConLoss (the version that guards rows without "
        "a positive)",
        DERIVED,
        "SupConLoss(temperature=0.07, base_temperature=0.07) with one view for each row: no "
        "normalisation inside; L = (τ/0.07) · mean over all n rows of [log Σ_{c≠i} exp(z_i·z_c/τ) − "
        "mean_{p: same label, p≠i} z_i·z_p/τ]; a row without a positive gives 0 and still counts in the "
        "mean. gradient_log_scale is the total derivative, with the factor τ/0.07 in it. features [n, 2, "
        "d] without labels is the same on [queries; keys] with labels 0..n−1 twice. "
        "pytorch-metric-learning's SupConLoss normalises, has no factor τ/0.07 (its τ is 0.1) and "
        "averages over the rows whose loss is above 0 only; with its normalisation off and these two "
        "made good it is equal (checked). lightly has none.",
        loss,
        formula,
        {"temperature": 0.07},
    )

    def unit_rows(rng, *shape):
        return unit(rng.standard_normal(shape))

    for name, labels, d, near, rows, changed in (
        ("far-6x3", [0, 0, 1, 1, 1, 0], 3, False, unit_rows, {}),
        ("far-14x5", [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 0, 1, 0], 5, False, unit_rows, {}),
        ("near-14x5", [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6], 5, True, unit_rows, {}),
        ("far-32x8", [i % 16 for i in range(32)], 8, False, unit_rows, {}),
        ("near-32x8", [i % 9 for i in range(32)], 8, True, unit_rows, {}),
        ("far-7x5-label-that-occurs-once", [0, 0, 1, 2, 2, 2, 3], 5, False, unit_rows, {}),
        ("far-14x5-temperature", [i % 4 for i in range(14)], 5, False, unit_rows, {"temperature": 0.5}),
        ("far-7x5-not-unit-rows", [0, 1, 0, 1, 2, 2, 0], 5, False, normal, {"temperature": 0.5}),
    ):
        inputs = labelled(generator(file.preset, name), labels, d, near, rows)
        file.add(name, inputs, **changed)
        beside_pml(inputs, changed.get("temperature", base), base, file.cases[-1]["value"])

    def exact(x, temperature):
        z, labels = x["embeddings"], x["labels"]
        own = torch.eye(len(z), dtype=torch.bool)
        s = z @ z.T / temperature
        total = s.masked_fill(own, -torch.inf).logsumexp(1, keepdim=True)
        positive = ((labels[:, None] == labels) & ~own).to(z.dtype)
        return temperature / base * ((positive * (total - s)).sum(1) / positive.sum(1).clamp_min(1)).mean()

    long_rows = {
        "embeddings": np.array([[3.0, 0.5, 0.0], [0.5, 0.25, 1.0], [0.0, 1.5, 1.0], [-1.0, 1.0, 1.25]]),
        "labels": np.array([0, 0, 1, 1]),
    }
    file.went_wrong(
        "self-in-the-maximum-f32",
        "Rows that are not unit: the maximum that is subtracted is the row's product with itself, every "
        "other exp underflows in f32 (9.25/0.07 = 132), log 0 = −inf, and the mask's 0 times inf is nan.",
        long_rows,
        "f32",
        exact,
    )
    return file


def beside_pml(inputs, temperature, base, value):
    """What "what" says of pytorch-metric-learning's SupConLoss."""
    distance = pytorch_metric_learning.distances.DotProductSimilarity(normalize_embeddings=False)
    criterion = pytorch_metric_learning.losses.SupConLoss(temperature=temperature, distance=distance)
    labels = torch.tensor(inputs["labels"])
    theirs = criterion(torch.tensor(inputs["embeddings"]), labels).item()
    counted = ((labels[:, None] == labels).sum(1) > 1).double().mean().item()
    agree("supcon", "beside pytorch-metric-learning", value, temperature / base * counted * theirs)


def open_clip_preset():
    def loss(x, log_scale):
        log_scale = torch.as_tensor(log_scale, dtype=x["queries"].dtype)
        return open_clip.loss.ClipLoss()(x["queries"], x["keys"], log_scale.exp())

    def formula(x, log_scale):
        s = math.exp(log_scale) * x["queries"] @ x["keys"].T
        return (one_way(s) + one_way(s.T)) / 2

    file = Learned(
        "open-clip",
        "open-clip-torch",
        VERSION["open-clip-torch"],
        "ClipLoss()(queries, keys, exp(log_scale)): no normalisation inside (the model has done it); s = "
        "exp(log_scale)·⟨q_i, k_j⟩; L = ½ [mean_i (log Σ_j exp(s_ij) − s_ii) + mean_j (log Σ_i exp(s_ij) "
        "− s_jj)]; all n keys for a query, all n queries for a key. The model starts log_scale at "
        "ln(1/0.07) and clamps it to [0, ln 100] after each step, outside the loss.",
        loss,
        formula,
        {"log_scale": math.log(1 / 0.07)},
    )
    usual(file, LARGE, near=((7, 5), (16, 8)), unit_rows=True)
    one(file, "far-7x5-clamped-scale", 7, 5, False, True, log_scale=math.log(100))
    one(file, "far-7x5-not-unit-rows", 7, 5, False)

    def exact(x, log_scale):
        s = math.exp(log_scale) * x["queries"] @ x["keys"].T
        return (exact_one_way(s) + exact_one_way(s.T)) / 2

    file.went_wrong(
        "zero-f32",
        "At the scale that training starts with, log_softmax takes log(1 + 4e-13) in f32: the loss is 0, "
        "and p − 1 on the diagonal is 0.",
        APART,
        "f32",
        exact,
    )
    file.went_wrong(
        "zero-f64",
        "At the largest scale that the clamp allows, pairs at right angles give 0 even in float64.",
        at_right_angles(4),
        "f64",
        exact,
        log_scale=math.log(100),
    )
    return file


def siglip():
    def loss(x, log_scale, bias):
        kind = x["queries"].dtype
        log_scale, bias = torch.as_tensor(log_scale, dtype=kind), torch.as_tensor(bias, dtype=kind)
        return open_clip.loss.SigLipLoss()(x["queries"], x["keys"], log_scale.exp(), bias)

    def formula(x, log_scale, bias):
        s = math.exp(log_scale) * x["queries"] @ x["keys"].T + bias
        y = 2 * np.eye(len(s)) - 1
        return float(np.logaddexp(0, -y * s).sum() / len(s))

    file = Learned(
        "siglip",
        "open-clip-torch",
        VERSION["open-clip-torch"],
        "SigLipLoss()(queries, keys, exp(log_scale), bias), one process: no normalisation inside; L = "
        "−(1/n) Σ_ij log σ(y_ij (exp(log_scale)·⟨q_i, k_j⟩ + bias)), y = 1 on the diagonal, −1 "
        "elsewhere; the sum over all n² pairs is divided by n, not by n². The model starts log_scale at "
        "ln 10 and bias at −10.",
        loss,
        formula,
        {"log_scale": math.log(10), "bias": -10.0},
    )
    usual(file, unit_rows=True)
    one(file, "near-7x5-other-scale", 7, 5, True, True, log_scale=3.5, bias=-16.5)
    one(file, "far-7x5-not-unit-rows", 7, 5, False)
    return file


class Learned(File):
    """A loss whose scale (and bias) are the library's own trained scalars."""

    def add(self, name, inputs, **changed):
        settings = {**self.defaults, **changed}
        scalars = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in settings.items()}
        value, gradients = call(self.loss, inputs, **scalars)
        agree(self.preset, name, value, self.formula(inputs, **settings))
        n, d = inputs["queries"].shape
        case = {"name": name, "pairs": n, "dim": d} | settings | inputs | {"value": value}
        case |= {f"gradient_{key}": x for key, x in gradients.items()}
        case |= {f"gradient_{key}": x.grad.item() for key, x in scalars.items()}
        self.cases.append(case)


class Stub(torch.nn.Module):
    """Stands for a SentenceTransformer: hands out the column that it is asked for, as it is."""

    max_seq_length = 8

    def __init__(self, column):
        super().__init__()
        self.column = column
        # GISTEmbedLoss asks whether model and guide cut text alike. They do: it is the same tokenizer.
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordLevel({"word": 0}, unk_token="word"))
        )

    def forward(self, features):
        return {"sentence_embedding": features[self.column]}


def columns(x):
    names = [("queries", "guide_queries"), ("keys", "guide_keys"), ("negatives", "guide_negatives")]
    return [{"model": x[own], "guide": x.get(guide)} for own, guide in names if own in x]


def sentence_transformers_mnrl():
    def loss(x, temperature):
        criterion = MultipleNegativesRankingLoss(Stub("model"), scale=1 / temperature)
        return criterion(columns(x), None)

    def formula(x, temperature):
        q = normalized(x["queries"])
        c = np.concatenate([normalized(x[name]) for name in ("keys", "negatives") if name in x])
        s = q @ c.T / temperature
        return float(np.mean([row(s[i, i], off_diagonal(s, i)) for i in range(len(s))]))

    file = File(
        "sentence-transformers-mnrl",
        "sentence-transformers",
        VERSION["sentence-transformers"],
        "MultipleNegativesRankingLoss(model, scale=20.0)([queries, keys] or [queries, keys, negatives]), "
        "all else default (cos_sim, directions=('query_to_doc',), partition_mode='joint', no hardness): "
        "rows are divided by max(norm, 1e-12); candidates of row i are all n keys and all n negatives of "
        "the batch, each anchor's own and the others'; L = mean_i [log Σ_c exp(20·cos_ic) − 20·cos_ii]. "
        "One way. In 6.2 it is computed as logsumexp minus the positive.",
        loss,
        formula,
        {"temperature": 0.05},
    )
    usual(file, LARGE, near=((7, 5),))
    zero_row(file)
    for n, d, near in ((3, 3, False), (7, 5, False), (7, 5, True), (16, 8, True)):
        name = f"hard-{'near' if near else 'far'}-{n}x{d}"
        rng = generator(file.preset, name)
        file.add(name, pairs(rng, n, d, near) | {"negatives": normal(rng, n, d)})

    def exact(x, temperature):
        return exact_one_way(F.normalize(x["queries"]) @ F.normalize(x["keys"]).T / temperature)

    # Eight rows whose cosines with one another are 0.205: each row's loss is 9e-7.
    leaning = np.eye(8) + 0.09375
    inputs = {"queries": leaning, "keys": leaning + 0.015625 * np.roll(np.eye(8), 1, axis=1)}
    q, k = (F.normalize(torch.tensor(x, dtype=torch.float32)) for x in inputs.values())
    by_cross_entropy = F.cross_entropy(20 * q @ k.T, torch.arange(8)).item()
    file.went_wrong(
        "rounded-away-f32",
        "logsumexp is rounded to f32 near 20, where the spacing is 1.9e-6, before the positive is "
        "subtracted: a loss below 9.5e-7 is 0. F.cross_entropy, which version 5.1 used, says "
        f"{by_cross_entropy:.3g} here in f32.",
        inputs,
        "f32",
        exact,
    )
    file.went_wrong(
        "zero-f32",
        "Two pairs that point apart: log(1 + 4e-18) added to 20 is 20, so the loss is 0 in f32 (and in "
        "float64).",
        APART,
        "f32",
        exact,
    )
    return file


def sentence_transformers_gist():
    def loss(x, temperature):
        criterion = GISTEmbedLoss(Stub("model"), Stub("guide"), temperature=temperature)
        return criterion(columns(x), None)

    blocks = (("queries", "keys"), ("queries", "queries"), ("keys", "keys"), ("queries", "negatives"))

    def kept(x):
        """Row i's candidates: for each block which columns stay. Also the closest call of a guide."""
        names = [name for name in ("queries", "keys", "negatives") if name in x]
        guide = {name: normalized(x[f"guide_{name}"], 1e-8) for name in names}
        limit = (guide["queries"] * guide["keys"]).sum(1)
        out, closest = {}, math.inf
        for rows, cols in blocks:
            if cols not in names:
                continue
            similarity = guide[rows] @ guide[cols].T
            keep = similarity <= limit[:, None]
            gap = np.abs(similarity - limit[:, None])
            if (rows, cols) == ("queries", "keys"):
                np.fill_diagonal(keep, True)
                np.fill_diagonal(gap, math.inf)
            out[rows, cols], closest = keep, min(closest, gap.min())
        return out, closest

    def formula(x, temperature):
        n = len(x["queries"])
        own = {name: normalized(x[name], 1e-8) for name in ("queries", "keys", "negatives") if name in x}
        rows = []
        keep, _ = kept(x)
        for i in range(n):
            others = []
            for (a, b), stays in keep.items():
                left = stays[i].copy()
                if (a, b) == ("queries", "keys"):
                    left[i] = False  # the positive
                others.extend(own[b][left] @ own[a][i] / temperature)
            rows.append(row(own["queries"][i] @ own["keys"][i] / temperature, others))
        return float(np.mean(rows))

    file = File(
        "sentence-transformers-gist",
        "sentence-transformers",
        VERSION["sentence-transformers"],
        "GISTEmbedLoss(model, guide, temperature=0.01)([queries, keys] or [queries, keys, negatives]), "
        "all else default (margin_strategy='absolute', margin=0.0, contrast_anchors=True, "
        "contrast_positives=True). Cosine with each norm floored at 1e-8. Row i's candidates, all in one "
        "softmax: key_j (q_i·k_j, j = 1..n), anchor-anchor (q_i·q_j), positive-positive (k_i·k_j: the "
        "row's key, not its query, against all keys) and, if given, anchor-negative (q_i·neg_j, all n "
        "negatives). A candidate is left out where the guide's cosine of the same two rows is strictly "
        "greater than g_i = guide cos(q_i, k_i); the true positive is never left out. The row itself in "
        "the anchor-anchor and positive-positive blocks is left out only by that rule (1 > g_i), not as "
        "such. L = mean_i [log Σ_c exp(cos_c/τ) − cos(q_i, k_i)/τ]. 'excluded' counts the entries left "
        "out, the 2n own ones with them. The guide gets no gradient. gradient_log_scale is that of the "
        "re-derived formula: with the temperature as a tensor the library's −inf/τ gives nan.",
        loss,
        formula,
        {"temperature": 0.01},
    )

    def exact(x, temperature):
        """The loss with the row itself left out as such, and in terms that can be differentiated by τ."""
        names = [name for name in ("queries", "keys", "negatives") if name in x]
        own = {name: F.normalize(x[name], eps=1e-8) for name in names}
        guide = {name: F.normalize(x[f"guide_{name}"], eps=1e-8) for name in names}
        limit = (guide["queries"] * guide["keys"]).sum(1)[:, None]
        itself, others = torch.eye(len(x["queries"]), dtype=torch.bool), []
        for a, b in blocks:
            if b in x:
                out = guide[a] @ guide[b].T > limit
                s = own[a] @ own[b].T / temperature
                others.append(s.masked_fill(out if b == "negatives" else out | itself, -torch.inf))
        return exact_rows((own["queries"] * own["keys"]).sum(1) / temperature, torch.cat(others, 1))

    file.scale_loss = exact

    def guides(rng, n, inputs):
        # A guide that knows the pairs fairly well: some strangers are above the limit, most are not.
        queries = normal(rng, n, 4)
        out = {"guide_queries": queries, "guide_keys": grid(queries + 0.5 * rng.standard_normal((n, 4)))}
        if "negatives" in inputs:
            out["guide_negatives"] = normal(rng, n, 4)
        return out

    def add(name, n, d, near, hard, **changed):
        rng = generator(file.preset, name)
        inputs = pairs(rng, n, d, near)
        if hard:
            inputs["negatives"] = normal(rng, n, d)
        inputs |= guides(rng, n, inputs)
        keep, closest = kept(inputs)
        # A tie would let rounding decide who is a candidate.
        assert closest > 1e-4, (name, closest)
        file.add(name, inputs, notes={"excluded": int(sum((~x).sum() for x in keep.values()))}, **changed)

    for n, d, near in ((3, 3, False), (7, 5, False), (16, 8, False), (7, 5, True)):
        add(f"{'near' if near else 'far'}-{n}x{d}", n, d, near, False)
    add("near-7x5-temperature", 7, 5, True, False, temperature=0.1)
    for n, d, near in ((3, 3, False), (7, 5, False), (16, 8, True)):
        add(f"hard-{'near' if near else 'far'}-{n}x{d}", n, d, near, True)
    add("hard-far-7x5-temperature", 7, 5, False, True, temperature=0.1)

    same = at_right_angles(4) | {"guide_queries": np.eye(4), "guide_keys": np.eye(4)}
    file.went_wrong(
        "self-not-left-out",
        "Where the guide finds query and key equal, its 1 > 1 is false, so the row stays a candidate of "
        "itself in the anchor-anchor and positive-positive blocks with cosine 1: the loss cannot fall "
        "below ln 3, and the true one is nearly 0.",
        same,
        "f64",
        exact,
    )
    apart = APART | {"guide_queries": APART["queries"], "guide_keys": APART["keys"]}
    file.went_wrong(
        "zero-f32",
        "At temperature 0.05 two pairs that point apart give log(1 + 1e-17), 0 in f32 as in float64: the "
        "loss is 0 and p − 1 is 0.",
        apart,
        "f32",
        exact,
        temperature=0.05,
    )
    return file


def moco():
    def loss(x, temperature):
        criterion = NTXentLoss(temperature, memory_bank_size=tuple(x["queue"].shape))
        criterion = criterion.to(x["queue"].dtype)
        # A batch as long as the queue fills it, normalised by the loss itself. It enqueues only where
        # the query asks for a gradient.
        criterion(torch.ones_like(x["queue"]).requires_grad_(), x["queue"])
        assert torch.equal(criterion.memory_bank.bank, F.normalize(x["queue"]))
        return criterion(x["queries"], x["keys"])

    def formula(x, temperature):
        q, k, queue = normalized(x["queries"]), normalized(x["keys"]), normalized(x["queue"])
        rows = [row(q[i] @ k[i] / temperature, queue @ q[i] / temperature) for i in range(len(q))]
        return float(np.mean(rows))

    file = File(
        "moco",
        "lightly",
        VERSION["lightly"],
        "NTXentLoss(temperature=0.07, memory_bank_size=(m, d))(queries, keys), the queue filled "
        "beforehand: rows of queries, keys and queue are divided by max(norm, 1e-12) ('queue' is given "
        "before that; it is normalised when enqueued); candidates of row i are key i and the m rows of "
        "the queue, no other key; L = mean_i [log(exp(q_i·k_i/τ) + Σ_m exp(q_i·u_m/τ)) − q_i·k_i/τ]. The "
        "batch is enqueued after the call, so its own keys are not in the queue. The queue has no "
        "gradient. MoCo itself gives the keys none either (they come from the momentum encoder): there "
        "gradient_keys is dropped.",
        loss,
        formula,
        {"temperature": 0.07},
    )
    lengths = {3: 4, 7: 12, 16: 32, 33: 20}

    def queue(rng, n, d):
        return {"queue": normal(rng, lengths[n], d)}

    usual(file, LARGE, near=((7, 5), (16, 8)), extra=queue)
    rng = generator(file.preset, "near-7x5-temperature")
    file.add("near-7x5-temperature", pairs(rng, 7, 5, True) | {"queue": normal(rng, 9, 5)}, temperature=0.2)

    def exact(x, temperature):
        q, k, queue = (F.normalize(x[name]) for name in ("queries", "keys", "queue"))
        return exact_rows((q * k).sum(1) / temperature, q @ queue.T / temperature)

    one_side = np.array([[1.0, 0.0, 0.0], [1.0, 0.25, 0.0]])
    file.went_wrong(
        "zero-f32",
        "At the default temperature, queue opposite to the queries: log(1 + 1e-12) in f32 is 0, and so "
        "is the positive's gradient.",
        {
            "queries": one_side,
            "keys": grid(one_side + np.array([[0, 0.0625, 0], [0, 0, 0.0625]])),
            "queue": -np.eye(3)[:1].repeat(3, 0),
        },
        "f32",
        exact,
    )
    return file


def decoupled(preset, criterion, weights, what):
    def loss(x, temperature):
        return criterion(temperature=temperature)(x["queries"], x["keys"])

    def formula(x, temperature):
        q, k = normalized(x["queries"]), normalized(x["keys"])
        n, halves = len(q), []
        w = weights((q * k).sum(1))
        for a, b in ((q, k), (k, q)):
            within, across = a @ a.T / temperature, a @ b.T / temperature
            rows = [
                lse(np.concatenate([off_diagonal(within, i), off_diagonal(across, i)]))
                - w[i] * across[i, i]
                for i in range(n)
            ]
            halves.append(np.mean(rows))
        return float(np.mean(halves))

    return File(preset, "lightly", VERSION["lightly"], what, loss, formula, {"temperature": 0.1})


def exact_decoupled(weighted):
    def exact(x, temperature):
        q, k = F.normalize(x["queries"]), F.normalize(x["keys"])
        n = len(q)
        off = ~torch.eye(n, dtype=torch.bool)
        positive = (q * k).sum(1)
        w = 2 - n * torch.softmax(positive.detach() / 0.5, 0) if weighted else torch.ones(n, dtype=q.dtype)
        total = 0
        for a, b in ((q, k), (k, q)):
            rest = torch.cat([(a @ a.T)[off].view(n, -1), (a @ b.T)[off].view(n, -1)], 1)
            # The positive goes into the exponent before the division by τ, while it is of order 1.
            total = total + torch.logsumexp((rest - (w * positive)[:, None]) / temperature, 1).mean()
        return total / 2

    return exact


def near_zero(exact, temperature):
    """Random pairs for which the decoupled loss, a difference of large numbers, is small."""
    best = None
    for seed in range(200):
        rng = np.random.default_rng(seed)
        inputs = pairs(rng, 6, 3, False)
        inputs["keys"] = grid(inputs["queries"] + 0.6 * rng.standard_normal((6, 3)))
        value = abs(call(exact, inputs, temperature=temperature)[0])
        if best is None or value < best[0]:
            best = (value, inputs)
    return best[1]


def dcl():
    file = decoupled(
        "dcl",
        DCLLoss,
        lambda positives: np.ones(len(positives)),
        "DCLLoss(temperature=0.1)(queries, keys): rows are divided by max(norm, 1e-12); the denominator "
        "of query i holds the other n − 1 queries and the other n − 1 keys (2n − 2 candidates; neither "
        "its own key nor itself); L_q = mean_i [−q_i·k_i/τ + log(Σ_{j≠i} exp(q_i·q_j/τ) + Σ_{j≠i} "
        "exp(q_i·k_j/τ))], L_k the same with queries and keys exchanged, L = ½(L_q + L_k). It may be "
        "negative.",
    )
    usual(file)
    one(file, "far-7x5-temperature", 7, 5, False, temperature=0.5)
    exact = exact_decoupled(False)
    file.went_wrong(
        "cancelled-f32",
        "The two terms are divided by τ = 0.001 and are about 1000, whose f32 spacing is 6e-5; their sum "
        "is small and keeps that error.",
        near_zero(exact, 0.001),
        "f32",
        exact,
        temperature=0.001,
    )
    file.went_wrong(
        "one-pair",
        "A batch of one pair has no negatives, so there is no loss: the log of the empty sum, −inf, is "
        "handed out as one, with a finite gradient.",
        {"queries": np.array([[1.0, 0.5, 0.0]]), "keys": np.array([[1.0, 0.0, 0.25]])},
        "f64",
        lambda x, temperature: (x["queries"] + x["keys"]).sum() * math.nan,
    )
    return file


def dclw():
    def weights(positives):
        e = np.exp(positives / 0.5)
        return 2 - len(positives) * e / e.sum()

    file = decoupled(
        "dclw",
        DCLWLoss,
        weights,
        "DCLWLoss(temperature=0.1, sigma=0.5)(queries, keys): as dcl, with the positive term "
        "−w_i·q_i·k_i/τ, w_i = 2 − n·softmax_i(q_i·k_i/σ) over the n pairs of the batch (cosines over σ, "
        "τ is not in it); w has no gradient, is the same in both directions, has mean 1, and multiplies "
        "the positive term only. A pair far better than the rest gets a negative w.",
    )
    usual(file)
    rng = generator(file.preset, "far-8x4-negative-weight")
    apart = pairs(rng, 8, 4, True)
    apart["keys"][1:] *= -1
    apart["keys"] += 0.0
    assert weights((normalized(apart["queries"]) * normalized(apart["keys"])).sum(1)).min() < 0
    file.add("far-8x4-negative-weight", apart)
    exact = exact_decoupled(True)
    file.went_wrong(
        "cancelled-f32",
        "As for dcl: at τ = 0.001 the two terms are about 1000 and their sum keeps the f32 spacing of "
        "6e-5.",
        near_zero(exact, 0.001),
        "f32",
        exact,
        temperature=0.001,
    )
    return file


def reweighted(preset, library, hard, what, defaults):
    def loss(x, temperature, tau_plus, beta=0.0):
        q, k = F.normalize(x["queries"], dim=-1), F.normalize(x["keys"], dim=-1)
        n, z = len(q), torch.cat([q, k])
        keep = ~torch.eye(n, dtype=torch.bool).repeat(2, 2)
        # exp as the repositories take it, with nothing subtracted; see "wrong".
        negative = torch.exp(z @ z.T / temperature)[keep].view(2 * n, 2 * n - 2)
        positive = torch.exp((q * k).sum(1) / temperature).repeat(2)
        if hard:
            importance = torch.exp(beta * negative.log())
            total = (importance * negative).sum(1) / importance.mean(1)
        else:
            total = negative.sum(1)
        count = 2 * n - 2
        estimate = (total - tau_plus * count * positive) / (1 - tau_plus)
        least = count * torch.exp(-1 / torch.as_tensor(temperature, dtype=z.dtype))
        return -torch.log(positive / (positive + torch.maximum(estimate, least))).mean()

    def parts(x, temperature, tau_plus, beta=0.0):
        """For each of the 2n rows: its positive logit, its estimate and the least that it may be."""
        q, k = normalized(x["queries"]), normalized(x["keys"])
        n, z = len(q), np.concatenate([q, k])
        s, count = z @ z.T / temperature, 2 * n - 2
        for i in range(2 * n):
            other = (i + n) % (2 * n)
            rest = np.delete(s[i], [i, other])
            importance = np.exp(beta * rest)
            total = (importance * np.exp(rest)).sum() / importance.mean()
            estimate = (total - tau_plus * count * math.exp(s[i, other])) / (1 - tau_plus)
            yield s[i, other], estimate, count * math.exp(-1 / temperature)

    def formula(x, **settings):
        rows = [math.log1p(max(e, least) / math.exp(p)) for p, e, least in parts(x, **settings)]
        return float(np.mean(rows))

    file = File(preset, library, DERIVED, what, loss, formula, defaults)

    def add(name, inputs, **changed):
        rows = list(parts(inputs, **{**defaults, **changed}))
        # At the bound the gradient jumps; no case may stand there.
        assert all(abs(e - least) > 1e-6 * least for _, e, least in rows), name
        clamped = sum(e < least for _, e, least in rows)
        File.add(file, name, inputs, notes={"clamped_rows": int(clamped)}, **changed)

    file.add = add
    usual(file, near=((7, 5), (16, 8)))
    one(file, "far-7x5-temperature", 7, 5, False, temperature=0.1)
    one(file, "near-7x5-settings", 7, 5, True, tau_plus=0.25, **({"beta": 0.5} if hard else {}))

    def exact(x, temperature, tau_plus, beta=0.0):
        q, k = F.normalize(x["queries"]), F.normalize(x["keys"])
        n, z = len(q), torch.cat([q, k])
        keep = ~torch.eye(n, dtype=torch.bool).repeat(2, 2)
        positive = (q * k).sum(1).repeat(2) / temperature
        s = (z @ z.T / temperature)[keep].view(2 * n, -1) - positive[:, None]
        count = 2 * n - 2
        total = torch.exp(torch.logsumexp((1 + beta) * s, 1) - torch.logsumexp(beta * s, 1)) * count
        estimate = (total - tau_plus * count) / (1 - tau_plus)
        return torch.log1p(torch.maximum(estimate, count * torch.exp(-1 / temperature - positive))).mean()

    file.went_wrong(
        "overflow-f32",
        "exp(1/τ) with no maximum subtracted: near pairs give e^95 in f32, which is inf, and inf/inf is "
        "nan.",
        at_right_angles(4),
        "f32",
        exact,
        temperature=0.0105,
    )
    if hard:
        close = {"queries": np.array([[1.0, 0.0, 0.0], [1.0, 0.0625, 0.0]]), "keys": np.eye(3)[1:]}
        file.went_wrong(
            "reweighted-overflow-f32",
            "imp·neg is exp((1 + β)s): it overflows in f32 at half the logit at which neg does; pos over "
            "inf is 0 and −log 0 is inf.",
            close,
            "f32",
            exact,
            temperature=0.02,
        )
        file.went_wrong(
            "gradient-underflow-f32",
            "Value right, gradient wrong: with logits of ±50 the factors of the backward pass, such as "
            "pos/(pos + Ng)/(pos + Ng), underflow in f32, and whole rows lose their share.",
            pairs(generator(preset, "overflow"), 4, 3, False),
            "f32",
            exact,
            temperature=0.02,
        )
    file.went_wrong(
        "zero-f32",
        "pos/(pos + Ng) rounds to 1 in f32 once Ng, here at its least value N·e^(−1/τ), is below 6e-8 of "
        "pos: loss and gradient are 0.",
        APART,
        "f32",
        exact,
        temperature=0.05,
    )
    return file


REWEIGHTED = (
    "rows are divided by max(norm, 1e-12) (the repository's model does it before the loss); z = "
    "[queries; keys]; for each of the 2n rows, with s = cosine/τ: pos = exp(s of the other view), the N "
    "= 2n − 2 negatives are the other rows of both views (neither the row itself nor its other view); Ng "
    "= max((R − τ⁺·N·pos)/(1 − τ⁺), N·e^(−1/τ)); L = mean over 2n rows of −log(pos/(pos + Ng)). "
)
CLAMPED = (
    " At the bound no gradient goes through Ng to the inputs; gradient_log_scale is the total "
    "derivative, with the bound's own τ in it (the repository holds that bound constant). 'clamped_rows' "
    "counts the rows at the bound."
)


def hcl():
    what = (
        "criterion(out_1, out_2, tau_plus=0.1, beta=1.0, estimator='hard'), temperature 0.5: "
        + REWEIGHTED
        + "R = Σ(imp·neg)/mean(imp) = N·Σ exp((1+β)s)/Σ exp(βs), imp = exp(β·s) = exp(β·log neg), over "
        "the row's N negatives; imp has a gradient." + CLAMPED
    )
    defaults = {"temperature": 0.5, "tau_plus": 0.1, "beta": 1.0}
    return reweighted("hcl", "re-derived: joshr17/HCL, image/main.py, criterion", True, what, defaults)


def debiased():
    what = (
        "The debiased loss with temperature 0.5, tau_plus 0.1: "
        + REWEIGHTED
        + "R = Σ neg = Σ exp(s) over the row's N negatives."
        + CLAMPED
    )
    defaults = {"temperature": 0.5, "tau_plus": 0.1}
    return reweighted(
        "debiased", "re-derived: chingyaoc/DCL, main.py, train (debiased)", False, what, defaults
    )


def rince():
    def loss(x, temperature, q, lam):
        z = torch.cat([F.normalize(x["queries"]), F.normalize(x["keys"])])
        n = len(z) // 2
        exponentials = torch.exp(z @ z.T / temperature)
        other = (torch.arange(2 * n) + n) % (2 * n)
        pos = exponentials[torch.arange(2 * n), other]
        candidates = exponentials * (1 - torch.eye(2 * n, dtype=z.dtype))
        neg = candidates.sum(1) - pos
        return (-(pos**q) / q + (lam * (pos + neg)) ** q / q).mean()

    def formula(x, temperature, q, lam):
        z = normalized(np.concatenate([x["queries"], x["keys"]]))
        n, s = len(z) // 2, z @ z.T / temperature
        rows = []
        for i in range(2 * n):
            everyone = sum(math.exp(s[i, j]) for j in range(2 * n) if j != i)
            rows.append(((lam * everyone) ** q - math.exp(q * s[i, (i + n) % (2 * n)])) / q)
        return float(np.mean(rows))

    file = File(
        "rince",
        "re-derived: chingyaoc/RINCE, README.md, rince_loss",
        DERIVED,
        "rince_loss = -pos**q / q + (lam * (pos + neg))**q / q, temperature 0.5, q 0.5, lam 0.025: rows are "
        "divided by max(norm, 1e-12); z = [queries; keys]; for each of the 2n rows, with s = cosine/τ: pos = "
        "exp(s of the other view), neg = Σ exp(s) over the other 2n − 2 rows; the mean over 2n rows. It may "
        "be negative.",
        loss,
        formula,
        {"temperature": 0.5, "q": 0.5, "lam": 0.025},
    )
    usual(file)
    one(file, "far-7x5-temperature", 7, 5, False, temperature=0.1)
    one(file, "near-7x5-settings", 7, 5, True, q=1.0, lam=0.3)
    return file


def cross_entropy():
    def loss(x, temperature):
        scores = F.normalize(x["queries"], dim=1) @ F.normalize(x["keys"], dim=1).T
        # The eight lines have no temperature. Dividing by 1 changes no bit and gives its derivative.
        return F.cross_entropy(scores / temperature, torch.arange(len(scores)))

    def formula(x, temperature):
        return one_way(normalized(x["queries"]) @ normalized(x["keys"]).T / temperature)

    file = File(
        "cross-entropy",
        "torch",
        VERSION["torch"],
        "F.cross_entropy(F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T, arange(n)): rows are "
        "divided by max(norm, 1e-12); L = mean_i [log Σ_j exp(cos_ij) − cos_ii] over all n keys; one "
        "way, τ = 1.",
        loss,
        formula,
        {"temperature": 1.0},
    )
    usual(file)
    zero_row(file)
    return file


# ---------------------------------------------------------------------------------------------
# The files
# ---------------------------------------------------------------------------------------------


def text(value):
    """JSON with one row of a matrix on each line, and nan and inf as strings."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return "{" + ",\n".join(f"{json.dumps(key)}: {text(x)}" for key, x in value.items()) + "}"
    if isinstance(value, list) and value and isinstance(value[0], (list, dict)):
        return "[\n" + ",\n".join(text(x) for x in value) + "]"
    if isinstance(value, list):
        return "[" + ",".join(text(x) for x in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(str(value))
    # repr: the shortest decimal that reads back as the same float64.
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def main():
    changed = False
    for make in (
        info_nce_pytorch,
        lightly_ntxent,
        simclr_tf,
        pml_ntxent,
        supcon,
        open_clip_preset,
        siglip,
        sentence_transformers_mnrl,
        sentence_transformers_gist,
        moco,
        dcl,
        dclw,
        hcl,
        debiased,
        rince,
        cross_entropy,
    ):
        file = make()
        path = HERE / f"{file.preset}.json"
        content = text(file.content()) + "\n"
        same = path.exists() and path.read_text() == content
        changed |= not same
        if not OPTIONS.check:
            path.write_text(content)
        counts = f"{len(file.cases)} cases, {len(file.wrong)} wrong, {len(content) / 1024:.0f} KiB"
        print(f"{path.name}: {counts}{'' if same else ', changed'}")
    if OPTIONS.check and changed:
        sys.exit("the files are not what this interpreter makes")


main()
