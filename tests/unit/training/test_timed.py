"""Timed training of all models: the schedule, the scenes, the weights, and small end-to-end trainings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.engines.clip import ClipEngine
from pipeline.settings import AutomaticMaskSettings, ClipSettings, ModelSource, ZeroShotSettings
from training.diffusion.generated_images import generate, load_engine
from training.diffusion.train import write_short_tokenizer
from training.loop import Recipe, Run
from training.sam2.serving import open_engine, segment
from training.scenes.dataset import KIND_NAMES, NONE
from training.scenes.render import draw_scene
from training.scenes.splits import is_held_out
from training.timed.clock import Interval, Schedule
from training.timed.compilation import Example, compile_unet
from training.timed.denoiser import Denoiser, load_text_encoder
from training.timed.drawing import draw_chunk, draw_mixed_scene, list_pattern
from training.timed.latent_pool import LatentBatch, LatentPool
from training.timed.master_weights import MasterWeights
from training.timed.part import MissingScenes, PartContext
from training.timed.recipe import FINE_TUNING, FROM_SCRATCH, GPU, TINY, Mix, plan_recipe
from training.timed.saving import staged
from training.timed.segmenter import ScenePool, Segmenter
from training.timed.shared_scenes import Layout, SharedScenes
from training.timed.softening import Softener
from training.timed.supervisor import LOG_FILE, MODULES, FailedParts, Supervisor


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def recipe_in(folder, *models, **changes):
    recipe = plan_recipe(minutes=0, models=models, out=folder / "models", work=folder / "work", scale=TINY)
    return recipe.model_copy(update=changes)


@pytest.fixture
def shared(tmp_path):
    """Eight shared scenes in two chunks, of which the first is drawn."""
    scale = TINY.model_copy(update={"chunk": 4, "start_scenes": 4})
    recipe = plan_recipe(minutes=0, models=("sam2",), out=tmp_path, work=tmp_path, scale=scale, num_scenes=8)
    scenes = SharedScenes.create(Layout(num=8, chunk=4, side=TINY.side))
    draw_chunk(recipe, scenes, 0, 2)
    yield PartContext("sam2", recipe, scenes)
    scenes.close()


# ---------------------------------------------------------------- the clock


def test_a_schedule_follows_the_clock():
    clock = Clock()
    schedule = Schedule(end_s=200.0, min_steps=4, now=clock)
    schedule.steps = 10
    rates = []
    for clock.seconds in (100.0, 125.0, 150.0, 175.0, 200.0):
        rates.append(schedule.rate(1.0, warmup=5, final=0.1))
    assert rates == pytest.approx(
        [1.0, 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2, 0.55, 0.1 + 0.9 * (1 - math.sqrt(0.5)) / 2, 0.1]
    )
    assert schedule.is_over
    clock.seconds = 199.0
    assert not schedule.is_over


def test_a_schedule_warms_up_by_steps_and_takes_its_minimum_of_steps():
    clock = Clock()
    schedule = Schedule(end_s=clock.seconds, min_steps=4, now=clock)
    assert schedule.rate(1.0, warmup=2, final=0.0) == 0.5
    schedule.steps = 2
    assert (schedule.progress, schedule.is_over) == (0.5, False)
    schedule.steps = 4
    assert schedule.is_over


def test_an_interval_is_due_once():
    clock = Clock()
    interval = Interval(10.0, clock)
    clock.seconds += 10
    assert interval.has_passed()
    assert not interval.has_passed()


def test_a_timed_run_ends_after_its_minutes_and_resumes(tmp_path):
    clock = Clock()

    def loss_of(_step, _rng):
        clock.seconds += 6
        return model(torch.ones(1, 1)).square().sum()

    model = nn.Linear(1, 1)
    recipe = Recipe(steps=3, learning_rate=1e-2, minutes=1.0)
    run = Run(model, recipe, tmp_path / "run.pt", now=clock)
    run.train(loss_of, "clock")
    assert (run.step, run.seconds, run.progress) == (10, 60.0, 1.0)
    again = Run(model, recipe, tmp_path / "run.pt", now=clock)
    assert again.is_over
    longer = Run(model, Recipe(steps=3, learning_rate=1e-2, minutes=1.5), tmp_path / "run.pt", now=clock)
    longer.train(loss_of, "clock")
    assert longer.step == 15


def test_a_timed_run_takes_its_minimum_of_steps():
    model = nn.Linear(1, 1)
    run = Run(model, Recipe(steps=3, learning_rate=1e-2, minutes=0.0), None)
    run.train(lambda _step, _rng: model(torch.ones(1, 1)).square().sum(), "clock")
    assert run.step == 3


# ---------------------------------------------------------------- the scenes


def test_numbers_of_things_have_their_shares_in_every_interval():
    pattern = list_pattern(FROM_SCRATCH)
    assert [pattern.count(number) for number in (1, 2, 3)] == [10, 8, 2]
    assert all({1, 2} <= set(pattern[start : start + 4]) for start in range(0, 20, 4))


def test_heavy_kinds_are_drawn_more_often_and_held_out_combinations_never():
    heavy = Mix.model_validate({**FROM_SCRATCH.model_dump(), "kind_weights": {"snake": 8.0}})
    counts = {}
    for name, mix in (("even", FROM_SCRATCH), ("heavy", heavy)):
        things = [draw_mixed_scene(seed, 32, 1, mix).things[0] for seed in range(300)]
        counts[name] = sum(thing.kind == "snake" for thing in things)
        assert not any(is_held_out(thing.kind, thing.colour) for thing in things)
    assert counts["heavy"] > 3 * counts["even"]


def test_mixes_that_do_not_add_up_raise():
    with pytest.raises(ValueError, match="add up"):
        Mix.model_validate({**FROM_SCRATCH.model_dump(), "pairs": 0.9})
    with pytest.raises(ValueError, match="more than all"):
        Mix.model_validate({**FROM_SCRATCH.model_dump(), "sampled_pairs": 0.99})


def test_scenes_are_reproducible_and_single_things_are_drawn_larger():
    assert np.array_equal(*(draw_mixed_scene(5, 32, 2, FROM_SCRATCH).pixels for _ in range(2)))

    def mean_length(scenes):
        boxes = [scene.things[0].box for scene in scenes]
        return np.mean([max(right - left, bottom - top) / 64 for left, top, right, bottom in boxes])

    mixed = mean_length(draw_mixed_scene(seed, 64, 1, FROM_SCRATCH) for seed in range(60))
    assert mixed > mean_length(draw_scene(seed, 64, num_things=1) for seed in range(60)) + 0.03


def test_drawn_scenes_are_shared_through_the_descriptor(shared):
    other = SharedScenes(shared.scenes.layout, shared.scenes.descriptor)
    scenes = other.view_drawn()
    assert len(scenes) == 4
    assert ((scenes.kinds != NONE).sum(1) == 2).all()
    assert scenes.owners.max() == 2
    words = [KIND_NAMES[kind].split("_")[0] for kind in scenes.kinds[0, :2]]
    assert all(len(captions) == 4 for captions in scenes.captions)
    assert any(word in " ".join(scenes.captions[0]) for word in words)


def test_waiting_returns_when_scenes_are_drawn_and_raises_without_scenes(shared):
    shared.wait_for_scenes()
    empty = PartContext("sam2", shared.recipe, SharedScenes.create(shared.scenes.layout))
    empty.scenes.close()
    empty.scenes.mark_ended("drawing")
    with pytest.raises(MissingScenes, match="drawn"):
        empty.wait_for_scenes()
    empty.scenes.mark_ended("autoencoder")
    with pytest.raises(MissingScenes, match="autoencoder"):
        empty.wait_for_latents()


def test_batches_have_their_shares_of_pairs(shared):
    class Tokens:
        def of_chunk(self, chunk):
            return np.full((4, 4, 32), chunk + 1, np.int16)

    scenes = shared.scenes
    draw_chunk(shared.recipe, scenes, 1, 1)
    scenes.encoded[:] = 1
    pool = LatentPool(shared, Tokens(), torch.device("cpu"))
    pool.pull()
    assert pool.nums == {1: 4, 2: 4, 3: 0}
    batch = pool.sample(20, pairs=0.6, triples=0.1)
    shown = [int(scenes.num_things[int(chunk) - 1]) for chunk in batch.tokens[:, 0]]
    assert (shown.count(2), shown.count(1)) in {(12, 8), (14, 6)}  # singles and pairs replace triples


def test_fine_tuning_draws_other_scenes_and_more_pairs(tmp_path):
    arguments = {"minutes": 8, "models": ("clip",), "out": tmp_path, "work": tmp_path, "scale": GPU, "num_scenes": 1000}
    scratch, first, second = (plan_recipe(**arguments, start_checksum=number) for number in (None, 10**6, 7 * 10**6))
    starts = [recipe.first_scene for recipe in (scratch, first, second)]
    assert len(set(starts)) == 3
    assert (first.mix, first.fine_tune, scratch.fine_tune) == (FINE_TUNING, True, False)
    assert first.rate_share < scratch.rate_share
    assert first.mix.sampled_pairs > scratch.mix.sampled_pairs
    assert set(first.mix.kind_weights) <= set(KIND_NAMES)


# ---------------------------------------------------------------- the weights


def test_master_weights_keep_updates_that_half_precision_rounds_away():
    parameter = nn.Parameter(torch.ones(4, 4))
    weights = MasterWeights(betas=(0.9, 0.99), weight_decay=0.0)
    weights.add([("w", parameter)], dtype=torch.bfloat16)
    for _ in range(30):
        (parameter.float().sum()).backward()
        weights.step(1e-4)
    assert parameter.dtype == torch.bfloat16
    averaged = weights.averaged()["w"]
    assert averaged.dtype == torch.float32
    assert 0.9965 < float(averaged.mean()) < 0.999


def test_a_step_without_finite_gradients_is_skipped():
    parameter = nn.Parameter(torch.ones(3))
    weights = MasterWeights(betas=(0.9, 0.99), weight_decay=0.0)
    weights.add([("part.w", parameter)], dtype=torch.float32)
    (parameter.sum() * torch.inf).backward()
    weights.step(0.1)
    assert torch.equal(weights.averaged("part.")["w"], torch.ones(3))
    parameter.sum().backward()
    weights.step(0.1)
    assert float(weights.averaged("part.")["w"].max()) < 1


def test_files_are_replaced_only_after_all_are_written(tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    with staged(tmp_path) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "new.txt").write_text("new")
    with pytest.raises(FileNotFoundError), staged(tmp_path) as folder:
        (folder / "kept.txt").rename(folder / "broken.txt")
    files = {file.name: file.read_text() for file in tmp_path.rglob("*") if file.is_file()}
    assert files == {"kept.txt": "kept", "new.txt": "new"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


# ---------------------------------------------------------------- compiling


class SmallUnet(nn.Module):
    """A module with the signature of a UNet."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, latents, timesteps, text, return_dict):
        return (self.gain * latents + text.mean() + timesteps.mean(),)


