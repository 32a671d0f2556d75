"""A compiled UNet for training, or the UNet itself if compilation fails, takes too long or isn't faster."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from training.timed.part import PartContext

WARM_UP, TIMED = 1, 2  # steps
MAX_DIFFERENCE = 0.05  # of the outputs' norm


class CompilationTimeout(Exception):
    """Compilation exceeded its time limit."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A batch of the compiled shape."""

    latents: torch.Tensor  # (n, c, h, w)
    timesteps: torch.Tensor  # (n,)
    text: torch.Tensor  # (n, tokens, d)


def compile_unet(context: PartContext, unet: Any, example: Example, end_s: float) -> Any:
    """Compile a UNet for the example's shape and compare it with the eager UNet.

    Args:
        context: for the log.
        unet: in training mode; its gradients are cleared.
        example: a batch.
        end_s: on the clock; it gives up then.

    Returns:
        The compiled UNet, or `unet` itself.
    """
    started = context.now()
    try:
        with time_limit(end_s - started):
            compiled = torch.compile(unet, dynamic=False)
            output, seconds = measure(compiled, unet, example)
    except CompilationTimeout:
        context.log("compiling takes too long: the UNet runs eagerly")
        return unet
    except Exception as error:  # whatever the compiler raises, training continues in eager mode
        context.log(f"compiling failed, the UNet runs eagerly: {type(error).__name__}: {str(error)[:800]}")
        return unet
    finally:
        unet.zero_grad(set_to_none=True)
    expected, eager_seconds = measure(unet, unet, example)
    difference = float((output - expected).norm() / expected.norm())
    context.log(
        f"compiled in {context.now() - started:.0f} s: {seconds:.3f} s a step instead of {eager_seconds:.3f}, "
        f"relative difference {difference:.4f}"
    )
    return compiled if difference < MAX_DIFFERENCE and seconds < eager_seconds else unet


def measure(forward: Any, unet: Any, example: Example) -> tuple[torch.Tensor, float]:
    """Run forward and backward a few times; return the output and the mean seconds after the first time."""
    seconds = 0.0
    output = example.latents
    for step in range(WARM_UP + TIMED):
        started = time.monotonic()
        text = example.text.detach().clone().requires_grad_(True)
        output = forward(example.latents, example.timesteps, text, return_dict=False)[0].float()
        output.square().mean().backward()
        unet.zero_grad(set_to_none=True)
        if output.is_cuda:
            torch.cuda.synchronize()
        seconds += time.monotonic() - started if step >= WARM_UP else 0.0
    return output.detach(), seconds / TIMED


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise CompilationTimeout in the block after so many seconds, at least one; for main threads only."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise CompilationTimeout

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
