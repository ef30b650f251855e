"""The losses of sentence-transformers, with its names and arguments.

Input: a model that gives `sentence_embedding` for features, and columns of features. Output: the loss.
What an argument of theirs has no meaning here, or none yet, is refused.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from ._functional import check_settings, contrastive
from ._module import Loss

Features = dict[str, Any]
Direction = Literal["query_to_doc", "doc_to_query"]


def _embeddings(model: nn.Module, columns: Iterable[Features]) -> list[Tensor]:
    return [model(features)["sentence_embedding"] for features in columns]


class MultipleNegativesRankingLoss(Loss):
    """sentence-transformers' loss of the same name, with the settings that it mostly has: anchors choose
    among all positives and hard negatives, and, where asked for, positives among anchors.

    Args:
        model: gives `sentence_embedding` for features.
        scale: 1/τ.
        similarity_fct: sentence-transformers' `cos_sim` or `dot_score`; None is the former.
        gather_across_devices: whether to share the batch with the other processes.
        directions: ("query_to_doc",), or that and "doc_to_query".
        partition_mode: "per_direction" with two directions.
        group: the processes that share; None for all.
    """

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] | None = None,
        gather_across_devices: bool = False,
        directions: tuple[Direction, ...] = ("query_to_doc",),
        partition_mode: Literal["joint", "per_direction"] = "joint",
        group: dist.ProcessGroup | None = None,
    ) -> None:
        similarity = getattr(similarity_fct, "__name__", None)
        if similarity_fct is not None and similarity not in ("cos_sim", "dot_score"):
            raise ValueError(f"similarity_fct is {similarity}, but must be cos_sim or dot_score")
        if set(directions) not in ({"query_to_doc"}, {"query_to_doc", "doc_to_query"}):
            raise ValueError(
                f"directions are {tuple(directions)}, but must be ('query_to_doc',) or that and 'doc_to_query'"
            )
        if len(set(directions)) == 2 and partition_mode != "per_direction":
            raise ValueError("two directions need partition_mode='per_direction'")
        super().__init__(
            1.0 / scale, normalize=similarity != "dot_score", gather=gather_across_devices, group=group
        )
        self.model = model
        self.scale = scale
        self.similarity_fct = similarity_fct
        self.gather_across_devices = gather_across_devices
        self.directions = directions
        self.partition_mode = partition_mode
        self.group = group

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        return self.compute_loss_from_embeddings(_embeddings(self.model, sentence_features), labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None = None) -> Tensor:
        """Anchors, positives and any number of hard negatives, `[n, d]` each."""
        if len(embeddings) < 2:
            raise ValueError(f"embeddings are {len(embeddings)} tensors, but at least 2 are needed")
        anchors, positives, *hard = embeddings
        negatives = torch.cat(hard) if hard else None
        settings = {**self.settings, "temperature": self.temperature}
        if len(set(self.directions)) == 1:
            return contrastive(anchors, positives, negatives, **settings)
        if negatives is None:
            return contrastive(anchors, positives, form="both-ways", **settings)
        there = contrastive(anchors, positives, negatives, **settings)
        return 0.5 * (there + contrastive(positives, anchors, **settings))


class CachedMultipleNegativesRankingLoss(MultipleNegativesRankingLoss):
    """The same, of batches whose activations would not fit (GradCache, Gao et al. 2021): texts are encoded
    in mini-batches without keeping anything, the loss is that of the whole batch, and when it is
    differentiated each mini-batch is encoded once more, with the same dropout, and given its gradient.

    Args:
        model, scale, similarity_fct, gather_across_devices, directions, partition_mode, group: as above.
        mini_batch_size: texts that are encoded at once.
        show_progress_bar: not looked at.
    """

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] | None = None,
        mini_batch_size: int = 32,
        gather_across_devices: bool = False,
        directions: tuple[Direction, ...] = ("query_to_doc",),
        partition_mode: Literal["joint", "per_direction"] = "joint",
        show_progress_bar: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if mini_batch_size < 1:
            raise ValueError(f"mini_batch_size is {mini_batch_size}, but must be at least 1")
        super().__init__(
            model, scale, similarity_fct, gather_across_devices, directions, partition_mode, group
        )
        self.mini_batch_size = mini_batch_size
        self.show_progress_bar = show_progress_bar

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        columns = [list(self._mini_batches(features)) for features in sentence_features]
        with torch.no_grad():
            encoded = [[(_RandomState(part), self._encoded(part)) for part in column] for column in columns]
        embeddings = [torch.cat([x for _, x in column]) for column in encoded]
        if not torch.is_grad_enabled():
            return self.compute_loss_from_embeddings(embeddings, labels)
        leaves = [x.requires_grad_() for x in embeddings]
        loss = self.compute_loss_from_embeddings(leaves, labels)
        gradients = torch.autograd.grad(loss, leaves)
        states = [[state for state, _ in column] for column in encoded]
        loss = loss.detach().requires_grad_()

        def encode_again(upstream: Tensor) -> None:
            for column, of_column, gradient in zip(columns, states, gradients):
                self._differentiate(column, of_column, upstream * gradient)

        loss.register_hook(encode_again)
        return loss

    def _encoded(self, part: Features) -> Tensor:
        # A model writes what it computes into its features, and keeps it there.
        return self.model(dict(part))["sentence_embedding"]

    def _mini_batches(self, features: Features) -> Iterator[Features]:
        if "offsets" in features:
            raise ValueError("features with offsets, a static embedding's, have no rows that could be encoded apart")
        rows = next(len(x) for x in features.values() if isinstance(x, Tensor))
        for start in range(0, rows, self.mini_batch_size):
            here = slice(start, start + self.mini_batch_size)
            yield {name: x[here] if isinstance(x, Tensor) else x for name, x in features.items()}

    def _differentiate(self, column: list[Features], states: list[_RandomState], gradient: Tensor) -> None:
        start = 0
        for features, state in zip(column, states):
            with torch.enable_grad(), state.again():
                embeddings = self._encoded(features)
            own = gradient[start : start + len(embeddings)]
            start += len(embeddings)
            if embeddings.requires_grad:
                embeddings.backward(own.to(embeddings.dtype))


class _RandomState:
    """The state of random numbers, so that the same ones can be drawn again."""

    def __init__(self, features: Features) -> None:
        self.on_cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(*features.values())

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=self.devices):
            torch.set_rng_state(self.on_cpu)
            set_device_states(self.devices, self.states)
            yield


class GISTEmbedLoss(Loss):
    """Anchors choose among positives, anchors and hard negatives, and positives among positives, all in one
    softmax, without what a guide finds closer than the pair (Solatorio 2024).

    A tie is none closer, and nothing is a negative of itself, whatever the guide says: see
    `kinfold::GUIDE_MARGIN`.

    Args:
        model: gives `sentence_embedding` for features.
        guide: another such model. Where it has a tokenizer of its own, texts are read anew with it.
        temperature: τ.
        margin_strategy, margin: "absolute" and 0; others have no meaning here.
        contrast_anchors, contrast_positives: whether anchors are pushed from anchors, and positives from
            positives: both or none.
        gather_across_devices: whether to share the batch with the other processes.
        group: the processes that share; None for all.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        temperature: float = 0.01,
        margin_strategy: Literal["absolute"] = "absolute",
        margin: float = 0.0,
        contrast_anchors: bool = True,
        contrast_positives: bool = True,
        gather_across_devices: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if margin_strategy != "absolute" or margin != 0.0:
            raise ValueError(
                f"margin_strategy is {margin_strategy!r} and margin {margin}, but must be 'absolute' and 0: the guide's "
                "margin is that of rounding"
            )
        if contrast_anchors != contrast_positives:
            raise ValueError("contrast_anchors and contrast_positives must be both True or both False")
        super().__init__(temperature, within_views=contrast_anchors, gather=gather_across_devices, group=group)
        self.model = model
        self.guide = guide
        self.contrast_anchors = contrast_anchors
        self.contrast_positives = contrast_positives
        self.gather_across_devices = gather_across_devices
        self.group = group

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        columns = list(sentence_features)
        if len(columns) not in (2, 3):
            raise ValueError(f"there are {len(columns)} columns, but must be 2 or 3: anchors, positives, negatives")
        # A model writes into its features.
        for_guide = [dict(features) for features in columns]
        embeddings = _embeddings(self.model, columns)
        with torch.no_grad():
            guide = _embeddings(self.guide, map(self._as_guide_reads, for_guide))
        return contrastive(*embeddings, guide=tuple(guide), temperature=self.temperature, **self.settings)

    def _as_guide_reads(self, features: Features) -> Features:
        own, other = (getattr(model, "tokenizer", None) for model in (self.model, self.guide))
        if own is None or other is None or own.get_vocab() == other.get_vocab():
            return features
        texts = own.batch_decode(features["input_ids"], skip_special_tokens=True)
        read = self.guide.preprocess(texts)
        device = features["input_ids"].device
        return {name: x.to(device) if isinstance(x, Tensor) else x for name, x in read.items()}


