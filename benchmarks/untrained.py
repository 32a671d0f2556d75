"""The real sizes with random weights, without access to a hub: `python -m benchmarks untrained FOLDER [--tiny]`.

They take as long as trained ones, but their output is noise. Writes the models and `FOLDER/sd14.yaml`, a profile for
the service and `benchmarks stage-costs`. `--tiny` writes small ones, to check that it works.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
import yaml
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.engines import everything
from pipeline.engines.device import pick_device
from pipeline.engines.sam2.engine import Sam2Engine
from pipeline.settings import ModelSource, Sam2Settings, ServiceSettings
from training.diffusion.architecture import MODEL_INDEX, write_tokenizer
from training.scenes.render import draw_scene

SEED = 0


@dataclass(frozen=True, kw_only=True)
class Size:
    """Sizes of all models."""

    side: int  # pixels of a generated image
    steps: int
    channels: tuple[int, ...]  # of the UNet's levels
    vae_channels: tuple[int, ...]
    text_width: int
    text_layers: int
    clip: str  # open_clip's name
    sam2: str  # ultralytics' name
    sam2_side: int
    points_per_side: int
    sam2_points: tuple[int, ...]  # at a time
    compiled: bool


REAL = Size(
    side=512,
    steps=15,
    channels=(320, 640, 1280, 1280),
    vae_channels=(128, 256, 512, 512),
    text_width=768,
    text_layers=12,
    clip="ViT-B-32",
    sam2="sam2.1_b.pt",
    sam2_side=1024,
    points_per_side=32,
    sam2_points=(64, 256, 1024),
    compiled=True,
)
TINY = Size(
    side=64,
    steps=2,
    channels=(32, 32, 32, 32),
    vae_channels=(32, 32, 32, 32),
    text_width=32,
    text_layers=1,
    clip="ViT-S-32-alt",
    sam2="sam2.1_t.pt",
    sam2_side=256,
    points_per_side=4,
    sam2_points=(1024,),
    compiled=False,
)


def write_pipeline(size: Size, folder: Path) -> None:
    """Write an untrained Stable Diffusion 1, or a smaller one of its kind."""
    UNet2DConditionModel(
        sample_size=size.side // 8, block_out_channels=size.channels, cross_attention_dim=size.text_width
    ).save_pretrained(folder / "unet")
    levels = len(size.vae_channels)
    AutoencoderKL(
        block_out_channels=size.vae_channels, down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, layers_per_block=2, latent_channels=4, sample_size=size.side,
    ).save_pretrained(folder / "vae")  # fmt: skip
    tokenizer = write_tokenizer(folder / "tokenizer")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=size.text_width, intermediate_size=4 * size.text_width,
            num_hidden_layers=size.text_layers, num_attention_heads=size.text_width // 16,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    ).save_pretrained(folder / "text_encoder")  # fmt: skip
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    ).save_pretrained(folder / "scheduler")
    classes = {"vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", "PNDMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX | classes))


def write_clip(size: Size, folder: Path) -> None:
    """Write one of open_clip's models."""
    folder.mkdir(exist_ok=True)
    model = open_clip.create_model(size.clip)
    config = {"model_cfg": open_clip.get_model_config(size.clip), "preprocess_cfg": model.visual.preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, folder / "open_clip_model.safetensors")


def write_sam2(size: Size, path: Path) -> None:
    """Write one of ultralytics' models."""
    torch.save({"model": everything.untrained_model(size.sam2).state_dict()}, path)


def write_profile(size: Size, folder: Path) -> Path:
    """Write the models and `sd14` with them in place of the hubs'; returns the profile's file.

    A tenth of SAM2's masks pass its thresholds, before duplicates are removed.
    """
    torch.manual_seed(SEED)
    diffusion, clip, sam2 = folder / "diffusion", folder / "clip", folder / size.sam2
    write_pipeline(size, diffusion)
    write_clip(size, clip)
    write_sam2(size, sam2)
    profile = ServiceSettings(profile="sd14").load_profile()
    side, defaults = size.side, profile.diffusion.defaults
    found = profile.sam2.everything.model_copy(
        update={"image_size": size.sam2_side, "points_per_side": size.points_per_side}
    )
    profile = profile.model_copy(
        update={
            "description": "Random weights in the sizes of sd14: pictures and names mean nothing.",
            "diffusion": profile.diffusion.model_copy(
                update={
                    "model": at(diffusion, profile.diffusion.model),
                    "compiled": size.compiled,
                    "defaults": defaults.model_copy(update={"width": side, "height": side, "steps": size.steps}),
                    "limits": profile.diffusion.limits.model_copy(update={"min_side": min(64, side)}),
                }
            ),
            "clip": profile.clip.model_copy(update={"model": at(clip, profile.clip.model), "pretrained": None}),
            "sam2": Sam2Settings(model=at(sam2, profile.sam2.model), everything=found),
        }
    )
    scene = np.array(draw_scene(SEED, 256, split="test").pixels)
    strict = everything.strict_thresholds(Sam2Engine(profile.sam2, pick_device("auto")), [scene], found)
    profile = profile.model_copy(update={"sam2": profile.sam2.model_copy(update={"everything": strict})})
    path = folder / "sd14.yaml"
    path.write_text(yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False))
    return path


def at(path: Path, source: ModelSource) -> ModelSource:
    """The same with other weights."""
    return source.model_copy(update={"source": str(path.resolve())})


def main(words: list[str] | None = None) -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args(words)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(write_profile(TINY if arguments.tiny else REAL, arguments.folder))
