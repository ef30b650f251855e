"""The losses as modules, with the names and arguments of the libraries that they may replace.

A user of info-nce-pytorch (`InfoNCE`), lightly (`NTXentLoss`, `DCLLoss`, `DCLWLoss`), open_clip
(`ClipLoss`, `SigLipLoss`), SupContrast (`SupConLoss`) or sentence-transformers
(`MultipleNegativesRankingLoss`) changes an import; those of pytorch-metric-learning are in
`kinfold.torch.metric_learning`. What an argument of theirs has no meaning here, or none yet, is refused.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ._distributed import first_row
from ._distributed import world_size as _world_size
from ._functional import contrastive, info_nce


class InfoNCE(nn.Module):
    """InfoNCE, by default one way, as info-nce-pytorch has it; see `info_nce`.

    Args:
        temperature: τ; an `nn.Parameter` of one number where it is learned.
        reduction: "mean", "sum" or "none".
        negative_mode: "unpaired", negatives `[m, d]` of every query, or "paired", `[n, m, d]`.
        settings: more of `contrastive`, such as `form="both-ways"` or `gather=True`.
    """

    def __init__(self, temperature=0.1, reduction="mean", negative_mode="unpaired", **settings):
        super().__init__()
        self.temperature = temperature
        self.reduction = reduction
        self.negative_mode = negative_mode
        self.settings = settings

    def forward(self, query: Tensor, positive_key: Tensor, negative_keys: Tensor | None = None) -> Tensor:
        return info_nce(
            query,
            positive_key,
            negative_keys,
            temperature=self.temperature,
            reduction=self.reduction,
            negative_mode=self.negative_mode,
            **self.settings,
        )


class _Views(nn.Module):
    """A loss over two views of the same things."""

    objective = "softmax"

    def __init__(self, temperature, gather_distributed: bool, **settings):
        super().__init__()
        self.temperature = temperature
        self.gather_distributed = gather_distributed
        self.settings = settings

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """The mean over both views' rows; `out0` and `out1` are `[n, d]`."""
        return contrastive(
            out0,
            out1,
            form="nt-xent",
            objective=self.objective,
            temperature=self.temperature,
            gather=self.gather_distributed,
            **self.settings,
        )


class NTXentLoss(_Views):
    """NT-Xent (SimCLR), as lightly has it; against a queue of earlier keys (MoCo) with a memory bank.

    Args:
        temperature: τ.
        memory_bank_size: (rows, dimension) of the queue; 0 for none.
        gather_distributed: whether to share the batch with the other processes; with a memory bank it is
            the bank alone that all processes' keys go into.
    """

    def __init__(self, temperature=0.5, memory_bank_size=0, gather_distributed: bool = False):
        super().__init__(temperature, gather_distributed)
        size = (memory_bank_size,) if isinstance(memory_bank_size, int) else tuple(memory_bank_size)
        if size != (0,) and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"memory_bank_size is {memory_bank_size}, but must be (rows, dimension) or 0")
        self.memory_bank_size = size
        if len(size) == 2:
            bank = nn.functional.normalize(torch.randn(size), dim=1)
            self.register_buffer("bank", bank, persistent=False)
            self.register_buffer("bank_ptr", torch.zeros(1, dtype=torch.long), persistent=False)

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """`[n, d]` each; with a memory bank queries and keys, and keys join the bank where queries want a
        gradient."""
        if len(self.memory_bank_size) < 2:
            return super().forward(out0, out1)
        bank = self.bank.clone()
        if out0.requires_grad:
            self._remember(out1)
        return contrastive(out0, out1, bank, temperature=self.temperature, in_batch_negatives=False)

    @torch.no_grad()
    def _remember(self, keys: Tensor) -> None:
        keys = nn.functional.normalize(keys.detach(), dim=1).to(self.bank.dtype)
        if self.gather_distributed and _world_size() > 1:
            everyone = [torch.empty_like(keys) for _ in range(_world_size())]
            dist.all_gather(everyone, keys)
            keys = torch.cat(everyone)
        rows, first = self.bank.shape[0], int(self.bank_ptr)
        # As lightly has it: what goes beyond the end is dropped, and the next batch begins at the top.
        keys = keys[: rows - first]
        self.bank[first : first + len(keys)] = keys
        self.bank_ptr[0] = (first + len(keys)) % rows


