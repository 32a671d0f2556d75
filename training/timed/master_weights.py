"""Training with half-precision working weights: float32 master weights, a fused optimizer, and averaged weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

AVERAGE_EXPONENT = 14.0  # of the power-function average, which reaches back over about a fifteenth of the steps
GRADIENT_NORM = 1.0


class MasterWeights:
    """Keeps a float32 master and an average of each parameter, while modules compute with the parameters themselves.

    A step updates the masters with AdamW from the parameters' gradients, whose global norm is clipped; it is skipped
    if a gradient isn't finite. It never synchronizes with the device. Averages are a power function of the steps so
    far (arXiv:2312.02696).

    Args:
        betas: of AdamW.
        weight_decay: of matrices; vectors don't decay.
    """

    def __init__(self, *, betas: tuple[float, float], weight_decay: float) -> None:
        self._betas = betas
        self._weight_decay = weight_decay
        self._names: list[str] = []
        self._working: list[nn.Parameter] = []
        self._masters: list[torch.Tensor] = []
        self._averages: list[torch.Tensor] = []
        self._optimizer: torch.optim.AdamW | None = None
        self._steps = 0

    def add(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        *,
        dtype: torch.dtype,
        rate_share: float = 1.0,
    ) -> None:
        """Add parameters that require gradients, and convert them to the working type.

        Args:
            named: parameters by unique names.
            dtype: of the parameters from now on.
            rate_share: of the learning rate.
        """
        members = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        for decays in (True, False):
            masters = []
            for name, parameter in members:
                if (parameter.ndim > 1) != decays:
                    continue
                master = parameter.detach().float().clone()
                master.grad = torch.zeros_like(master)
                parameter.data = parameter.data.to(dtype)
                self._names.append(name)
                self._working.append(parameter)
                masters.append(master)
            if masters:
                self._masters += masters
                self._averages += [master.clone() for master in masters]
                self._optimize(masters, self._weight_decay if decays else 0.0, rate_share)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update everything from the parameters' gradients, and clear these.

        Raises:
            ValueError: there are no parameters.
        """
        if self._optimizer is None:
            raise ValueError("there is nothing to train")
        gradients: Any = [master.grad for master in self._masters]
        given = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._working]
        torch._foreach_copy_(gradients, given)
        norm = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(gradients))))
        optimizer: Any = self._optimizer
        optimizer.found_inf = (~torch.isfinite(norm)).float()
        optimizer.grad_scale = (norm / GRADIENT_NORM).clamp(min=1.0)  # the fused step divides by it
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate_share"]
        optimizer.step()
        working: Any = self._working
        torch._foreach_copy_(working, self._masters)
        self.drop_gradients()
        self._steps += 1
        kept = (1 - 1 / self._steps) ** (AVERAGE_EXPONENT + 1)
        torch._foreach_lerp_(self._averages, self._masters, 1 - kept)

    def drop_gradients(self) -> None:
        """Clear the parameters' gradients."""
        for parameter in self._working:
            parameter.grad = None

    def averaged(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """Return copies on the CPU of the averaged weights whose names start with a prefix, without it, in float32."""
        return {
            name.removeprefix(prefix): average.detach().to("cpu", copy=True)
            for name, average in zip(self._names, self._averages, strict=True)
            if name.startswith(prefix)
        }

    def _optimize(self, masters: list[torch.Tensor], weight_decay: float, rate_share: float) -> None:
        group: dict[str, Any] = {"params": masters, "weight_decay": weight_decay, "rate_share": rate_share}
        if self._optimizer is None:
            self._optimizer = torch.optim.AdamW([group], lr=1e-3, betas=self._betas, fused=True)
        else:
            self._optimizer.add_param_group(group)
