"""Images as the service meets them, as labelled material for CLIP: generated ones, and drawn ones that went through the
autoencoder.

What a generated image shows is known from its prompt alone, so some labels are wrong where the diffusion model is.
Images for training use combinations of kind and colour that the training split shows; images for tests, all of them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderTiny
from numpy.lib.format import open_memmap
from rich.progress import track

from pipeline.engines import weights
from pipeline.engines.sam2 import Sam2Engine
from pipeline.records import Pixels
from pipeline.settings import Everything
from training.captions import with_article
from training.casting import cast_scene
from training.dataset import CAPTIONS, COLOUR_NAMES, KIND_NAMES, MAX_THINGS, NONE, Choice, Scenes, load_scenes
from training.evaluate_diffusion import load_engine, paint_one
from training.evaluate_sam2 import Masks, masks_of, open_engine, segment
from training.pen import distance
from training.splits import Split
from training.things import COLOURS, KINDS
from training.train_vae import to_tensor

OPENINGS = ("", "", "a photo of ", "a picture of ")
RELATIONS = {"in": "in", "on": "on", "left of": "next to", "right of": "and"}  # and the words for them
BACKGROUND_SAID, BACKGROUNDS = 0.3, ("white", "blue", "green", "gray", "pink", "brown")
PAIRS = 0.45  # share of images with two things
BORDER = 0.35  # of the image's border: a region that covers so much of it is the background
LEAST = 0.006  # of the image: smaller regions are no thing
ENCODED_AT_ONCE = 8
UNASSIGNED = 255  # owner of pixels of which nobody knows what they show


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Which images to generate; the same choice gives the same images with the same models."""

    num: int
    first: int  # seed of the first one; the others follow
    side: int  # pixels
    split: Split = "train"


@dataclass(frozen=True)
class PromptedThings:
    """A prompt, and the kinds and colours of the things that it asks for."""

    text: str
    things: tuple[tuple[str, str], ...]


def load_generated(choice: Generation, models: Path, folder: Path, everything: Everything) -> Scenes:
    """Load generated images as scenes, after generating those that `folder` doesn't hold yet.

    `owners` are 0 for the background, 1 and 2 for the things, and UNASSIGNED elsewhere; `backgrounds` are NONE.

    Args:
        choice: which images.
        models: the folder with `diffusion` and `sam2`.
        folder: where they are kept; an interrupted run is resumed.
        everything: SAM2's grid and thresholds.
    """
    digest = f"{weights.fingerprint(models / 'diffusion')[:8]}-{weights.fingerprint(models / 'sam2')[:8]}"
    place = folder / f"generated-{choice.split}-{choice.num}-{choice.first}-{choice.side}-{digest}"
    prompts = [choose_prompt(choice.first + i, choice.split) for i in range(choice.num)]
    if not place.exists():
        generate_all(choice, prompts, models, place.with_suffix(".partial"), everything)
        os.replace(place.with_suffix(".partial"), place)
    kinds = np.full((choice.num, MAX_THINGS), NONE, np.int8)
    colours = kinds.copy()
    for i, prompt in enumerate(prompts):
        for number, (kind, colour) in enumerate(prompt.things):
            kinds[i, number], colours[i, number] = KIND_NAMES.index(kind), COLOUR_NAMES.index(colour)
    return Scenes(
        pixels=np.load(place / "pixels.npy", mmap_mode="r"),
        owners=np.load(place / "owners.npy", mmap_mode="r"),
        kinds=kinds,
        colours=colours,
        backgrounds=np.full(choice.num, NONE, np.int8),
        captions=tuple((prompt.text,) * CAPTIONS for prompt in prompts),
    )


def generate_all(
    choice: Generation, prompts: Sequence[PromptedThings], models: Path, place: Path, everything: Everything
) -> None:
    """Generate and segment the images that `place` lacks."""
    shape = (choice.num, choice.side, choice.side)
    counter = place / "done.json"
    if not counter.exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        open_memmap(place / "pixels.npy", "w+", np.uint8, (*shape, 3)).flush()
        open_memmap(place / "owners.npy", "w+", np.uint8, shape).flush()
        counter.write_text("0")
    pixels, owners = (open_memmap(place / f"{name}.npy", "r+") for name in ("pixels", "owners"))
    diffusion, sam2 = load_engine(models / "diffusion", choice.side), open_engine(models / "sam2")
    for i in track(range(json.loads(counter.read_text()), choice.num), f"Generating {choice.num} images"):
        pixels[i] = paint_one(diffusion, prompts[i].text, choice.first + i, choice.side)
        owners[i] = assign_pixels(pixels[i], find_masks(sam2, pixels[i], everything), prompts[i].things)
        counter.write_text(str(i + 1))


