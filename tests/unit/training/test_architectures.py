"""The committed weights have the architectures that training builds."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from pipeline.engines.sam2.loading import IMAGE_PARTS
from training.diffusion.architecture import MODEL_INDEX, build_scheduler, build_text_encoder, build_unet, build_vae
from training.diffusion.train import write_short_tokenizer
from training.evaluation.cards import MODELS
from training.sam2.model import ARCHITECTURE, build_sam2

DIFFUSION = MODELS / "diffusion"
# Metadata about how a file was created, not about the model.
INCIDENTAL = {"_diffusers_version", "transformers_version", "_name_or_path", "_use_default_values", "dtype"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_short_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def written(tokenizer, tmp_path_factory):
    """The folder of an untrained diffusion model."""
    folder = tmp_path_factory.mktemp("diffusion")
    parts = {"vae": build_vae(), "unet": build_unet(), "text_encoder": build_text_encoder(tokenizer)}
    for name, part in {**parts, "scheduler": build_scheduler(), "tokenizer": tokenizer}.items():
        part.save_pretrained(folder / name)
    return folder


def facts_of(file, *measured):
    return {key: value for key, value in json.loads(file.read_text()).items() if key not in {*INCIDENTAL, *measured}}


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("unet", "diffusion_pytorch_model.safetensors"),
        ("vae", "diffusion_pytorch_model.safetensors"),
        ("text_encoder", "model.safetensors"),
    ],
)
def test_committed_diffusion_weights_match_the_built_model(written, part, file):
    ours, committed = load_file(written / part / file), load_file(DIFFUSION / part / file)
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in committed.items()}


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_committed_diffusion_configs_equal_the_written_ones(written, part):
    measured = ("scaling_factor",)
    ours, committed = (facts_of(folder / part / "config.json", *measured) for folder in (written, DIFFUSION))
    assert ours == committed


def test_committed_scheduler_tokenizer_and_index_equal_the_written_ones(written):
    for file in ("scheduler/scheduler_config.json", "tokenizer/tokenizer.json"):
        assert facts_of(written / file) == facts_of(DIFFUSION / file), file
    assert facts_of(DIFFUSION / "model_index.json") == MODEL_INDEX


def test_committed_sam2_weights_match_the_built_model():
    committed = load_file(MODELS / "sam2" / "model.safetensors")
    model = build_sam2()
    needed = {name: t.shape for name, t in model.state_dict().items() if name.startswith(IMAGE_PARTS)}
    assert {name: t.shape for name, t in committed.items()} == needed
    assert json.loads((MODELS / "sam2" / "config.json").read_text()) == ARCHITECTURE


def test_an_untrained_autoencoder_preserves_the_variance():
    torch.manual_seed(0)
    vae = build_vae()
    with torch.inference_mode():
        latents = vae.encode(torch.rand(2, 3, 64, 64) * 2 - 1).latents
        images = vae.decode(torch.randn(latents.shape)).sample
    assert 0.1 < latents.std() < 3
    assert 0.1 < images.std() < 3
