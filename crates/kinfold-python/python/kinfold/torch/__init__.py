"""The losses for PyTorch. A placeholder docstring."""
from ._functional import contrastive, info_nce
__all__ = ["contrastive", "info_nce"]
