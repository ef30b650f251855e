"""What the native half offers to `kinfold.numpy` and `kinfold.torch`; nothing here is meant for others.

Arrays come as addresses. Whoever calls keeps them alive, and has them row by row in memory.
"""

from collections.abc import Sequence

__version__: str
#: By how much a guide must find a candidate closer than the pair.
GUIDE_MARGIN: float

class NotFinite(ValueError):
    """A NaN or an infinity among what a loss is computed of."""

# (address, count), and (address, rows, numbers in a row, numbers between the starts of two rows).
_Numbers = tuple[int, int]
_Rows = tuple[int, int, int, int]

class Loss:
    def __init__(
        self,
        *,
        form: str = "one-way",
        objective: str = "softmax",
        temperature: float = 0.1,
        reduction: str = "mean",
        normalize: bool = True,
        margin: float = 0.0,
        label_smoothing: float = 0.0,
        factor: float = 1.0,
        norm_floor: float = 1e-12,
        in_batch_negatives: bool = True,
        within_views: bool = False,
        offset: int = 0,
        sigma: float = 0.5,
        positive_share: float = 0.1,
        concentration: float = 1.0,
        q: float = 0.5,
        lam: float = 0.025,
        bias: float = -10.0,
        matryoshka_dims: Sequence[int] = (),
        matryoshka_weights: Sequence[float] | None = None,
    ) -> None: ...
    # All of them in one string.
    settings: str
    @staticmethod
    def of(settings: str) -> Loss: ...
    # Refuses, by their shapes or counts, what does not go together.
    def check(
        self,
        queries: list[int],
        keys: list[int] | None,
        negatives: list[int] | None,
        ids: int | None,
        labels: int | None,
        weights: int | None,
        guide: tuple[list[int], list[int], list[int] | None] | None,
    ) -> None: ...
    def floor(self, pairs: int) -> float | None: ...
    def ceiling(self, pairs: int) -> float: ...
    def compute(
        self,
        dtype: str,
        threads: int,
        open_mp: int | None,
        queries: _Rows,
        keys: _Rows | None,
        negatives: _Rows | None,
        per_query: bool,
        ids: _Numbers | None,
        labels: _Numbers | None,
        weights: _Numbers | None,
        guide: tuple[_Rows, _Rows, _Rows | None] | None,
        scale: float | None,
        bias: float | None,
        rows: _Numbers | None,
        gradients: tuple[_Numbers, _Numbers, _Numbers] | None,
    ) -> tuple[float, float, float]: ...

def knn_accuracy(
    dtype: str, train: tuple[_Rows, _Numbers], test: tuple[_Rows, _Numbers], k: int
) -> float: ...
def one_shot_accuracy(
    dtype: str, train: tuple[_Rows, _Numbers], test: tuple[_Rows, _Numbers], draws: int, seed: int
) -> float: ...
def linear_probe_accuracy(
    dtype: str, train: tuple[_Rows, _Numbers], test: tuple[_Rows, _Numbers]
) -> float: ...
def alignment(dtype: str, queries: _Rows, keys: _Rows) -> float: ...
def recall(dtype: str, queries: _Rows, keys: _Rows, k: int) -> float: ...
def uniformity(dtype: str, x: _Rows) -> float: ...
def effective_rank(dtype: str, x: _Rows) -> float: ...
def diagnose(
    dtype: str,
    queries: _Rows,
    keys: _Rows,
    temperature: float,
    labels: _Numbers | None,
    sample: int,
    seed: int,
) -> str: ...
