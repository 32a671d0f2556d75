from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.engines.diffusion.previews import LatentPreview, is_decoded, predict_clean
from pipeline.engines.diffusion.schedulers import make_scheduler
from pipeline.records import Scheduler

CHANNELS = 4


def decode_linearly(latents: torch.Tensor) -> np.ndarray:
    """Decode (1, 4, h, w) to (8 h, 8 w, 3) linearly, as the preview approximates it."""
    colours = latents[0, :3].permute(1, 2, 0) * 20 + latents[0, 3, :, :, None] * 10 + 128
    return colours.numpy().clip(0, 255).round().astype(np.uint8).repeat(8, 0).repeat(8, 1)


def test_the_preview_of_a_linear_decoder_is_exact():
    preview = LatentPreview(decode_linearly, CHANNELS)
    latents = torch.randn(1, CHANNELS, 6, 5, generator=torch.Generator().manual_seed(3))

    drawn = preview.draw(latents)

    assert (drawn.shape, drawn.dtype) == ((12, 10, 3), np.uint8)
    assert np.abs(drawn.astype(int) - decode_linearly(latents)[::4, ::4]).max() <= 1


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler", [Scheduler.DDIM, Scheduler.EULER])
def test_clean_latents_equal_the_scheduler_s_prediction(scheduler: Scheduler, prediction_type: str):
    config = {"prediction_type": prediction_type, "clip_sample": False, "timestep_spacing": "leading"}
    made = make_scheduler(scheduler, config, 5, "cpu")
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, CHANNELS, 8, 8, generator=generator) * made.init_noise_sigma
    for timestep in made.timesteps:
        predicted = torch.randn(latents.shape, generator=generator)
        scaled = made.scale_model_input(latents, timestep)
        stepped = made.step(predicted, timestep, latents)

        assert torch.allclose(
            predict_clean(made, scaled, timestep, predicted), stepped.pred_original_sample, rtol=1e-3, atol=1e-3
        )
        latents = stepped.prev_sample


@pytest.mark.parametrize(
    ("num_steps", "steps"), [(15, [2, 4, 8, 12]), (8, [2, 4, 6]), (100, [2, 25, 50, 75]), (2, [1]), (1, [])]
)
def test_decoded_previews_are_spread_evenly_and_start_early(num_steps: int, steps: list[int]):
    assert [step for step in range(1, num_steps + 1) if is_decoded(step, num_steps, 4)] == steps
