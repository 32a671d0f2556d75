"""Cost of every stage on this machine: `python -m benchmarks stage-costs [--out FILE]`.

Writes the file that `ai-pipeline plan --costs FILE` reads. The engines are measured in this process, serving by a real
service whose engines do almost no work, the database by itself. `--profile` selects a profile other than mini; its
engines use a GPU if there is one. `--untrained` measures sd14 with random weights, without access to a hub.
`--overheads FILE` takes the costs of serving and of shared components from an earlier file, if no service can be
started; they are then listed as assumed.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from planning.costs import Cost, Costs, Machine, Overheads, Shared, read_costs

if TYPE_CHECKING:
    from benchmarks.capacity.engine_costs import Engines
    from benchmarks.cpu_speed import Pace


def main(words: list[str] | None = None) -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--profile", default="mini")
    what.add_argument("--untrained", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--overheads", type=Path, metavar="FILE")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        costs = measure(
            None if arguments.untrained else arguments.profile,
            Path(folder),
            read_costs(arguments.overheads) if arguments.overheads else None,
        )
    Console(width=120).print(tabulate(costs))
    if arguments.out:
        arguments.out.write_text(costs.model_dump_json(indent=2) + "\n")


def measure(profile_name: str | None, folder: Path, served: Costs | None = None) -> Costs:
    """Measure everything, serving only if it isn't given. Without a profile's name, sd14 with random weights."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the launcher does; read when torch is loaded
    from benchmarks.capacity.engine_costs import Engines
    from benchmarks.cpu_speed import Pace
    from benchmarks.untrained import REAL, write_profile
    from pipeline.engines.device import pick_device, use_cpu
    from pipeline.settings import ServiceSettings

    untrained = profile_name is None
    named = profile_name or str(write_profile(REAL, folder))
    profile = ServiceSettings(profile=named).load_profile()
    most_threads = max(profile.threads.model_dump().values())
    use_cpu(most_threads)
    device = pick_device("auto")
    pace = Pace()
    assumed: dict[str, str] = {}
    if served is None:
        overheads, shared = serving_costs(folder, pace)
    else:
        overheads, shared = served.overheads, served.shared
        assumed |= dict.fromkeys(("overheads", "shared"), f"as {described(served.machine)}")
    if untrained:
        assumed |= {
            "regions": "as in benchmarks/engines/visualize.py",
            "segment": "random weights, a tenth of whose masks passes",
        }
    engines = Engines(profile, device, pace, untrained)
    return Costs(
        profile=profile.name,
        accelerator="cpu" if device == "cpu" else "cuda",
        machine=machine(device, most_threads, pace.tick_s),
        side=profile.diffusion.defaults.width,
        regions=engines.regions,
        overheads=overheads,
        shared=shared,
        assumed=assumed,
        **measure_engines(engines),
    )


def serving_costs(folder: Path, pace: Pace) -> tuple[Overheads, Shared]:
    """Overheads of serving, and costs of the shared components."""
    from benchmarks.capacity.cache_costs import cache_call_s
    from benchmarks.capacity.serving_costs import measure_overheads
    from benchmarks.capacity.shared_costs import log_row_s, notice_s, transactions_s

    transactions = transactions_s(folder / "store")
    overheads = measure_overheads(folder, pace)
    return overheads, Shared(
        cache_call_s=cache_call_s(folder),
        transactions_s=transactions,
        log_row_s=log_row_s(folder / "store"),
        notice_s=notice_s(),
    )


def measure_engines(engines: Engines) -> dict[str, Any]:
    """The engines' costs by name: wall-clock seconds on an idle machine, CPU seconds on a busy one."""
    if engines.device != "cpu":
        return each_cost(engines)
    from benchmarks.cpu_seconds import busy

    at_rest = each_cost(engines)
    with busy((os.cpu_count() or 1) - 1):
        at_work = each_cost(engines)
    steps = {rows: combined(cost, at_work["steps"][rows]) for rows, cost in at_rest.pop("steps").items()}
    return {"steps": steps} | {name: combined(cost, at_work[name]) for name, cost in at_rest.items()}


def combined(at_rest: Cost, at_work: Cost) -> Cost:
    """Wall-clock seconds of the first, CPU seconds of the second."""
    return Cost(wall_s=at_rest.wall_s, cpu_s=at_work.cpu_s)


def each_cost(engines: Engines) -> dict[str, Any]:
    """The cost of every operation, by name."""
    from benchmarks.capacity import engine_costs

    own, picture = engine_costs.describe_costs(engines)
    return {
        "steps": {rows: engine_costs.step_cost(engines, rows) for rows in engines.profile.diffusion.batch_rows},
        "start": engine_costs.start_cost(engines),
        "decode": engine_costs.decode_cost(engines),
        "describe": own,
        "describe_picture": picture + engine_costs.crops_cost(engines),
        "segment": engine_costs.segment_cost(engines),
        "render": engine_costs.render_cost(engines),
        "encode": engine_costs.encode_cost(engines),
    }


def machine(device: str, threads: int, tick_s: float) -> Machine:
    """This one."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return Machine(
        processor=names[0] if names else platform.machine(),
        cores=os.cpu_count() or 1,
        gpu="" if device == "cpu" else torch.cuda.get_device_name(device),
        threads=threads,
        measured_on=f"{datetime.now(UTC):%Y-%m-%d}",
        tick_s=tick_s,
        load_average=round(os.getloadavg()[0], 1),
    )


def described(where: Machine) -> str:
    """A machine in words."""
    return f"measured on {where.gpu or where.processor}, {where.cores} cores, {where.measured_on}"


def tabulate(costs: Costs) -> Table:
    """The costs for a terminal, in milliseconds."""
    table = Table("work", "wall, ms", "CPU, ms", title=f"{costs.profile}, {described(costs.machine)}")

    def row(name: str, cost: Cost) -> None:
        table.add_row(name, f"{1000 * cost.wall_s:.2f}", f"{1000 * cost.cpu_s:.2f}")

    for rows, cost in sorted(costs.steps.items()):
        row(f"step, {rows} rows", cost)
    for name in ("start", "decode", "describe", "describe_picture", "segment", "render", "encode"):
        row(name, getattr(costs, name))
    for name in ("cached_call", "upload", "generation", "step", "stage"):
        overhead = getattr(costs.overheads, name)
        table.add_row(f"serving: {name}", "", f"{1000 * overhead.ingress_s:.2f} + {1000 * overhead.elsewhere_s:.2f}")
    table.add_row("serving: between steps", f"{1000 * costs.overheads.step_gap_s:.2f}", "")
    table.add_row("serving: idle, cores", "", f"{costs.overheads.idle_cores:.2f}")
    table.add_row("cache call", "", f"{1000 * costs.shared.cache_call_s:.3f}")
    for name, seconds in costs.shared.transactions_s.items():
        table.add_row(f"transactions of an image, {name}", f"{1000 * seconds:.2f}", "")
    table.add_row("event of the log heard", f"{1000 * costs.shared.log_row_s:.3f}", "")
    table.add_row("step of another replica heard", f"{1000 * costs.shared.notice_s:.3f}", "")
    return table
