"""Who takes part in the next denoising step: continuous batching as a pure data structure.

Requests join at any step and leave when they are done or cancelled. One call of the UNet takes rows of one resolution
only, and always as many as one of a few fixed sizes ("buckets"): kernels differ between sizes, and with them the last
bits of an image.

- Owners take turns at choosing what the next batch is made of, and in a full batch everybody's first request goes
  before anybody's second; one owner's requests are served in the order in which they came.
- One owner's resolutions take turns, and so do requests that are pinned to one size of batch and those that aren't.
- People go before background work, which rides where a batch would be padded, and counts as people's after a while.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

Lane = tuple[tuple[int, int], int | None]

PATIENCE = 40  # steps after which background work counts as people's


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A request as the scheduler sees it."""

    key: str  # its name; no two live entries share one
    shape: tuple[int, int]  # of the latents, rows and columns
    rows: int  # that it takes in a batch: 2 with guidance
    owner: str = ""
    background: bool = False
    pinned: int | None = None  # the only number of rows its batches may have

    @property
    def lane(self) -> Lane:
        """Only those of one lane fit in a batch."""
        return self.shape, self.pinned


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Who takes part in one step."""

    entries: tuple[Entry, ...]
    rows: int  # the bucket: what the entries don't fill is padding


class StepScheduler:
    """Entries that wait for their next step.

    Args:
        buckets: numbers of rows in a batch, ascending.
        patience: in steps, see `PATIENCE`.
    """

    def __init__(self, buckets: Iterable[int], patience: int = PATIENCE) -> None:
        self._buckets = tuple(buckets)
        self._patience = patience
        self._entries: dict[str, tuple[Entry, int]] = {}  # with the step before which it came, in order of admission
        # Of owners who are there, and of their lanes: the last step that was theirs.
        self._turn_at: dict[str, int] = {}  # chosen for them; others may have taken part
        self._served_at: dict[tuple[str, Lane], int] = {}
        self._step = 0

    def __len__(self) -> int:
        return len(self._entries)

    def admit(self, entry: Entry) -> None:
        """Let a request take part from the next step on.

        Raises:
            ValueError: its key is taken, or it has more rows than its largest batch.
        """
        if entry.key in self._entries:
            raise ValueError(f"{entry.key} is there already")
        largest = self._buckets_of(entry.lane)[-1]
        if entry.rows > largest:
            raise ValueError(f"{entry.rows} rows are more than the largest batch of {largest}")
        self._entries[entry.key] = entry, self._step

    def remove(self, key: str) -> None:
        """Take out a request that is done or cancelled; one that isn't there is no error."""
        self._entries.pop(key, None)

    def next_batch(self) -> Batch | None:
        """Choose who takes part in the next step; None if nobody is there."""
        urgent = [entry for entry, came_at in self._entries.values() if self._is_urgent(entry, came_at)]
        candidates = urgent or [entry for entry, _ in self._entries.values()]
        if not candidates:
            return None
        owner = min((entry.owner for entry in candidates), key=lambda owner: self._turn_at.get(owner, -1))
        lanes = (entry.lane for entry in candidates if entry.owner == owner)
        lane = min(lanes, key=lambda lane: self._served_at.get((owner, lane), -1))
        buckets = self._buckets_of(lane)
        chosen = _fill(self._in_turn((e for e in candidates if e.lane == lane), owner), buckets[-1])
        used = sum(entry.rows for entry in chosen)
        rows = next(bucket for bucket in buckets if bucket >= used)
        others = [e for e, _ in self._entries.values() if e.lane == lane and e not in chosen]
        chosen += _fill(self._in_turn(others, owner), rows - used)
        self._step += 1
        self._note(owner, chosen)
        return Batch(entries=tuple(chosen), rows=rows)

    def _buckets_of(self, lane: Lane) -> tuple[int, ...]:
        _, pinned = lane
        return self._buckets if pinned is None else (pinned,)

    def _in_turn(self, entries: Iterable[Entry], first: str) -> list[Entry]:
        """Everybody's first request, then everybody's second, and so on; in a round `first`'s goes first."""
        seen: defaultdict[str, int] = defaultdict(int)
        ranked = []
        for entry in entries:
            served_at = self._served_at.get((entry.owner, entry.lane), -1)
            ranked.append((seen[entry.owner], entry.owner != first, served_at, entry))
            seen[entry.owner] += 1
        return [entry for *_, entry in sorted(ranked, key=lambda rank: rank[:3])]

    def _note(self, owner: str, served: list[Entry]) -> None:
        """Remember whose turn it was and who was served, of those who are there."""
        there = [entry for entry, _ in self._entries.values()]
        turns = self._turn_at | {owner: self._step}
        served_at = self._served_at | {(entry.owner, entry.lane): self._step for entry in served}
        owners, lanes = {entry.owner for entry in there}, {(entry.owner, entry.lane) for entry in there}
        self._turn_at = {owner: at for owner, at in turns.items() if owner in owners}
        self._served_at = {lane: at for lane, at in served_at.items() if lane in lanes}

    def _is_urgent(self, entry: Entry, came_at: int) -> bool:
        return not entry.background or self._step - came_at >= self._patience


def _fill(entries: list[Entry], rows: int) -> list[Entry]:
    """The first entries, up to the one that doesn't fit: no small one overtakes a large one time and again."""
    totals = accumulate(entry.rows for entry in entries)
    return [entry for entry, total in zip(entries, totals, strict=True) if total <= rows]
