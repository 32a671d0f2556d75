"""Automatic segmentation: ours against ultralytics' `SAM2Predictor.generate`, with the same points and thresholds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ultralytics.models.sam.build import sam_model_map
from ultralytics.models.sam.predict import SAM2Predictor

from benchmarks.harness import Result, compare
from pipeline.engines.sam2.engine import Sam2Engine
from pipeline.engines.sam2.loading import load_model
from pipeline.imaging.masks import Mask, decode_mask
from pipeline.records import Pixels, Segmentation
from pipeline.settings import AutomaticMaskSettings, ModelSource, Sam2Settings, ServiceSettings
from training.scenes.render import draw_scene

LARGE_BATCH = 16  # theirs is 64; ours are smaller, to stay in the CPU caches
SCENES, SCENES_ADAPTIVE = 4, 16
RECALL = 0.97
LARGE = "sam2.1_b.pt"
LARGE_SIDE, LARGE_POINTS, LARGE_POINTS_QUICK = 1024, 32, 16
SURVIVORS = 0.1  # of the large model's masks, which is untrained
SEED = 9_000_000

Masks = list[Mask]


def measure(quick: bool) -> list[Result]:
    """The miniature exactly, in bf16 and adaptively, and the real architecture with random weights."""
    profile = ServiceSettings().load_profile().sam2
    served = profile.everything.model_copy(update={"recall": 1.0, "max_mask_iou": 1.0})
    scenes = draw_scenes(SCENES)
    ours = Sam2Engine(profile, "cpu")
    half = Sam2Engine(
        profile.model_copy(update={"model": profile.model.model_copy(update={"dtype": "bfloat16"})}), "cpu"
    )
    strict = strict_thresholds(ours, scenes, served)
    rounds = 3 if quick else 9
    results = [
        against_ultralytics(f"mini, {case}, {served.points_per_side}² points", engine, profile.model, scenes,
                            parameters, parameters, rounds, goal)
        for case, engine, parameters, goal in (
            ("exact", ours, served, "≥ 3"),
            ("exact, a tenth of the masks survives", ours, strict, "≥ 3"),
            ("bf16, a tenth of the masks survives", half, strict, "≥ 5, mIoU ≥ 0.98"),
        )
    ]  # fmt: skip
    fine = served.model_copy(update={"points_per_side": 32})
    adaptive = fine.model_copy(update={"recall": RECALL})
    few = scenes if quick else draw_scenes(SCENES_ADAPTIVE)
    results.append(
        against_ultralytics("mini, adaptive, 32² points", ours, profile.model, few, adaptive, fine, 1,
                            "≥ 8, recall ≥ 97 %")
    )  # fmt: skip
    return [*results, measure_large(quick)]


def against_ultralytics(
    case: str,
    engine: Sam2Engine,
    model: ModelSource,
    scenes: list[Pixels],
    parameters: AutomaticMaskSettings,
    their_parameters: AutomaticMaskSettings,
    rounds: int,
    goal: str,
) -> Result:
    """Segment scenes with the miniature, with both implementations."""
    theirs = predictor_for(load_model(model)[0], their_parameters)
    return compare(
        "everything", case, segmenting(engine, scenes, parameters),
        lambda: [generate(theirs, scene, their_parameters) for scene in scenes],
        rounds=rounds, goal=goal, fidelity=agreement, per=len(scenes),
    )  # fmt: skip


def measure_large(quick: bool) -> Result:
    """SAM2.1-b+ with random weights; a tenth of the masks pass the thresholds."""
    engine = untrained_engine()
    points = LARGE_POINTS_QUICK if quick else LARGE_POINTS
    scene = np.array(draw_scene(SEED, 256, split="test").pixels)
    everything = strict_thresholds(
        engine,
        [scene],
        AutomaticMaskSettings(image_size=LARGE_SIDE, points_per_side=points, points_per_batch=LARGE_BATCH),
    )
    theirs = predictor_for(engine.model, everything)
    return compare(
        "everything", f"SAM2.1-b+ untrained, exact, a tenth survives, {points}² points",
        segmenting(engine, [scene], everything), lambda: [generate(theirs, scene, everything)],
        rounds=1, goal="≥ 3", fidelity=agreement,
    )  # fmt: skip


def draw_scenes(num: int) -> list[Pixels]:
    """Held-out scenes."""
    return [np.array(draw_scene(SEED + i, 128, split="test").pixels) for i in range(num)]


def strict_thresholds(
    engine: Sam2Engine, scenes: list[Pixels], everything: AutomaticMaskSettings
) -> AutomaticMaskSettings:
    """Thresholds that a tenth of the masks pass."""
    lenient = everything.model_copy(update={"min_stability": 0.0, "stability_offset": 0.0})
    bound = float(np.mean([upper_score(engine, scene, lenient) for scene in scenes]))
    return lenient.model_copy(update={"min_predicted_iou": bound})


def untrained_engine(name: str = LARGE, device: str = "cpu", dtype: Any = "float32") -> Sam2Engine:
    """One of ultralytics' models, SAM2.1-b+ if none is named, from a seed."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        torch.save({"model": untrained_model(name).state_dict()}, path)
        return Sam2Engine(Sam2Settings(model=ModelSource(source=str(path), dtype=dtype)), device)


