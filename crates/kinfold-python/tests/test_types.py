"""What type checkers say of a user's script, and of misspelled settings."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="torch is not installed")

SCRIPTS = pathlib.Path(__file__).parent / "types"
CHECKERS = {
    "mypy": ["--strict", "--no-incremental", "--cache-dir=/dev/null"],
    "pyright": ["--pythonpath", sys.executable],
}


def told(checker, script):
    """What a checker prints, and the lines that it finds fault with."""
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    command = [sys.executable, "-m", checker, *CHECKERS[checker], str(SCRIPTS / script)]
    out = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPTS, timeout=600)
    lines = {int(line) for line in re.findall(rf"{script}:(\d+):.*error", out.stdout)}
    return out.stdout + out.stderr, lines


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_script_passes(checker):
    says, lines = told(checker, "right.py")
    assert not lines and re.search(r"no issues found|0 errors", says), says


@pytest.mark.parametrize("checker", CHECKERS)
def test_misspelled_settings_are_seen(checker):
    text = (SCRIPTS / "wrong.py").read_text().splitlines()
    first = text.index("# --- mistakes") + 2
    says, lines = told(checker, "wrong.py")
    assert lines == set(range(first, len(text) + 1)), says
