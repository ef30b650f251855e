"""The training loops of README.md and docs/python.md, run as they stand there."""

import contextlib
import io
import pathlib
import re

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")


ROOT = pathlib.Path(__file__).parents[3]


def block(page, what):
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.S) if what in code]
    return code


def test_the_same_curve_once_the_import_is_changed():
    pytest.importorskip("info_nce", reason="info-nce-pytorch is not installed")
    ours = block(ROOT / "README.md", "optimizer.step()")
    theirs = ours.replace("from kinfold.torch import", "from info_nce import")
    assert theirs != ours
    curves = []
    for code in (ours, theirs):
        torch.manual_seed(0)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(code, "README.md", "exec"), {})
        curves.append([float(line.split()[1]) for line in out.getvalue().splitlines()])
    assert len(curves[0]) == 20 and curves[0][-1] < 0.9 * curves[0][0]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_the_same_curve_with_the_usual_code_and_with_ours():
    page = ROOT / "docs" / "python.md"
    code, names = block(page, "def train"), {}
    exec(compile(code, str(page), "exec"), names)
    usual, ours = names["train"](names["usual"]), names["train"](names["info_nce"])
    assert len(ours) == 20 and ours[-1] < 0.9 * ours[0]
    assert ours == pytest.approx(usual, rel=1e-4)
