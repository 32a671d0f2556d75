"""The judge of generated images: a plain classifier, trained independently of the models that it judges.

Its scenes have seeds disjoint from those of training, evaluation and CLIP, with all combinations of kind and colour.
For each kind it predicts whether it is in an image, and its colour if so.
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
from training.loop import Recipe, Run
from training.precision import mixed_precision
from training.scenes.dataset import COLOUR_NAMES, KIND_NAMES, NONE, Choice, Scenes, load_scenes

SIDE = 64  # pixels of the judge's input
DRAWN_SIDE = 128  # pixels of its scenes, whatever the size of the images that it judges
BATCH = 64
SCENES = 24_000
FIRST = 50_000_000  # seed of its scenes
RECIPE = Recipe(steps=3000, learning_rate=2e-3, ema=0.995)
KINDS_WEIGHT = 5.0  # relative to the colours: most kinds are absent, and their losses are small
PLACES_WEIGHT = 1.0  # of the cells' classification
BACKGROUND_WEIGHT = 0.3  # of cells without an object, the majority


class Judge(nn.Module):
    """A convolutional feature map; for each kind the colour is read where its activation is highest.

    Masks supervise each cell of the map, and image labels the presence of kinds: with image labels alone it would need
    many times as many images to separate two objects.
    """

    def __init__(self, num_kinds: int) -> None:
        super().__init__()
        self.near = nn.Sequential(
            *layer(3, 32, stride=2), *layer(32, 64, stride=2), Block(64), *layer(64, 96, stride=2), Block(96)
        )
        self.far = nn.Sequential(*layer(96, 160, stride=2), Block(160), nn.Upsample(scale_factor=2))
        self.both = nn.Sequential(*layer(96 + 160, 128, size=1), *layer(128, 128))
        self.kinds = nn.Conv2d(128, num_kinds, 1)
        self.background = nn.Conv2d(128, 1, 1)
        self.colours = nn.Conv2d(128, len(COLOUR_NAMES), 1)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Classify images, (n, 3, s, s).

        Returns:
            Logits of the kinds, (n, k), of each kind's colours, (n, k, c), and of what each place of the map shows,
            the background first, (n, 1 + k, h, w).
        """
        near = self.near(pictures)
        features = self.both(torch.cat([near, self.far(near)], 1))
        kinds = self.kinds(features)
        shown = kinds.flatten(2).float()  # (n, k, places)
        where = shown.softmax(2)
        colours = where @ self.colours(features).flatten(2).float().transpose(1, 2)
        return (shown * where).sum(2), colours, torch.cat([self.background(features), kinds], 1).float()


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layer(channels, channels), *layer(channels, channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Add to features, (n, c, h, w)."""
        added: torch.Tensor = features + self.layers(features)
        return added


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """The judge's predictions for images."""

    presence: npt.NDArray[np.float32]  # (n, k) logits, in the order of KIND_NAMES
    colours: npt.NDArray[np.int64]  # (n, k) into COLOUR_NAMES: the colour of each kind, if present

    def __len__(self) -> int:
        return len(self.presence)


def layer(channels_in: int, channels_out: int, stride: int = 1, size: int = 3) -> tuple[nn.Module, ...]:
    """A convolution with normalisation."""
    convolution = nn.Conv2d(channels_in, channels_out, size, stride, size // 2, bias=False)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)


def load_judge(work: Path) -> Any:
    """Load the judge of all kinds, after training it if `work` doesn't hold it yet."""
    choice = Choice(num=SCENES, side=DRAWN_SIDE, split="test", first=FIRST)
    return train_judge(load_scenes(choice, work), RECIPE, work / f"judge-{choice.name}.pt").result().cpu()


def train_judge(scenes: Scenes, recipe: Recipe, checkpoint: Path | None) -> Run:
    """Train from scratch, or on from the checkpoint."""
    device = torch.device(pick_device("auto"))
    torch.manual_seed(recipe.seed)
    judge = Judge(len(KIND_NAMES)).to(device).to(memory_format=torch.channels_last)
    run = Run(judge, recipe, checkpoint)

    def loss_of(_step: int, rng: np.random.Generator) -> torch.Tensor:
        chosen = rng.integers(len(scenes), size=BATCH)
        flipped = rng.random(BATCH) < 0.5
        turned = [slice(None, None, -1 if flip else 1) for flip in flipped]
        shown = [spoil(shrink(scenes.pixels[i][:, turn]), rng) for i, turn in zip(chosen, turned, strict=True)]
        with mixed_precision(device):
            presence, colours, places = judge(prepare(np.stack(shown)).to(device))
        owners = np.stack([scenes.owners[i][:, turn] for i, turn in zip(chosen, turned, strict=True)])
        kinds, painted = scenes.kinds[chosen].astype(np.int64), scenes.colours[chosen].astype(np.int64)
        return loss_of_presence(presence, colours, kinds, painted) + PLACES_WEIGHT * loss_of_places(
            places, owners, kinds
        )

    run.train(loss_of, "Judge")
    return run


def loss_of_presence(
    presence: torch.Tensor, colours: torch.Tensor, kinds: npt.NDArray[np.int64], painted: npt.NDArray[np.int64]
) -> torch.Tensor:
    """Binary loss for the presence of each kind, and the colour loss of those present.

    Args:
        presence: (n, k) logits.
        colours: (n, k, c) logits.
        kinds: (n, 3) of the things, NONE where there are fewer.
        painted: (n, 3), the things' colours.
    """
    rows, things = np.nonzero(kinds != NONE)
    there = torch.zeros_like(presence)
    there[rows, kinds[rows, things]] = 1.0
    wanted = torch.from_numpy(painted[rows, things]).to(presence.device)
    naming = functional.binary_cross_entropy_with_logits(presence, there)
    return KINDS_WEIGHT * naming + functional.cross_entropy(colours[rows, kinds[rows, things]], wanted)


def loss_of_places(places: torch.Tensor, owners: npt.NDArray[np.uint8], kinds: npt.NDArray[np.int64]) -> torch.Tensor:
    """Classification loss of the centre of each cell.

    Args:
        places: (n, 1 + k, h, w) logits, the background's first.
        owners: (n, s, s), 0 the background, then the things.
        kinds: (n, 3) of the things.
    """
    side, cells = owners.shape[1], places.shape[-1]
    middles = ((np.arange(cells) + 0.5) * side / cells).astype(int)
    owner = owners[:, middles][:, :, middles].astype(np.int64)  # (n, h, w)
    named = np.concatenate([np.full((len(kinds), 1), -1), kinds], 1) + 1  # the class of each owner
    wanted = torch.from_numpy(np.take_along_axis(named, owner.reshape(len(owner), -1), 1)).to(places.device)
    weight = torch.ones(places.shape[1], device=places.device)
    weight[0] = BACKGROUND_WEIGHT
    return functional.cross_entropy(places.flatten(2), wanted, weight)


@torch.no_grad()
def judge_pictures(judge: Any, pictures: npt.NDArray[np.uint8]) -> Verdicts:
    """Classify images, (n, h, w, 3)."""
    batches = [
        judge(prepare(np.stack([shrink(p) for p in pictures[i : i + BATCH]]))) for i in range(0, len(pictures), BATCH)
    ]
    presence, colours = (torch.cat([batch[k] for batch in batches]) for k in (0, 1))
    return Verdicts(presence=presence.numpy(), colours=colours.argmax(2).numpy())


def shrink(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Scale an image down to the judge's input."""
    return np.asarray(cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def spoil(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Augmentation: blur, noise and colour shifts, because generated images aren't as clean as drawn ones."""
    if rng.random() < 0.5:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.1)), np.uint8)
    noise = rng.normal(0, rng.uniform(0, 10), picture.shape) + rng.uniform(-8, 8, 3)
    spoilt: npt.NDArray[np.uint8] = (picture + noise).clip(0, 255).astype(np.uint8)
    return spoilt


def prepare(pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Pictures, (n, s, s, 3) uint8, as (n, 3, s, s) from -1 to 1."""
    batch = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return batch.contiguous(memory_format=torch.channels_last)
