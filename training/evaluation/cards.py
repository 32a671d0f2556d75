"""Model cards: training data and procedure, intended use and metrics of a miniature model."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from pipeline.engines import weights
from pipeline.settings import PROJECT_ROOT
from training.evaluation.measures import Figure, tabulate_markdown
from training.loop import Run

MODELS = PROJECT_ROOT / "models" / "mini"
PROVENANCE_FILE = "training.yaml"

CARD = """---
license: agpl-3.0
---
# {title}

{what}

- **Data**: {data}
- **Limits**: {limits}
- **Format**: {form}
- **Content**: `{digest}` (SHA-256, see `pipeline/engines/weights.py`), {megabytes:.1f} MB
- **Licence**: the project's, AGPL-3.0-or-later.{credit}

## Training

`python -m training.train {name}`, and `--fine-tune` where a stage has the name of an earlier one. A stage without a
remark gives the same weights again on the same machine. Minutes are wall time; these machines had other work too.

| stage | steps | pictures in a batch | learning rate | seed | minutes | device | remark |
|---|---|---|---|---|---|---|---|
{stages}

## Measured quality

`python -m training.evaluate {name}`, on held-out seeds:

{figures}
"""


@dataclass(frozen=True, kw_only=True)
class Text:
    """The text of a card, apart from metrics."""

    title: str
    what: str
    data: str
    limits: str
    form: str
    credit: str = ""


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """A training stage, one row of the card's table."""

    stage: str
    steps: int
    batch: int
    learning_rate: float
    seed: int
    minutes: float
    device: str
    remark: str = ""


SCENES = (
    "scenes that `training/scenes` draws: one to three things of 49 of CIFAR-100's kinds in 11 colours, on plain, "
    "gradient and textured backgrounds, with captions. One colour of each kind is held out."
)
TEXTS = {
    "clip": Text(
        title="A miniature CLIP for drawn scenes",
        what="Says which of 49 kinds of things and of 11 colours an image or a region shows, or that it shows none.",
        data=f"{SCENES} Whole, and cut out as the service cuts out regions and backgrounds; some went through the "
        "autoencoder, some are generated. Noise, clutter and parts of things stand for what has no name.",
        limits="knows drawn things only. Most photographs it calls unknown; what it says of the others means nothing.",
        form="an open_clip folder for `local-dir:`, half precision, 80 px pictures, open_clip's own tokenizer",
        credit=" The tokenizer's byte-pair merges are CLIP's, from open_clip (MIT).",
    ),
    "diffusion": Text(
        title="A miniature Stable Diffusion for drawn scenes",
        what='Makes images of 256 × 256 pixels from prompts like "red apple in white plate".',
        data=SCENES,
        limits="knows 49 kinds of drawn things, alone or in twos; of everything else it makes something of these.",
        form="a diffusers `StableDiffusionPipeline` folder, half precision, v-prediction, zero SNR, trailing DDIM",
        credit=" The tokenizer's byte-pair merges are CLIP's, from open_clip (MIT).",
    ),
    "sam2": Text(
        title="A miniature SAM2 for drawn scenes",
        what="Segments an image: the visible part of whatever lies under a point, and how well it is cut out.",
        data=SCENES,
        limits="trained on drawn things, and on whole things: parts of things and photographs it cuts by colour.",
        form="`config.json` with the arguments of ultralytics' `_build_sam2`, half precision, no memory for videos",
    ),
}


def write_provenance(folder: Path, stages: Mapping[str, tuple[Run, int]], append: bool = False) -> None:
    """Record in a model's folder how its stages were trained, each with its batch size.

    If a recipe is changed during a run, add a remark to the file by hand.

    Args:
        append: the model was fine-tuned from weights whose stages are already recorded.
    """
    facts = [
        StageFacts(
            stage=name,
            steps=run.step,
            batch=batch,
            learning_rate=run.recipe.learning_rate,
            seed=run.recipe.seed,
            minutes=round(run.seconds / 60, 1),
            device=name_device(),
        )
        for name, (run, batch) in stages.items()
    ]
    append_stages(folder, facts, append)


def append_stages(folder: Path, stages: Sequence[StageFacts], append: bool) -> None:
    """Record in a model's folder how its stages were trained.

    Args:
        folder: of the model.
        stages: in chronological order.
        append: keep the stages already recorded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / PROVENANCE_FILE
    earlier = yaml.safe_load(file.read_text()) if append and file.exists() else []
    facts = [asdict(stage) for stage in stages]
    file.write_text(yaml.safe_dump(earlier + facts, sort_keys=False, allow_unicode=True))


def name_device() -> str:
    """Name of the training device."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU thread(s), {platform.machine()}"


def write_card(folder: Path, figures: Sequence[Figure]) -> None:
    """Write the card of a model, which is named like its folder, from its provenance and its figures."""
    facts: list[dict[str, Any]] = yaml.safe_load((folder / PROVENANCE_FILE).read_text())
    text = TEXTS[folder.name]
    megabytes = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6
    stages = "\n".join("| " + " | ".join(str(value) for value in stage.values()) + " |" for stage in facts)
    card = CARD.format(
        name=folder.name,
        digest=weights.content_digest(folder),
        megabytes=megabytes,
        stages=stages,
        figures=tabulate_markdown(figures),
        **vars(text),
    )
    (folder / "README.md").write_text(card)
