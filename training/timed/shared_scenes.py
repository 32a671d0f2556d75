"""Scenes in memory shared by all parts of a training, with latents and the state that parts exchange.

One process draws a chunk of scenes and then sets its flag; readers use only chunks with a set flag. Chunks are
immutable from then on, so there are no locks.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from training.scenes.dataset import CAPTIONS, MAX_THINGS, NONE, Scenes
from training.timed.recipe import PARTS, Part

LATENT_CHANNELS, LATENT_STRIDE = 16, 16  # as in `training.diffusion.architecture`, which would load torch
CAPTION_BYTES = 160
ALIGNMENT = 64  # bytes


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Number and size of the scenes in the memory."""

    num: int  # scenes, a multiple of `chunk`
    chunk: int  # scenes that are drawn together
    side: int  # pixels

    @property
    def arrays(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Types and shapes by name."""
        n, side, chunks = self.num, self.side, self.num // self.chunk
        latent_side = side // LATENT_STRIDE
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {
            "pixels": ("uint8", (n, side, side, 3)),
            "owners": ("uint8", (n, side, side)),
            "kinds": ("int8", (n, MAX_THINGS)),
            "colours": ("int8", (n, MAX_THINGS)),
            "backgrounds": ("int8", (n,)),
            "captions": (f"S{CAPTION_BYTES}", (n, CAPTIONS)),
            "num_things": ("uint8", (chunks,)),
            "drawn": ("uint8", (chunks,)),
            "latents": ("float16", (n, LATENT_CHANNELS, latent_side, latent_side)),
            "encoded": ("uint8", (chunks,)),
            "started_at": ("float64", (1,)),
            "scaling": ("float64", (1,)),
            "loaded": ("uint8", (len(PARTS),)),
            "ended": ("uint8", (len(PARTS),)),
        }
        return {name: (np.dtype(dtype), shape) for name, (dtype, shape) in shapes.items()}

    @property
    def size_bytes(self) -> int:
        """Of the whole memory."""
        return sum(_padded(dtype, shape) for dtype, shape in self.arrays.values())


class SharedScenes:
    """The arrays of a layout in a memory file, which child processes inherit by its descriptor.

    `pixels` (n, s, s, 3), `owners` (n, s, s), `kinds` and `colours` (n, 3), `backgrounds` (n,) are as in
    `training.scenes.dataset.Scenes`; `captions` (n, 4) are UTF-8; `latents` (n, 16, s / 16, s / 16) are unscaled;
    `num_things`, `drawn` and `encoded` have an entry for each chunk.
    """

    def __init__(self, layout: Layout, descriptor: int) -> None:
        self.layout = layout
        self.descriptor = descriptor
        memory = mmap.mmap(descriptor, layout.size_bytes)
        views: dict[str, Any] = {}
        offset = 0
        for name, (dtype, shape) in layout.arrays.items():
            views[name] = np.frombuffer(memory, dtype, math.prod(shape), offset).reshape(shape)
            offset += _padded(dtype, shape)
        self.pixels: npt.NDArray[np.uint8] = views["pixels"]
        self.owners: npt.NDArray[np.uint8] = views["owners"]
        self.kinds: npt.NDArray[np.int8] = views["kinds"]
        self.colours: npt.NDArray[np.int8] = views["colours"]
        self.backgrounds: npt.NDArray[np.int8] = views["backgrounds"]
        self.captions: npt.NDArray[np.bytes_] = views["captions"]
        self.num_things: npt.NDArray[np.uint8] = views["num_things"]
        self.drawn: npt.NDArray[np.uint8] = views["drawn"]
        self.latents: npt.NDArray[np.float16] = views["latents"]
        self.encoded: npt.NDArray[np.uint8] = views["encoded"]
        self._started_at: npt.NDArray[np.float64] = views["started_at"]
        self._scaling: npt.NDArray[np.float64] = views["scaling"]
        self._loaded: npt.NDArray[np.uint8] = views["loaded"]
        self._ended: npt.NDArray[np.uint8] = views["ended"]

    @classmethod
    def create(cls, layout: Layout) -> SharedScenes:
        """Reserve the memory; it is freed when the last process that maps it has ended."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("scenes")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, layout.size_bytes)
        shared = cls(layout, descriptor)
        shared._started_at[0] = shared._scaling[0] = np.nan
        return shared

    def close(self) -> None:
        """Close the descriptor; the arrays can still be read."""
        os.close(self.descriptor)

    @property
    def num_drawn(self) -> int:
        """Scenes that can be read."""
        return int(self.drawn.sum()) * self.layout.chunk

    @property
    def num_encoded(self) -> int:
        """Scenes whose latents can be read."""
        return int(self.encoded.sum()) * self.layout.chunk

    def rows(self, chunk: int) -> slice:
        """The scenes of a chunk."""
        return slice(chunk * self.layout.chunk, (chunk + 1) * self.layout.chunk)

    def view_drawn(self) -> Scenes:
        """The scenes from the first one up to the first that isn't drawn, in the form of a dataset on disk."""
        missing = np.flatnonzero(self.drawn == 0)
        end = int(missing[0]) * self.layout.chunk if len(missing) else self.layout.num
        return Scenes(
            pixels=self.pixels[:end],
            owners=self.owners[:end],
            kinds=self.kinds[:end],
            colours=self.colours[:end],
            backgrounds=self.backgrounds[:end],
            captions=Captions(self.captions[:end]),
        )

    @property
    def started_at(self) -> float | None:
        """When the training's clock started, in `time.monotonic` seconds; None before."""
        return _known(self._started_at)

    @started_at.setter
    def started_at(self, seconds: float) -> None:
        self._started_at[0] = seconds

    @property
    def scaling(self) -> float | None:
        """Of latents, to a deviation of 1; None until the autoencoder is trained."""
        return _known(self._scaling)

    @scaling.setter
    def scaling(self, value: float) -> None:
        self._scaling[0] = value

    def mark_loaded(self, part: Part) -> None:
        """Note that a part has loaded its libraries."""
        self._loaded[PARTS.index(part)] = 1

    def mark_ended(self, part: Part) -> None:
        """Note that a part has ended, successfully or not."""
        self._ended[PARTS.index(part)] = 1

    def is_loaded(self, part: Part) -> bool:
        """Whether a part has loaded its libraries, or never will."""
        return bool(self._loaded[PARTS.index(part)]) or self.is_ended(part)

    def is_ended(self, part: Part) -> bool:
        """Whether a part has ended."""
        return bool(self._ended[PARTS.index(part)])


class Captions(Sequence[tuple[str, ...]]):
    """Captions of scenes, (n, 4), decoded when they are read."""

    def __init__(self, encoded: npt.NDArray[np.bytes_]) -> None:
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    @overload
    def __getitem__(self, index: int) -> tuple[str, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> Captions: ...
    def __getitem__(self, index: int | slice) -> tuple[str, ...] | Captions:
        if isinstance(index, slice):
            return Captions(self._encoded[index])
        return tuple(caption.decode() for caption in self._encoded[index])


class NewChunks:
    """Hands out chunks whose flag is set, each of them once."""

    def __init__(self, flags: npt.NDArray[np.uint8]) -> None:
        self._flags = flags
        self._taken = np.zeros(len(flags), bool)

    def take(self, most: int) -> Iterator[int]:
        """Yield at most so many of the chunks that weren't yielded before."""
        for chunk in np.flatnonzero((self._flags != 0) & ~self._taken)[:most]:
            self._taken[chunk] = True
            yield int(chunk)


def blank_things(shared: SharedScenes, index: int) -> None:
    """Mark scenes as empty."""
    shared.owners[index] = 0
    shared.kinds[index] = shared.colours[index] = NONE


def _padded(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT


def _known(value: npt.NDArray[np.float64]) -> float | None:
    return None if np.isnan(value[0]) else float(value[0])
