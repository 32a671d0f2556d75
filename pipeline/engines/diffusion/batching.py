"""Continuous batching: images are denoised in shared batches, which each joins and leaves at any step."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from pipeline.engines.diffusion.engine import Denoising, DiffusionEngine
from pipeline.engines.diffusion.img2img import SourceImage
from pipeline.records import GenerationRequest, Pixels, StepProgress


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiseJob:
    """A request to `ContinuousDiffusion`."""

    key: str
    request: GenerationRequest
    owner: str = ""
    origin: SourceImage | None = None
    previews: bool = False  # whether the client wants previews


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """The outcome of a job's step: its progress, or, when it has ended, an image or an error."""

    key: str
    outcome: StepProgress | Pixels | Exception


@dataclass(slots=True)
class RowCounts:
    """Rows of the UNet's batches; those computed but not filled are padding."""

    filled: int = 0
    computed: int = 0


class ContinuousDiffusion:
    """Runs an engine for all jobs concurrently. Calls must not overlap in time.

    Args:
        engine: computes the steps.
        buckets: numbers of rows in a batch, ascending; an image with guidance takes two. Deterministic images have
            batches of their own.
    """

    def __init__(self, engine: DiffusionEngine, buckets: Iterable[int]) -> None:
        self._engine = engine
        self._scheduler = StepScheduler(buckets)
        self._images: dict[str, Denoising] = {}  # being denoised
        self._denoised: deque[tuple[str, Denoising]] = deque()  # waiting to be decoded
        self._decoded_last = False
        self._rows = RowCounts()
        self.fingerprint = engine.fingerprint
        self.count_tokens = engine.count_tokens

    def admit(self, job: DenoiseJob) -> StepResult | None:
        """Admit a job to the next step; return the error if it can't be started."""
        try:
            image = self._engine.start(job.request, job.origin, previews=job.previews)
            entry = Entry(
                key=job.key,
                shape=image.shape,
                rows=image.rows,
                owner=job.owner,
                pinned=image.rows if job.request.deterministic else None,
            )
            self._scheduler.admit(entry)
        except Exception as error:  # fails this job only
            return StepResult(key=job.key, outcome=error)
        self._images[job.key] = image
        return None

    def cancel(self, key: str) -> None:
        """Remove a job from all further steps; an unknown or ended one is ignored."""
        self._scheduler.remove(key)
        self._images.pop(key, None)
        self._denoised = deque(pair for pair in self._denoised if pair[0] != key)

    @property
    def is_idle(self) -> bool:
        """Whether no job is in progress."""
        return not self._images and not self._denoised

    def pop_row_counts(self) -> RowCounts:
        """Return and reset the row counts since the last call."""
        rows, self._rows = self._rows, RowCounts()
        return rows

    def step(self) -> list[StepResult]:
        """Denoise a batch by one step, or decode an image; the two alternate."""
        if self._denoised and (not self._images or not self._decoded_last):
            self._decoded_last = True
            return [self._decode(*self._denoised.popleft())]
        self._decoded_last = False
        return self._denoise()

    def _denoise(self) -> list[StepResult]:
        batch = self._scheduler.next_batch()
        if batch is None:
            return []
        keys = [entry.key for entry in batch.entries]
        self._rows.filled += sum(entry.rows for entry in batch.entries)
        self._rows.computed += batch.rows
        try:
            progress = self._engine.advance([self._images[key] for key in keys], batch.rows)
        except Exception as error:  # fails the jobs of this batch only
            for key in keys:
                self.cancel(key)
            return [StepResult(key=key, outcome=error) for key in keys]
        for key in keys:
            if self._images[key].is_done:
                self._scheduler.remove(key)
                self._denoised.append((key, self._images.pop(key)))
        return [StepResult(key=key, outcome=step) for key, step in zip(keys, progress, strict=True)]

    def _decode(self, key: str, image: Denoising) -> StepResult:
        try:
            return StepResult(key=key, outcome=self._engine.finish(image))
        except Exception as error:  # such as a refused image; fails this job only
            return StepResult(key=key, outcome=error)


