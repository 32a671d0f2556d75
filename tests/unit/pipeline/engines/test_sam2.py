from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from ultralytics.models.sam.predict import SAM2Predictor

from pipeline.engines.sam2 import engine as sam2
from pipeline.engines.sam2.engine import Sam2Engine
from pipeline.engines.sam2.loading import load_model
from pipeline.engines.sam2.point_sampling import SampledRegions, coarse_to_fine_rounds, covered, estimate_missed
from pipeline.engines.weights import ModelUnavailable, fingerprint
from pipeline.imaging.masks import decode_mask
from pipeline.records import PointsAndBox, Segmentation, StepProgress
from pipeline.settings import AutomaticMaskSettings, ModelSource, Sam2Settings
from pipeline.traces import within
from testing.tracing import KeptTraces
from tests.unit.shapes import draw_held_out, draw_shapes

# Small images keep these tests quick; the profile's are larger.
MINI = AutomaticMaskSettings(
    image_size=128, points_per_side=8, points_per_batch=64, min_predicted_iou=0.7, min_stability=0.9, max_box_iou=0.7
)
LENIENT = MINI.model_copy(update={"min_predicted_iou": 0.4, "min_stability": 0.5})


@pytest.fixture(scope="module")
def engine(mini_models):
    return Sam2Engine(Sam2Settings(model=ModelSource(source=str(mini_models / "sam2"))), "cpu")


def segment(engine, pixels, parameters=MINI):
    return list(engine.segment(pixels, parameters))[-1]


def masks_of(segmentation):
    return np.stack([decode_mask(rle, segmentation.size) for rle in segmentation.rles])


def test_it_finds_a_few_regions(engine):
    found = segment(engine, draw_shapes())
    assert isinstance(found, Segmentation)
    assert 2 <= len(found) <= 8
    assert found.size == (128, 128)
    assert (found.predicted_iou > MINI.min_predicted_iou).all()
    assert (found.stability > MINI.min_stability).all()
    assert (np.diff(found.predicted_iou) <= 0).all()
    assert masks_of(found).any(axis=(1, 2)).all()


def test_boxes_enclose_their_masks_exactly(engine):
    found = segment(engine, draw_shapes(), LENIENT)
    for mask, (x0, y0, x1, y1) in zip(masks_of(found), found.boxes.astype(int), strict=True):
        inside = mask[y0:y1, x0:x1]
        assert inside.sum() == mask.sum()
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()


def test_the_same_image_gives_the_same_regions_after_other_work(engine):
    first = segment(engine, draw_shapes())
    segment(engine, draw_held_out(1), MINI.model_copy(update={"image_size": 64}))
    again = segment(engine, draw_shapes())
    assert first.rles == again.rles
    assert np.array_equal(first.predicted_iou, again.predicted_iou)


def test_progress_counts_batches_and_regions_do_not_depend_on_them(engine):
    whole = segment(engine, draw_shapes())
    *progress, last = engine.segment(draw_shapes(), MINI.model_copy(update={"points_per_batch": 24}))
    assert progress == [StepProgress(step=i, num_steps=3) for i in (1, 2, 3)]
    assert len(last) == len(whole)
    assert last.boxes == pytest.approx(whole.boxes, abs=1)


def test_closing_stops_the_work(engine, monkeypatch):
    calls = []
    decode = engine.decode_points
    monkeypatch.setattr(engine, "decode_points", lambda *args: calls.append(1) or decode(*args))
    stream = engine.segment(draw_shapes(), MINI.model_copy(update={"points_per_batch": 8}))
    assert next(stream) == StepProgress(step=1, num_steps=8)
    stream.close()
    assert list(stream) == []
    assert len(calls) == 1


def test_without_masks_above_the_threshold_the_segmentation_is_empty(engine):
    found = segment(engine, draw_shapes(), MINI.model_copy(update={"min_predicted_iou": 1.0}))
    assert (len(found), found.boxes.shape, found.predicted_iou.shape, list(found)) == (0, (0, 4), (0,), [])


@pytest.mark.parametrize(("height", "width"), [(64, 192), (200, 120), (256, 256)])
def test_regions_lie_within_images_of_any_size(engine, height, width):
    found = segment(engine, draw_shapes(height, width), LENIENT)
    assert len(found) > 0
    assert found.size == (height, width)
    assert masks_of(found).shape[1:] == (height, width)
    assert (found.boxes.min(axis=0) >= 0).all()
    assert (found.boxes.max(axis=0) <= (width, height, width, height)).all()


