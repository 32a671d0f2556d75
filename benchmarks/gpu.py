"""The real sizes with random weights on a GPU, without Ray: `python -m benchmarks.gpu [--json PATH]`.

Stable Diffusion 1.4, CLIP ViT-B/32 and SAM2.1 base+ in half precision, the denoiser compiled, beside float32 diffusers,
open_clip with one call for each crop, and ultralytics: what whoever uses these gets by default. Random weights take as
long as trained ones. `--tiny` runs the same with small parts on whatever there is: it shows that the script works, and
nothing else.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import open_clip
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from rich.console import Console
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks import crops, diffusion, everything
from benchmarks.harness import Result, as_json, compare, tabulate, timed
from pipeline.engines.clip import ClipEngine
from pipeline.engines.device import pick_device
from pipeline.engines.diffusion import DiffusionEngine
from pipeline.records import Scheduler
from pipeline.settings import (
    ClipSettings,
    DiffusionSettings,
    Everything,
    GenerationDefaults,
    GenerationLimits,
    ModelSource,
)
from training.diffusion_parts import MODEL_INDEX, write_tokenizer
from training.scenes import draw_scene

ROUNDS = 20
CROWD = 8  # requests at once
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large everything is."""

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
    compiled: bool
    rounds: int


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
    compiled=True,
    rounds=ROUNDS,
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
    compiled=False,
    rounds=1,
)


def main(words: list[str] | None = None) -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    size, device = TINY if arguments.tiny else REAL, pick_device("auto")
    if device == "cpu" and not arguments.tiny:
        parser.error("there is no GPU here: only --tiny runs without one")
    print(f"On {torch.cuda.get_device_name() if device != 'cpu' else 'a CPU'}")
    torch.manual_seed(SEED)
    results: list[Result] = []
    for measure in (measure_diffusion, measure_clip, measure_sam2):
        with TemporaryDirectory() as folder:
            results += measure(size, device, Path(folder))
    Console(width=160).print(tabulate(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(results), indent=2) + "\n")


def measure_diffusion(size: Size, device: str, folder: Path) -> list[Result]:
    """One image, and eight at once."""
    write_pipeline(size, folder)
    settings = DiffusionSettings(
        model=ModelSource(source=str(folder), dtype="float32" if device == "cpu" else "float16"),
        batch_rows=(2, 4, 8, 16),
        compiled=size.compiled,
        defaults=GenerationDefaults(
            width=size.side, height=size.side, steps=size.steps, guidance=7.5, scheduler=Scheduler.DDIM
        ),
        limits=GenerationLimits(min_side=64, max_side=1024, side_multiple=64),
    )
    engine = DiffusionEngine(settings, device)
    engine.warm_up(settings.batch_rows)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)
    requests = [diffusion.request_for(settings, f"a {colour} apple", i) for i, colour in enumerate(diffusion.COLOURS)]
    return [
        compare(
            "diffusion", f"one image, {size.side}², {size.steps} steps", lambda: [diffusion.alone(engine, requests[0])],
            lambda: [diffusion.naively(pipeline, requests[0])], rounds=size.rounds, goal="≤ 60 ms",
            fidelity=diffusion.agreement,
        ),
        compare(
            "diffusion", f"{CROWD} images at once, each", lambda: diffusion.together(engine, settings, requests),
            lambda: [diffusion.naively(pipeline, request) for request in requests], rounds=max(1, size.rounds // 4),
            goal="≤ 71 ms, ratio ≥ 4", fidelity=diffusion.agreement, per=CROWD,
        ),
    ]  # fmt: skip


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


def measure_clip(size: Size, device: str, folder: Path) -> list[Result]:
    """Naming 24 regions."""
    model = open_clip.create_model(size.clip)
    config = {"model_cfg": open_clip.get_model_config(size.clip), "preprocess_cfg": model.visual.preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    settings = ClipSettings(model=ModelSource(source=str(folder), dtype="float32" if device == "cpu" else "float16"))
    ours = ClipEngine(settings, device)
    theirs = crops.OpenClip(f"local-dir:{folder}", settings.labelling, device)
    pictures = crops.draw_crops()
    return [
        compare(
            "crops", f"{len(pictures)} crops to labels", lambda: crops.describe(ours, pictures, settings.labelling),
            lambda: theirs.describe(pictures), rounds=size.rounds, goal="≥ 3, cosine ≥ 0.999",
            fidelity=crops.agreement,
        )
    ]  # fmt: skip


def measure_sam2(size: Size, device: str, _folder: Path) -> list[Result]:
    """Everything, exactly, in one batch of points."""
    engine = everything.untrained_engine(size.sam2, device, "float32" if device == "cpu" else "float16")
    scene = np.array(draw_scene(SEED, 256, split="test").pixels)
    parameters = Everything(
        image_size=size.sam2_side, points_per_side=size.points_per_side, points_per_batch=1024,
        min_stability=0.0, stability_offset=0.0,
    )  # fmt: skip
    bound = everything.upper_score(engine, scene, parameters)
    parameters = parameters.model_copy(update={"min_predicted_iou": bound})
    theirs = everything.predictor_for(everything.untrained_model(size.sam2), parameters, device)
    segment = everything.segmenting(engine, [scene], parameters)
    result = compare(
        "everything", f"{size.sam2}, {size.sam2_side} px, {size.points_per_side}² points", segment,
        lambda: [everything.generate(theirs, scene, parameters)], rounds=max(1, size.rounds // 4), goal="≤ 15 ms",
        fidelity=everything.agreement,
    )  # fmt: skip
    return [replace(result, fidelity=f"{result.fidelity}; {memory_of(segment, device)}")]


def memory_of(work: Any, device: str) -> str:
    """How much of the GPU's memory a piece of work takes, models included, and its median time."""
    if device == "cpu":
        return "no GPU"
    torch.cuda.reset_peak_memory_stats()
    times = [timed(work) for _ in range(ROUNDS)]
    return f"peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB, p50 {1000 * median(times):.1f} ms"


if __name__ == "__main__":
    main()
