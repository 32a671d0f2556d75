"""The judge of generated pictures: a plain classifier, trained apart from the models that it judges.

It learns from scenes of other seeds than training, evaluation and CLIP see, in all combinations of kind and colour, and
knows only the kinds that the diffusion model knows. It says for each kind whether it is in a picture, and in what
colour it would be.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from pipeline.engines.device import pick_device
from training.dataset import COLOUR_NAMES, KIND_NAMES, NONE, Choice, Scenes, load_scenes
from training.loop import Recipe, Run

SIDE = 64  # pixels of the judge's input
BATCH = 64
SCENES = 20_000
FIRST = 50_000_000  # seed of its scenes
RECIPE = Recipe(steps=2500, learning_rate=2e-3)
KINDS_WEIGHT = 5.0  # against the colours: most kinds aren't there, and their losses are small


class Judge(nn.Module):
    """Convolutions to an 8 × 8 map; each kind looks where it shows most, and reads the colour there."""

    def __init__(self, num_kinds: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *layer(3, 16), *layer(16, 32, stride=2), *layer(32, 32), *layer(32, 64, stride=2), *layer(64, 64),
            *layer(64, 128, stride=2), *layer(128, 128), *layer(128, 128),
        )  # fmt: skip
        self.kinds = nn.Conv2d(128, num_kinds, 1)
        self.colours = nn.Conv2d(128, len(COLOUR_NAMES), 1)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Judge pictures, (n, 3, s, s), as logits of the kinds, (n, k), and of each kind's colours, (n, k, c)."""
        features = self.features(pictures)
        shown = self.kinds(features).flatten(2).float()  # (n, k, places)
        where = shown.softmax(2)
        return (shown * where).sum(2), where @ self.colours(features).flatten(2).float().transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What the judge says of pictures."""

    presence: npt.NDArray[np.float32]  # (n, k) logits, in the order of the judge's kinds
    colours: npt.NDArray[np.int64]  # (n, k) into COLOUR_NAMES: what colour each kind has, if it is there

    def __len__(self) -> int:
        return len(self.presence)


def layer(channels_in: int, channels_out: int, stride: int = 1) -> tuple[nn.Module, ...]:
    """A 3 × 3 convolution, normalised."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)


def load_judge(kinds: tuple[str, ...], work: Path, side: int) -> Any:
    """Load the judge of these kinds, after training it if `work` doesn't hold it yet."""
    choice = Choice(num=SCENES, side=side, split="test", kinds=kinds, first=FIRST)
    return train_judge(load_scenes(choice, work), kinds, RECIPE, work / f"judge-{choice.name}.pt").result().cpu()


def train_judge(scenes: Scenes, kinds: tuple[str, ...], recipe: Recipe, checkpoint: Path | None) -> Run:
    """Train from scratch, or on from the checkpoint."""
    device = pick_device("auto")
    torch.manual_seed(recipe.seed)
    judge = Judge(len(kinds)).to(device).to(memory_format=torch.channels_last)
    run = Run(judge, recipe, checkpoint)
    order = np.full(len(KIND_NAMES), NONE)
    order[[KIND_NAMES.index(kind) for kind in kinds]] = range(len(kinds))

    def loss_of(_step: int, rng: np.random.Generator) -> torch.Tensor:
        chosen = rng.integers(len(scenes), size=BATCH)
        pictures = prepare(np.stack([spoil(shrink(scenes.pixels[i]), rng) for i in chosen])).to(device)
        with torch.autocast(pictures.device.type, torch.bfloat16):
            presence, colours = judge(pictures)
        rows, things = np.nonzero(scenes.kinds[chosen] != NONE)
        shown = order[scenes.kinds[chosen][rows, things]]
        there = torch.zeros_like(presence)
        there[rows, shown] = 1.0
        wanted = torch.from_numpy(scenes.colours[chosen][rows, things].astype(np.int64)).to(device)
        naming = functional.binary_cross_entropy_with_logits(presence, there)
        return KINDS_WEIGHT * naming + functional.cross_entropy(colours[rows, shown], wanted)

    run.train(loss_of, "Judge")
    return run


@torch.no_grad()
def judge_pictures(judge: Any, pictures: npt.NDArray[np.uint8]) -> Verdicts:
    """Judge pictures, (n, h, w, 3)."""
    presence, colours = judge(prepare(np.stack([shrink(picture) for picture in pictures])))
    return Verdicts(presence=presence.numpy(), colours=colours.argmax(2).numpy())


def shrink(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Scale a picture down to what the judge sees."""
    return np.asarray(cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def spoil(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Blur at times, add noise and shift the colours: generated pictures aren't as clean as drawn ones."""
    if rng.random() < 0.5:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.1)), np.uint8)
    noise = rng.normal(0, rng.uniform(0, 10), picture.shape) + rng.uniform(-8, 8, 3)
    spoilt: npt.NDArray[np.uint8] = (picture + noise).clip(0, 255).astype(np.uint8)
    return spoilt


def prepare(pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Pictures, (n, s, s, 3) uint8, as (n, 3, s, s) from -1 to 1."""
    batch = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return batch.contiguous(memory_format=torch.channels_last)
