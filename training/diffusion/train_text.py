"""Warm-up of the diffusion model's text encoder: it learns to recognize the objects of a caption.

Without it, denoiser and text encoder slow each other down at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from training.diffusion.architecture import TEXT_WIDTH, build_text_encoder
from training.loop import Recipe, Run
from training.scenes.dataset import COLOUR_NAMES, KIND_NAMES, NONE, Scenes

BATCH = 128
RECIPE = Recipe(steps=1500, learning_rate=4e-3)  # at 1e-3 it takes several times as long
LAST = 8  # tokens that are read out: padding in all but the longest captions, so they have seen the whole
EMBEDDING_STD = 0.1  # with transformers' 0.02 training starts some hundred steps later


class Reader(nn.Module):
    """The text encoder with heads for kinds and for the colour of each."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.text_encoder: Any = build_text_encoder(tokenizer)
        self.kinds = nn.Linear(TEXT_WIDTH, len(KIND_NAMES))
        self.colours = nn.Linear(TEXT_WIDTH, len(KIND_NAMES) * len(COLOUR_NAMES))
        nn.init.normal_(self.text_encoder.get_input_embeddings().weight, std=EMBEDDING_STD)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read tokens, (n, l), as logits of the kinds, (n, k), and of each kind's colours, (n, k, c)."""
        read = self.text_encoder(tokens).last_hidden_state[:, -LAST:].mean(1)
        return self.kinds(read), self.colours(read).unflatten(1, (len(KIND_NAMES), len(COLOUR_NAMES)))


def train_text(sets: Sequence[Scenes], tokenizer: Any, recipe: Recipe, checkpoint: Path | None, device: str) -> Run:
    """Train on equally many captions of each set, from scratch or from the checkpoint."""
    torch.manual_seed(recipe.seed)
    reader = Reader(tokenizer).to(device)
    run = Run(reader, recipe, checkpoint)

    def loss_of(_step: int, rng: np.random.Generator) -> torch.Tensor:
        captions: list[str] = []
        kinds, colours = [], []
        for scenes in sets:
            chosen = rng.integers(len(scenes), size=BATCH // len(sets))
            captions += draw_captions(scenes, chosen, rng)
            kinds.append(scenes.kinds[chosen])
            colours.append(scenes.colours[chosen])
        kind_logits, colour_logits = reader(tokenize(tokenizer, captions, device))
        shown = (torch.from_numpy(np.concatenate(part)).long().to(device) for part in (kinds, colours))
        return loss_of_reading(kind_logits, colour_logits, *shown)

    run.train(loss_of, "Text encoder")
    return run


def loss_of_reading(
    kind_logits: torch.Tensor, colour_logits: torch.Tensor, kinds: torch.Tensor, colours: torch.Tensor
) -> torch.Tensor:
    """Binary loss for the presence of each kind, and the colour loss of those present.

    Args:
        kind_logits: (n, k).
        colour_logits: (n, k, c).
        kinds: (n, 3) int64 of the things, NONE where there are fewer.
        colours: (n, 3) int64 of the things.
    """
    real = kinds != NONE  # (n, 3)
    num_kinds, num_colours = colour_logits.shape[1:]
    there = torch.zeros(len(kinds), num_kinds + 1, device=kinds.device)  # the last one for missing things
    there.scatter_(1, torch.where(real, kinds, num_kinds), 1.0)
    naming = functional.binary_cross_entropy_with_logits(kind_logits, there[:, :-1]) * num_kinds / 3
    of_thing = colour_logits.gather(1, kinds.clamp(min=0)[:, :, None].expand(-1, -1, num_colours))  # (n, 3, c)
    wrong = functional.cross_entropy(of_thing.flatten(0, 1), colours.clamp(min=0).flatten(), reduction="none")
    return naming + (wrong * real.flatten()).sum() / real.sum()


def draw_captions(scenes: Scenes, chosen: npt.NDArray[np.int64], rng: np.random.Generator) -> list[str]:
    """One of the captions of each scene."""
    return [scenes.captions[i][rng.integers(len(scenes.captions[i]))] for i in chosen]


def tokenize(tokenizer: Any, captions: list[str], device: str) -> torch.Tensor:
    """Captions as tokens, (n, tokens), padded as the engine pads them."""
    tokens = tokenizer(
        captions, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    ids: torch.Tensor = tokens.input_ids.to(device)
    return ids