def untrained_model(name: str) -> Any:
    """The same weights as ultralytics' own model."""
    torch.manual_seed(0)
    return sam_model_map[name]()


def upper_score(engine: Sam2Engine, scene: Pixels, everything: AutomaticMaskSettings) -> float:
    """The predicted IoU that a tenth of the masks exceed, from a few points."""
    few = everything.model_copy(update={"points_per_side": 8, "min_predicted_iou": 0.0, "max_box_iou": 1.0})
    found = last(engine, scene, few)
    return float(np.quantile(found.predicted_iou, 1 - SURVIVORS))


def segmenting(
    engine: Sam2Engine, scenes: list[Pixels], everything: AutomaticMaskSettings
) -> Callable[[], list[Masks]]:
    """A function that segments all scenes, without cached encodings."""

    def segment() -> list[Masks]:
        engine.clear_cache()
        found = [last(engine, scene, everything) for scene in scenes]
        return [[decode_mask(rle, each.size) for rle in each.rles] for each in found]

    return segment


def last(engine: Sam2Engine, scene: Pixels, everything: AutomaticMaskSettings) -> Segmentation:
    """Run a segmentation to completion."""
    *_, segmentation = engine.segment(scene, everything)
    if not isinstance(segmentation, Segmentation):
        raise TypeError(f"the engine ended with {segmentation}")
    return segmentation


def predictor_for(model: Any, everything: AutomaticMaskSettings, device: str = "cpu") -> SAM2Predictor:
    """Ultralytics' predictor with the same model and the same duplicate threshold."""
    predictor = SAM2Predictor(
        overrides={
            "model": "sam2_t.pt",
            "imgsz": everything.image_size,
            "conf": everything.min_predicted_iou,
            "iou": everything.max_box_iou,
            "device": device,
            "save": False,
            "verbose": False,
        }
    )
    threads = torch.get_num_threads()
    predictor.setup_model(model, verbose=False)
    torch.set_num_threads(threads)  # it would leave one for all scenes
    return predictor


def generate(predictor: SAM2Predictor, scene: Pixels, everything: AutomaticMaskSettings) -> Masks:
    """Ultralytics' pipeline from an image to masks of its size."""
    (result,) = predictor(
        source=np.ascontiguousarray(scene[..., ::-1]),
        points_stride=everything.points_per_side,
        conf_thres=everything.min_predicted_iou,
        stability_score_thresh=everything.min_stability,
        stability_score_offset=everything.stability_offset,
    )
    if result.masks is None:
        return []
    masks = result.masks.data.cpu().numpy().astype(bool)
    least = max(1, everything.min_area * masks[0].size)
    return [mask for mask in masks if mask.sum() >= least]


def agreement(ours: list[Masks], theirs: list[Masks]) -> str:
    """Compare the regions of both: their numbers, how many of theirs match one of ours, and the mean IoU."""
    best = [
        max((iou(mask, other) for other in found), default=0.0)
        for found, wanted in zip(ours, theirs, strict=True)
        for mask in wanted
    ]
    counts = f"{sum(map(len, ours))} and {sum(map(len, theirs))} regions"
    matched = sum(each >= 0.9 for each in best) / max(1, len(best))
    return f"{counts}, {matched:.1%} of theirs at IoU ≥ 0.9, mIoU {np.mean(best or [0]):.3f}"


def iou(left: Mask, right: Mask) -> float:
    """Intersection over union."""
    return float((left & right).sum() / max(1, (left | right).sum()))
