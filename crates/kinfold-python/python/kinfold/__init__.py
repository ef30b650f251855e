"""Exact contrastive losses without the n × n matrix: `kinfold.torch` for PyTorch, `kinfold.numpy` for arrays."""

from ._native import __version__

__all__ = ["__version__"]