def fail_to_compile(*_arguments, **_options):
    raise RuntimeError("no compiler")


def compile_wrongly(*_arguments, **_options):
    return SmallUnet(3.0)


@pytest.mark.parametrize(("compiler", "line"), [(fail_to_compile, "no compiler"), (compile_wrongly, "difference")])
def test_the_unet_runs_eagerly_if_compiling_fails_or_gives_other_results(shared, monkeypatch, capsys, compiler, line):
    monkeypatch.setattr(torch, "compile", compiler)
    unet = SmallUnet(1.0)
    example = Example(latents=torch.randn(2, 4), timesteps=torch.zeros(2), text=torch.zeros(2, 3))
    assert compile_unet(shared, unet, example, shared.now() + 60) is unet
    assert unet.gain.grad is None
    assert line in capsys.readouterr().out


# ---------------------------------------------------------------- end to end


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder and the results of a small training of all models."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = recipe_in(folder, "clip", "diffusion", "sam2")
    return folder, {result.stage: result for result in Supervisor(recipe).run()}


def test_every_model_learns(trained):
    _, results = trained
    assert set(results) == {"Autoencoder", "Decoder", "Text encoder", "Denoiser", "SAM2", "CLIP"}
    for stage in ("Autoencoder", "Text encoder", "Denoiser", "SAM2", "CLIP"):
        assert results[stage].last_loss < results[stage].first_loss, stage


