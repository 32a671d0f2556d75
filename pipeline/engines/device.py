"""Choice of device, and CPU threads."""

from __future__ import annotations

import ctypes

import torch

from pipeline.settings import Accelerator

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_KEPT, KEPT = 32 << 20, 512 << 20  # bytes: glibc's limit for a block, and for all free memory that is kept


def pick_device(accelerator: Accelerator) -> str:
    """Choose `"cpu"` or `"cuda:0"`, the first GPU visible to this process; `auto` prefers a GPU.

    Raises:
        RuntimeError: `cuda` is required and this process sees no GPU.
    """
    if accelerator == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda:0"
    if accelerator == "cuda":
        raise RuntimeError("The accelerator is set to cuda, but this process sees no GPU. Set it to auto or cpu.")
    return "cpu"


def use_cpu(threads: int) -> None:
    """Set torch's CPU threads in this process, and make glibc reuse freed blocks.

    By default glibc returns large blocks to the kernel at once; engines allocate the same few sizes repeatedly, and
    fresh pages took a tenth of SAM2's time.

    Must be called by the owner of the process, not by an engine: the settings are global, and Ray sets one thread for
    an actor with less than one CPU.
    """
    torch.set_num_threads(threads)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)