def test_points_lie_on_the_image_and_not_on_its_padding():
    points = sam2.point_grid(4, (50, 100), 128)
    assert points.shape == (16, 2)
    assert points[0].tolist() == [16, 8]
    assert points[-1].tolist() == [112, 56]


@pytest.mark.parametrize(("height", "width"), [(128, 128), (128, 80)])
@pytest.mark.parametrize("parameters", [MINI, LENIENT])
def test_it_keeps_the_same_masks_as_ultralytics(engine, mini_models, height, width, parameters):
    image = draw_shapes(height, width)
    theirs, scores, boxes = generate_with_ultralytics(mini_models, image, parameters)
    share = sam2.image_share((height, width), parameters.image_size)
    picture = engine.encode_cached(sam2.fit(image, share, parameters.image_size))
    points = sam2.point_grid(parameters.points_per_side, (height, width), parameters.image_size)
    found = engine.decode_points(picture, points, torch.arange(len(points)), parameters)
    kept = sam2.without_duplicates(found, parameters.max_box_iou)
    ours = sam2.upsample(kept.logits, (parameters.image_size, parameters.image_size)) > 0
    assert len(ours) == len(theirs) > 0
    overlap = (ours & theirs).sum((1, 2)) / (ours | theirs).sum((1, 2))
    assert overlap.min() >= 0.98
    assert torch.allclose(kept.predicted_iou, scores, atol=1e-4)
    assert torch.allclose(kept.boxes, boxes, atol=1)


def generate_with_ultralytics(mini_models, image, parameters):
    """Return masks (n, s, s) bool, scores and boxes of SAM2Predictor.generate with these weights and thresholds."""
    model, _ = load_model(ModelSource(source=str(mini_models / "sam2")))
    quiet = {"imgsz": parameters.image_size, "conf": parameters.min_predicted_iou, "save": False, "verbose": False}
    predictor = SAM2Predictor(overrides={"model": "sam2_t.pt", "iou": parameters.max_box_iou, "device": "cpu"} | quiet)
    predictor.setup_model(model, verbose=False)
    predictor.setup_source(np.ascontiguousarray(image[..., ::-1]))
    with torch.inference_mode():
        predictor.batch = next(iter(predictor.dataset))
        return predictor.generate(
            predictor.preprocess(predictor.batch[1]),
            points_stride=parameters.points_per_side,
            points_batch_size=parameters.points_per_batch,
            conf_thres=parameters.min_predicted_iou,
            stability_score_thresh=parameters.min_stability,
            stability_score_offset=parameters.stability_offset,
        )


def test_upscaling_does_not_dilate_a_mask():
    logits = torch.full((1, 32, 32), -4.0)
    logits[:, 8:24, 8:24] = 4.0
    (mask,) = sam2.upscaled_masks(logits, 128, (128, 128), (256, 256))
    assert mask.sum() == pytest.approx(128 * 128, rel=0.02)


def test_the_fingerprint_is_that_of_the_weights(engine, mini_models):
    assert engine.fingerprint == fingerprint(mini_models / "sam2")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, mini_models, name):
    folder = tmp_path / "sam2"
    shutil.copytree(mini_models / "sam2", folder, ignore=shutil.ignore_patterns(name))
    with pytest.raises(ModelUnavailable, match=str(folder / name)):
        load_model(ModelSource(source=str(folder)))