class MatryoshkaLoss(nn.Module):
    """One of the losses here over several prefixes of the embeddings (Kusupati et al. 2022), at the price of
    little more than one where it is `MultipleNegativesRankingLoss`, cached or not.

    Args:
        model: not looked at; the loss has it.
        loss: one of the losses here.
        matryoshka_dims: numbers of first features.
        matryoshka_weights: what each of them counts; None for 1.
        n_dims_per_step: so many of them at a time, drawn by chance; −1 for all.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        matryoshka_dims: Sequence[int],
        matryoshka_weights: Sequence[float] | None = None,
        n_dims_per_step: int = -1,
    ) -> None:
        super().__init__()
        if not isinstance(loss, Loss):
            raise TypeError(f"loss must be one of kinfold.torch, but is of type {type(loss).__name__}")
        if not matryoshka_dims:
            raise ValueError("matryoshka_dims are none, but at least one is needed")
        weights = [1.0] * len(matryoshka_dims) if matryoshka_weights is None else matryoshka_weights
        check_settings(matryoshka_dims=matryoshka_dims, matryoshka_weights=weights)
        self.loss = loss
        self.matryoshka_dims = tuple(matryoshka_dims)
        self.matryoshka_weights = tuple(weights)
        self.n_dims_per_step = n_dims_per_step

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        which = range(len(self.matryoshka_dims))
        if 0 < self.n_dims_per_step < len(which):
            which = random.sample(which, self.n_dims_per_step)
        settings = self.loss.settings
        self.loss.settings = {
            **settings,
            "matryoshka_dims": [self.matryoshka_dims[i] for i in which],
            "matryoshka_weights": [self.matryoshka_weights[i] for i in which],
        }
        try:
            return self.loss(sentence_features, labels)
        finally:
            self.loss.settings = settings
