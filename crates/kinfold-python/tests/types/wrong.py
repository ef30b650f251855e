"""Misspelled settings, one a line from the mark on; a type checker sees each."""

import numpy
import torch

import kinfold.numpy as knp
from kinfold.torch import InfoNCE, contrastive, info_nce

x = torch.randn(4, 3)
# --- mistakes
info_nce(x, x, form="both-wys")
InfoNCE(objective="softmx")
InfoNCE(label_smothing=0.1)
contrastive(x, x, reduction="median")
info_nce(x, x, negative_mode="pair")
knp.value(numpy.ones((4, 3)), form="nt-xnt")