def test_the_models_load_in_their_engines(trained):
    folder, _ = trained
    pixels = draw_scene(0, 64).pixels
    clip = ClipEngine(ClipSettings(model=ModelSource(source=str(folder / "models" / "clip"))), "cpu")
    assert np.isfinite(clip.describe([pixels], ZeroShotSettings(labels=KIND_NAMES, top_k=5)).vectors).all()
    image = generate(load_engine(folder / "models" / "diffusion", 64), "a red apple", 0, 64)
    assert image.shape == (64, 64, 3)
    sam2 = open_engine(folder / "models" / "sam2")
    lenient = AutomaticMaskSettings(
        image_size=64, points_per_side=4, min_predicted_iou=0.0, min_stability=0.0, max_box_iou=0.95, min_area=0.0
    )
    assert len(segment(sam2, pixels, lenient)) > 0


def test_the_log_reports_each_model(trained):
    folder, _ = trained
    log = (folder / "work" / LOG_FILE).read_text()
    assert "the clock starts" in log
    for name in ("drawing", "autoencoder", "denoiser", "sam2", "clip"):
        assert f"{name} ended with 0" in log


def test_weights_of_the_other_models_are_written_when_one_fails(tmp_path):
    broken = {**MODULES, "autoencoder": "training.timed.missing"}
    with pytest.raises(FailedParts, match="autoencoder, denoiser"):
        Supervisor(recipe_in(tmp_path, "diffusion", "sam2"), broken).run()
    assert (tmp_path / "models" / "sam2" / "model.safetensors").stat().st_size > 1e6
    assert "autoencoder is started once more" in (tmp_path / "work" / LOG_FILE).read_text()


