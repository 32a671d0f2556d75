"""SAM2's shared training forward, its prompts, and the augmentation of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.sam2.model import TrainableSam2, prepare
from training.sam2.prompts import Prompts
from training.sam2.train import loss_of_cells, loss_of_dense
from training.scenes.dataset import Choice, load_scenes
from training.timed.image_prompts import draw_image_prompts
from training.timed.segmenter import loss_of_all
from training.timed.shared_decoder import answer_prompts
from training.timed.softening import blur, permute_channels

SIDE, IMAGES, EACH = 64, 4, 5


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return load_scenes(Choice(num=12, side=SIDE, num_things=2), tmp_path_factory.mktemp("scenes"), workers=1)


@pytest.fixture
def prompts(scenes):
    torch.manual_seed(0)
    pixels, owners = (torch.from_numpy(np.array(maps)) for maps in (scenes.pixels, scenes.owners))
    return draw_image_prompts(pixels, owners, IMAGES, EACH)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return TrainableSam2().train()


def gradients(model, answers, prompts):
    model.zero_grad()
    loss_of_all(answers, prompts).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("with_boxes", [False, True])
def test_outputs_and_gradients_equal_those_of_the_plain_forward(model, prompts, with_boxes):
    given = prepare(prompts.images.permute(0, 2, 3, 1).byte().numpy(), torch.device("cpu"))
    boxes = prompts.boxes if with_boxes else None
    plain, shared = model(given, prompts.points, boxes), answer_prompts(model, given, prompts.points, boxes)
    for name in ("logits", "quality", "kin", "dense", "power"):
        expected, found = getattr(plain, name), getattr(shared, name)
        assert expected.shape == found.shape, name
        assert torch.allclose(expected, found, rtol=1e-3, atol=1e-4 * float(expected.detach().abs().max())), name

    expected = gradients(model, plain, prompts)
    found = gradients(model, answer_prompts(model, given, prompts.points, boxes), prompts)
    largest = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in expected.items():
        if name not in found:  # its gradients in the plain forward are zero
            assert float(gradient.abs().max()) == 0, name
            continue
        difference = float((gradient - found[name]).norm())
        assert difference < 1e-3 * float(gradient.norm()) + 1e-6 * largest, name


def test_heads_can_be_trained_without_gradients_of_the_encoder(model, prompts):
    given = prepare(prompts.images.permute(0, 2, 3, 1).byte().numpy(), torch.device("cpu"))
    model.zero_grad()
    answers = answer_prompts(model, given, prompts.points, teach_encoder=False)
    (answers.kin.sum() + answers.dense.sum()).backward()
    taught = {name for name, p in model.named_parameters() if p.grad is not None}
    assert taught == {"aloofness", "kinship.weight", "kinship.bias", "dense.weight", "dense.bias"}


def test_points_lie_on_their_target(scenes):
    torch.manual_seed(1)
    pixels, owners = (torch.from_numpy(np.array(maps)) for maps in (scenes.pixels, scenes.owners))
    prompts = draw_image_prompts(pixels, owners, 40, 6)
    columns, rows = prompts.points.long().permute(2, 0, 1)
    n, p = np.indices(rows.shape)
    assert prompts.truth[n, p, rows, columns].all()
    assert prompts.points.min() >= 0
    assert prompts.points.max() < SIDE
    behind = (prompts.truth[:, :, 0].float().mean(2) > 0.5).float().mean()  # a background fills most of the top row
    assert 0.1 < behind < 0.5  # some targets are backgrounds, most are things


def test_boxes_enclose_their_target(prompts):
    for boxes, masks in zip(prompts.boxes, prompts.truth, strict=True):
        for (x0, y0, x1, y1), mask in zip(boxes.tolist(), masks, strict=True):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            inside = (rows >= y0 - 1) & (rows <= y1 + 1) & (columns >= x0 - 1) & (columns <= x1 + 1)
            assert inside.float().mean() > 0.6
            height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
            assert (x1 - x0) * (y1 - y0) < 1.6 * height * width


def test_targets_of_the_dense_head_equal_those_of_the_plain_trainer(scenes):
    torch.manual_seed(2)
    owners = torch.from_numpy(np.array(scenes.owners[:1]))
    prompts = draw_image_prompts(torch.from_numpy(np.array(scenes.pixels[:1])), owners, 2, EACH)
    as_drawn = (owners[0], owners[0].flip(1))
    whole = torch.stack([
        next(own for own in as_drawn if torch.equal(own[image_owners_of(own)] > 0, is_thing))
        for is_thing in prompts.is_thing
    ])  # fmt: skip
    dense = torch.randn(2, 5, SIDE // 16, SIDE // 16)
    blank = np.zeros((2, 1), np.float32)
    plain = Prompts(pictures=blank, points=blank, boxes=blank, truth=blank, owners=whole.numpy())
    expected = loss_of_dense(dense, plain)
    assert torch.allclose(loss_of_cells(dense, prompts.is_thing, prompts.distances), expected, rtol=1e-5)


def image_owners_of(own):
    middles = torch.arange(SIDE // 16) * 16 + 8
    return torch.meshgrid(middles, middles, indexing="ij")


def test_blurring_keeps_the_mean_and_recolouring_the_values():
    torch.manual_seed(0)
    images = torch.rand(3, 3, 32, 32) * 255
    blurred = blur(images, torch.tensor([0.4, 1.0, 2.0]))
    assert torch.allclose(blurred.mean((2, 3)), images.mean((2, 3)), atol=2)
    spread = blurred.std((1, 2, 3))
    assert spread[0] > spread[1] > spread[2]
    assert torch.equal(permute_channels(images).sort(1).values, images.sort(1).values)
