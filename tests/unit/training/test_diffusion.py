from __future__ import annotations

import json
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from training import loop
from training.diffusion import train as train_diffusion
from training.diffusion import train_text, train_vae
from training.diffusion.generated_images import generate, load_engine
from training.diffusion.prompt_sets import pair_prompts, single_prompts, unseen_prompts
from training.diffusion.train import Material, Plan, save_diffusion, train_denoiser
from training.evaluation.judge import judge_pictures, train_judge
from training.loop import Recipe
from training.scenes.dataset import KIND_NAMES, Choice, load_scenes
from training.scenes.splits import is_held_out

SIDE = 64
KINDS = ("apple", "plate", "house")
SINGLES = Choice(num=24, side=SIDE, num_things=1, kinds=KINDS, min_length=0.6)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def singles(work):
    return load_scenes(SINGLES, work, workers=1)


@pytest.fixture(scope="module")
def tokenizer(work):
    return train_diffusion.write_short_tokenizer(work / "tokenizer")


@pytest.fixture
def small_batches(monkeypatch):
    for module in (train_vae, train_text, train_diffusion):
        monkeypatch.setattr(module, "BATCH", 8)
    monkeypatch.setattr("training.evaluation.judge.BATCH", 8)


@pytest.fixture
def small_unet(monkeypatch):
    small = {**train_diffusion.build_unet().config, "block_out_channels": (32, 64)}
    monkeypatch.setattr(train_diffusion, "build_unet", lambda: UNet2DConditionModel.from_config(small))


def falls(run):
    """Return whether the last losses are well below the first ones."""
    third = len(run.losses) // 3
    return np.mean(run.losses[-third:]) < 0.9 * np.mean(run.losses[:third])


def same(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def denoise(singles, tokenizer, checkpoint, steps):
    """Train the denoiser for some steps, from the same start each time."""
    torch.manual_seed(0)
    text_encoder = train_text.Reader(tokenizer).text_encoder
    flat = np.random.default_rng(0).normal(0, 1, (1, 16, 1, 1)).astype(np.float16)
    latents = np.broadcast_to(flat, (len(singles), 16, 4, 4))
    material = [Material(scenes=singles, latents=latents)] * 2
    recipe = Recipe(steps=steps, learning_rate=2e-3, warmup=8, ema=0.9, slower={"text_encoder.": 0.2})
    return train_denoiser(text_encoder, tokenizer, material, 1.0, recipe, checkpoint, "cpu")


def test_only_large_things_of_the_requested_kinds_are_drawn(singles):
    longest = [max(np.ptp(rows), np.ptp(columns)) + 1 for rows, columns in map(np.nonzero, singles.owners)]
    assert min(longest) >= 0.6 * SIDE
    assert {KIND_NAMES[k] for k in singles.kinds[:, 0]} == set(KINDS)


def test_a_choice_without_kinds_keeps_its_previous_name():
    assert Choice(num=60_000, side=128).name == "60000-128-train-None-any-0"
    assert replace(SINGLES, kinds=KINDS[:2]).name != SINGLES.name


def test_the_autoencoder_learns(singles, small_batches):
    assert falls(train_vae.train_vae([singles], Recipe(steps=16, learning_rate=2e-3, warmup=8), None, "cpu"))


def test_the_text_encoder_learns(singles, tokenizer, small_batches):
    assert falls(train_text.train_text([singles], tokenizer, Recipe(steps=24, learning_rate=2e-3), None, "cpu"))


def test_the_denoiser_learns(singles, tokenizer, small_batches, small_unet):
    assert falls(denoise(singles, tokenizer, None, 18))


def test_the_judge_learns_and_has_a_vector_per_kind(singles, small_batches):
    run = train_judge(singles, Recipe(steps=24, learning_rate=2e-3, warmup=2), None)
    assert falls(run)
    verdicts = judge_pictures(run.result(), singles.pixels[:5])
    assert (verdicts.presence.shape, verdicts.colours.shape) == ((5, len(KIND_NAMES)), (5, len(KIND_NAMES)))


def test_an_interrupted_run_resumes_to_the_same_weights(
    singles, tokenizer, small_batches, small_unet, tmp_path, monkeypatch
):
    whole = denoise(singles, tokenizer, None, 6)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
    draw, calls = train_diffusion.draw_batch, count()
    with monkeypatch.context() as patch:
        patch.setattr(train_diffusion, "draw_batch", lambda *a: draw(*a) if next(calls) < 4 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            denoise(singles, tokenizer, tmp_path / "run.pt", 6)
    resumed = denoise(singles, tokenizer, tmp_path / "run.pt", 6)
    assert len(resumed.losses) == 2
    assert same(whole.model, resumed.model)
    assert same(whole.result(), resumed.result())


def test_saved_weights_generate_through_the_engine(work, tmp_path, small_batches):
    plan = Plan(
        singles=SINGLES,
        pairs=Choice(num=8, side=SIDE, num_things=2, kinds=KINDS),
        vae=train_vae.RECIPE,
        text=train_text.RECIPE,
        denoiser=train_diffusion.FULL_PLAN.denoiser,
    ).adapt(lambda recipe: replace(recipe, steps=3), 1000)
    first = train_diffusion.train_diffusion(plan, work, work)
    save_diffusion(first, tmp_path)
    engine = load_engine(tmp_path, SIDE)
    picture = generate(engine, "a red apple", 0, SIDE)
    assert (picture.shape, picture.dtype) == ((SIDE, SIDE, 3), np.uint8)
    assert np.array_equal(picture, generate(engine, "a red apple", 0, SIDE))

    still = plan.adapt(lambda recipe: replace(recipe, steps=0), 1000)
    fine_tuned = train_diffusion.train_diffusion(still, work, tmp_path / "fine_tuned", start=tmp_path)
    assert list(fine_tuned.runs) == ["Decoder", "Denoiser"]
    save_diffusion(fine_tuned, tmp_path / "again")
    assert not any(str(tmp_path) in file.read_text() for file in (tmp_path / "again").rglob("*.json"))
    for name, value in first.model.unet.state_dict().items():
        assert torch.allclose(value, fine_tuned.model.unet.state_dict()[name], atol=2e-3), name
    assert not np.array_equal(picture, generate(engine, "a red apple", 1, SIDE))
    assert all(file.stat().st_size < 30e6 for file in tmp_path.rglob("*.safetensors"))
    assert json.loads((tmp_path / "vae" / "config.json").read_text())["scaling_factor"] != 1.0


def test_the_decoder_is_fine_tuned_while_latents_stay_the_same(singles, small_batches):
    vae = train_vae.build_vae()
    encoder = train_vae.fingerprint(vae)

    run = train_vae.train_decoder(vae, [singles], Recipe(steps=16, learning_rate=2e-3, warmup=8), None, "cpu")

    assert falls(run)
    assert train_vae.fingerprint(run.result()) == encoder


def test_prompts_cover_every_known_and_every_held_out_combination():
    seen = {prompt.things[0] for prompt in single_prompts()}
    unseen = {prompt.things[0] for prompt in unseen_prompts()}
    assert len(seen) == 10 * len(KIND_NAMES)
    assert len(unseen) == len(KIND_NAMES)
    assert all(is_held_out(*thing) for thing in unseen)
    assert not any(is_held_out(*thing) for prompt in [*single_prompts(), *pair_prompts(20)] for thing in prompt.things)
