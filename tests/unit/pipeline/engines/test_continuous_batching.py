from __future__ import annotations

import numpy as np
import pytest

from pipeline.engines.diffusion.batching import ContinuousDiffusion, DenoiseJob, RowCounts
from pipeline.engines.diffusion.engine import DiffusionEngine
from pipeline.engines.diffusion.img2img import SourceImage
from pipeline.errors import ImageRefused
from pipeline.records import Scheduler, StepProgress
from tests.unit.pipeline.engines.test_diffusion import image_of, request, settings_for
from tests.unit.shapes import draw_shapes

BUCKETS = (1, 2, 4, 8)


@pytest.fixture(scope="module")
def engine(mini_models):
    return DiffusionEngine(settings_for(mini_models / "diffusion"), "cpu")


def run(runner, *orders):
    """Run all orders to the end; return the outcomes of each."""
    outcomes = {order.key: [] for order in orders}
    for order in orders:
        if failed := runner.admit(order):
            outcomes[order.key].append(failed.outcome)
    while not runner.is_idle:
        for event in runner.step():
            outcomes[event.key].append(event.outcome)
    return outcomes


def order(key, **changes):
    return DenoiseJob(key=key, request=request(**changes))


@pytest.mark.parametrize("scheduler", Scheduler)
def test_within_a_bucket_images_are_bit_identical_in_any_batch_and_slot(engine, scheduler):
    ours = order("ours", scheduler=scheduler)
    alone = run(ContinuousDiffusion(engine, [8]), ours)["ours"][-1]
    others = [
        order("a", seed=1, steps=3, prompt="blue house"),
        order("b", seed=2, guidance=1.0, steps=9),
        order("c", seed=3, scheduler=Scheduler.EULER_A),
    ]
    first = run(ContinuousDiffusion(engine, [8]), ours, *others)["ours"][-1]
    last = run(ContinuousDiffusion(engine, [8]), *others[:2], ours)["ours"][-1]
    assert np.array_equal(alone, first)
    assert np.array_equal(alone, last)


def test_between_buckets_images_differ_by_one_level_at_most(engine):
    alone = image_of(engine)
    for bucket in (4, 8):
        again = run(ContinuousDiffusion(engine, [bucket]), order("ours"))["ours"][-1]
        assert np.abs(alone.astype(int) - again).max() <= 1


def test_an_admitted_job_joins_at_the_next_step_and_leaves_when_done(engine):
    runner = ContinuousDiffusion(engine, BUCKETS)
    assert runner.admit(order("long", steps=6)) is None
    runner.step()
    runner.admit(order("short", steps=2))
    seen = [[(h.key, getattr(h.outcome, "step", "image")) for h in runner.step()] for _ in range(4)]
    assert seen == [
        [("long", 2), ("short", 1)],
        [("long", 3), ("short", 2)],
        [("short", "image")],
        [("long", 4)],
    ]


def test_unfilled_rows_are_counted_as_padding(engine):
    runner = ContinuousDiffusion(engine, [2, 4, 8])
    run(runner, *(order(f"order {number}", steps=2) for number in range(3)))  # each takes two rows

    assert runner.pop_row_counts() == RowCounts(filled=12, computed=16)
    assert runner.pop_row_counts() == RowCounts(filled=0, computed=0)


def test_decoding_and_denoising_alternate(engine):
    runner = ContinuousDiffusion(engine, BUCKETS)
    for i in range(3):
        runner.admit(order(f"short {i}", steps=1))
    runner.admit(order("long", steps=5))
    kinds = [isinstance(runner.step()[0].outcome, StepProgress) for _ in range(7)]
    assert kinds == [True, False, True, False, True, False, True]


def test_a_cancelled_job_takes_no_further_step(engine):
    runner = ContinuousDiffusion(engine, BUCKETS)
    for key in "ab":
        runner.admit(order(key))
    runner.step()
    runner.cancel("a")
    runner.cancel("nobody")
    assert [h.key for h in runner.step()] == ["b"]


def test_a_cancelled_image_is_not_decoded(engine):
    runner = ContinuousDiffusion(engine, BUCKETS)
    runner.admit(order("a", steps=1))
    runner.step()
    runner.cancel("a")
    assert runner.is_idle
    assert runner.step() == []


