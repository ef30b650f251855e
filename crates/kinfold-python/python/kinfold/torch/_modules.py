"""The losses as modules, with the names and arguments of the libraries that they may replace.

A user of info-nce-pytorch (`InfoNCE`), lightly (`NTXentLoss`, `DCLLoss`, `DCLWLoss`), open_clip
(`ClipLoss`, `SigLipLoss`) or SupContrast (`SupConLoss`) changes an import; sentence-transformers' are in
`_sentence_transformers`, and those of pytorch-metric-learning in `kinfold.torch.metric_learning`. What an
argument of theirs has no meaning here, or none yet, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ._distributed import first_row, gathered, mean_of_all, world_size
from ._functional import NegativeMode, Reduction, check_settings, contrastive, info_nce
from ._module import Loss

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._functional import ContrastiveSettings


class InfoNCE(Loss):
    """InfoNCE, by default one way, as info-nce-pytorch has it; see `info_nce`.

    Args:
        temperature: τ; an `nn.Parameter` of one number where it is learned.
        reduction: "mean", "sum" or "none".
        negative_mode: "unpaired", negatives `[m, d]` of every query, or "paired", `[n, m, d]`.
        settings: more of `contrastive`, such as `form="both-ways"` or `gather=True`.
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        reduction: Reduction | Literal["none"] = "mean",
        negative_mode: NegativeMode = "unpaired",
        **settings: Unpack[ContrastiveSettings],
    ) -> None:
        super().__init__(temperature, **settings)
        check_settings(reduction=reduction)
        if negative_mode not in ("unpaired", "paired"):
            raise ValueError(f"negative_mode is {negative_mode!r}, but must be 'unpaired' or 'paired'")
        self.reduction = reduction
        self.negative_mode = negative_mode

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


class _Views(Loss):
    """A loss over two views of the same things."""

    objective = "softmax"

    def __init__(
        self, temperature: float | Tensor, gather_distributed: bool, group: dist.ProcessGroup | None, **settings: Any
    ) -> None:
        settings |= {"form": "nt-xent", "objective": self.objective}
        super().__init__(temperature, **settings, gather=gather_distributed, group=group)
        self.gather_distributed = gather_distributed
        self.group = group

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """The mean over both views' rows; `out0` and `out1` are `[n, d]`."""
        return contrastive(out0, out1, temperature=self.temperature, **self.settings)


