from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.engines import weights
from pipeline.engines.device import pick_device
from pipeline.engines.weights import ModelUnavailable
from pipeline.settings import ModelSource


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_a_missing_path_is_named_with_advice(tmp_path):
    missing = tmp_path / "nowhere"
    with pytest.raises(ModelUnavailable, match=rf"{missing} does not exist.*training\.train"):
        weights.find(ModelSource(source=str(missing)))


def test_a_hub_name_has_no_local_path():
    assert weights.find(ModelSource(source="CompVis/stable-diffusion-v1-4")) is None


def test_only_the_pinned_content_is_accepted(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    right, wrong = hashlib.sha256(b"weights").hexdigest(), hashlib.sha256(b"others").hexdigest()
    assert weights.find(ModelSource(source=str(file), sha256=right.upper())) == file
    with pytest.raises(ModelUnavailable, match=f"{right}.*pins {wrong}"):
        weights.find(ModelSource(source=str(file), sha256=wrong))


def test_a_fingerprint_depends_only_on_names_and_content_of_weights_and_configs(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"a")
    (tmp_path / "config.json").write_text("{}")
    first = weights.fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("a card")
    assert weights.fingerprint(tmp_path) == first
    (tmp_path / "config.json").write_text("{ }")
    changed = weights.fingerprint(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    assert len({first, changed, weights.fingerprint(tmp_path)}) == 3
    assert len(first) == 16


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_plain_checkpoint_is_read(tmp_path, wrapped):
    state = {"weight": torch.arange(3.0)}
    torch.save({"model": state} if wrapped else state, tmp_path / "model.pt")
    assert weights.load_state_dict(tmp_path / "model.pt")["weight"].tolist() == [0, 1, 2]


def test_safetensors_are_read(tmp_path):
    save_file({"weight": torch.arange(3.0)}, tmp_path / "model.safetensors")
    assert weights.load_state_dict(tmp_path / "model.safetensors")["weight"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, save):
    trace = tmp_path / "trace"
    save({"weight": Malicious(trace)}, tmp_path / "model.pt")
    with pytest.raises(ModelUnavailable, match=r"model\.pt .*refused"):
        weights.load_state_dict(tmp_path / "model.pt")
    assert not trace.exists()


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_damaged_checkpoint_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"no weights at all")
    with pytest.raises(ModelUnavailable, match=name):
        weights.load_state_dict(tmp_path / name)


def test_a_checkpoint_of_another_kind_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "model.pt")
    with pytest.raises(ModelUnavailable, match="holds no state dict"):
        weights.load_state_dict(tmp_path / "model.pt")


def test_the_error_can_be_pickled():
    error = weights.unavailable("x", "is gone")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_cpu_is_always_available_and_auto_selects_a_device():
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_raises_with_an_explanation():
    with pytest.raises(RuntimeError, match="Set it to auto or cpu"):
        pick_device("cuda")
