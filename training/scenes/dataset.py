"""A dataset of scenes shared by all models, in memory-mapped files, because drawing takes longer than loading."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from random import Random

import cv2
import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap
from rich.progress import track

from pipeline.settings import PROJECT_ROOT
from training.scenes.captions import write_caption
from training.scenes.objects.kinds import COLOURS, KINDS
from training.scenes.render import Scene, Thing, draw_scene
from training.scenes.splits import Combination, Split

WORK = PROJECT_ROOT / ".training"  # where scenes and checkpoints are kept by default
SIDE = 256  # pixels of the scenes
MAX_THINGS = 3
CAPTIONS = 4  # written for each scene
CHUNK = 250  # scenes drawn by a process at a time
NEXT_TRY = 1_000_000_000  # from the seed of a scene that doesn't fit to the one that is tried instead
NONE = -1

KIND_NAMES = tuple(KINDS)
COLOUR_NAMES = tuple(COLOURS)


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Scenes as a struct of arrays; objects are numbered front to back."""

    pixels: npt.NDArray[np.uint8]  # (n, s, s, 3)
    owners: npt.NDArray[np.uint8]  # (n, s, s): 0 the background, 1 the first thing, 2 the second, …
    kinds: npt.NDArray[np.int8]  # (n, 3) into KIND_NAMES, NONE where there are fewer things
    colours: npt.NDArray[np.int8]  # (n, 3) into COLOUR_NAMES
    backgrounds: npt.NDArray[np.int8]  # (n,) into COLOUR_NAMES, NONE for a colour that isn't among them
    captions: Sequence[tuple[str, ...]]  # n × CAPTIONS

    def __len__(self) -> int:
        return len(self.kinds)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Parameters that identify a set of scenes."""

    num: int
    side: int  # pixels
    split: Split = "train"
    num_things: int | None = None  # 1 to 3; as the scenes come if None
    combination: Combination = "any"
    first: int = 0  # seed of the first one; the others follow
    kinds: tuple[str, ...] | None = None  # allowed kinds; all if None
    min_length: float | None = None  # of the longer side of each thing's visible part, as a share of the picture's

    @property
    def name(self) -> str:
        """A folder name with all parameters."""
        parts: list[object] = [self.num, self.side, self.split, self.num_things, self.combination, self.first]
        if self.kinds is not None:
            parts.append(f"{len(self.kinds)}kinds{zlib.crc32(' '.join(self.kinds).encode()):08x}")
        if self.min_length is not None:
            parts.append(f"from{self.min_length}")
        return "-".join(str(part) for part in parts)


def load_scenes(choice: Choice, folder: Path, workers: int = 2) -> Scenes:
    """Load scenes, after drawing them if `folder` doesn't hold them yet."""
    place = folder / choice.name
    if not place.exists():
        partial = place.with_name(f"{choice.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _draw_all(choice, partial, workers)
        partial.rename(place)
    arrays = {file: np.load(place / f"{file}.npy", mmap_mode="r") for file in _shapes(choice)}
    return Scenes(**arrays, captions=tuple(map(tuple, json.loads((place / "captions.json").read_text()))))


def _shapes(choice: Choice) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
    n, side = choice.num, choice.side
    return {
        "pixels": (np.uint8, (n, side, side, 3)),
        "owners": (np.uint8, (n, side, side)),
        "kinds": (np.int8, (n, MAX_THINGS)),
        "colours": (np.int8, (n, MAX_THINGS)),
        "backgrounds": (np.int8, (n,)),
    }


def _draw_all(choice: Choice, place: Path, workers: int) -> None:
    for name, (dtype, shape) in _shapes(choice).items():
        open_memmap(place / f"{name}.npy", "w+", dtype, shape).flush()
    starts = range(0, choice.num, CHUNK)
    captions: list[list[str]] = []
    # Forking after torch has computed can deadlock the child, which waits for threads that it lacks.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        drawing = pool.map(_draw_chunk, [choice] * len(starts), [place] * len(starts), starts)
        for written in track(drawing, f"Drawing {choice.num} scenes", total=len(starts)):
            captions += written
    (place / "captions.json").write_text(json.dumps(captions))


def _draw_chunk(choice: Choice, place: Path, start: int) -> list[list[str]]:
    cv2.setNumThreads(1)
    arrays = {name: open_memmap(place / f"{name}.npy", "r+") for name in _shapes(choice)}
    captions = []
    for i in range(start, min(start + CHUNK, choice.num)):
        seed = choice.first + i
        scene = _draw_fitting(choice, seed)
        arrays["pixels"][i] = scene.pixels
        arrays["kinds"][i], arrays["colours"][i] = NONE, NONE
        for number, thing in enumerate(scene.things):
            arrays["owners"][i][thing.mask] = number + 1
            arrays["kinds"][i, number] = KIND_NAMES.index(thing.kind)
            arrays["colours"][i, number] = COLOUR_NAMES.index(thing.colour)
        behind = scene.background.colour
        arrays["backgrounds"][i] = COLOUR_NAMES.index(behind) if behind in COLOUR_NAMES else NONE
        rng = Random(f"captions {choice.split} {seed}")
        captions.append([write_caption(rng, scene.facts, scene.relation, scene.background) for _ in range(CAPTIONS)])
    return captions


def _draw_fitting(choice: Choice, seed: int) -> Scene:
    """Draw the scene of the seed, or of the first following seed in which all objects are large enough."""
    for attempt in count():
        scene = draw_scene(
            seed + attempt * NEXT_TRY,
            choice.side,
            split=choice.split,
            num_things=choice.num_things,
            kinds=choice.kinds or KIND_NAMES,
            combination=choice.combination,
        )
        if all(_length(thing) >= (choice.min_length or 0) * choice.side for thing in scene.things):
            break
    return scene


def _length(thing: Thing) -> int:
    left, top, right, bottom = thing.box
    return max(right - left, bottom - top)
