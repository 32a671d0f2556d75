"""The real sizes with random weights on a GPU, without Ray: `python -m benchmarks gpu [--json PATH]`.

Stable Diffusion 1.4, CLIP ViT-B/32 and SAM2.1 base+ in half precision, the denoiser compiled, against float32
diffusers, open_clip with one call per crop, and ultralytics with defaults. Random weights take as long as trained ones.
`--tiny` runs the same with small models on any device, only to check that the script works.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from rich.console import Console

from benchmarks.engines import crops, diffusion, everything
from benchmarks.harness import Result, as_json, compare, tabulate, timed
from benchmarks.untrained import REAL, SEED, TINY, Size, write_clip, write_pipeline
from pipeline.engines.clip import ClipEngine
from pipeline.engines.device import pick_device
from pipeline.engines.diffusion.engine import DiffusionEngine
from pipeline.records import Scheduler
from pipeline.settings import (
    AutomaticMaskSettings,
    ClipSettings,
    DiffusionSettings,
    GenerationDefaults,
    GenerationLimits,
    ModelSource,
)
from training.scenes.render import draw_scene

ROUNDS = 20
CROWD = 8  # concurrent requests


def main(words: list[str] | None = None) -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    size, device = TINY if arguments.tiny else REAL, pick_device("auto")
    if device == "cpu" and not arguments.tiny:
        parser.error("there is no GPU here: only --tiny runs without one")
    where = f"{torch.cuda.get_device_name() if device != 'cpu' else 'a CPU'}, torch {torch.__version__}"
    print(f"On {where}")
    torch.manual_seed(SEED)
    results: list[Result] = []
    for measure in (measure_clip, measure_sam2, measure_diffusion):
        with TemporaryDirectory() as folder:
            for result in measure(size, device, Path(folder), arguments.rounds):
                print(f"{result.suite}, {result.case}: {result.ours:.1f} ms, ratio {result.ratio:.1f}", flush=True)
                results.append(result)
    Console(width=160).print(tabulate(results))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": where, "results": as_json(results)}, indent=2) + "\n")


def measure_diffusion(size: Size, device: str, folder: Path, rounds: int) -> list[Result]:
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
            lambda: [diffusion.naively(pipeline, requests[0])], rounds=rounds, goal="≤ 60 ms",
            fidelity=diffusion.agreement,
        ),
        compare(
            "diffusion", f"{CROWD} images at once, each", lambda: diffusion.together(engine, settings, requests),
            lambda: [diffusion.naively(pipeline, request) for request in requests], rounds=max(1, rounds // 4),
            goal="≤ 71 ms, ratio ≥ 4", fidelity=diffusion.agreement, per=CROWD,
        ),
    ]  # fmt: skip


def measure_clip(size: Size, device: str, folder: Path, rounds: int) -> list[Result]:
    """Labelling 24 regions."""
    write_clip(size, folder)
    settings = ClipSettings(model=ModelSource(source=str(folder), dtype="float32" if device == "cpu" else "float16"))
    ours = ClipEngine(settings, device)
    theirs = crops.OpenClip(f"local-dir:{folder}", settings.labelling, device)
    pictures = crops.draw_crops()
    return [
        compare(
            "crops", f"{len(pictures)} crops to labels", lambda: crops.describe(ours, pictures, settings.labelling),
            lambda: theirs.describe(pictures), rounds=rounds, goal="≥ 3, cosine ≥ 0.999",
            fidelity=crops.agreement,
        )
    ]  # fmt: skip


def measure_sam2(size: Size, device: str, _folder: Path, rounds: int) -> list[Result]:
    """Everything, exactly, with so many points at a time; in single precision first, unless there is nothing else."""
    ways = ((size.sam2_points[0], "float32"), *((points, "float16") for points in size.sam2_points))
    return [
        measure_everything(size, device, rounds, points, dtype)
        for points, dtype in (ways[:1] if device == "cpu" else ways)
    ]


def measure_everything(size: Size, device: str, rounds: int, points: int, dtype: str) -> Result:
    """Automatic segmentation of a scene, with so many points at a time."""
    engine = everything.untrained_engine(size.sam2, device, dtype)
    scene = np.array(draw_scene(SEED, 256, split="test").pixels)
    parameters = AutomaticMaskSettings(
        image_size=size.sam2_side, points_per_side=size.points_per_side, points_per_batch=points,
        min_stability=0.0, stability_offset=0.0,
    )  # fmt: skip
    bound = everything.upper_score(engine, scene, parameters)
    parameters = parameters.model_copy(update={"min_predicted_iou": bound})
    theirs = everything.predictor_for(everything.untrained_model(size.sam2), parameters, device)
    segment = everything.segmenting(engine, [scene], parameters)
    result = compare(
        "everything", f"{size.sam2}, {dtype}, {size.points_per_side}² points, {points} at a time", segment,
        lambda: [everything.generate(theirs, scene, parameters)], rounds=max(1, rounds // 4), goal="≤ 15 ms",
        fidelity=everything.agreement,
    )  # fmt: skip
    return replace(result, fidelity=f"{result.fidelity}; {memory_of(segment, device)}")


def memory_of(work: Any, device: str) -> str:
    """GPU memory of a workload, including the models, and its median time."""
    if device == "cpu":
        return "no GPU"
    torch.cuda.reset_peak_memory_stats()
    times = [timed(work) for _ in range(ROUNDS)]
    return f"peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB, p50 {1000 * median(times):.1f} ms"
