"""Checks of this machine: what it has, what is missing, and how to fix it."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from cli.ports import port_problem
from cli.proxies import HOW_TO_GET_HAPROXY, ProxyKind, find_haproxy
from pipeline.settings import ModelSource, ServiceSettings

PACKAGES = (
    "ray",
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "ultralytics",
    "opencv-python",
)
PORT_OPTIONS = ("--port", "--ui-port")
MIN_FREE_MEMORY_GB = 6
MIN_FREE_DISK_GB = 1


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    ok: bool
    what: str
    found: str
    fix: str = ""


def examine(settings: ServiceSettings, *, host: str, ports: tuple[int, int], ingress: ProxyKind) -> list[Finding]:
    """Check everything that the service needs.

    Args:
        settings: of the service.
        host: its bind address.
        ports: of the API and of the dashboard.
        ingress: its proxy.
    """
    return [
        *_software(),
        _haproxy(ingress),
        _device(),
        *_machine(settings.data_path),
        *(_port(host, port, f"choose another with {option}") for port, option in zip(ports, PORT_OPTIONS, strict=True)),
        *_models(settings),
    ]


def _software() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(ok=sys.version_info >= (3, 11), what="Python", found=version, fix="install Python 3.11 or later")
    for package in PACKAGES:
        try:
            yield Finding(ok=True, what=package, found=importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(ok=False, what=package, found="not installed", fix="run ./scripts/run, which installs it")
    try:
        importlib.import_module("cv2")
    except ImportError as error:
        yield Finding(ok=False, what="OpenCV", found=str(error), fix="apt-get install libgl1 libglib2.0-0")


def _haproxy(ingress: ProxyKind) -> Finding:
    found = find_haproxy()
    return Finding(
        ok=bool(found) or ingress is ProxyKind.PLAIN,
        what="HAProxy",
        found=found or "not installed; only --ingress haproxy needs it",
        fix=HOW_TO_GET_HAPROXY,
    )


def _device() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding(ok=False, what="device", found=str(error), fix="install torch and torchvision from one index")
    if torch.cuda.is_available():
        return Finding(ok=True, what="device", found=f"cuda: {torch.cuda.get_device_name(0)}")
    return Finding(ok=True, what="device", found=f"cpu, {os.cpu_count()} cores")


def _machine(folder: Path) -> Iterator[Finding]:
    memory_gb = psutil.virtual_memory().available / 1e9
    yield Finding(
        ok=memory_gb >= MIN_FREE_MEMORY_GB,
        what="free memory",
        found=f"{memory_gb:.1f} GB",
        fix=f"the mini profile needs {MIN_FREE_MEMORY_GB} GB",
    )
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    disk_gb = shutil.disk_usage(existing).free / 1e9
    yield Finding(
        ok=os.access(existing, os.W_OK) and disk_gb >= MIN_FREE_DISK_GB,
        what="data folder",
        found=f"{folder}, {disk_gb:.0f} GB free",
        fix="choose a writable folder with --data-dir",
    )


def _port(host: str, port: int, fix: str) -> Finding:
    problem = port_problem(host, port)
    return Finding(ok=problem is None, what=f"port {port}", found=problem or "free", fix=fix)


def _models(settings: ServiceSettings) -> Iterator[Finding]:
    try:
        profile = settings.load_profile()
    except (FileNotFoundError, ValueError) as error:
        yield Finding(
            ok=False, what=f"profile {settings.profile}", found=str(error), fix="name one of the profiles in configs/"
        )
        return
    yield _weights("diffusion", profile.diffusion.model)
    yield _weights("CLIP", profile.clip.model)
    yield _weights("SAM2", profile.sam2.model)


def _weights(model: str, source: ModelSource) -> Finding:
    path = source.local_path
    what = f"{model} model"
    if path is None:
        return Finding(
            ok=True, what=what, found=f"{source.source}: looked for in the hub's cache and on its hub at start"
        )
    if not path.exists():
        return Finding(
            ok=False,
            what=what,
            found=f"{path} is missing",
            fix="provide it, or train the miniature models: python -m training.train all",
        )
    size_mb = sum(f.stat().st_size for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file()) / 1e6
    return Finding(ok=True, what=what, found=f"{path}, {size_mb:.0f} MB")
