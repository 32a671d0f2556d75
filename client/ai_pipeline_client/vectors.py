"""Embeddings as a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Tuple, Union, overload

from ai_pipeline_client.optional import require_numpy

Vector = Tuple[float, ...]


class Vectors(Sequence[Vector]):
    """Vectors of equal length; `numpy.asarray` makes an array (n, d) of float32 of them."""

    def __init__(self, vectors: Iterable[Vector]) -> None:
        self._vectors = tuple(vectors)

    def __len__(self) -> int:
        return len(self._vectors)

    @overload
    def __getitem__(self, index: int) -> Vector: ...
    @overload
    def __getitem__(self, index: slice) -> Vectors: ...
    def __getitem__(self, index: Union[int, slice]) -> Union[Vector, Vectors]:
        return Vectors(self._vectors[index]) if isinstance(index, slice) else self._vectors[index]

    def __repr__(self) -> str:
        return f"Vectors(n={len(self)}, d={len(self._vectors[0]) if self._vectors else 0})"

    def numpy(self) -> Any:
        """Return an array (n, d) of float32.

        Raises:
            ImportError: numpy isn't installed.
        """
        return self.__array__()

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        numpy = require_numpy()
        return numpy.array(self._vectors, dtype=dtype or numpy.float32)
