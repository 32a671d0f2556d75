"""Mixed precision in training."""

from __future__ import annotations

import torch


def mixed_precision(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 on GPUs and on CPUs that compute in it; on other CPUs it takes several times as long."""
    enabled = device.type != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
