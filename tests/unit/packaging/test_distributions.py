"""What the distributions of the service and of its client contain and need."""

from __future__ import annotations

import tomllib
from typing import Any

from setuptools import find_namespace_packages

from pipeline.settings import PROJECT_ROOT


def project(folder: str) -> dict[str, Any]:
    """Return a project's pyproject.toml."""
    return tomllib.loads((PROJECT_ROOT / folder / "pyproject.toml").read_text())


def packages(folder: str) -> set[str]:
    """Return the top-level packages of a project's wheel."""
    include = project(folder)["tool"]["setuptools"]["packages"]["find"]["include"]
    return {name.partition(".")[0] for name in find_namespace_packages(str(PROJECT_ROOT / folder), include=include)}


def test_the_client_is_in_its_own_distribution_alone():
    assert packages("client") == {"ai_pipeline_client"}
    assert packages(".") == {"cli", "deployments", "graphs", "pipeline", "planning", "ui"}


def test_the_client_needs_little_and_the_service_needs_the_client():
    client, service = project("client")["project"], project(".")["project"]
    assert client["dependencies"] == ["httpx", "httpx-sse"]
    assert client["license"] == "Apache-2.0"
    assert client["name"] in service["dependencies"]


def test_the_lock_names_no_path():
    lock = (PROJECT_ROOT / "requirements.lock").read_text()
    assert "file:" not in lock
    assert "-e " not in lock
