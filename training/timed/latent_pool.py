"""Latents and captions on the device, by the number of things they show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from training.diffusion.train import TOKENS
from training.scenes.dataset import CAPTIONS, MAX_THINGS
from training.timed.caption_tokens import TokenizedScenes
from training.timed.part import PartContext
from training.timed.shared_scenes import NewChunks


@dataclass(frozen=True, kw_only=True)
class LatentBatch:
    """Latents with one of their captions each."""

    latents: torch.Tensor  # (n, c, h, w) float32, unscaled
    tokens: torch.Tensor  # (n, 32) int64


class LatentPool:
    """Latents of all encoded scenes, from which batches with given shares of pairs and triples are drawn."""

    def __init__(self, context: PartContext, captions: TokenizedScenes, device: torch.device) -> None:
        self._scenes, self._captions, self._device = context.scenes, captions, device
        self._new = NewChunks(self._scenes.encoded)
        self._latents = torch.empty(self._scenes.latents.shape, dtype=torch.float16, device=device)
        num = self._scenes.layout.num
        self._tokens = torch.zeros((num, CAPTIONS, TOKENS), dtype=torch.int16, device=device)
        self._rows = {n: torch.empty(num, dtype=torch.int64, device=device) for n in range(1, MAX_THINGS + 1)}
        self.nums = dict.fromkeys(self._rows, 0)  # scenes by their number of things

    def pull(self, most: int | None = None) -> None:
        """Take at most so many new chunks; None for all."""
        size = self._scenes.layout.chunk
        for chunk in self._new.take(most or len(self._scenes.encoded)):
            rows = self._scenes.rows(chunk)
            self._tokens[rows] = torch.from_numpy(np.array(self._captions.of_chunk(chunk))).to(self._device)
            self._latents[rows] = torch.from_numpy(np.array(self._scenes.latents[rows])).to(self._device)
            number = int(self._scenes.num_things[chunk])
            start = self.nums[number]
            self._rows[number][start : start + size] = torch.arange(rows.start, rows.stop, device=self._device)
            self.nums[number] = start + size

    def sample(self, num: int, pairs: float, triples: float) -> LatentBatch:
        """Sample latents; if there are no scenes with a number of objects, others replace them.

        Args:
            num: of latents.
            pairs: share with two things.
            triples: share with three things.
        """
        index = torch.cat([
            self._rows[number][torch.randint(self.nums[number], (count,), device=self._device)]
            for number, count in self._divide(num, pairs, triples).items()
        ])  # fmt: skip
        which = torch.randint(CAPTIONS, (num,), device=self._device)
        return LatentBatch(latents=self._latents[index].float(), tokens=self._tokens[index, which].long())

    def _divide(self, num: int, pairs: float, triples: float) -> dict[int, int]:
        counts = {2: round(num * pairs), 3: round(num * triples)}
        counts[1] = num - sum(counts.values())
        known = {number: count for number, count in counts.items() if count and self.nums[number]}
        most = max(self.nums, key=lambda number: self.nums[number])
        known[most] = known.get(most, 0) + num - sum(known.values())
        return known
