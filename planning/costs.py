"""Cost of every piece of work, from a file in `configs/costs/`; `python -m benchmarks stage-costs` writes them.

Unmeasured figures are listed in `assumed`, with their source: a plan that depends on them reports so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Seconds = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Database = Literal["sqlite", "postgresql"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cost(_Record):
    """One piece of an engine's work."""

    wall_s: Seconds
    """Seconds for which it keeps its engine busy, with nothing else running on the machine."""
    cpu_s: Seconds
    """CPU seconds of all threads together."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(wall_s=self.wall_s + other.wall_s, cpu_s=self.cpu_s + other.cpu_s)

    def times(self, factor: float) -> Cost:
        """Return the cost of so many pieces."""
        return Cost(wall_s=factor * self.wall_s, cpu_s=factor * self.cpu_s)


class Machine(_Record):
    """The machine that the costs were measured on."""

    processor: str
    cores: Annotated[int, Field(ge=1)]
    gpu: str = ""
    threads: Annotated[int, Field(ge=1)]
    """Torch's threads, of the engine on a CPU that has most."""
    measured_on: str
    """The date; empty if not measured."""
    tick_s: Seconds = 0.0
    """CPU seconds of the work in `benchmarks/cpu_speed.py` at the core speed of these measurements; 0 if unknown."""
    load_average: float = 0.0
    """Of the machine, other work included, during the measurement."""


class Overhead(_Record):
    """CPU seconds of serving something, without its engines' work."""

    ingress_s: Seconds
    """In the ingress replica, each of which has one thread that matters."""
    elsewhere_s: Seconds
    """In the proxy, in the replicas around the engines, in Ray's own processes."""

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all processes."""
        return self.ingress_s + self.elsewhere_s

    def times(self, factor: float) -> Overhead:
        """Return the overhead of serving so many."""
        return Overhead(ingress_s=factor * self.ingress_s, elsewhere_s=factor * self.elsewhere_s)


class Overheads(_Record):
    """Overheads of serving."""

    cached_call: Overhead
    """A call whose results are cached, `/segment` of a known image."""
    upload: Overhead
    """An uploaded picture."""
    generation: Overhead
    """`/generate` without the following: job, transactions, encoded PNG, description, response."""
    step: Overhead
    """A step of one image that the replica reports to the ingress."""
    stage: Overhead
    """A stage of the analysis: three calls of the cache, one of a replica, storing its result."""
    step_gap_s: Seconds
    """Seconds for which a diffusion replica waits between two steps (wall)."""
    idle_cores: Seconds
    """Cores that an idle service uses."""


class Shared(_Record):
    """Resources shared by all replicas: seconds (wall) for which they are busy."""

    cache_call_s: Positive
    """The cache actor, with one call."""
    transactions_s: dict[Database, Positive]
    """The database's one writer, with all transactions of one image."""
    log_row_s: Positive
    """Every ingress replica, with one event of the log, of any owner."""
    notice_s: Positive
    """Every ingress replica, with one step that another replica reports."""


class Costs(_Record):
    """All costs that a plan is computed from."""

    profile: str
    accelerator: Literal["cpu", "cuda"]
    machine: Machine
    side: Annotated[int, Field(ge=1)]
    """Side in pixels of the square image that was generated."""
    regions: Positive
    """Mean number of regions of an image."""
    steps: Annotated[dict[int, Cost], Field(min_length=1)]
    """One call of the denoiser, by rows of its batch."""
    start: Cost
    """An image's scheduler, noise and encoded prompt."""
    decode: Cost
    describe: Cost
    """A call of CLIP without its pictures."""
    describe_picture: Cost
    """Each picture in a call of CLIP."""
    segment: Cost
    render: Cost
    encode: Cost
    """The image as PNG."""
    overheads: Overheads
    shared: Shared
    assumed: dict[str, str] = {}
    """Names of unmeasured figures, such as `steps` or `shared.notice_s`, and the source of each."""

    @property
    def buckets(self) -> tuple[int, ...]:
        """Rows of a batch, ascending."""
        return tuple(sorted(self.steps))

    def step(self, rows: int) -> Cost:
        """Return the cost of a call of the denoiser with at least so many rows: that of the next bucket."""
        return self.steps[next(bucket for bucket in self.buckets if bucket >= rows)]


def read_costs(path: Path) -> Costs:
    """Read a file of costs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else; the message reports the first error.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No costs at {path}: `python -m benchmarks stage-costs --out FILE` measures them.")
    try:
        return Costs.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"{path} holds no costs: {where}: {first['msg']}.") from error


def costs_of(profile: str, folder: Path) -> Path:
    """Return the file of measured costs for a profile in a folder.

    Raises:
        FileNotFoundError: there is none; the message explains how to measure them.
    """
    found = sorted(path for path in folder.glob(f"{profile}-*.json") if not path.stem.endswith("-assumed"))
    if found:
        return found[0]
    assumed = folder / f"{profile}-assumed.json"
    advice = f", or plan with unmeasured figures: --costs {assumed}" if assumed.is_file() else ""
    raise FileNotFoundError(
        f"No costs of the profile {profile!r} were measured. Measure them where it is to run "
        f"(python -m benchmarks stage-costs --profile {profile} --out FILE) and give --costs FILE{advice}."
    )
