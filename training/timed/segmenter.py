"""SAM2 training from scenes on the device, with prompts, targets and augmentations sampled there."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

from pipeline.engines.sam2.engine import MEAN, STD
from pipeline.engines.sam2.loading import WEIGHTS_FILE
from training.sam2.model import LOUDNESS, Answers, TrainableSam2
from training.sam2.train import (
    BOXES,
    DENSE,
    KIN,
    SCALE,
    loss_of_answers,
    loss_of_cells,
    loss_of_masks,
    resize,
    save_state,
)
from training.timed.clock import Interval
from training.timed.device import prepare_torch, working_dtype
from training.timed.image_prompts import ImagePrompts, draw_image_prompts
from training.timed.master_weights import MasterWeights
from training.timed.part import PartContext, open_part
from training.timed.saving import BackgroundWriter, staged
from training.timed.shared_decoder import answer_prompts
from training.timed.shared_scenes import NewChunks
from training.timed.softening import Softener
from training.timed.stage_log import StageLog

RATE, FINAL_RATE = 1.0e-3, 0.01
BETAS, WEIGHT_DECAY = (0.9, 0.98), 0.01
WARMUP_SHARE = 1.5  # of the scale's warm-up
CHUNKS_LATER, TAKE_EVERY = 20, 20  # chunks, and steps after which so many are taken
PREFIX = "sam2."


class ScenePool:
    """Scenes on the device: pixels (m, s, s, 3) and owners (m, s, s), up to a capacity."""

    def __init__(self, context: PartContext, device: torch.device) -> None:
        scale, self._scenes = context.recipe.scale, context.scenes
        room = min(scale.segmenter_scenes // scale.chunk, len(self._scenes.drawn)) * scale.chunk
        self._pixels = torch.empty((room, scale.side, scale.side, 3), dtype=torch.uint8, device=device)
        self._owners = torch.empty((room, scale.side, scale.side), dtype=torch.uint8, device=device)
        self._new = NewChunks(self._scenes.drawn)
        self.num = 0

    def pull(self, chunks: int) -> None:
        """Take at most so many new chunks of scenes."""
        size = self._scenes.layout.chunk
        for chunk in self._new.take(min(chunks, (len(self._pixels) - self.num) // size)):
            rows, place = self._scenes.rows(chunk), slice(self.num, self.num + size)
            self._pixels[place] = torch.from_numpy(np.array(self._scenes.pixels[rows])).to(self._pixels.device)
            self._owners[place] = torch.from_numpy(np.array(self._scenes.owners[rows])).to(self._owners.device)
            self.num += size

    def draw_prompts(self, num: int, each: int) -> ImagePrompts:
        """Draw images with prompts from the scenes so far."""
        return draw_image_prompts(self._pixels[: self.num], self._owners[: self.num], num, each)


class Segmenter:
    """SAM2 in training, with weights in their working types, and its training step."""

    def __init__(self, context: PartContext, device: torch.device) -> None:
        self._context = context
        self._dtype = working_dtype(device)
        self._model = TrainableSam2()
        if context.recipe.fine_tune:
            self._model.sam2.load_state_dict(load_file(context.recipe.out / "sam2" / WEIGHTS_FILE), strict=False)
        self._model.to(device).train()
        self._model.sam2.set_imgsz([context.recipe.scale.side] * 2)
        self.weights = MasterWeights(betas=BETAS, weight_decay=WEIGHT_DECAY)
        named = dict(self._model.named_parameters())
        exact = {name for name in named if name.startswith("sam2.sam_prompt_encoder.") or name == "aloofness"}
        self.weights.add([(n, p) for n, p in named.items() if n in exact], dtype=torch.float32)
        self.weights.add([(n, p) for n, p in named.items() if n not in exact], dtype=self._dtype)
        self._mean, self._std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD))

    def loss_of(
        self, images: torch.Tensor, prompts: ImagePrompts, use_boxes: bool, teach_encoder: bool = True
    ) -> torch.Tensor:
        """Return the loss of prompts.

        Args:
            images: (n, 3, s, s) from 0 to 255, those of the prompts, possibly augmented.
            prompts: with targets.
            use_boxes: prompt with boxes instead of points.
            teach_encoder: whether the auxiliary heads' gradients reach the encoder, or only train the heads.
        """
        given = ((images - self._mean) / self._std).to(self._dtype)
        boxes = prompts.boxes if use_boxes else None
        answers = answer_prompts(self._model, given, prompts.points, boxes, teach_encoder=teach_encoder)
        return loss_of_all(answers, prompts)

    def save(self, averaged: dict[str, torch.Tensor]) -> None:
        """Write averaged weights to the folder of the model."""
        state = {n.removeprefix(PREFIX): t for n, t in self._model.state_dict().items() if n.startswith(PREFIX)}
        with staged(self._context.recipe.out / "sam2") as folder:
            save_state(state | averaged, folder)


def main() -> None:
    """Train to the end of the recipe, and write the weights periodically and at the end."""
    context = open_part("sam2")
    context.wait_for_start()
    device = prepare_torch(context)
    recipe, scale = context.recipe, context.recipe.scale
    segmenter, softener = Segmenter(context, device), Softener(context, device)
    context.wait_for_scenes()
    pool = ScenePool(context, device)
    pool.pull(recipe.first_chunks)
    rng = np.random.default_rng(recipe.seed)
    schedule, rate = context.schedule(1.0), RATE * recipe.rate_share
    warmup = max(1, round(WARMUP_SHARE * scale.warmup))
    log = StageLog(context, "sam2", "SAM2", rate, schedule)
    writer, writing = BackgroundWriter(context), Interval(scale.write_every_s, context.now)
    while not schedule.is_over:
        prompts = pool.draw_prompts(scale.segmenter_images, scale.segmenter_prompts)
        images = softener.soften(prompts.images, int(rng.integers(scale.segmenter_images)))
        # The auxiliary heads aren't saved with the weights: in fine-tuning, they are trained first.
        teach_encoder = not recipe.fine_tune or schedule.steps >= warmup
        loss = segmenter.loss_of(images, prompts, bool(rng.random() < BOXES), teach_encoder)
        loss.backward()  # type: ignore[no-untyped-call]
        segmenter.weights.step(schedule.rate(rate, warmup, FINAL_RATE))
        log.add(loss, scale.segmenter_images)
        if log.report():
            softener.load_autoencoder()
        if schedule.steps % TAKE_EVERY == 0:
            pool.pull(CHUNKS_LATER)
        if writing.has_passed():
            writer.submit(segmenter.save, segmenter.weights.averaged(PREFIX))
    writer.wait()
    segmenter.save(segmenter.weights.averaged(PREFIX))
    log.finish()


def loss_of_all(answers: Answers, prompts: ImagePrompts) -> torch.Tensor:
    """The losses of masks and of the heads that teach the encoder, as `training.sam2.train` weighs them."""
    truth = prompts.truth.flatten(0, 1).float()  # (q, s, s)
    coarse = resize(truth, answers.kin.shape[-1])[:, None]
    return (
        loss_of_answers(answers.logits, answers.quality, resize(truth, truth.shape[-1] // 2))
        + KIN * loss_of_masks(LOUDNESS * answers.kin, coarse).mean()
        + DENSE * loss_of_cells(answers.dense, prompts.is_thing, prompts.distances)
        + SCALE * functional.relu(answers.power - 1)
    )


if __name__ == "__main__":
    main()