def test_weights_of_another_model_are_refused(tmp_path, mini_models):
    shutil.copytree(mini_models / "sam2", tmp_path, dirs_exist_ok=True)
    state = load_file(tmp_path / "model.safetensors")
    del state["no_mem_embed"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelUnavailable, match="no_mem_embed"):
        load_model(ModelSource(source=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({"colour": "blue"}))
    with pytest.raises(ModelUnavailable, match=r"config\.json holds no arguments"):
        load_model(ModelSource(source=str(tmp_path)))


def test_a_known_name_without_a_file_raises_with_the_expected_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.engines.sam2.loading.SETTINGS", {"weights_dir": str(tmp_path / "kept")})
    monkeypatch.setattr("pipeline.engines.sam2.loading.attempt_download_asset", str)  # an empty hub
    with pytest.raises(ModelUnavailable, match=rf"sam2\.1_t\.pt is not at {tmp_path / 'kept' / 'sam2.1_t.pt'}"):
        load_model(ModelSource(source="sam2.1_t.pt"))
    with pytest.raises(ModelUnavailable, match="architecture is unknown"):
        load_model(ModelSource(source="sam9.pt"))


def test_a_known_name_is_pinned_and_never_unpickled_unsafely(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sam2.1_t.pt").write_bytes(b"not what was pinned")
    with pytest.raises(ModelUnavailable, match="pins"):
        load_model(ModelSource(source="sam2.1_t.pt", sha256=hashlib.sha256(b"pinned").hexdigest()))
    with pytest.raises(ModelUnavailable, match="damaged or holds more than tensors"):
        load_model(ModelSource(source="sam2.1_t.pt"))


@pytest.mark.parametrize(("points_per_side", "sizes"), [(3, [9]), (8, [16, 48]), (12, [36, 108]), (32, [64, 192, 768])])
def test_rounds_go_from_coarse_to_fine_and_cover_every_point_once(points_per_side, sizes):
    rounds = coarse_to_fine_rounds(points_per_side)
    assert [len(each) for each in rounds] == sizes
    assert sorted(np.concatenate(rounds)) == list(range(points_per_side**2))


def found_by(points, masks):
    """Return the sampled regions when each point gave one mask."""
    logits = torch.tensor(np.array(masks), dtype=torch.float32) - 0.5
    boxes = torch.tensor([[0.0, 0, 3, 3], [0, 0, 3, 3], [1, 1, 2, 2]])[: len(points)]
    unique = [0, 2][: len(points) - 1]
    return SampledRegions(masks=logits[unique] > 0, boxes=boxes[unique], all_boxes=boxes, all_points=np.array(points))


def test_points_in_known_regions_are_covered_and_exceptions_estimate_missed_regions():
    whole, part = np.ones((4, 4)), np.zeros((4, 4))
    part[1:3, 1:3] = 1
    grid = torch.tensor([[0.5, 0.5], [3.5, 3.5], [1.5, 1.5]])
    known = found_by([0, 1, 2], [whole, whole, part])
    assert covered(known, grid, side=4).tolist() == [True] * 3
    # The third point lay in a region of the others and still gave a new one: one new region in three covered points.
    assert estimate_missed(known, np.arange(3), grid, 6, 4, 0.7) == 2
    known = found_by([0, 1], [whole, whole])
    assert estimate_missed(known, np.arange(2), grid, 6, 4, 0.7) == 0


def test_a_recall_below_one_decodes_fewer_points(engine, monkeypatch):
    decoded = []
    decode = engine.decode_points
    monkeypatch.setattr(
        engine,
        "decode_points",
        lambda image, points, *rest: decoded.append(len(points)) or decode(image, points, *rest),
    )
    *progress, found = engine.segment(draw_shapes(), MINI.model_copy(update={"recall": 0.5}))
    assert len(found) > 0
    assert sum(decoded) < 64
    assert [step.step for step in progress] == sorted(step.step for step in progress)
    decoded.clear()
    segment(engine, draw_shapes())
    assert sum(decoded) == 64


def test_a_recall_below_one_finds_most_regions_of_the_full_grid(engine):
    fine = LENIENT.model_copy(update={"points_per_side": 16})
    found = wanted = 0
    for seed in range(4):
        picture = draw_held_out(5_000 + seed)
        exact, adaptive = (
            masks_of(segment(engine, picture, fine.model_copy(update={"recall": recall}))) for recall in (1.0, 0.9)
        )
        overlap = (exact[:, None] & adaptive).sum((2, 3)) / (exact[:, None] | adaptive).sum((2, 3))
        found, wanted = found + (overlap.max(1) > 0.8).sum(), wanted + len(exact)
    assert wanted >= 8
    assert found >= 0.7 * wanted


def test_an_image_is_encoded_once_for_all_prompts(engine, monkeypatch):
    encoded = []
    encode = engine.model.forward_image
    monkeypatch.setattr(engine.model, "forward_image", lambda image: encoded.append(1) or encode(image))
    picture = draw_held_out(77)
    disc = PointsAndBox(points=((90, 36, True),))
    engine.segment_prompts(picture, [disc], MINI)
    engine.segment_prompts(picture, [PointsAndBox(box=(10, 14, 50, 54)), disc], MINI)
    segment(engine, picture)
    assert len(encoded) == 1
    for seed in range(sam2.MAX_ENCODED):
        engine.segment_prompts(draw_held_out(seed), [disc], MINI)
    engine.segment_prompts(picture, [disc], MINI)
    assert len(encoded) == 2 + sam2.MAX_ENCODED


def test_masks_of_prompts_match_ultralytics_in_order(engine, mini_models):
    picture = draw_shapes(96, 128)
    prompts = [
        PointsAndBox(points=((90, 26, True),)),
        PointsAndBox(points=((30, 26, True), (90, 26, False))),
        PointsAndBox(box=(8, 8, 54, 44)),
        PointsAndBox(points=((30, 26, True),), box=(8, 8, 54, 44)),
    ]
    found = engine.segment_prompts(picture, prompts, MINI)
    assert len(found) == len(prompts)
    for mask, prompt in zip(masks_of(found), prompts, strict=True):
        theirs = prompt_ultralytics(mini_models, picture, prompt)
        assert (mask & theirs).sum() >= 0.9 * (mask | theirs).sum()


def prompt_ultralytics(mini_models, image, prompt):
    """Return the most likely mask of SAM2Predictor with the same weights, (h, w) bool."""
    model, _ = load_model(ModelSource(source=str(mini_models / "sam2")))
    predictor = SAM2Predictor(
        overrides={"model": "sam2_t.pt", "imgsz": 128, "conf": 0.0, "device": "cpu", "save": False, "verbose": False}
    )
    predictor.setup_model(model, verbose=False)
    predictor.set_image(np.ascontiguousarray(image[..., ::-1]))
    points = [[list(point[:2]) for point in prompt.points]] if prompt.points else None
    labels = [[int(point[2]) for point in prompt.points]] if prompt.points else None
    multimask = prompt.box is None and len(prompt.points) == 1
    results = predictor(points=points, labels=labels, bboxes=prompt.box, multimask_output=multimask)
    scores = results[0].boxes.conf
    return results[0].masks.data[int(scores.argmax())].numpy().astype(bool)


def test_measuring_masks_one_by_one_equals_measuring_a_batch():
    torch.manual_seed(0)
    coarse = functional.interpolate(torch.randn(1, 12, 8, 8) * 4, (32, 32), mode="bilinear")[0].contiguous()
    coarse[3] = -9.0  # an empty mask
    alone, together = sam2.measure_one_by_one(coarse, 128, 0.95), sam2.measure_at_once(coarse, 128, 0.95)
    for ours, theirs in zip(alone, together, strict=True):
        assert torch.equal(ours, theirs)
    assert alone[2][3].tolist() == [-1, -1, -1, -1]


def test_traces_have_spans_for_encoding_and_decoding(engine):
    engine.clear_cache()
    traces = KeptTraces()
    with traces.request("POST", []) as context, within(context):
        segment(engine, draw_shapes())
        engine.segment_prompts(draw_shapes(), [PointsAndBox(points=((30, 30, True),))], MINI)
    assert [span.name for span in traces.spans] == ["encode", "decode", "decode", "POST"]
    assert [dict(span.attributes) for span in traces.spans[1:3]] == [{"points": 64}, {"prompts": 1}]


def test_the_better_of_overlapping_masks_is_kept():
    logits = torch.full((4, 16, 16), -4.0)
    logits[0, 2:10, 2:10] = 4.0
    logits[1, 3:11, 2:10] = 4.0  # nearly equal to the first
    logits[2, 2:6, 2:10] = 4.0  # half of the first
    logits[3, 12:15, 12:15] = 4.0
    found = sam2.Candidates(
        logits=logits,
        predicted_iou=torch.tensor([0.9, 0.8, 0.7, 0.6]),
        stability=torch.ones(4),
        boxes=torch.zeros(4, 4),
        points=torch.arange(4),
    )
    assert sam2.without_overlaps(found, 1.0).points.tolist() == [0, 1, 2, 3]
    assert sam2.without_overlaps(found, 0.6).points.tolist() == [0, 2, 3]
    assert sam2.without_overlaps(found, 0.4).points.tolist() == [0, 3]
    assert len(sam2.without_overlaps(found.select(torch.zeros(0, dtype=torch.int64)), 0.4).points) == 0