BatchGroup = tuple[tuple[int, int], int | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A request in the scheduler."""

    key: str  # unique among live entries
    shape: tuple[int, int]  # of the latents, rows and columns
    rows: int  # of a batch: 2 with guidance
    owner: str = ""
    pinned: int | None = None  # required number of rows of its batches

    @property
    def group(self) -> BatchGroup:
        """Entries of one group can share a batch."""
        return self.shape, self.pinned


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The entries of one step."""

    entries: tuple[Entry, ...]
    rows: int  # the bucket; rows without an entry are padding


class StepScheduler:
    """Decides which requests take part in the next denoising step: continuous batching as a pure data structure.

    Requests join at any step and leave when they are done or cancelled. One call of the UNet takes rows of one
    resolution only, in one of a few fixed numbers ("buckets"): kernels differ between batch sizes, and with them the
    last bits of an image.

    - Owners take turns at choosing the group of the next batch, which is filled round-robin: every owner's first
      request goes before any owner's second; one owner's requests are served first come, first served.
    - One owner's resolutions take turns, and so do requests that are pinned to one batch size and those that aren't.

    Args:
        buckets: numbers of rows in a batch, ascending.
    """

    def __init__(self, buckets: Iterable[int]) -> None:
        self._buckets = tuple(buckets)
        self._entries: dict[str, Entry] = {}  # in order of admission
        # The last step of each present owner, and of each of its groups.
        self._turn_at: dict[str, int] = {}  # steps whose group was chosen for the owner
        self._served_at: dict[tuple[str, BatchGroup], int] = {}
        self._step = 0

    def __len__(self) -> int:
        return len(self._entries)

    def admit(self, entry: Entry) -> None:
        """Add a request from the next step on.

        Raises:
            ValueError: its key exists already, or it has more rows than its largest batch.
        """
        if entry.key in self._entries:
            raise ValueError(f"{entry.key} is there already")
        largest = self._buckets_of(entry.group)[-1]
        if entry.rows > largest:
            raise ValueError(f"{entry.rows} rows are more than the largest batch of {largest}")
        self._entries[entry.key] = entry

    def remove(self, key: str) -> None:
        """Remove a request that is done or cancelled; an unknown one is ignored."""
        self._entries.pop(key, None)

    def next_batch(self) -> Batch | None:
        """Choose the entries of the next step; None if there are none."""
        if not self._entries:
            return None
        candidates = self._entries.values()
        owner = min((entry.owner for entry in candidates), key=lambda owner: self._turn_at.get(owner, -1))
        groups = (entry.group for entry in candidates if entry.owner == owner)
        group = min(groups, key=lambda group: self._served_at.get((owner, group), -1))
        buckets = self._buckets_of(group)
        chosen = _fill(self._round_robin((e for e in candidates if e.group == group), owner), buckets[-1])
        used = sum(entry.rows for entry in chosen)
        rows = next(bucket for bucket in buckets if bucket >= used)
        self._step += 1
        self._note(owner, chosen)
        return Batch(entries=tuple(chosen), rows=rows)

    def _buckets_of(self, group: BatchGroup) -> tuple[int, ...]:
        _, pinned = group
        return self._buckets if pinned is None else (pinned,)

    def _round_robin(self, entries: Iterable[Entry], first: str) -> list[Entry]:
        """Order requests round-robin by owner; in each round that of `first` goes first."""
        seen: defaultdict[str, int] = defaultdict(int)
        ranked = []
        for entry in entries:
            served_at = self._served_at.get((entry.owner, entry.group), -1)
            ranked.append((seen[entry.owner], entry.owner != first, served_at, entry))
            seen[entry.owner] += 1
        return [entry for *_, entry in sorted(ranked, key=lambda rank: rank[:3])]

    def _note(self, owner: str, served: list[Entry]) -> None:
        """Record the owner whose turn it was and the entries served; forget absent owners and groups."""
        there = self._entries.values()
        turns = self._turn_at | {owner: self._step}
        served_at = self._served_at | {(entry.owner, entry.group): self._step for entry in served}
        owners, groups = {entry.owner for entry in there}, {(entry.owner, entry.group) for entry in there}
        self._turn_at = {owner: at for owner, at in turns.items() if owner in owners}
        self._served_at = {group: at for group, at in served_at.items() if group in groups}


def _fill(entries: list[Entry], rows: int) -> list[Entry]:
    """Return the first entries, up to one that doesn't fit, so that small ones can't starve a large one."""
    totals = accumulate(entry.rows for entry in entries)
    return [entry for entry, total in zip(entries, totals, strict=True) if total <= rows]
