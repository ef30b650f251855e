"""What all losses have in common as modules."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ._functional import check_settings


class Loss(nn.Module):
    """A loss of which all but the batch is known when it is built, and checked there.

    What its constructor takes is an attribute of the same name, and shown where it is not the default.
    """

    def __init__(self, temperature: float | Tensor | None = None, **settings: Any) -> None:
        super().__init__()
        check_settings(**settings, **({} if temperature is None else {"temperature": temperature}))
        #: What `contrastive` is given beside the batch and the temperature.
        self.settings = settings
        if temperature is not None:
            self.temperature = temperature

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Tensor: ...

    def extra_repr(self) -> str:
        shown = []
        for p in inspect.signature(type(self)).parameters.values():
            if p.kind is p.VAR_KEYWORD:
                shown += self.settings.items()
            elif not isinstance(value := getattr(self, p.name, p.default), nn.Module):
                if isinstance(value, Tensor) or value != p.default:
                    shown.append((p.name, value))
        return ", ".join(f"{name}={_shown(value)}" for name, value in dict(shown).items())


def _shown(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    return f"{value.item():.6g} (learned)" if value.numel() == 1 else f"a tensor {list(value.shape)}"
