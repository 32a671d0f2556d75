"""Temperature calibration of a trained CLIP: `python -m training.calibration.label_scale models/mini`.

The scale of the cosines maximizes the likelihood of the true labels, over crops of regions of drawn, reconstructed and
generated images, which are disjoint from those of the evaluation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from pipeline.settings import Profile, ServiceSettings
from training.diffusion.generated_images import load_generated, load_reconstructed
from training.diffusion.prompt_sets import training_prompts
from training.evaluation.clip import load_clip, name_regions
from training.scenes.dataset import SIDE, WORK, Choice, load_scenes

DRAWN, RECONSTRUCTED, GENERATED = 120, 40, 80  # images
FIRST = 1_000_000  # seed of the drawn ones; the evaluation's are below
FIRST_PROMPT = 3_000_000  # seed of the generated ones; those of the training are below
SCALES = np.geomspace(10, 200, 61)


def find_scale(models: Path, work: Path, side: int, profile: Profile) -> float:
    """Calibrate the scale for a model under a profile's labels."""
    engine = load_clip(models)
    drawn = Choice(num=DRAWN, side=side, split="test", first=FIRST)
    prompts = training_prompts(GENERATED, FIRST_PROMPT)
    sets = (
        load_scenes(drawn, work),
        load_reconstructed(Choice(num=RECONSTRUCTED, side=side, split="test", first=FIRST), models / "diffusion", work),
        load_generated(prompts, models, work, profile.sam2.everything, side),
    )
    labelling = profile.clip.labelling
    texts = [labelling.template.format(label=label.replace("_", " ")) for label in labelling.names]
    matrix = engine.encode_texts([*texts, *([labelling.unknown] if labelling.unknown else [])])
    cosines, true = [], []
    for scenes in sets:
        named = name_regions(engine, scenes, labelling)
        cosines.append(named.descriptions.vectors @ matrix.T)
        true += [labelling.names.index(name) for name in named.true]
    logits = np.concatenate(cosines).astype(np.float64)

    def loss(scale: float) -> float:
        scaled = scale * logits
        likely = scaled[np.arange(len(true)), true] - np.logaddexp.reduce(scaled, 1)
        return float(-likely.mean())

    losses = [loss(float(scale)) for scale in SCALES]
    return round(float(SCALES[int(np.argmin(losses))]), 1)


def main() -> None:
    """Read the command line and print the setting for a profile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the models")
    parser.add_argument("--work", type=Path, default=WORK)
    arguments = parser.parse_args()
    print(f"logit_scale: {find_scale(arguments.folder, arguments.work, SIDE, ServiceSettings().load_profile())}")


if __name__ == "__main__":
    main()
