"""A small CLIP for drawn scenes, in open_clip's architecture and folder format.

It sees what the service shows it, whole pictures and masked crops of regions, and learns which of many texts are true
of each: names of kinds, names of colours, both, and whole captions. Every pair of a picture and a text is its own yes
or no (SigLIP, arXiv:2303.15343), because many texts are true of one picture; naming the kind is a softmax besides.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from pipeline.engines.device import pick_device
from training.dataset import COLOUR_NAMES, KIND_NAMES, NONE, Scenes
from training.loop import Recipe, Run
from training.things import KINDS

SIDE = 80  # pixels of the model's input
MODEL: dict[str, Any] = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": SIDE, "layers": [1, 1, 2, 1], "width": 20, "head_width": 64},
    # The whole vocabulary, or open_clip's own tokenizer couldn't be used; so the width is small.
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}
PREPROCESSING: dict[str, Any] = {
    "mean": list(OPENAI_DATASET_MEAN),
    "std": list(OPENAI_DATASET_STD),
    "interpolation": "bicubic",
    "resize_mode": "longest",  # nothing of an elongated region is cut off
    "fill_color": [round(255 * level) for level in OPENAI_DATASET_MEAN],
}
FILL = np.array(PREPROCESSING["fill_color"], np.uint8)

SCENES, CROPS, BACKGROUNDS = 48, 72, 8  # pictures in a batch
PICTURES = SCENES + CROPS + BACKGROUNDS
KIND_PHRASES = ("a photo of a {}", "a photo of a {}", "{}", "a {}", "a picture of a {}")
COLOUR_PHRASES = ("{}", "{}", "a {} object", "something {}", "a photo of something {}")
BOTH_PHRASES = ("{} {}", "a {} {}", "a photo of a {} {}")
SOFTMAX_SCALE = 20.0
WEIGHTS_FILE = "open_clip_model.safetensors"
FULL_RECIPE = Recipe(steps=3000, learning_rate=2e-3, weight_decay=0.02, warmup=200, ema=0.998)

Pictures = npt.NDArray[np.uint8]  # (n, SIDE, SIDE, 3)
Truth = npt.NDArray[np.int8]  # (pictures, texts): 1 true, 0 false, NONE can't be said


class TrainableClip(nn.Module):
    """open_clip's model and what turns cosines into the odds of yes."""

    def __init__(self) -> None:
        super().__init__()
        self.clip: Any = open_clip.CLIP(**MODEL).to(memory_format=torch.channels_last)
        self.scale = nn.Parameter(torch.tensor(2.3))  # of the cosines, as a logarithm
        self.bias = nn.Parameter(torch.tensor(-4.0))

    def cosines(self, pictures: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Cosines of pictures, (n, 3, s, s), with texts, (m, tokens), as (n, m)."""
        seen = functional.normalize(self.clip.encode_image(pictures), dim=-1)
        said = functional.normalize(self.clip.encode_text(tokens), dim=-1)
        return seen.float() @ said.float().T


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures, texts, and which of them are true of which. The first texts name the kinds, in their order."""

    pictures: Pictures
    texts: list[str]
    truth: Truth
    kinds: npt.NDArray[np.int64]  # (n,), NONE where a picture doesn't show exactly one


def train_clip(scenes: Scenes, recipe: Recipe, checkpoint: Path | None, start: Path | None = None) -> Run:
    """Train from scratch, on from the weights in the folder `start`, or on from the checkpoint."""
    torch.manual_seed(recipe.seed)
    device = torch.device(pick_device("auto"))
    model = TrainableClip()
    if start is not None:
        model.clip.load_state_dict(load_file(start / WEIGHTS_FILE))
    model.to(device)
    run = Run(model, recipe, checkpoint)
    tokenize = open_clip.SimpleTokenizer(context_length=MODEL["text_cfg"]["context_length"])

    def loss_of(_step: int, rng: np.random.Generator) -> torch.Tensor:
        batch = draw_batch(scenes, rng)
        with torch.autocast(device.type, torch.bfloat16):
            cosines = model.cosines(prepare(batch.pictures).to(device), tokenize(batch.texts).to(device))
        return loss_of_cosines(model, cosines, batch)

    run.train(loss_of, "CLIP")
    return run


def loss_of_cosines(model: Any, cosines: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Yes or no for each pair, true ones weighing as much as false ones; and which kind, among all."""
    truth = torch.from_numpy(batch.truth).to(cosines.device)
    logits = cosines * model.scale.exp() + model.bias
    pairs = functional.binary_cross_entropy_with_logits(logits, (truth == 1).float(), reduction="none")
    yes, no = pairs[truth == 1].mean(), pairs[truth == 0].mean()
    kinds = torch.from_numpy(batch.kinds).to(cosines.device)
    naming = functional.cross_entropy(SOFTMAX_SCALE * cosines[:, : len(KIND_NAMES)], kinds, ignore_index=NONE)
    return naming + 2 * yes + 8 * no


def draw_batch(scenes: Scenes, rng: np.random.Generator) -> Batch:
    """Draw whole scenes, masked crops of things and of backgrounds, and texts about them."""
    whole = rng.integers(len(scenes), size=SCENES)
    cropped = rng.integers(len(scenes), size=CROPS)
    behind = rng.integers(len(scenes), size=BACKGROUNDS)
    numbers = np.array([rng.integers(1, 1 + (scenes.kinds[i] != NONE).sum()) for i in cropped])
    pictures = [
        *(fit(augment(scenes.pixels[i], rng)) for i in whole),
        *(fit(augment(crop(scenes, i, number, rng), rng)) for i, number in zip(cropped, numbers, strict=True)),
        *(fit(augment(crop(scenes, i, 0, rng), rng)) for i in behind),
    ]
    kinds = np.full((len(pictures), scenes.kinds.shape[1]), NONE, np.int64)
    colours = kinds.copy()
    kinds[:SCENES], colours[:SCENES] = scenes.kinds[whole], scenes.colours[whole]
    kinds[SCENES : SCENES + CROPS, 0] = scenes.kinds[cropped, numbers - 1]
    colours[SCENES : SCENES + CROPS, 0] = scenes.colours[cropped, numbers - 1]
    unsure = np.full(len(pictures), NONE)  # a colour of which one can't say whether it counts: the background's
    unsure[:SCENES] = scenes.backgrounds[whole]
    unsure[SCENES + CROPS :] = scenes.backgrounds[behind]

    texts = [phrase(rng, KIND_PHRASES, KINDS[kind].word) for kind in KIND_NAMES]
    wanted: list[tuple[int, int]] = [(k, NONE) for k in range(len(KIND_NAMES))]
    texts += [phrase(rng, COLOUR_PHRASES, colour) for colour in COLOUR_NAMES]
    wanted += [(NONE, c) for c in range(len(COLOUR_NAMES))]
    for kind, colour in rng.permutation(np.stack([kinds[:, 0], colours[:, 0]], 1)[: SCENES + CROPS])[:64]:
        for c in (colour, rng.integers(len(COLOUR_NAMES))):
            texts.append(phrase(rng, BOTH_PHRASES, COLOUR_NAMES[c], KINDS[KIND_NAMES[kind]].word))
            wanted.append((int(kind), int(c)))
    truth = judge(kinds, colours, unsure, np.array(wanted))
    texts += [scenes.captions[i][rng.integers(len(scenes.captions[i]))] for i in whole]
    truth = np.hstack([truth, judge_captions(kinds, SCENES)])
    alone = (kinds != NONE).sum(1) == 1
    return Batch(pictures=np.stack(pictures), texts=texts, truth=truth, kinds=np.where(alone, kinds[:, 0], NONE))


def judge(
    kinds: npt.NDArray[np.int64],
    colours: npt.NDArray[np.int64],
    unsure: npt.NDArray[np.int64],
    wanted: npt.NDArray[np.int64],
) -> Truth:
    """Say which texts are true of which pictures.

    Args:
        kinds: (n, 3) of the things shown.
        colours: (n, 3) of the things shown.
        unsure: (n,), a colour that may or may not count as shown.
        wanted: (m, 2), a kind and a colour that one thing must have; NONE for any.
    """
    shown = (kinds != NONE)[:, None, :]  # (n, 1, 3)
    kind_fits = (wanted[None, :, :1] == NONE) | (kinds[:, None, :] == wanted[None, :, :1])  # (n, m, 3)
    colour_fits = (wanted[None, :, 1:] == NONE) | (colours[:, None, :] == wanted[None, :, 1:])
    truth: Truth = (shown & kind_fits & colour_fits).any(2).astype(np.int8)
    only_colour = (wanted[:, 0] == NONE)[None]
    truth[only_colour & (unsure[:, None] == wanted[None, :, 1]) & (truth == 0)] = NONE
    return truth


def judge_captions(kinds: npt.NDArray[np.int64], num_captions: int) -> Truth:
    """The i-th caption is true of the i-th picture, and false of those that lack one of its kinds."""
    truth = np.full((len(kinds), num_captions), NONE, np.int8)
    for i in range(num_captions):
        needed = kinds[i][kinds[i] != NONE]
        has_all = (kinds[:, :, None] == needed).any(1).all(1)
        truth[~has_all, i] = 0
        truth[i, i] = 1
    return truth


def crop(scenes: Scenes, index: int, number: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Cut one thing (or, 0, the background) out as the service does with regions, with a mask that isn't perfect."""
    mask = (scenes.owners[index] == number).astype(np.uint8)
    roughness = rng.random()
    if roughness < 0.5:
        mask = (cv2.erode if roughness < 0.25 else cv2.dilate)(mask, np.ones((3, 3), np.uint8))
    x, y, width, height = cv2.boundingRect(mask)
    if width == 0 or height == 0:
        return np.asarray(scenes.pixels[index])
    area = (slice(y, y + height), slice(x, x + width))
    cut: npt.NDArray[np.uint8] = np.where(mask[area][..., None] > 0, scenes.pixels[index][area], FILL)
    return cut


def augment(pixels: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Blur a little at times: generated pictures are softer than drawn ones."""
    if rng.random() < 0.4:
        return np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.3, 1.2)), np.uint8)
    return pixels


def fit(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Scale the longer side to the model's input and lay the picture in the middle of it."""
    height, width = pixels.shape[:2]
    gain = SIDE / max(height, width)
    size = max(1, round(width * gain)), max(1, round(height * gain))
    scaled = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC if gain > 1 else cv2.INTER_AREA)
    canvas = np.broadcast_to(FILL, (SIDE, SIDE, 3)).copy()
    x, y = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    canvas[y : y + size[1], x : x + size[0]] = scaled
    return canvas


def prepare(pictures: Pictures) -> torch.Tensor:
    """Normalise (n, s, s, 3) uint8 to what the model takes, (n, 3, s, s)."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    batch: torch.Tensor = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - mean) / std
    return batch.contiguous(memory_format=torch.channels_last)


def phrase(rng: np.random.Generator, phrases: tuple[str, ...], *words: str) -> str:
    """Put words into one of several phrases."""
    return phrases[rng.integers(len(phrases))].format(*words)


def save_clip(run: Run, folder: Path) -> None:
    """Write the averaged weights as an open_clip folder, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESSING}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    prefix = "clip."
    with run.averaged():
        state = {
            name.removeprefix(prefix): t.half().cpu().contiguous()
            for name, t in run.model.state_dict().items()
            if name.startswith(prefix)
        }
    save_file(state, folder / WEIGHTS_FILE)
