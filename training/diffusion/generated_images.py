"""Images as the service sees them: generated ones, and drawn ones reconstructed by the autoencoder.

Labels of generated images come from their prompts, so some are wrong where the diffusion model fails. Images are cached
by prompts and model, so that several evaluations use the same ones.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderTiny
from numpy.lib.format import open_memmap
from rich.progress import track

from pipeline.engines import weights
from pipeline.engines.device import pick_device
from pipeline.engines.diffusion.engine import DiffusionEngine
from pipeline.engines.sam2.engine import Sam2Engine
from pipeline.imaging.masks import Mask
from pipeline.records import GenerationRequest, Pixels, Scheduler
from pipeline.settings import (
    AutomaticMaskSettings,
    DiffusionSettings,
    GenerationDefaults,
    GenerationLimits,
    ModelSource,
)
from training.diffusion.prompt_sets import Prompt
from training.diffusion.train_vae import to_tensor
from training.sam2.serving import Masks, masks_of, open_engine, segment
from training.scenes.canvas import distance
from training.scenes.dataset import CAPTIONS, COLOUR_NAMES, KIND_NAMES, MAX_THINGS, NONE, Choice, Scenes, load_scenes
from training.scenes.objects.kinds import COLOURS

STEPS, GUIDANCE = 15, 3.0  # as in `configs/mini.yaml`
BORDER = 0.24  # of the image's border, about one side: a region that covers as much is the background
LEAST = 0.006  # of the image: smaller regions are not objects
UNASSIGNED = 255  # owner of pixels whose content is unknown
ENCODED_AT_ONCE = 8

Images = npt.NDArray[np.uint8]  # (n, h, w, 3)


def load_engine(folder: Path, side: int) -> DiffusionEngine:
    """Load a pipeline folder as the service does."""
    settings = DiffusionSettings(
        model=ModelSource(source=str(folder.resolve())),
        defaults=GenerationDefaults(width=side, height=side, steps=STEPS, guidance=GUIDANCE, scheduler=Scheduler.DDIM),
        limits=GenerationLimits(min_side=64, max_side=384, side_multiple=32),
    )
    return DiffusionEngine(settings, pick_device("auto"))


def generate(engine: DiffusionEngine, prompt: str, seed: int, side: int) -> Pixels:
    """Generate an image as the service does by default."""
    request = GenerationRequest(
        prompt=prompt,
        negative_prompt="",
        width=side,
        height=side,
        steps=STEPS,
        guidance=GUIDANCE,
        seed=seed,
        scheduler=Scheduler.DDIM,
    )
    *_, image = engine.generate(request)
    if not isinstance(image, np.ndarray):
        raise TypeError("the engine ended without an image")
    return image


def load_images(prompts: Sequence[Prompt], folder: Path, kept: Path, side: int) -> Images:
    """Load the images of prompts, (n, side, side, 3), after generating those missing in `kept`.

    Args:
        prompts: each with the seed of its image.
        folder: of the diffusion model.
        kept: where images are kept; an interrupted run is resumed.
        side: height and width in pixels.
    """
    digest = zlib.crc32(repr(prompts).encode())
    place = kept / f"images-{len(prompts)}-{side}-{digest:08x}-{weights.fingerprint(folder)[:8]}"
    if not place.exists():
        partial = place.with_suffix(".partial")
        counter = partial / "done.json"
        if not counter.exists():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            open_memmap(partial / "images.npy", "w+", np.uint8, (len(prompts), side, side, 3)).flush()
            counter.write_text("0")
        images = open_memmap(partial / "images.npy", "r+")
        engine = load_engine(folder, side)
        for i in track(range(json.loads(counter.read_text()), len(prompts)), f"Generating {len(prompts)} images"):
            images[i] = generate(engine, prompts[i].text, prompts[i].seed, side)
            counter.write_text(str(i + 1))
        os.replace(partial, place)
    loaded: Images = np.load(place / "images.npy", mmap_mode="r")
    return loaded


def load_generated(
    prompts: Sequence[Prompt], models: Path, kept: Path, everything: AutomaticMaskSettings, side: int
) -> Scenes:
    """Load generated images as scenes whose masks are the regions that SAM2 finds.

    `owners` are 0 for the background, 1 and 2 for the things, and UNASSIGNED elsewhere; `backgrounds` are NONE.

    Args:
        prompts: each with the seed of its image.
        models: the folder with `diffusion` and `sam2`.
        kept: where images and regions are kept.
        everything: SAM2's grid and thresholds.
        side: height and width in pixels.
    """
    images = load_images(prompts, models / "diffusion", kept, side)
    digest = zlib.crc32(repr((prompts, everything)).encode())
    digests = "-".join(weights.fingerprint(models / name)[:8] for name in ("diffusion", "sam2"))
    place = kept / f"owners-{len(prompts)}-{side}-{digest:08x}-{digests}.npy"
    if not place.exists():
        engine = open_engine(models / "sam2")
        owners = [
            assign_pixels(image, find_masks(engine, image, everything), prompt)
            for image, prompt in zip(track(images, f"Segmenting {len(images)} images"), prompts, strict=True)
        ]
        np.save(place, np.stack(owners))
    kinds = np.full((len(prompts), MAX_THINGS), NONE, np.int8)
    colours = kinds.copy()
    for i, prompt in enumerate(prompts):
        for number, (kind, colour) in enumerate(prompt.things):
            kinds[i, number], colours[i, number] = KIND_NAMES.index(kind), COLOUR_NAMES.index(colour)
    return Scenes(
        pixels=images,
        owners=np.load(place, mmap_mode="r"),
        kinds=kinds,
        colours=colours,
        backgrounds=np.full(len(prompts), NONE, np.int8),
        captions=tuple((prompt.text,) * CAPTIONS for prompt in prompts),
    )


def find_masks(engine: Sam2Engine, pixels: Pixels, everything: AutomaticMaskSettings) -> Masks:
    """Masks of all regions of an image, (n, h, w)."""
    return masks_of(segment(engine, pixels, everything))


def assign_pixels(pixels: Pixels, masks: Masks, prompt: Prompt) -> npt.NDArray[np.uint8]:
    """Assign regions to the background and the objects, by border, size and colour.

    Returns:
        (h, w): 0 background, then the objects, UNASSIGNED for the rest.
    """
    owners = np.full(pixels.shape[:2], UNASSIGNED, np.uint8)
    rest = []
    for mask in masks:
        if covers_border(mask):
            owners[mask] = 0
        elif mask.mean() >= LEAST:
            rest.append(mask)
    for number, mask in match_colours(pixels, rest, [colour for _, colour in prompt.things]):
        owners[mask] = number + 1
    return owners


def covers_border(mask: Mask) -> bool:
    """Whether a mask, (h, w), covers much of the image's border."""
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return bool(border.mean() >= BORDER)


