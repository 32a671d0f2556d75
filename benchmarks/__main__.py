"""Runs one benchmark: `python -m benchmarks NAME [options]`; lists them without a name."""

from __future__ import annotations

import sys
from importlib import import_module

BENCHMARKS = {  # name: its module and what it measures
    "engines": ("engines.suites", "our engines against naive baselines; needs no service"),
    "gpu": ("engines.gpu", "the real sizes with random weights, on a GPU and without Ray"),
    "service": ("service.overview", "a running service from outside"),
    "gpu-service": ("service.gpu", "the whole service in the real sizes, on a GPU"),
    "reactions": ("service.reactions", "background analysis of new images"),
    "ingress": ("service.ingress", "HAProxy against Serve's own proxy, both running; needs wrk"),
    "traces": ("service.traces", "overhead of tracing for a recorded request"),
    "jobs": ("service.jobs", "overhead of durable jobs"),
    "monitoring": ("service.monitoring", "dashboards under a load with failures"),
    "stage-costs": ("capacity.stage_costs", "cost of every stage on this machine, for `ai-pipeline plan`"),
    "capacity": ("capacity.validation", "planned throughput against that of a real service"),
    "scale": ("capacity.scale", "simulation from 1 GPU to 512"),
    "untrained": ("untrained", "writes the real sizes with random weights, and a profile for them"),
}


def main() -> None:
    """Run the benchmark that the command line names."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in BENCHMARKS:
        listed = "\n".join(f"  {each:12} {what}" for each, (_, what) in BENCHMARKS.items())
        problem = f"There is no benchmark {name!r}.\n" if name and not name.startswith("-") else ""
        sys.exit(f"{problem}Usage: python -m benchmarks NAME [options]\n{listed}")
    sys.argv[:2] = [f"python -m benchmarks {name}"]
    import_module(f"benchmarks.{BENCHMARKS[name][0]}").main()


if __name__ == "__main__":
    main()
