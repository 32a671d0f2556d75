"""What every piece of work costs, as a file in `configs/costs/` says; `python -m benchmarks.stage_costs` writes them.

A figure that nobody measured stands in `assumed`, with where it comes from: a plan that rests on it says so.
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
    """For which it keeps its engine busy, with nothing else on the machine."""
    cpu_s: Seconds
    """Of all threads together."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(wall_s=self.wall_s + other.wall_s, cpu_s=self.cpu_s + other.cpu_s)

    def times(self, factor: float) -> Cost:
        """So many of it."""
        return Cost(wall_s=factor * self.wall_s, cpu_s=factor * self.cpu_s)


class Machine(_Record):
    """Where it was measured."""

    processor: str
    cores: Annotated[int, Field(ge=1)]
    gpu: str = ""
    threads: Annotated[int, Field(ge=1)]
    """Torch's, of that engine on a CPU which has most."""
    measured_on: str
    """The day; empty where it wasn't."""
    tick_s: Seconds = 0.0
    """CPU seconds of the work in `benchmarks/pace.py` when cores were as fast as all these costs say; 0 if unknown."""
    load_average: float = 0.0
    """Of the machine, others' work included, while it was measured."""


class Overhead(_Record):
    """CPU seconds of serving something, without its engines' work."""

    ingress_s: Seconds
    """In the ingress replica, of which each has one thread that counts."""
    elsewhere_s: Seconds
    """In the proxy, in the replicas round the engines, in Ray's own processes."""

    @property
    def cpu_s(self) -> float:
        """Of all processes."""
        return self.ingress_s + self.elsewhere_s

    def times(self, factor: float) -> Overhead:
        """So many of it."""
        return Overhead(ingress_s=factor * self.ingress_s, elsewhere_s=factor * self.elsewhere_s)


class Overheads(_Record):
    """What serving adds."""

    cached_call: Overhead
    """A call whose results are at hand, `/segment` of a known image."""
    upload: Overhead
    """A picture taken in."""
    generation: Overhead
    """`/generate` but for what follows: job, transactions, encoded PNG, description, answer."""
    step: Overhead
    """A step of one image that is told from the replica to the ingress."""
    stage: Overhead
    """A stage of the analysis: three calls of the cache, one of a replica, its result kept."""
    step_gap_s: Seconds
    """For which a diffusion replica waits between two steps (wall)."""
    idle_cores: Seconds
    """That a service takes which has nothing to do."""


class Shared(_Record):
    """What there is one of, for all replicas: seconds (wall) that it is busy."""

    cache_call_s: Positive
    """The cache actor, with one call."""
    transactions_s: dict[Database, Positive]
    """The database's one writer, with all transactions of one image."""
    log_row_s: Positive
    """Every ingress replica, with one event of the log, whoever it belongs to."""
    notice_s: Positive
    """Every ingress replica, with one step that another tells of."""


class Costs(_Record):
    """All that a plan is made from."""

    profile: str
    accelerator: Literal["cpu", "cuda"]
    machine: Machine
    side: Annotated[int, Field(ge=1)]
    """Pixels of the square image that was made."""
    regions: Positive
    """Of an image, on average."""
    steps: Annotated[dict[int, Cost], Field(min_length=1)]
    """One call of the denoiser, by rows of its batch."""
    start: Cost
    """An image's scheduler, noise and encoded prompt."""
    decode: Cost
    describe: Cost
    """A call of CLIP without any picture."""
    describe_picture: Cost
    """Each picture in a call of CLIP."""
    segment: Cost
    render: Cost
    encode: Cost
    """The image as PNG."""
    overheads: Overheads
    shared: Shared
    assumed: dict[str, str] = {}
    """Names of figures that weren't measured, such as `steps` or `shared.notice_s`, and where each comes from."""

    @property
    def buckets(self) -> tuple[int, ...]:
        """Rows of a batch, ascending."""
        return tuple(sorted(self.steps))

    def step(self, rows: int) -> Cost:
        """What a call of the denoiser costs with at least so many rows: that of the next bucket."""
        return self.steps[next(bucket for bucket in self.buckets if bucket >= rows)]


def read_costs(path: Path) -> Costs:
    """Read a file of costs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else; says what.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No costs at {path}: `python -m benchmarks.stage_costs --out FILE` measures them.")
    try:
        return Costs.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"{path} holds no costs: {where}: {first['msg']}.") from error


def costs_of(profile: str, folder: Path) -> Path:
    """Return the file of measured costs for a profile in a folder.

    Raises:
        FileNotFoundError: it carries none; says how to get some.
    """
    found = sorted(path for path in folder.glob(f"{profile}-*.json") if not path.stem.endswith("-assumed"))
    if found:
        return found[0]
    assumed = folder / f"{profile}-assumed.json"
    advice = f", or plan with figures that nobody measured: --costs {assumed}" if assumed.is_file() else ""
    raise FileNotFoundError(
        f"No costs of the profile {profile!r} were measured. Measure them where it is to run "
        f"(python -m benchmarks.stage_costs --profile {profile} --out FILE) and give --costs FILE{advice}."
    )