def choose_prompt(seed: int, split: Split) -> PromptedThings:
    """A random prompt for one or two things."""
    rng = Random(f"prompt {split} {seed}")
    num = 2 if rng.random() < PAIRS else 1
    while True:
        things, relation = cast_scene(rng, num, KIND_NAMES, split, "any")
        if num == 1 or relation in RELATIONS:
            break
    names = [with_article(f"{colour} {KINDS[kind].word}") for kind, colour in things]
    text = names[0] if num == 1 else f"{names[0]} {RELATIONS[relation or '']} {names[1]}"
    if rng.random() < BACKGROUND_SAID:
        text += f" on a {rng.choice(BACKGROUNDS)} background"
    return PromptedThings(rng.choice(OPENINGS) + text, tuple(things))


def find_masks(engine: Sam2Engine, pixels: Pixels, everything: Everything) -> Masks:
    """Masks of all regions of an image, (n, h, w)."""
    return masks_of(segment(engine, pixels, everything))


def assign_pixels(pixels: Pixels, masks: Masks, things: Sequence[tuple[str, str]]) -> npt.NDArray[np.uint8]:
    """Say which region is the background and which is which thing, by border, size and colour.

    Returns:
        (h, w): 0 background, then the things, UNASSIGNED for the rest.
    """
    owners = np.full(pixels.shape[:2], UNASSIGNED, np.uint8)
    is_background = [covers_border(mask) for mask in masks]
    for mask, behind in zip(masks, is_background, strict=True):
        if behind:
            owners[mask] = 0
    rest = [mask for mask, behind in zip(masks, is_background, strict=True) if not behind and mask.mean() >= LEAST]
    for number, mask in match_colours(pixels, rest, [colour for _, colour in things]):
        owners[mask] = number + 1
    return owners


def covers_border(mask: npt.NDArray[np.bool_]) -> bool:
    """Whether a mask, (h, w), covers much of the image's border."""
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return bool(border.mean() >= BORDER)


def match_colours(
    pixels: Pixels, masks: Sequence[npt.NDArray[np.bool_]], colours: Sequence[str]
) -> list[tuple[int, npt.NDArray[np.bool_]]]:
    """Give each colour the largest region, or of several colours the region that is nearest to it.

    Returns:
        The colours' numbers with their masks; those for which no region is left are missing.
    """
    if len(colours) == 1:
        return [(0, max(masks, key=lambda mask: int(mask.sum())))] if masks else []
    means = [tuple(int(level) for level in cv2.mean(pixels, mask.astype(np.uint8))[:3]) for mask in masks]
    costs = sorted(
        (distance(COLOURS[colour], mean), number, k)  # type: ignore[arg-type]  # a mean has three levels
        for number, colour in enumerate(colours)
        for k, mean in enumerate(means)
    )
    matched: dict[int, int] = {}
    for _, number, k in costs:
        if number not in matched and k not in matched.values():
            matched[number] = k
    return [(number, masks[k]) for number, k in matched.items()]


def load_reconstructed(choice: Choice, models: Path, folder: Path) -> Scenes:
    """Load drawn scenes whose pixels went through the autoencoder; everything else of them is exact.

    Args:
        choice: which scenes.
        models: the folder with `diffusion`.
        folder: where they are kept; drawn and reconstructed first if it lacks them.
    """
    scenes = load_scenes(choice, folder)
    digest = weights.fingerprint(models / "diffusion")[:8]
    place = folder / f"reconstructed-{choice.name}-{digest}.npy"
    if not place.exists():
        vae = AutoencoderTiny.from_pretrained(models / "diffusion" / "vae", torch_dtype=torch.float32).eval()
        partial = place.with_suffix(".partial")
        pixels = open_memmap(partial, "w+", np.uint8, scenes.pixels.shape)
        for start in track(range(0, len(scenes), ENCODED_AT_ONCE), f"Reconstructing {len(scenes)} scenes"):
            part = slice(start, start + ENCODED_AT_ONCE)
            pixels[part] = reconstruct(vae, scenes.pixels[part])
        pixels.flush()
        os.replace(partial, place)
    return replace(scenes, pixels=np.load(place, mmap_mode="r"))


@torch.inference_mode()
def reconstruct(vae: Any, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Encode and decode images, (n, h, w, 3)."""
    decoded = vae.decode(vae.encode(to_tensor(pixels, "cpu")).latents).sample
    levels: npt.NDArray[np.uint8] = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return levels
