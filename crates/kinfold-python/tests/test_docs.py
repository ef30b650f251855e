"""The training loop of docs/python.md, run as it stands there."""

import pathlib
import re

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")


def test_the_same_curve_with_the_usual_code_and_with_ours():
    page = pathlib.Path(__file__).parents[3] / "docs" / "python.md"
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S) if "def train" in block]
    names = {}
    exec(compile(code, str(page), "exec"), names)
    usual, ours = names["train"](names["usual"]), names["train"](names["info_nce"])
    assert len(ours) == 20 and ours[-1] < 0.9 * ours[0]
    assert ours == pytest.approx(usual, rel=1e-4)
