"""Creates diffusers' schedulers for the noise schedules a request may name. Never shared between requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from pipeline.records import Scheduler

LCM_ORIGINAL_STEPS = 50  # diffusers' default: the number of steps that models were distilled from


@dataclass(frozen=True, kw_only=True, slots=True)
class _Method:
    made_by: Any  # a diffusers scheduler class; they share no typed base
    options: dict[str, Any] = field(default_factory=dict)
    draws_noise: bool = False  # whether each step needs the request's generator


_METHODS = {
    # Stable Diffusion never uses the Runge-Kutta start, which costs nine more calls of the UNet.
    Scheduler.PNDM: _Method(made_by=PNDMScheduler, options={"skip_prk_steps": True}),
    Scheduler.DDIM: _Method(made_by=DDIMScheduler),
    Scheduler.EULER: _Method(made_by=EulerDiscreteScheduler),
    Scheduler.EULER_A: _Method(made_by=EulerAncestralDiscreteScheduler, draws_noise=True),
    Scheduler.DPMPP_2M: _Method(made_by=DPMSolverMultistepScheduler),
    Scheduler.LCM: _Method(made_by=LCMScheduler, draws_noise=True),
    Scheduler.UNIPC: _Method(made_by=UniPCMultistepScheduler),
}


def make_scheduler(scheduler: Scheduler, config: dict[str, Any], steps: int, device: str) -> Any:
    """Create a scheduler for `steps` steps: it has a step index, so each request needs its own.

    Args:
        scheduler: the method.
        config: the pipeline's own scheduler config. Its prediction type, betas, zero SNR and spacing are kept as far
            as the method supports them.
        steps: their number. PNDM's `timesteps` has one more.
        device: of the timesteps.
    """
    method = _METHODS[scheduler]
    made = method.made_by.from_config(config, **method.options)
    if scheduler is Scheduler.LCM:
        # Its timesteps are a subset of the distilled model's; more steps than those would raise.
        made.set_timesteps(steps, device=device, original_inference_steps=max(LCM_ORIGINAL_STEPS, steps))
    else:
        made.set_timesteps(steps, device=device)
    return made


def step_options(scheduler: Scheduler, generator: Any) -> dict[str, Any]:
    """Return the keyword arguments of the scheduler's `step`: the torch.Generator if the method draws noise."""
    return {"generator": generator} if _METHODS[scheduler].draws_noise else {}
