#!/usr/bin/env python3
"""Training a static embedding from pairs of texts: kinfold, sentence-transformers' trainer, and a loop in PyTorch.

    python benchmarks/texts.py --pairs PAIRS.jsonl --table wordllama/l2_supercat_256.safetensors --epochs 3

PAIRS has the columns anchor and positive; beside the table lies its tokenizer.json. Every contestant is a process of its
own, on as many threads; they run in turn, round after round. Told are the medians of seconds from the first text that is
read to the last step, of the whole process, and of the most memory. The loop has its texts tokenized before its clock
begins, and masks pairs of one positive; sentence-transformers keeps them apart by its sampler. It needs torch,
sentence-transformers, datasets and accelerate, and kinfold built: cargo build --release.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONTESTANTS = ["kinfold", "sentence-transformers", "PyTorch loop"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--table", required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinfold", default=str(ROOT / "target" / "release" / "kinfold"))
    parser.add_argument("--only", choices=CONTESTANTS, help="be this contestant and print its seconds")
    return parser.parse_args()


def kinfold(options):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "run"
        train = [options.kinfold, "train", "--data", options.pairs, "--init", options.table, "--hold-out", "0"]
        train += ["--epochs", options.epochs, "--batch", options.batch, "--learning-rate", options.rate, "--out", out]
        begin = time.time()
        with subprocess.Popen(list(map(str, train)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
            last = begin
            for line in run.stdout:
                if line.startswith("epoch "):
                    last = time.time()
        if run.returncode:
            sys.exit(f"kinfold failed: {' '.join(map(str, train))}")
    return last - begin


def inputs(options):
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    rows = [json.loads(line) for line in open(options.pairs, encoding="utf-8")]
    table = next(iter(load_file(options.table).values())).astype("float32")
    tokenizer = Tokenizer.from_file(str(pathlib.Path(options.table).parent / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return rows, table, tokenizer


def sentence_transformers(options):
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    torch.set_num_threads(options.threads)
    rows, table, tokenizer = inputs(options)
    model = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=torch.from_numpy(table))], device="cpu"
    )
    data = Dataset.from_dict({name: [row[name] for row in rows] for name in ("anchor", "positive")})
    with tempfile.TemporaryDirectory() as folder:
        settings = SentenceTransformerTrainingArguments(
            output_dir=folder, num_train_epochs=options.epochs, per_device_train_batch_size=options.batch,
            learning_rate=options.rate, warmup_steps=0.1, batch_sampler="no_duplicates", save_strategy="no",
            report_to="none", use_cpu=True, disable_tqdm=True, logging_strategy="no", dataloader_pin_memory=False,
        )
        loss = losses.MultipleNegativesRankingLoss(model, scale=20.0)
        trainer = SentenceTransformerTrainer(model=model, args=settings, train_dataset=data, loss=loss)
        begin = time.time()
        trainer.train()
        return time.time() - begin


def loop(options):
    import numpy as np
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows, table, tokenizer = inputs(options)
    texts = [[e.ids for e in tokenizer.encode_batch([row[name] for row in rows], add_special_tokens=False)]
             for name in ("anchor", "positive")]
    known = {}
    group = torch.tensor([known.setdefault(row["positive"], len(known)) for row in rows])
    model = torch.nn.EmbeddingBag.from_pretrained(torch.from_numpy(table), freeze=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=0.0, fused=True)
    per_epoch = len(rows) // options.batch
    steps, step = options.epochs * per_epoch, 0
    begin = time.time()
    for _ in range(options.epochs):
        order = np.random.default_rng(step).permutation(len(rows))
        for batch in range(per_epoch):
            chosen = order[batch * options.batch:(batch + 1) * options.batch]
            embedded = []
            for side in texts:
                bags = [side[i] for i in chosen]
                starts = np.concatenate([[0], np.cumsum([len(bag) for bag in bags])[:-1]])
                ids = torch.tensor([token for bag in bags for token in bag])
                embedded.append(F.normalize(model(ids, torch.from_numpy(starts))))
            logits = embedded[0] @ embedded[1].T * 20.0
            same = group[chosen][:, None] == group[chosen][None, :]
            same.fill_diagonal_(False)
            loss = F.cross_entropy(logits.masked_fill(same, float("-inf")), torch.arange(len(chosen)))
            for each in optimizer.param_groups:
                each["lr"] = options.rate * min((step + 1) / max(1, steps // 10), (steps - step) / steps * 1.11)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
    return time.time() - begin


def main():
    options = arguments()
    if options.only:
        run = {"kinfold": kinfold, "sentence-transformers": sentence_transformers, "PyTorch loop": loop}
        seconds = run[options.only](options)
        who = resource.RUSAGE_CHILDREN if options.only == "kinfold" else resource.RUSAGE_SELF
        print(json.dumps({"seconds": seconds, "memory": resource.getrusage(who).ru_maxrss * 1024}))
        return
    os.environ.update(TOKENIZERS_PARALLELISM="true", HF_HUB_OFFLINE="1", RAYON_NUM_THREADS=str(options.threads))
    told = {name: [] for name in CONTESTANTS}
    for _ in range(options.rounds):
        for name in CONTESTANTS:
            begin = time.time()
            again = [sys.executable, __file__, *sys.argv[1:], "--only", name]
            done = subprocess.run(again, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            told[name].append({**json.loads(done.stdout.splitlines()[-1]), "process": time.time() - begin})
    median = {name: {key: statistics.median(one[key] for one in all) for key in all[0]} for name, all in told.items()}
    print("| | seconds | times ours | whole process | memory, MiB |\n|---|---|---|---|---|")
    for name, at in median.items():
        times = at["seconds"] / median["kinfold"]["seconds"]
        print(f"| {name} | {at['seconds']:.1f} | {times:.2f} | {at['process']:.1f} | {at['memory'] / 2**20:.0f} |")


if __name__ == "__main__":
    main()
