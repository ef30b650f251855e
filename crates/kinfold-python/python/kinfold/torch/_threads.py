"""PyTorch's own threads, which the engine computes on: see `src/threads.rs`."""

from __future__ import annotations

import ctypes
import os
import pathlib
import sys

import torch


def _gomp_parallel() -> int | None:
    """The address of `GOMP_parallel` in the OpenMP library that PyTorch has loaded; None where PyTorch has
    other threads, and then the engine has its own."""
    if sys.platform != "linux" or "parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return None
    library = pathlib.Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        # The symbol is looked for in what PyTorch is linked to.
        symbol = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError):
        return None
    return ctypes.cast(symbol, ctypes.c_void_p).value


open_mp = _gomp_parallel()


def _forget() -> None:
    """A forked child has none of OpenMP's threads, and would wait for them."""
    global open_mp
    open_mp = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