class NTXentLoss(_Views):
    """NT-Xent (SimCLR), as lightly has it; against a queue of earlier keys (MoCo) with a memory bank.

    Args:
        temperature: τ.
        memory_bank_size: (rows, dimension) of the queue; rows alone, and the dimension is the first
            batch's; 0 for none.
        gather_distributed: whether to share the batch with the other processes; with a memory bank it is
            the bank alone that all processes' keys go into.
        group: the processes that share; None for all.
    """

    bank: Tensor
    bank_ptr: Tensor

    def __init__(
        self,
        temperature: float | Tensor = 0.5,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(temperature, gather_distributed, group)
        size = (memory_bank_size,) if isinstance(memory_bank_size, int) else tuple(memory_bank_size)
        if size != (0,) and (len(size) not in (1, 2) or min(size) < 1):
            raise ValueError(f"memory_bank_size is {memory_bank_size}, but must be rows, (rows, dimension), or 0")
        self.memory_bank_size = memory_bank_size
        self._rows = size[0]
        if self._rows:
            self.register_buffer("bank", torch.empty(0), persistent=False)
            self.register_buffer("bank_ptr", torch.zeros(1, dtype=torch.long), persistent=False)
        if len(size) == 2:
            self._fill(size[1])

    def _fill(self, dim: int) -> None:
        random = torch.randn(self._rows, dim, device=self.bank.device)
        self.bank = nn.functional.normalize(random, dim=1)

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """`[n, d]` each; with a memory bank queries and keys, and keys join the bank where queries want a
        gradient."""
        if not self._rows:
            return super().forward(out0, out1)
        if not len(self.bank):
            self._fill(out1.shape[1])
        bank = self.bank.clone()
        if out0.requires_grad:
            self._remember(out1)
        return contrastive(out0, out1, bank, temperature=self.temperature, in_batch_negatives=False)

    @torch.no_grad()
    def _remember(self, keys: Tensor) -> None:
        keys = nn.functional.normalize(keys.detach(), dim=1).to(self.bank.dtype)
        if self.gather_distributed and world_size(self.group) > 1:
            keys = gathered(keys, self.group)
        rows, first = self.bank.shape[0], int(self.bank_ptr)
        # As lightly has it: what goes beyond the end is dropped, and the next batch begins at the top.
        keys = keys[: rows - first]
        self.bank[first : first + len(keys)] = keys
        self.bank_ptr[0] = (first + len(keys)) % rows


class DCLLoss(_Views):
    """The decoupled loss (Yeh et al. 2022) over two views, as lightly has it.

    Args:
        temperature: τ.
        weight_fn: what each pair's positive logit counts, `[n]`, given the normalised views; None for 1.
            For the paper's weights take `DCLWLoss`.
        gather_distributed: whether to share the batch with the other processes.
        group: the processes that share; None for all.
    """

    objective = "decoupled"

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        weight_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        gather_distributed: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(temperature, gather_distributed, group)
        self.weight_fn = weight_fn

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        loss = super().forward(out0, out1)
        if self.weight_fn is None:
            return loss
        # It is `ln neg − w s_p` a row: what is weighed is beside what is computed.
        a, b = (nn.functional.normalize(x, dim=1) for x in (out0, out1))
        less = 2 - self.weight_fn(a, b) - self.weight_fn(b, a)
        more = (0.5 * less * (a * b).sum(1)).sum() / self.temperature
        if self.gather_distributed and world_size(self.group) > 1:
            return loss + mean_of_all(more, len(out0), self.group)
        return loss + more / len(out0)


class DCLWLoss(_Views):
    """The decoupled loss whose distant pairs pull more, as lightly has it. A pair's weight,
    `2 − n softmax(cos/σ)`, is a constant to the gradient, as it is there.

    Args:
        temperature: τ.
        sigma: how much more, as a temperature of the weights.
        gather_distributed: whether to share the batch with the other processes; the weights are then
            those of the whole batch.
        group: the processes that share; None for all.
    """

    objective = "decoupled-weighted"

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        sigma: float = 0.5,
        gather_distributed: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(temperature, gather_distributed, group, sigma=sigma)
        self.sigma = sigma


class DebiasedLoss(_Views):
    """NT-Xent corrected for false negatives (Chuang et al. 2020).

    Args:
        temperature: τ.
        positive_share: τ⁺, the share of negatives that are positives.
        gather_distributed: whether to share the batch with the other processes.
        group: the processes that share; None for all.
    """

    objective = "debiased"

    def __init__(
        self,
        temperature: float | Tensor = 0.5,
        positive_share: float = 0.1,
        gather_distributed: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(temperature, gather_distributed, group, positive_share=positive_share)
        self.positive_share = positive_share


class HardNegativesLoss(_Views):
    """The same, and hard negatives weigh more (HCL, Robinson et al. 2021).

    Args:
        temperature: τ.
        positive_share: τ⁺, the share of negatives that are positives.
        concentration: β, how much more.
        gather_distributed: whether to share the batch with the other processes.
        group: the processes that share; None for all.
    """

    objective = "hard-negatives"

    def __init__(
        self,
        temperature: float | Tensor = 0.5,
        positive_share: float = 0.1,
        concentration: float = 1.0,
        gather_distributed: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(
            temperature, gather_distributed, group, positive_share=positive_share, concentration=concentration
        )
        self.positive_share = positive_share
        self.concentration = concentration


class ClipLoss(Loss):
    """CLIP's loss, both ways, as open_clip has it: over features that the model has normalised.

    With `world_size` above 1 the batch is shared, and gradients are exact whatever `local_loss` and
    `gather_with_grad` say; these and `cache_labels` are taken so that a call need not change. Under DDP
    that is open_clip's gradient with `gather_with_grad=True`. `group` are the processes that share.
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if use_horovod:
            raise ValueError("use_horovod must be False: processes are those of torch.distributed")
        super().__init__(form="both-ways", normalize=False, gather=_share(world_size, group), group=group)
        self.world_size = world_size

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """`[n, d]` each, and 1/τ. A bias cancels in a softmax, and so it is not looked at."""
        loss = contrastive(image_features, text_features, logit_scale=logit_scale, **self.settings)
        return {"contrastive_loss": loss} if output_dict else loss


class SigLipLoss(Loss):
    """SigLIP's loss, as open_clip has it: over features that the model has normalised.

    With `world_size` above 1 the batch is shared, whatever `dist_impl` says of the way, with the processes
    of `group`.
    """

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(objective="sigmoid", normalize=False, gather=_share(world_size, group), group=group)
        self.world_size = world_size

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = 0.0,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """`[n, d]` each, 1/τ, and what is added to every logit."""
        bias = 0.0 if logit_bias is None else logit_bias
        loss = contrastive(image_features, text_features, logit_scale=logit_scale, bias=bias, **self.settings)
        return {"contrastive_loss": loss} if output_dict else loss


class SupConLoss(Loss):
    """SupCon (Khosla et al. 2020), the mean over positives outside the logarithm, as SupContrast has it.

    Args:
        temperature: τ.
        contrast_mode: "all": every view chooses; "one": the first view of each thing.
        base_temperature: the loss is multiplied by τ / base_temperature.
        normalize: whether to compare by the cosine; SupContrast leaves that to the model.
        gather: whether to share the batch with the other processes.
        group: the processes that share; None for all.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        contrast_mode: Literal["all", "one"] = "all",
        base_temperature: float = 0.07,
        normalize: bool = False,
        gather: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if contrast_mode not in ("all", "one"):
            raise ValueError(f"contrast_mode is {contrast_mode!r}, but must be 'all' or 'one'")
        if gather and contrast_mode == "one":
            raise ValueError("contrast_mode='one' has no meaning here with gather=True")
        super().__init__(
            temperature,
            form="nt-xent",
            objective="sup-con-outside",
            factor=temperature / base_temperature,
            normalize=normalize,
            gather=gather,
            group=group,
        )
        self.contrast_mode = contrast_mode
        self.base_temperature = base_temperature
        self.normalize = normalize
        self.gather = gather
        self.group = group

    def forward(self, features: Tensor, labels: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """`features` are `[n, views, d]`, or `[n, d]` with labels; `labels` `[n]`, or None where every
        thing is a class of its own; or in their place `mask` `[n, n]`, 1 where things are of one class."""
        if not isinstance(features, Tensor):
            raise TypeError(f"features must be a torch.Tensor, but are of type {type(features).__name__}")
        if labels is not None and mask is not None:
            raise ValueError("labels and a mask say the same: give one of them")
        if mask is not None:
            labels = _labels_of(mask, len(features))
        if features.dim() < 2 or (features.dim() == 2 and labels is None):
            shape = list(features.shape)
            raise ValueError(f"features have shape {shape}, but must be [n, views, d], or [n, d] with labels")
        if labels is None:
            # A thing is a class of its own among those of all processes, too.
            first = first_row(features, self.group) if self.gather and world_size(self.group) > 1 else 0
            labels = torch.arange(first, first + features.shape[0], device=features.device)
        views = features.shape[1] if features.dim() > 2 else 1
        if features.dim() > 2:
            features = features.flatten(2).transpose(0, 1).flatten(0, 1)
            labels = labels.reshape(-1).repeat(views)
        weights = None
        if self.contrast_mode == "one":
            n = len(features) // views
            weights = torch.cat([features.new_ones(n), features.new_zeros(len(features) - n)]).detach()
        return contrastive(
            features, labels=labels.reshape(-1), weights=weights, temperature=self.temperature, **self.settings
        )


def _labels_of(mask: Tensor, n: int) -> Tensor:
    """The labels that a mask of equal ones was made of."""
    if tuple(mask.shape) != (n, n):
        raise ValueError(f"mask has shape {list(mask.shape)}, but must be [n, n] with {n} things")
    same = mask != 0
    labels = same.to(torch.uint8).argmax(1)
    if not torch.equal(same, labels[:, None] == labels):
        raise ValueError(
            "mask must say which things are of one class: 1 on the diagonal, symmetric, and what is of one class "
            "with a third thing is of one class"
        )
    return labels


def _share(processes: int, group: dist.ProcessGroup | None) -> bool:
    """Whether a batch is shared with other processes, of which there must be so many."""
    if processes > 1 and world_size(group) != processes:
        raise ValueError(
            f"world_size is {processes}, but torch.distributed has {world_size(group)} processes; initialise it first"
        )
    return processes > 1
