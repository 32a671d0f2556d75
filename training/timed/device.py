"""Torch settings of a part."""

from __future__ import annotations

import torch

from pipeline.engines.device import pick_device
from training.timed.part import PartContext
from training.timed.recipe import PARTS

GPU_THREADS = 2  # of the host with a GPU: the cores are busy drawing


def prepare_torch(context: PartContext) -> torch.device:
    """Seed torch for the part, choose its threads and precision, and return the device it trains on."""
    torch.manual_seed(context.recipe.seed + 1000 * PARTS.index(context.name))
    device = torch.device(pick_device("auto"))
    if device.type == "cuda":
        torch.set_num_threads(GPU_THREADS)
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        context.log(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    else:
        torch.set_num_threads(1)
    return device


def working_dtype(device: torch.device) -> torch.dtype:
    """Bfloat16 on a GPU, float32 on a CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32
