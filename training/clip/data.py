"""Training data of CLIP: drawn scenes, reconstructed scenes, and images of the diffusion model."""

from __future__ import annotations

from pathlib import Path

from pipeline.settings import ServiceSettings
from training.clip.train import Material
from training.diffusion.generated_images import load_generated, load_reconstructed
from training.diffusion.prompt_sets import training_prompts
from training.scenes.dataset import Choice, Scenes

RECONSTRUCTED, GENERATED = 1000, 600  # images
FIRST_RECONSTRUCTED, FIRST_PROMPT = 2_000_000, 1_000_000  # seeds
SHARES = {"drawn": 0.5, "reconstructed": 0.2, "generated": 0.3}


def load_material(
    drawn: Scenes, models: Path, work: Path, reconstructed: int = RECONSTRUCTED, generated: int = GENERATED
) -> list[Material]:
    """Load all available data: only drawn scenes if `models` has no diffusion model and no SAM2 yet.

    Args:
        drawn: scenes of the training split.
        models: the folder of all models.
        work: where images are kept.
        reconstructed: number of scenes to pass through the autoencoder.
        generated: number of generated images.
    """
    material = [Material(scenes=drawn, share=SHARES["drawn"])]
    if not all((models / name).is_dir() for name in ("diffusion", "sam2")):
        return material
    side = drawn.pixels.shape[1]
    choice = Choice(num=reconstructed, side=side, first=FIRST_RECONSTRUCTED)
    everything = ServiceSettings().load_profile().sam2.everything
    prompts = training_prompts(generated, FIRST_PROMPT)
    return [
        *material,
        Material(scenes=load_reconstructed(choice, models / "diffusion", work), share=SHARES["reconstructed"]),
        Material(scenes=load_generated(prompts, models, work, everything, side), share=SHARES["generated"]),
    ]
