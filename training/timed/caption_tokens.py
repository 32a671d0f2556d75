"""Captions of the shared scenes as tokens.

Tokenizing all captions takes a core for about half a minute, so a thread does it while the UNet is compiled.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from training.diffusion.train import TOKENS
from training.scenes.dataset import CAPTIONS
from training.timed.part import POLL_S, PartContext
from training.timed.shared_scenes import NewChunks


@dataclass(frozen=True, kw_only=True)
class CaptionBatch:
    """Captions of random scenes."""

    tokens: torch.Tensor  # (n, 32) int64
    kinds: torch.Tensor  # (n, 3) int64, NONE where there are fewer things
    colours: torch.Tensor  # (n, 3) int64


class TokenizedScenes:
    """Tokens of all captions on the host, filled as scenes are drawn.

    Args:
        context: of the part.
        tokenizer: of the text encoder.
    """

    def __init__(self, context: PartContext, tokenizer: Any) -> None:
        self._scenes, self._tokenizer = context.scenes, tokenizer
        self._tokens = np.zeros((self._scenes.layout.num, CAPTIONS, TOKENS), np.int16)
        self._is_tokenized = np.zeros(len(self._scenes.drawn), bool)
        self._lock = threading.Lock()  # the tokenizer takes one caller at a time

    def start(self) -> None:
        """Tokenize scenes as they are drawn, in a thread, until the drawing ends."""
        threading.Thread(target=self._follow_drawing, daemon=True).start()

    def tokenize_drawn(self) -> None:
        """Tokenize all scenes that are drawn by now."""
        for chunk in np.flatnonzero(self._scenes.drawn):
            self.of_chunk(int(chunk))

    def of_chunk(self, chunk: int) -> npt.NDArray[np.int16]:
        """Return the tokens of a chunk's captions, (scenes, 4, 32)."""
        rows = self._scenes.rows(chunk)
        with self._lock:
            if not self._is_tokenized[chunk]:
                captions = [caption.decode() for caption in self._scenes.captions[rows].ravel()]
                self._tokens[rows] = self._tokenize(captions).reshape(-1, CAPTIONS, TOKENS)
                self._is_tokenized[chunk] = True
        return self._tokens[rows]

    def sample(self, num: int, device: torch.device) -> CaptionBatch:
        """Draw one of the captions of each of so many scenes."""
        size = self._scenes.layout.chunk
        known = torch.from_numpy(np.flatnonzero(self._is_tokenized))
        rows = (known[torch.randint(len(known), (num,))] * size + torch.randint(size, (num,))).numpy()
        which = torch.randint(CAPTIONS, (num,)).numpy()
        facts = (self._tokens[rows, which], self._scenes.kinds[rows], self._scenes.colours[rows])
        tokens, kinds, colours = (torch.from_numpy(fact).to(device).long() for fact in facts)
        return CaptionBatch(tokens=tokens, kinds=kinds, colours=colours)

    def empty_prompt(self) -> torch.Tensor:
        """Return the tokens of no prompt, (32,) int64."""
        with self._lock:
            return torch.from_numpy(self._tokenize([""])[0]).long()

    def _follow_drawing(self) -> None:
        new = NewChunks(self._scenes.drawn)
        is_last = False
        while not is_last:
            is_last = self._scenes.is_ended("drawing")
            for chunk in new.take(len(self._scenes.drawn)):
                self.of_chunk(chunk)
            time.sleep(POLL_S)

    def _tokenize(self, captions: list[str]) -> npt.NDArray[np.int16]:
        encoded = self._tokenizer(
            captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="np"
        )
        tokens: npt.NDArray[np.int16] = encoded.input_ids.astype(np.int16)
        return tokens
