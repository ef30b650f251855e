"""A model that the command exports gives the same vectors in the libraries that load it."""

import json
import os
import runpy
import subprocess

import numpy as np
import pytest

COMMAND = os.environ.get("KINFOLD_COMMAND")
WORDS = [("cat", "feline"), ("dog", "canine"), ("car", "automobile"), ("ship", "vessel"), ("rain", "drizzle")]
TEXTS = ["a cat near the ship", "Some VESSEL, by one loaf; naïve", "rain の rain", "automobiles", "x"]

pytestmark = pytest.mark.skipif(COMMAND is None, reason="KINFOLD_COMMAND names no kinfold to export with")


def kinfold(*arguments):
    subprocess.run([COMMAND, *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run, and its own vectors of TEXTS at unit length."""
    folder = tmp_path_factory.mktemp("export")
    rows = []
    for i in range(125):
        a, b, c = (WORDS[i // power % 5] for power in (1, 5, 25))
        rows.append({"anchor": f"a {a[0]} near the {b[0]} and {c[0]}", "positive": f"some {a[1]} by {b[1]}, {c[1]}"})
    for name, lines in (("pairs", rows), ("texts", [{"text": text} for text in TEXTS])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = folder / "run"
    kinfold("train", "--data", folder / "pairs.jsonl", "--epochs", 2, "--out", out)
    kinfold("embed", out, "--data", folder / "texts.jsonl", "--out", folder / "texts.npy")
    own = np.load(folder / "texts.npy")
    return out, own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12)


def test_sentence_transformers(run, tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    out, own = run
    kinfold("export", out, tmp_path / "model", "--to", "sentence-transformers")
    model = library.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), own, atol=1e-6)


def test_model2vec(run, tmp_path):
    library = pytest.importorskip("model2vec", reason="model2vec is not installed")
    out, own = run
    kinfold("export", out, tmp_path / "model", "--to", "model2vec")
    model = library.StaticModel.from_pretrained(str(tmp_path / "model"))
    np.testing.assert_allclose(model.encode(TEXTS), own, atol=1e-6)


@pytest.mark.parametrize("form", ["linear", "residual", "mlp"])
def test_adapter_in_numpy(form, tmp_path):
    random = np.random.default_rng(0)
    queries = random.standard_normal((300, 12)).astype("float32")
    np.save(tmp_path / "queries.npy", queries)
    np.save(tmp_path / "documents.npy", np.roll(queries, 1, axis=1))
    (tmp_path / "form.toml").write_text(f'[encoder]\nname = "adapter"\nform = "{form}"\ntowers = "each"\n')
    data = ("--data", tmp_path / "queries.npy", tmp_path / "documents.npy")
    kinfold("train", *data, "--config", tmp_path / "form.toml", "--batch", 64, "--out", tmp_path / "run")
    kinfold("export", tmp_path / "run", tmp_path / "adapter")
    exported = runpy.run_path(str(tmp_path / "adapter" / "adapter.py"))
    for side, flags in (("queries", ()), ("documents", ("--documents",))):
        out = tmp_path / f"{side}-adapted.npy"
        kinfold("embed", tmp_path / "run", "--data", tmp_path / "queries.npy", "--out", out, *flags)
        own = np.load(out)
        own /= np.linalg.norm(own, axis=1, keepdims=True)
        np.testing.assert_allclose(exported[side](queries), own, atol=1e-6)