def match_colours(pixels: Pixels, masks: Sequence[Mask], colours: Sequence[str]) -> list[tuple[int, Mask]]:
    """Assign each colour the largest region, or with several colours the region nearest to it.

    Returns:
        The colours' numbers with their masks; those for which no region is left are missing.
    """
    if len(colours) == 1:
        return [(0, max(masks, key=lambda mask: int(mask.sum())))] if masks else []
    means = [cv2.mean(pixels, mask.astype(np.uint8)) for mask in masks]
    costs = sorted(
        (distance(COLOURS[colour], (round(red), round(green), round(blue))), number, k)
        for number, colour in enumerate(colours)
        for k, (red, green, blue, _) in enumerate(means)
    )
    matched: dict[int, int] = {}
    for _, number, k in costs:
        if number not in matched and k not in matched.values():
            matched[number] = k
    return [(number, masks[k]) for number, k in matched.items()]


def load_reconstructed(choice: Choice, folder: Path, kept: Path) -> Scenes:
    """Load drawn scenes with reconstructed pixels; all labels stay exact.

    Args:
        choice: which scenes.
        folder: of the diffusion model.
        kept: where they are kept; drawn and reconstructed first if it lacks them.
    """
    scenes = load_scenes(choice, kept)
    place = kept / f"reconstructed-{choice.name}-{weights.fingerprint(folder)[:8]}.npy"
    if not place.exists():
        vae = AutoencoderTiny.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
        partial = place.with_suffix(".partial")
        pixels = open_memmap(partial, "w+", np.uint8, scenes.pixels.shape)
        for start in track(range(0, len(scenes), ENCODED_AT_ONCE), f"Reconstructing {len(scenes)} scenes"):
            part = slice(start, start + ENCODED_AT_ONCE)
            pixels[part] = reconstruct(vae, scenes.pixels[part])
        pixels.flush()
        os.replace(partial, place)
    return replace(scenes, pixels=np.load(place, mmap_mode="r"))


@torch.inference_mode()
def reconstruct(vae: Any, pixels: Images) -> Images:
    """Encode and decode images, (n, h, w, 3)."""
    decoded = vae.decode(vae.encode(to_tensor(pixels, "cpu")).latents).sample
    levels: Images = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return levels
