"""Labelling 24 regions: all crops in one batch without PIL, against open_clip with one call per crop."""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from benchmarks.harness import Result, compare
from pipeline.cifar100 import CIFAR100
from pipeline.engines.clip import ClipEngine
from pipeline.records import Pixels
from pipeline.settings import ServiceSettings, ZeroShotSettings
from training.scenes.render import draw_scene

CROPS = 24
SEED = 9_100_000


def measure(quick: bool) -> list[Result]:
    """The miniature on crops of drawn things."""
    profile = ServiceSettings().load_profile().clip
    engine = ClipEngine(profile, "cpu")
    crops = draw_crops()
    theirs = OpenClip(f"local-dir:{profile.model.local_path}", profile.labelling)
    return [
        compare(
            "crops", f"{CROPS} crops to labels", lambda: describe(engine, crops, profile.labelling),
            lambda: theirs.describe(crops), rounds=5 if quick else 20, goal="≥ 3, cosine ≥ 0.999, top-1 identical",
            fidelity=agreement,
        )
    ]  # fmt: skip


def draw_crops() -> list[Pixels]:
    """Things cut out of drawn scenes."""
    crops: list[Pixels] = []
    for seed in range(SEED, SEED + CROPS):
        scene = draw_scene(seed, 128, split="test")
        left, top, right, bottom = scene.things[0].box
        area = slice(top, bottom), slice(left, right)
        crops.append(np.where(scene.things[0].mask[area][..., None], scene.pixels[area], 122).astype(np.uint8))
    return crops


Answer = tuple[Any, list[str]]  # vectors (n, d), the best labels


def describe(engine: ClipEngine, crops: list[Pixels], labelling: ZeroShotSettings) -> Answer:
    """Our implementation."""
    described = engine.describe(crops, labelling)
    return described.vectors, [row[0] for row in described.labels]


class OpenClip:
    """open_clip's own functions, one crop at a time, with the labels encoded once."""

    def __init__(self, name: str, labelling: ZeroShotSettings, device: str = "cpu") -> None:
        self._device = device
        self._model, _, self._preprocess = open_clip.create_model_and_transforms(name, device=device)
        self._model.eval()
        self._labels = CIFAR100 if labelling.labels == "cifar100" else labelling.labels
        prompts = [labelling.template.format(label=label.replace("_", " ")) for label in self._labels]
        with torch.inference_mode():
            tokens = open_clip.get_tokenizer(name)(prompts).to(device)
            self._texts = self._model.encode_text(tokens, normalize=True)

    @torch.inference_mode()
    def describe(self, crops: list[Pixels]) -> Answer:
        """One call per crop."""
        vectors, labels = [], []
        for crop in crops:
            image = self._preprocess(Image.fromarray(crop))[None].to(self._device)
            vector = self._model.encode_image(image, normalize=True)
            vectors.append(vector[0].cpu().numpy())
            labels.append(self._labels[int((vector @ self._texts.T).argmax())])
        return np.stack(vectors), labels


def agreement(ours: Answer, theirs: Answer) -> str:
    """The minimum cosine, and how many best labels agree."""
    cosines = (ours[0] * theirs[0]).sum(1)
    same = sum(a == b for a, b in zip(ours[1], theirs[1], strict=True))
    return f"cosine ≥ {cosines.min():.5f}, top-1 same {same}/{len(ours[1])}"
