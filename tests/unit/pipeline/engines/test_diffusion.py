from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPVisionConfig

from pipeline.engines.diffusion.engine import DiffusionEngine
from pipeline.engines.diffusion.schedulers import make_scheduler
from pipeline.engines.weights import ModelUnavailable, fingerprint
from pipeline.errors import ImageRefused
from pipeline.records import GenerationRequest, Scheduler, StepProgress
from pipeline.settings import DiffusionSettings, GenerationDefaults, GenerationLimits, ModelSource

STEPS = 4


def settings_for(source, **settings):
    return DiffusionSettings(
        model=ModelSource(source=str(source)),
        defaults=GenerationDefaults(width=128, height=128, steps=15, guidance=3.0, scheduler=Scheduler.DDIM),
        limits=GenerationLimits(min_side=64, max_side=256, side_multiple=32),
        **settings,
    )


def request(**changes):
    facts = {
        "prompt": "red apple in white plate",
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "steps": STEPS,
        "guidance": 3.0,
        "seed": 7,
        "scheduler": Scheduler.DDIM,
    }
    return GenerationRequest(**(facts | changes))


def image_of(engine, **changes):
    return list(engine.generate(request(**changes)))[-1]


@pytest.fixture(scope="module")
def engine(mini_models):
    return DiffusionEngine(settings_for(mini_models / "diffusion"), "cpu")


@pytest.fixture(scope="module")
def reference(mini_models):
    pipeline = StableDiffusionPipeline.from_pretrained(mini_models / "diffusion", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_equal_requests_give_bit_identical_images(engine):
    first = image_of(engine)
    image_of(engine, seed=8, scheduler=Scheduler.EULER_A)
    assert np.array_equal(first, image_of(engine))


@pytest.mark.parametrize(
    "changes", [{"seed": 8}, {"prompt": "a blue car"}, {"negative_prompt": "a blue car"}, {"guidance": 1.0}]
)
def test_different_requests_give_different_images(engine, changes):
    assert np.abs(image_of(engine).astype(int) - image_of(engine, **changes)).mean() > 2


def test_the_image_is_read_only_rgb_of_the_requested_size(engine):
    image = image_of(engine, width=96, height=64)
    assert (image.shape, image.dtype, image.flags.writeable) == ((64, 96, 3), np.uint8, False)
    assert image.std() > 5


@pytest.mark.parametrize("scheduler", Scheduler)
def test_progress_counts_every_step_and_the_image_comes_last(engine, scheduler):
    *progress, image = engine.generate(request(scheduler=scheduler))
    num_steps = STEPS + 1 if scheduler is Scheduler.PNDM else STEPS
    assert progress == [StepProgress(step=i + 1, num_steps=num_steps) for i in range(num_steps)]
    assert image.shape == (64, 64, 3)
    assert image.std() > 5


def test_lcm_allows_more_steps_than_it_was_distilled_from(engine):
    *progress, _ = engine.generate(request(scheduler=Scheduler.LCM, steps=60))
    assert progress[-1] == StepProgress(step=60, num_steps=60)


@pytest.mark.parametrize(
    "scheduler", [Scheduler.DDIM, Scheduler.PNDM, Scheduler.EULER, Scheduler.DPMPP_2M, Scheduler.UNIPC]
)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_it_agrees_with_the_diffusers_pipeline(engine, reference, scheduler, guidance):
    reference.scheduler = make_scheduler(scheduler, dict(reference.scheduler.config), STEPS, "cpu")
    theirs = reference(
        "red apple in white plate",
        height=64,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    ours = image_of(engine, scheduler=scheduler, guidance=guidance)
    assert np.abs(np.asarray(theirs).astype(int) - ours).max() <= 1


def test_closing_stops_the_work(engine, monkeypatch):
    calls = []
    forward = engine.unet.forward
    monkeypatch.setattr(engine.unet, "forward", lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs))
    stream = engine.generate(request(steps=10))
    assert [next(stream).step, next(stream).step] == [1, 2]
    stream.close()
    assert list(stream) == []
    assert len(calls) == 2


def test_two_requests_may_be_interleaved(engine):
    alone = [image_of(engine, seed=seed, scheduler=Scheduler.DPMPP_2M) for seed in (1, 2)]
    streams = [engine.generate(request(seed=seed, scheduler=Scheduler.DPMPP_2M)) for seed in (1, 2)]
    *_, last = zip(*streams, strict=True)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(last, alone, strict=True))