class DCLLoss(_Views):
    """The decoupled loss (Yeh et al. 2022) over two views, as lightly has it.

    Args:
        temperature: τ.
        weight_fn: None; for the paper's weights take `DCLWLoss`.
        gather_distributed: whether to share the batch with the other processes.
    """

    objective = "decoupled"

    def __init__(self, temperature=0.1, weight_fn=None, gather_distributed: bool = False):
        if weight_fn is not None:
            raise ValueError("weight_fn must be None; for the paper's weights take DCLWLoss")
        super().__init__(temperature, gather_distributed)


class DCLWLoss(_Views):
    """The decoupled loss whose distant pairs pull more, as lightly has it.

    Args:
        temperature: τ.
        sigma: how much more, as a temperature of the weights.
        gather_distributed: whether to share the batch with the other processes; the weights are then
            those of the whole batch.
    """

    objective = "decoupled-weighted"

    def __init__(self, temperature=0.1, sigma: float = 0.5, gather_distributed: bool = False):
        super().__init__(temperature, gather_distributed, sigma=sigma)


class DebiasedLoss(_Views):
    """NT-Xent corrected for false negatives (Chuang et al. 2020).

    Args:
        temperature: τ.
        positive_share: τ⁺, the share of negatives that are positives.
        gather_distributed: whether to share the batch with the other processes.
    """

    objective = "debiased"

    def __init__(self, temperature=0.5, positive_share: float = 0.1, gather_distributed: bool = False):
        super().__init__(temperature, gather_distributed, positive_share=positive_share)


class HardNegativesLoss(_Views):
    """The same, and hard negatives weigh more (HCL, Robinson et al. 2021).

    Args:
        temperature: τ.
        positive_share: τ⁺, the share of negatives that are positives.
        concentration: β, how much more.
        gather_distributed: whether to share the batch with the other processes.
    """

    objective = "hard-negatives"

    def __init__(
        self,
        temperature=0.5,
        positive_share: float = 0.1,
        concentration: float = 1.0,
        gather_distributed: bool = False,
    ):
        super().__init__(
            temperature, gather_distributed, positive_share=positive_share, concentration=concentration
        )


class ClipLoss(nn.Module):
    """CLIP's loss, both ways, as open_clip has it: over features that the model has normalised.

    With `world_size` above 1 the batch is shared, and gradients are exact whatever `local_loss` and
    `gather_with_grad` say; these and `cache_labels` are taken so that a call need not change. Under DDP
    that is open_clip's gradient with `gather_with_grad=True`.
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ):
        super().__init__()
        if use_horovod:
            raise ValueError("use_horovod must be False: processes are those of torch.distributed")
        self.world_size = _of_this_group(world_size)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
        output_dict: bool = False,
    ):
        """`[n, d]` each, and 1/τ. A bias cancels in a softmax, and so it is not looked at."""
        loss = contrastive(
            image_features,
            text_features,
            form="both-ways",
            logit_scale=logit_scale,
            normalize=False,
            gather=self.world_size > 1,
        )
        return {"contrastive_loss": loss} if output_dict else loss


class SigLipLoss(nn.Module):
    """SigLIP's loss, as open_clip has it: over features that the model has normalised.

    With `world_size` above 1 the batch is shared, whatever `dist_impl` says of the way.
    """

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
    ):
        super().__init__()
        self.world_size = _of_this_group(world_size)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor = 0.0,
        output_dict: bool = False,
    ):
        """`[n, d]` each, 1/τ, and what is added to every logit."""
        loss = contrastive(
            image_features,
            text_features,
            objective="sigmoid",
            logit_scale=logit_scale,
            bias=0.0 if logit_bias is None else logit_bias,
            normalize=False,
            gather=self.world_size > 1,
        )
        return {"contrastive_loss": loss} if output_dict else loss


class SupConLoss(nn.Module):
    """SupCon (Khosla et al. 2020), the mean over positives outside the logarithm, as SupContrast has it.

    Args:
        temperature: τ.
        contrast_mode: "all": every view chooses.
        base_temperature: the loss is multiplied by τ / base_temperature.
        normalize: whether to compare by the cosine; SupContrast leaves that to the model.
        gather: whether to share the batch with the other processes.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        contrast_mode: str = "all",
        base_temperature: float = 0.07,
        normalize: bool = False,
        gather: bool = False,
    ):
        super().__init__()
        if contrast_mode != "all":
            raise ValueError(f"contrast_mode is {contrast_mode!r}, but must be 'all'")
        self.temperature = temperature
        self.base_temperature = base_temperature
        self.normalize = normalize
        self.gather = gather

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """`features` are `[n, views, d]`, or `[n, d]` with labels; `labels` `[n]`, or None where every
        thing is a class of its own."""
        if not isinstance(features, Tensor):
            raise TypeError(f"features must be a torch.Tensor, but are of type {type(features).__name__}")
        if features.dim() < 2 or (features.dim() == 2 and labels is None):
            shape = list(features.shape)
            raise ValueError(f"features have shape {shape}, but must be [n, views, d], or [n, d] with labels")
        if labels is None:
            # A thing is a class of its own among those of all processes, too.
            first = first_row(features) if self.gather and _world_size() > 1 else 0
            labels = torch.arange(first, first + features.shape[0], device=features.device)
        if features.dim() > 2:
            views = features.shape[1]
            features = features.flatten(2).transpose(0, 1).flatten(0, 1)
            labels = labels.reshape(-1).repeat(views)
        return contrastive(
            features,
            labels=labels.reshape(-1),
            form="nt-xent",
            objective="sup-con-outside",
            temperature=self.temperature,
            factor=self.temperature / self.base_temperature,
            normalize=self.normalize,
            gather=self.gather,
        )


