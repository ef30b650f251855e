"""A model of texts that the command exports gives the same vectors in the libraries that load it."""

import json
import os
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
