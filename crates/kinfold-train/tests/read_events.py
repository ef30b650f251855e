"""Checks that TensorBoard itself reads a run folder: python3 read_events.py RUN

Every step of metrics.jsonl is there once, in order, with the same numbers. Needs the package
`tensorboard`; without it, says so and ends well.
"""

import json
import math
import pathlib
import sys

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError:
    print("skipped: tensorboard is not installed")
    sys.exit(0)


def leaves(value, path=""):
    """The numbers of a line, by their paths."""
    for name, value in value.items():
        name = f"{path}/{name}" if path else name
        if isinstance(value, dict):
            yield from leaves(value, name)
        elif isinstance(value, (int, float)):
            yield name, float(value)


def main(run):
    accumulator = EventAccumulator(str(run), size_guidance={"scalars": 0})
    accumulator.Reload()
    read = {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }
    written = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        line = json.loads(line)
        for name, value in leaves(line):
            if name not in ("step", "epoch"):
                written.setdefault(name, []).append((line["step"], value))
    for tag in ["loss", "learning_rate"]:
        assert tag in written and tag in read, f"{tag} is missing"
    for tag, points in written.items():
        steps = [step for step, _ in points]
        assert [step for step, _ in read[tag]] == steps, f"{tag}: {read[tag]}"
        for (_, value), (_, wanted) in zip(read[tag], points):
            assert math.isclose(value, wanted, rel_tol=1e-6, abs_tol=1e-30), (tag, value, wanted)
    steps = [step for step, _ in read["loss"]]
    for tag in ["pairs_per_second", "loss_floor"]:
        if tag in read:
            assert [step for step, _ in read[tag]] == steps, tag
    assert all(value > 0 for _, value in read["pairs_per_second"])
    print(f"tensorboard reads {len(read)} scalars of {len(steps)} steps: {', '.join(sorted(read))}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
