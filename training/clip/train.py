"""A small CLIP for drawn scenes, in open_clip's architecture and folder format.

Its inputs are those of the service: whole images and masked crops of regions and of backgrounds, drawn, reconstructed
by the autoencoder, and generated; and images without any known class, so that it learns to abstain. It learns which of
many texts are true of each: names of kinds, names of colours, both, and whole captions. Every pair of an image and a
text has a binary loss (SigLIP, arXiv:2303.15343), because many texts are true of one image; classification adds a
softmax loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
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
from pipeline.records import Pixels
from training.clip.unknown_images import draw_unknown
from training.loop import Recipe, Run
from training.precision import mixed_precision
from training.scenes.dataset import COLOUR_NAMES, KIND_NAMES, NONE, Scenes
from training.scenes.objects.kinds import KINDS

SIDE = 80  # pixels of the model's input
MODEL: dict[str, Any] = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": SIDE, "layers": [1, 1, 2, 1], "width": 20, "head_width": 64},
    # The whole vocabulary, because open_clip's own tokenizer is used; so the width is small.
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}
PREPROCESSING: dict[str, Any] = {
    "mean": list(OPENAI_DATASET_MEAN),
    "std": list(OPENAI_DATASET_STD),
    "interpolation": "bicubic",
    "resize_mode": "longest",  # elongated regions are not cropped
    "fill_color": [round(255 * level) for level in OPENAI_DATASET_MEAN],
}
FILL = np.array(PREPROCESSING["fill_color"], np.uint8)

WHOLE, CROPS, BACKGROUNDS, UNKNOWN = 34, 56, 14, 24  # pictures in a batch
PICTURES = WHOLE + CROPS + BACKGROUNDS + UNKNOWN
CLASSES = (*KIND_NAMES, "background", "unknown")
BACKGROUND, UNKNOWN_CLASS = len(KIND_NAMES), len(KIND_NAMES) + 1
KIND_PHRASES = ("a photo of a {}", "a photo of a {}", "{}", "a {}", "a picture of a {}")
BACKGROUND_PHRASES = ("a photo of a background", "background", "a background", "an empty background")
UNKNOWN_PHRASES = ("a photo of something unknown", "something unknown")
COLOUR_PHRASES = ("{}", "{}", "a {} object", "something {}", "a photo of something {}")
BOTH_PHRASES = ("{} {}", "a {} {}", "a photo of a {} {}")
COMBINATIONS = 64  # of kind and colour among the texts, each with a second text of another colour
PART_OF_BACKGROUND, BITTEN, BLURRED = 0.4, 0.3, 0.35  # shares of crops, and of all pictures
SOFTMAX_SCALE = 20.0
WEIGHTS_FILE = "open_clip_model.safetensors"
FULL_RECIPE = Recipe(steps=3000, learning_rate=2e-3, weight_decay=0.02, warmup=200, ema=0.998)

Pictures = npt.NDArray[np.uint8]  # (n, SIDE, SIDE, 3)
Truth = npt.NDArray[np.int8]  # (pictures, texts): 1 true, 0 false, NONE unknown


class TrainableClip(nn.Module):
    """open_clip's model, with a scale and a bias that turn cosines into logits."""

    def __init__(self) -> None:
        super().__init__()
        self.clip: Any = open_clip.CLIP(**MODEL).to(memory_format=torch.channels_last)
        self.scale = nn.Parameter(torch.tensor(2.3))  # of the cosines, as a logarithm
        self.bias = nn.Parameter(torch.tensor(-4.0))

    def cosines(self, pictures: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Cosines of pictures, (n, 3, s, s), with texts, (m, tokens), as (n, m)."""
        image_vectors = functional.normalize(self.clip.encode_image(pictures), dim=-1)
        text_vectors = functional.normalize(self.clip.encode_text(tokens), dim=-1)
        return image_vectors.float() @ text_vectors.float().T


@dataclass(frozen=True, kw_only=True)
class Material:
    """Scenes of one source, and their share of the images."""

    scenes: Scenes
    share: float


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image and its annotations."""

    pixels: Pixels
    kinds: npt.NDArray[np.int64]  # (3,) of the things in it, NONE where there are fewer
    colours: npt.NDArray[np.int64]  # (3,) of the things in it
    unsure: npt.NDArray[np.bool_]  # (colours,), colours that may or may not count as shown
    nothing: int = NONE  # BACKGROUND or UNKNOWN_CLASS where it shows no thing
    caption: str = ""  # of a whole scene

    @property
    def classes(self) -> npt.NDArray[np.int64]:
        """The correct classes, equally weighted."""
        return self.kinds[self.kinds != NONE] if self.nothing == NONE else np.array([self.nothing])


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images, texts, and the truth of each pair. The first texts are those of the classes, in order."""

    pictures: Pictures
    texts: list[str]
    truth: Truth
    targets: npt.NDArray[np.float32]  # (n, classes), each row adds up to 1


def train_clip(
    materials: Sequence[Material], recipe: Recipe, checkpoint: Path | None, start: Path | None = None
) -> Run:
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
        batch = draw_batch(materials, rng)
        with mixed_precision(device):
            cosines = model.cosines(prepare(batch.pictures).to(device), tokenize(batch.texts).to(device))
        return loss_of_cosines(model, cosines, batch)

    run.train(loss_of, "CLIP")
    return run


def loss_of_cosines(model: Any, cosines: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Binary loss of each pair, balanced between true and false ones; and softmax loss over the classes."""
    truth = torch.from_numpy(batch.truth).to(cosines.device)
    logits = cosines * model.scale.exp() + model.bias
    pairs = functional.binary_cross_entropy_with_logits(logits, (truth == 1).float(), reduction="none")
    yes, no = pairs[truth == 1].mean(), pairs[truth == 0].mean()
    targets = torch.from_numpy(batch.targets).to(cosines.device)
    naming = functional.cross_entropy(SOFTMAX_SCALE * cosines[:, : len(CLASSES)], targets)
    return naming + 2 * yes + 8 * no


def draw_batch(materials: Sequence[Material], rng: np.random.Generator) -> Batch:
    """Draw whole scenes, masked crops of objects and of backgrounds, unknown images, and texts about them."""

    def draw(show: Callable[[Scenes, np.random.Generator], Shown], num: int) -> list[Shown]:
        shares = [material.share for material in materials]
        chosen = rng.choice(len(materials), num, p=np.array(shares) / sum(shares))
        return [show(materials[k].scenes, rng) for k in chosen]

    shown = [
        *draw(show_whole, WHOLE),
        *draw(show_thing, CROPS),
        *draw(show_background, BACKGROUNDS),
        *draw(show_unknown, UNKNOWN),
    ]
    kinds, colours = np.stack([each.kinds for each in shown]), np.stack([each.colours for each in shown])
    nothing = np.array([each.nothing for each in shown])
    texts, wanted = write_texts(kinds, colours, rng)
    truth = judge(kinds, colours, np.stack([each.unsure for each in shown]), wanted)
    truth[:, BACKGROUND], truth[:, UNKNOWN_CLASS] = (
        judge_nothing(nothing, BACKGROUND),
        judge_nothing(nothing, UNKNOWN_CLASS),
    )
    truth[:WHOLE, [BACKGROUND, UNKNOWN_CLASS]] = NONE  # a scene has a background too
    texts += [each.caption for each in shown[:WHOLE]]
    targets = np.zeros((len(shown), len(CLASSES)), np.float32)
    for row, each in zip(targets, shown, strict=True):
        row[each.classes] = 1 / len(each.classes)
    return Batch(
        pictures=np.stack([fit(augment(each.pixels, rng)) for each in shown]),
        texts=texts,
        truth=np.hstack([truth, judge_captions(kinds, WHOLE)]),
        targets=targets,
    )


def write_texts(
    kinds: npt.NDArray[np.int64], colours: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Write texts about classes, colours, and combinations, half of which are shown.

    Args:
        kinds: (n, 3) of the things shown.
        colours: (n, 3) of the things shown.

    Returns:
        Texts, and (m, 2), the kind and the colour that one object must have for each to be true; NONE for any. The
        texts of BACKGROUND and UNKNOWN_CLASS are handled elsewhere.
    """
    texts = [phrase(rng, KIND_PHRASES, KINDS[kind].word) for kind in KIND_NAMES]
    texts += [phrase(rng, BACKGROUND_PHRASES), phrase(rng, UNKNOWN_PHRASES)]
    wanted: list[tuple[int, int]] = [(k, NONE) for k in range(len(CLASSES))]
    texts += [phrase(rng, COLOUR_PHRASES, colour) for colour in COLOUR_NAMES]
    wanted += [(NONE, c) for c in range(len(COLOUR_NAMES))]
    pairs = np.stack([kinds[:, 0], colours[:, 0]], 1)
    for kind, colour in rng.permutation(pairs[kinds[:, 0] != NONE])[:COMBINATIONS]:
        for c in (colour, rng.integers(len(COLOUR_NAMES))):
            texts.append(phrase(rng, BOTH_PHRASES, COLOUR_NAMES[c], KINDS[KIND_NAMES[kind]].word))
            wanted.append((int(kind), int(c)))
    return texts, np.array(wanted)


def judge(
    kinds: npt.NDArray[np.int64],
    colours: npt.NDArray[np.int64],
    unsure: npt.NDArray[np.bool_],
    wanted: npt.NDArray[np.int64],
) -> Truth:
    """Determine which texts are true of which images.

    Args:
        kinds: (n, 3) of the things shown.
        colours: (n, 3) of the things shown.
        unsure: (n, colours), colours that may or may not count as shown.
        wanted: (m, 2), a kind and a colour that one thing must have; NONE for any.
    """
    shown = (kinds != NONE)[:, None, :]  # (n, 1, 3)
    kind_fits = (wanted[None, :, :1] == NONE) | (kinds[:, None, :] == wanted[None, :, :1])  # (n, m, 3)
    colour_fits = (wanted[None, :, 1:] == NONE) | (colours[:, None, :] == wanted[None, :, 1:])
    truth: Truth = (shown & kind_fits & colour_fits).any(2).astype(np.int8)
    only_colour = np.flatnonzero(wanted[:, 0] == NONE)
    open_to_doubt = unsure[:, wanted[only_colour, 1]] & (truth[:, only_colour] == 0)
    truth[:, only_colour] = np.where(open_to_doubt, NONE, truth[:, only_colour])
    return truth


def judge_nothing(nothing: npt.NDArray[np.int64], which: int) -> npt.NDArray[np.int8]:
    """Whether each image, (n,), shows that class without objects."""
    shown: npt.NDArray[np.int8] = (nothing == which).astype(np.int8)
    return shown


def judge_captions(kinds: npt.NDArray[np.int64], num_captions: int) -> Truth:
    """The i-th caption is true of the i-th picture, and false of those that lack one of its kinds."""
    truth = np.full((len(kinds), num_captions), NONE, np.int8)
    for i in range(num_captions):
        needed = kinds[i][kinds[i] != NONE]
        has_all = (kinds[:, :, None] == needed).any(1).all(1)
        truth[~has_all, i] = 0
        truth[i, i] = 1
    return truth


def show_whole(scenes: Scenes, rng: np.random.Generator) -> Shown:
    """A whole scene with one of its captions."""
    i = int(rng.integers(len(scenes)))
    captions = scenes.captions[i]
    return Shown(
        pixels=np.asarray(scenes.pixels[i]),
        kinds=scenes.kinds[i].astype(np.int64),
        colours=scenes.colours[i].astype(np.int64),
        unsure=background_colours(scenes, i),
        caption=captions[rng.integers(len(captions))],
    )


def show_thing(scenes: Scenes, rng: np.random.Generator) -> Shown:
    """One object of a scene, cropped; the background if none of the scene's objects was found."""
    i = int(rng.integers(len(scenes)))
    visible = [number for number in np.flatnonzero(scenes.kinds[i] != NONE) + 1 if (scenes.owners[i] == number).any()]
    if not visible:
        return show_background(scenes, rng)
    number = int(rng.choice(visible))
    kinds, colours = np.full((2, scenes.kinds.shape[1]), NONE)
    kinds[0], colours[0] = scenes.kinds[i, number - 1], scenes.colours[i, number - 1]
    return Shown(
        pixels=crop(scenes, i, number, rng), kinds=kinds, colours=colours, unsure=np.zeros(len(COLOUR_NAMES), np.bool_)
    )


def show_background(scenes: Scenes, rng: np.random.Generator) -> Shown:
    """A scene's background, whole or a part of it, with its objects removed."""
    i = int(rng.integers(len(scenes)))
    pixels = crop(scenes, i, 0, rng)
    if rng.random() < PART_OF_BACKGROUND:  # sky and ground may be regions of their own
        height, width = pixels.shape[:2]
        top, left = int(rng.uniform(0, 0.5) * height), int(rng.uniform(0, 0.3) * width)
        pixels = pixels[
            top : top + int(rng.uniform(0.25, 0.5) * height), left : left + int(rng.uniform(0.5, 0.7) * width)
        ]
    nowhere = np.full(scenes.kinds.shape[1], NONE)
    return Shown(
        pixels=pixels, kinds=nowhere, colours=nowhere, unsure=background_colours(scenes, i), nothing=BACKGROUND
    )


def show_unknown(scenes: Scenes, rng: np.random.Generator) -> Shown:
    """An image without any known class."""
    nowhere = np.full(scenes.kinds.shape[1], NONE)
    return Shown(
        pixels=draw_unknown(scenes, FILL, rng),
        kinds=nowhere,
        colours=nowhere,
        unsure=np.ones(len(COLOUR_NAMES), np.bool_),
        nothing=UNKNOWN_CLASS,
    )


def background_colours(scenes: Scenes, index: int) -> npt.NDArray[np.bool_]:
    """The colours, (colours,), that a scene's background may have: the one that is known, or any."""
    known = scenes.backgrounds[index]
    return np.ones(len(COLOUR_NAMES), np.bool_) if known == NONE else np.arange(len(COLOUR_NAMES)) == known


def crop(scenes: Scenes, index: int, number: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Crop one object (or, 0, the background) as the service does with regions, with an imperfect mask."""
    mask = (scenes.owners[index] == number).astype(np.uint8)
    roughness = rng.random()
    if roughness < 0.5:
        side = int(rng.choice((3, 5)))
        mask = (cv2.erode if roughness < 0.25 else cv2.dilate)(mask, np.ones((side, side), np.uint8))
    x, y, width, height = cv2.boundingRect(mask)
    if width == 0 or height == 0:
        return np.asarray(scenes.pixels[index])
    area = (slice(y, y + height), slice(x, x + width))
    if number and rng.random() < BITTEN:
        bite(mask[area], rng)
    cut: npt.NDArray[np.uint8] = np.where(mask[area][..., None] > 0, scenes.pixels[index][area], FILL)
    return cut


def bite(mask: npt.NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Augmentation: remove a part of a mask, (h, w), in place, because regions lack parts of other colours."""
    height, width = mask.shape
    centre = int(rng.uniform(0, width)), int(rng.uniform(0, height))
    axes = int(rng.uniform(0.05, 0.3) * width), int(rng.uniform(0.05, 0.3) * height)
    cv2.ellipse(mask, centre, axes, rng.uniform(0, 180), 0, 360, 0, cv2.FILLED)


def augment(pixels: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Augmentation: slight random blur, because generated images are blurrier than drawn ones."""
    if rng.random() < BLURRED:
        return np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.6, 2.4)), np.uint8)
    return pixels


def fit(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Scale the longer side to the model's input and centre the image in it."""
    height, width = pixels.shape[:2]
    gain = SIDE / max(height, width)
    size = max(1, round(width * gain)), max(1, round(height * gain))
    scaled = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC if gain > 1 else cv2.INTER_AREA)
    canvas = np.broadcast_to(FILL, (SIDE, SIDE, 3)).copy()
    x, y = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    canvas[y : y + size[1], x : x + size[0]] = scaled
    return canvas


def prepare(pictures: Pictures) -> torch.Tensor:
    """Normalise (n, s, s, 3) uint8 to the model's input, (n, 3, s, s)."""
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
