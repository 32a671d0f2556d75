"""Local weights: finding, verifying and fingerprinting them, and reading them without running code.

Nothing here downloads; an engine downloads with its model's own library and turns a failure into `ModelUnavailable`.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from pipeline.settings import ModelSource

StateDict = dict[str, torch.Tensor]

FINGERPRINT_CHARS = 16
CONTENT_SUFFIXES = frozenset({".json", ".txt", ".safetensors"})
OTHER_VARIANTS = (".fp16.", ".non_ema.")  # in a hub's folder, not read by an engine

HOW_TO_PROVIDE = (
    "Set the profile's source to a folder or file on this machine (./path or /path), let the hub's cache hold the "
    "model, or, for ./models/mini, train it with: python -m training.train all"
)


class ModelUnavailable(Exception):
    """A model's weights are missing or unusable; the message names them and how to provide them."""


def unavailable(wanted: object, problem: str) -> ModelUnavailable:
    """Create the error for the weights `wanted`, a path or a name: `<wanted> <problem>. <what to do>.`"""
    return ModelUnavailable(f"{wanted} {problem}. {HOW_TO_PROVIDE}.")


def find(source: ModelSource) -> Path | None:
    """Find the local folder or file that a source names.

    Returns:
        Its path, or None if the source is a name that only the model's library knows.

    Raises:
        ModelUnavailable: there is no such folder or file, or its digest isn't `source.sha256`.
    """
    path = source.local_path
    if path is None:
        return None
    if not path.exists():
        raise unavailable(path, "does not exist")
    verify(path, source.sha256)
    return path


def verify(path: Path, sha256: str | None) -> None:
    """Reject weights whose content digest isn't `sha256`; None accepts any.

    Raises:
        ModelUnavailable: the digests differ.
    """
    if sha256 is None:
        return
    found = content_digest(path)
    if found != sha256.lower():
        raise unavailable(path, f"has the SHA-256 {found}, but the profile pins {sha256}: it is refused")


def fingerprint(path: Path) -> str:
    """Return the fingerprint of weights: the first 16 characters of `content_digest`."""
    return content_digest(path)[:FINGERPRINT_CHARS]


def content_digest(path: Path) -> str:
    """Compute the SHA-256, in hex, of a file's bytes, or of a folder's weight and config files.

    A folder's digest is over the relative names and the SHA-256 of these files in sorted order; other files, such as
    a README, don't count.
    """
    if path.is_file():
        return _file_digest(path)
    sha = hashlib.sha256()
    for file in _content_files(path):
        sha.update(f"{file.relative_to(path).as_posix()}\0{_file_digest(file)}\n".encode())
    return sha.hexdigest()


def _content_files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        is_content = file.suffix in CONTENT_SUFFIXES and not any(v in file.name for v in OTHER_VARIANTS)
        if is_content and file.is_file():
            yield file


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_state_dict(path: Path) -> StateDict:
    """Load a checkpoint's tensors to the CPU: safetensors, or a pickle restricted to tensors and plain containers.

    A dictionary under the key `model`, as in SAM2's checkpoints, is returned instead of the whole.

    Raises:
        ModelUnavailable: the file is missing, damaged, holds no state dict, or would run code when unpickled.
    """
    if not path.is_file():
        raise unavailable(path, "does not exist")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise unavailable(path, f"is damaged or holds more than tensors, so it is refused ({error})") from error
    state = loaded.get("model", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise unavailable(path, "holds no state dict")
    return state
