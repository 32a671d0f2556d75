"""Continuous batching: many images denoised together, each joining and leaving at any step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.engines.diffusion import Denoising, DiffusionEngine
from pipeline.engines.origins import SourceImage
from pipeline.engines.step_scheduler import Entry, StepScheduler
from pipeline.records import GenerationRequest, Pixels, StepProgress


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A request to the runner."""

    key: str
    request: GenerationRequest
    owner: str = ""
    background: bool = False
    origin: SourceImage | None = None
    previews: bool = False  # whether anybody wants to see it on the way


@dataclass(frozen=True, kw_only=True, slots=True)
class Happening:
    """What became of an order: it got a step further, or it ended, with an image or an error."""

    key: str
    outcome: StepProgress | Pixels | Exception


@dataclass(slots=True)
class RowCounts:
    """Rows of the batches that the UNet was given; what was computed and not filled is padding."""

    filled: int = 0
    computed: int = 0


class ContinuousDiffusion:
    """Runs an engine for everybody at once. Calls must not overlap in time.

    Args:
        engine: does the arithmetic.
        buckets: numbers of rows in a batch, ascending; an image with guidance takes two. Images that are to be
            deterministic have batches of their own.
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

    def admit(self, order: Order) -> Happening | None:
        """Take up an order; it takes part in the next step. Returns what went wrong, if anything did."""
        try:
            image = self._engine.start(order.request, order.origin, previews=order.previews)
            entry = Entry(
                key=order.key,
                shape=image.shape,
                rows=image.rows,
                owner=order.owner,
                background=order.background,
                pinned=image.rows if order.request.deterministic else None,
            )
            self._scheduler.admit(entry)
        except Exception as error:  # one order's, not the others'
            return Happening(key=order.key, outcome=error)
        self._images[order.key] = image
        return None

    def cancel(self, key: str) -> None:
        """Forget an order; it takes part in no further step. One that has ended is no error."""
        self._scheduler.remove(key)
        self._images.pop(key, None)
        self._denoised = deque(pair for pair in self._denoised if pair[0] != key)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._images and not self._denoised

    def take_rows(self) -> RowCounts:
        """The rows since the last time one asked."""
        rows, self._rows = self._rows, RowCounts()
        return rows

    def step(self) -> list[Happening]:
        """Do one piece of work: denoise a batch by a step, or decode an image; the two take turns."""
        if self._denoised and (not self._images or not self._decoded_last):
            self._decoded_last = True
            return [self._decode(*self._denoised.popleft())]
        self._decoded_last = False
        return self._denoise()

    def _denoise(self) -> list[Happening]:
        batch = self._scheduler.next_batch()
        if batch is None:
            return []
        keys = [entry.key for entry in batch.entries]
        self._rows.filled += sum(entry.rows for entry in batch.entries)
        self._rows.computed += batch.rows
        try:
            progress = self._engine.advance([self._images[key] for key in keys], batch.rows)
        except Exception as error:  # who was in it goes; the next batch may fare better
            for key in keys:
                self.cancel(key)
            return [Happening(key=key, outcome=error) for key in keys]
        for key in keys:
            if self._images[key].is_done:
                self._scheduler.remove(key)
                self._denoised.append((key, self._images.pop(key)))
        return [Happening(key=key, outcome=step) for key, step in zip(keys, progress, strict=True)]

    def _decode(self, key: str, image: Denoising) -> Happening:
        try:
            return Happening(key=key, outcome=self._engine.finish(image))
        except Exception as error:  # a refused image is its own order's matter
            return Happening(key=key, outcome=error)