def test_a_prompt_beyond_the_tokenizer_is_truncated(engine):
    assert np.array_equal(image_of(engine, prompt="apple " * 90), image_of(engine, prompt="apple " * 90 + "car"))


def test_sides_that_latents_can_not_cover_are_refused(engine):
    with pytest.raises(ValueError, match="multiples of 16"):
        next(engine.generate(request(width=72)))


def test_the_fingerprint_is_that_of_the_weights(engine, mini_models):
    assert engine.fingerprint == fingerprint(mini_models / "diffusion")
    assert engine.device == "cpu"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelUnavailable, match=str(tmp_path / "gone")):
        DiffusionEngine(settings_for(tmp_path / "gone"), "cpu")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_an_incomplete_folder_is_named_and_nothing_is_downloaded(tmp_path, mini_models, part):
    folder = tmp_path / "model"
    shutil.copytree(mini_models / "diffusion", folder, ignore=shutil.ignore_patterns(part))
    with pytest.raises(ModelUnavailable, match=f"{folder} is no complete diffusers pipeline"):
        DiffusionEngine(settings_for(folder), "cpu")


def test_an_unreachable_hub_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelUnavailable, match=r"nobody/nothing can't be had from the hub or its cache"):
        DiffusionEngine(settings_for("nobody/nothing"), "cpu")


def test_a_safety_checker_that_is_missing_is_reported(mini_models):
    with pytest.raises(ModelUnavailable, match="is no complete diffusers pipeline"):
        DiffusionEngine(settings_for(mini_models / "diffusion", safety_checker=True), "cpu")


@pytest.mark.parametrize(("threshold", "refused"), [(-2.0, True), (2.0, False)])
def test_the_safety_checker_refuses_images_above_its_threshold(tmp_path, mini_models, threshold, refused):
    folder = tmp_path / "model"
    shutil.copytree(mini_models / "diffusion", folder)
    write_safety_checker(folder, threshold)
    engine = DiffusionEngine(settings_for(folder, safety_checker=True), "cpu")
    if refused:
        with pytest.raises(ImageRefused, match="safety checker"):
            image_of(engine)
    else:
        assert image_of(engine).shape == (64, 64, 3)


def write_safety_checker(folder, threshold):
    """Write a tiny checker with this cosine threshold for all concepts: -2 refuses every image, 2 none."""
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=CLIPTextConfig(**small).to_dict(),
        vision_config=CLIPVisionConfig(image_size=32, patch_size=16, **small).to_dict(),
        projection_dim=8,
    )
    checker = StableDiffusionSafetyChecker(config)
    for name in ("concept_embeds_weights", "special_care_embeds_weights"):
        getattr(checker, name).data.fill_(threshold)
    checker.save_pretrained(folder / "safety_checker")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder / "feature_extractor")


def test_each_step_has_a_preview_of_a_quarter_of_the_size(engine):
    *progress, _ = engine.generate(request(width=96, height=64))
    previews = [step.preview for step in progress]
    assert {preview.shape for preview in previews} == {(64 // 4, 96 // 4, 3)}
    assert len({preview.tobytes() for preview in previews}) == STEPS


def test_previews_are_decoded_as_the_profile_says_and_omitted_if_not_requested(mini_models):
    settings = settings_for(mini_models / "diffusion").model_copy(update={"decoded_previews": 2})
    engine = DiffusionEngine(settings, "cpu")
    wanted = request(width=96, height=64, steps=6)
    *progress, image = engine.generate(wanted)
    shown = {step.step: step.preview for step in progress if step.preview is not None}
    assert list(shown) == [2, 3]
    assert {preview.shape for preview in shown.values()} == {(64, 96, 3)}

    unseen = engine.start(wanted, previews=False)
    assert [engine.advance([unseen])[0].preview for _ in range(6)] == [None] * 6
    assert np.array_equal(engine.finish(unseen), image)