@pytest.fixture
def half_precision(monkeypatch):
    """Working weights in bfloat16, as on a GPU."""
    for module in ("denoiser", "segmenter", "softening"):
        monkeypatch.setattr(f"training.timed.{module}.working_dtype", lambda _device: torch.bfloat16)


def test_a_step_of_each_model_in_half_precision(trained, shared, half_precision, tmp_path):
    folder, _ = trained
    device = torch.device("cpu")
    recipe = shared.recipe.model_copy(update={"fine_tune": True, "out": folder / "models"})
    context = PartContext("sam2", recipe, shared.scenes)
    torch.manual_seed(0)

    segmenter, pool, softener = Segmenter(context, device), ScenePool(context, device), Softener(context, device)
    pool.pull(1)
    softener.load_autoencoder()
    prompts = pool.draw_prompts(2, 2)
    loss = segmenter.loss_of(softener.soften(prompts.images, 0), prompts, use_boxes=True)
    loss.backward()
    before = segmenter.weights.averaged("sam2.")
    segmenter.weights.step(1e-3)
    after = segmenter.weights.averaged("sam2.")
    assert math.isfinite(loss.item())
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(before[name], value) for name, value in after.items())

    tokenizer = write_short_tokenizer(tmp_path / "tokenizer")
    denoiser = Denoiser(context, tokenizer, device)
    denoiser.add_text_encoder(load_text_encoder(context))
    batch = LatentBatch(latents=torch.randn(2, 16, 4, 4), tokens=torch.full((2, 32), 5))
    loss = denoiser.loss_of(batch, 1.0, torch.zeros(32, dtype=torch.int64))
    loss.backward()
    denoiser.weights.step(1e-3)
    assert math.isfinite(loss.item())
    assert denoiser.unet.dtype == torch.bfloat16
