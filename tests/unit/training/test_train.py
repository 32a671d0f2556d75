"""Arguments of the training command, and the notes it writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from training.evaluation.cards import PROVENANCE_FILE, write_card, write_provenance
from training.loop import Recipe, Run
from training.train import Order

RECIPE = Recipe(steps=10, learning_rate=1e-3)


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def order(folder: Path, fine_tune: bool = True) -> Order:
    return Order(folder=folder, work=folder.parent, max_steps=4, scenes=1, fine_tune=fine_tune)


def test_continued_training_has_its_own_checkpoints_and_seed(folder):
    first = order(folder)
    assert (first.checkpoints, first.adapt(RECIPE)) == (order(folder).checkpoints, order(folder).adapt(RECIPE))
    (folder / "config.json").write_text('{"trained": "further"}')
    second = order(folder)

    assert first.checkpoints != second.checkpoints != folder.parent
    assert len({first.adapt(RECIPE).seed, second.adapt(RECIPE).seed, RECIPE.seed}) == 3
    assert first.adapt(RECIPE).learning_rate < RECIPE.learning_rate


def test_a_run_from_scratch_changes_only_the_recipe_s_length(folder):
    assert order(folder, fine_tune=False).adapt(RECIPE) == replace(RECIPE, steps=4)


def test_stages_of_continued_training_are_appended_to_the_notes(folder):
    run = Run(torch.nn.Linear(1, 1), RECIPE, None)
    run.step = 7
    order(folder, fine_tune=False).note({"CLIP": (run, 128)})
    order(folder).note({"CLIP": (Run(torch.nn.Linear(1, 1), RECIPE, None), 64)})

    noted = yaml.safe_load((folder / PROVENANCE_FILE).read_text())
    assert [(stage["steps"], stage["batch"]) for stage in noted] == [(7, 128), (0, 64)]
    write_card(folder, [])
    assert (folder / "README.md").read_text().count("| CLIP |") == 2
    write_provenance(folder, {"CLIP": (run, 128)})
    assert len(yaml.safe_load((folder / PROVENANCE_FILE).read_text())) == 1