def test_an_invalid_or_refused_job_does_not_affect_others(engine, monkeypatch):
    outcomes = run(ContinuousDiffusion(engine, BUCKETS), order("odd", width=72), order("fine"))
    assert isinstance(outcomes["odd"][-1], ValueError)
    assert outcomes["fine"][-1].shape == (64, 64, 3)

    def refuse(_image):
        raise ImageRefused

    monkeypatch.setattr(engine, "finish", refuse)
    assert isinstance(run(ContinuousDiffusion(engine, BUCKETS), order("refused"))["refused"][-1], ImageRefused)


def test_a_failed_step_ends_only_the_jobs_in_its_batch(engine, monkeypatch):
    runner = ContinuousDiffusion(engine, BUCKETS)
    runner.admit(order("broken", width=96))
    runner.admit(order("fine"))  # of another shape
    with monkeypatch.context() as patch:
        patch.setattr(engine, "advance", lambda images, rows: 1 / 0)
        assert isinstance(runner.step()[0].outcome, ZeroDivisionError)
    while not runner.is_idle:
        last = runner.step()
    assert [(h.key, h.outcome.shape) for h in last] == [("fine", (64, 64, 3))]


def test_text_is_encoded_once_for_each_prompt(engine, monkeypatch):
    image_of(engine)  # caches the negative prompt
    calls = []
    forward = engine.text_encoder.forward
    monkeypatch.setattr(engine.text_encoder, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    run(ContinuousDiffusion(engine, BUCKETS), *(order(f"{i}", prompt="a prompt of its own", seed=i) for i in range(3)))
    assert len(calls) == 1  # "" was encoded by the tests before


@pytest.mark.parametrize("scheduler", [Scheduler.DDIM, Scheduler.EULER, Scheduler.DPMPP_2M, Scheduler.UNIPC])
def test_a_lower_strength_stays_closer_to_the_source(engine, scheduler):
    picture = draw_shapes(64, 64)

    def distance(strength):
        *_, image = engine.generate(
            request(steps=10, scheduler=scheduler), SourceImage(pixels=picture, strength=strength)
        )
        return np.abs(image.astype(int) - picture).mean()

    assert distance(0.1) < distance(0.5) < distance(1.0)


def test_strength_determines_the_number_of_steps(engine):
    *progress, _ = engine.generate(request(steps=10), SourceImage(pixels=draw_shapes(64, 64), strength=0.3))
    assert progress == [StepProgress(step=i + 1, num_steps=3) for i in range(3)]
    with pytest.raises(ValueError, match="leaves no step"):
        next(engine.generate(request(steps=10), SourceImage(pixels=draw_shapes(64, 64), strength=0.0)))


def test_inpainting_keeps_the_pixels_outside_the_mask(engine):
    picture = draw_shapes(64, 64)
    mask = np.zeros((64, 64), bool)
    mask[10:40, 20:50] = True
    *_, image = engine.generate(request(), SourceImage(pixels=picture, strength=1.0, mask=mask))
    assert np.array_equal(image[~mask], picture[~mask])
    assert np.abs(image[mask].astype(int) - picture[mask]).mean() > 5


def test_a_deterministic_image_is_independent_of_its_batch(engine):
    alone = image_of(engine)
    others = [order(name, prompt=name, steps=4, seed=seed) for seed, name in enumerate(("pear", "house", "cup"))]
    runner = ContinuousDiffusion(engine, [8])
    made = run(runner, order("ours", deterministic=True), order("too", deterministic=True, prompt="cup"), *others)
    assert np.array_equal(made["ours"][-1], alone)
    assert np.array_equal(made["too"][-1], image_of(engine, prompt="cup"))


def test_warming_up_compiles_exactly_the_given_batch_sizes(engine, monkeypatch):
    sizes = []

    def compiled(latents, *rest, **named):
        sizes.append((*latents.shape[-2:], len(latents)))
        return engine.unet(latents, *rest, **named)

    alone = image_of(engine)
    monkeypatch.setattr(engine, "compiled_unet", compiled)
    engine.warm_up((1, 4))
    side = engine.defaults.width // engine.pixels_per_latent
    assert sizes == [(side, side, 1), (side, side, 4)]
    assert np.array_equal(image_of(engine), alone)  # another size, with two rows
    assert len(sizes) == 2
