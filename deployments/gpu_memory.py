"""GPU memory of a replica, told to Prometheus for as long as it lives. Its other memory is told by Ray."""

from __future__ import annotations

import threading
import time

from ray.serve.metrics import Gauge

REPORT_INTERVAL_S = 2.0  # a gauge that is not set again and again vanishes from the exporter


def report_gpu_memory(device: str, share: float) -> None:
    """Begin to report; returns at once.

    Args:
        device: where the replica computes, as torch names it; on a CPU it holds nothing of a GPU.
        share: of the card's memory that it may take, 0 to 1.
    """
    threading.Thread(target=_report, args=(device, share), name="gpu-memory", daemon=True).start()


def _report(device: str, share: float) -> None:
    held = Gauge("pipeline_replica_gpu_bytes", description="GPU memory that torch holds in a replica.")
    limit = Gauge("pipeline_replica_gpu_limit_bytes", description="GPU memory that a replica may hold.")
    while True:
        held_bytes, limit_bytes = (0.0, 0.0) if device == "cpu" else _held_and_limit(device, share)
        held.set(held_bytes)
        limit.set(limit_bytes)
        time.sleep(REPORT_INTERVAL_S)


def _held_and_limit(device: str, share: float) -> tuple[float, float]:
    import torch

    return torch.cuda.memory_reserved(device), share * torch.cuda.get_device_properties(device).total_memory
