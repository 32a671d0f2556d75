"""Captions of the shared scenes as tokens on the device, with what they name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from training.dataset import CAPTIONS
from training.timed.part import PartContext
from training.timed.shared_scenes import NewChunks
from training.train_diffusion import TOKENS


@dataclass(frozen=True, kw_only=True)
class CaptionBatch:
    """Captions of random scenes."""

    tokens: torch.Tensor  # (n, 32) int64
    kinds: torch.Tensor  # (n, 3) int64, NONE where there are fewer things
    colours: torch.Tensor  # (n, 3) int64


class TokenizedScenes:
    """Tokens of all captions, (n, 4, 32), filled as scenes are drawn."""

    def __init__(self, context: PartContext, tokenizer: Any, device: torch.device) -> None:
        self._scenes, self._tokenizer, self._device = context.scenes, tokenizer, device
        self._new = NewChunks(self._scenes.drawn)
        self.tokens = torch.zeros((self._scenes.layout.num, CAPTIONS, TOKENS), dtype=torch.int16, device=device)
        self._is_tokenized = np.zeros(len(self._scenes.drawn), bool)

    def pull(self) -> None:
        """Tokenize all new scenes."""
        for chunk in self._new.take(len(self._scenes.drawn)):
            self.ensure(chunk)

    def ensure(self, chunk: int) -> None:
        """Tokenize the scenes of a chunk if they aren't yet."""
        if self._is_tokenized[chunk]:
            return
        rows = self._scenes.rows(chunk)
        captions = [caption.decode() for caption in self._scenes.captions[rows].ravel()]
        tokens = self._tokenize(captions).view(self._scenes.layout.chunk, CAPTIONS, TOKENS)
        self.tokens[rows] = tokens.to(self._device)
        self._is_tokenized[chunk] = True

    def sample(self, num: int) -> CaptionBatch:
        """Draw one of the captions of each of so many scenes."""
        size = self._scenes.layout.chunk
        known = torch.from_numpy(np.flatnonzero(self._is_tokenized))
        rows = known[torch.randint(len(known), (num,))] * size + torch.randint(size, (num,))
        which = torch.randint(CAPTIONS, (num,))
        kinds, colours = (torch.from_numpy(facts[rows.numpy()]) for facts in (self._scenes.kinds, self._scenes.colours))
        return CaptionBatch(
            tokens=self.tokens[rows.to(self._device), which.to(self._device)].long(),
            kinds=kinds.long().to(self._device),
            colours=colours.long().to(self._device),
        )

    def empty_prompt(self) -> torch.Tensor:
        """Return the tokens of no prompt, (32,) int64."""
        return self._tokenize([""])[0].long().to(self._device)

    def _tokenize(self, captions: list[str]) -> torch.Tensor:
        encoded = self._tokenizer(
            captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        )
        tokens: torch.Tensor = encoded.input_ids.to(torch.int16)
        return tokens