class MultipleNegativesRankingLoss(nn.Module):
    """sentence-transformers' loss of the same name, with the settings that it mostly has: anchors choose
    among all positives and hard negatives, and, where asked for, positives among anchors.

    Args:
        model: gives `sentence_embedding` for features.
        scale: 1/τ.
        similarity_fct: sentence-transformers' `cos_sim` or `dot_score`; None is the former.
        gather_across_devices: whether to share the batch with the other processes.
        directions: ("query_to_doc",), or that and "doc_to_query".
        partition_mode: "per_direction" with two directions.
    """

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct=None,
        gather_across_devices: bool = False,
        directions: tuple[str, ...] = ("query_to_doc",),
        partition_mode: str = "joint",
    ):
        super().__init__()
        similarity = getattr(similarity_fct, "__name__", None)
        if similarity_fct is not None and similarity not in ("cos_sim", "dot_score"):
            raise ValueError(f"similarity_fct is {similarity}, but must be cos_sim or dot_score")
        if set(directions) not in ({"query_to_doc"}, {"query_to_doc", "doc_to_query"}):
            raise ValueError(
                f"directions are {tuple(directions)}, but must be ('query_to_doc',) or that and 'doc_to_query'"
            )
        if len(set(directions)) == 2 and partition_mode != "per_direction":
            raise ValueError("two directions need partition_mode='per_direction'")
        self.model = model
        self.scale = scale
        self.both = len(set(directions)) == 2
        self.settings = {
            "temperature": 1.0 / scale,
            "normalize": similarity != "dot_score",
            "gather": gather_across_devices,
        }

    def forward(self, sentence_features, labels: Tensor | None = None) -> Tensor:
        embeddings = [self.model(features)["sentence_embedding"] for features in sentence_features]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None = None) -> Tensor:
        """Anchors, positives and any number of hard negatives, `[n, d]` each."""
        if len(embeddings) < 2:
            raise ValueError(f"embeddings are {len(embeddings)} tensors, but at least 2 are needed")
        anchors, positives, *hard = embeddings
        negatives = torch.cat(hard) if hard else None
        if self.both and negatives is None:
            return contrastive(anchors, positives, form="both-ways", **self.settings)
        loss = contrastive(anchors, positives, negatives, **self.settings)
        if not self.both:
            return loss
        return 0.5 * (loss + contrastive(positives, anchors, **self.settings))


def _of_this_group(world_size: int) -> int:
    if world_size > 1 and _world_size() != world_size:
        raise ValueError(
            f"world_size is {world_size}, but torch.distributed has {_world_size()} processes; initialise it first"
        )
    return world_size
