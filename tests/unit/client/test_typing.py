"""What editors and type checkers see of the client."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from ai_pipeline_client import AsyncClient, AsyncImage, AsyncRegion, Client, Image, Picture, Region
from pipeline.settings import PROJECT_ROOT

NAMESPACES = ("images", "jobs", "events", "webhooks", "keys", "models")
PARTS = [type(getattr(kind("http://test"), name)) for kind in (Client, AsyncClient) for name in NAMESPACES]
CLASSES = (Client, AsyncClient, Image, AsyncImage, Region, AsyncRegion, Picture, *PARTS)
WRONG = """
from ai_pipeline_client import Client
client = Client()
image = client.images.generate("pear", widht=64)
image.edit("cup", regoin=0)
image.save("pear.webp", format="gif")
client.images.list(order="up")
client.jobs.page(states=["running"])
"""


def methods() -> Iterator[tuple[str, Callable[..., Any]]]:
    for kind in CLASSES:
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_"):
                yield f"{kind.__module__}.{kind.__name__}.{name}", method


@pytest.mark.parametrize("method", [pytest.param(method, id=name) for name, method in methods()])
def test_the_types_of_every_public_method_can_be_evaluated(method):
    hints = get_type_hints(method)
    parameters = inspect.signature(method).parameters
    assert hints.keys() - {"self"} == {*parameters, "return"} - {"self"}
    assert all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    assert method.__doc__


def test_both_clients_have_the_same_methods_and_arguments():
    half = len(PARTS) // 2
    pairs = [(Client, AsyncClient), (Image, AsyncImage), (Region, AsyncRegion), *zip(PARTS[:half], PARTS[half:])]  # noqa: B905
    for blocking, asyncio_ in pairs:
        members = dict(inspect.getmembers(blocking, inspect.isfunction))
        for name, method in inspect.getmembers(asyncio_, inspect.isfunction):
            if not name.startswith("_"):
                twin = members[{"aclose": "close"}.get(name, name)]
                assert list(inspect.signature(twin).parameters) == list(inspect.signature(method).parameters), name


@pytest.mark.parametrize("name", ["seed", "steps", "width", "scheduler", "metadata", "include", "on_progress"])
def test_editors_complete_the_parameters_of_generate(name):
    assert name in inspect.signature(Client("http://test").images.generate).parameters


def test_a_type_checker_refuses_misspelled_arguments_and_values(tmp_path: Path):
    (tmp_path / "wrong.py").write_text(WRONG)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--strict", "wrong.py"],
        cwd=tmp_path,
        env={"MYPYPATH": str(PROJECT_ROOT / "client"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    errors = [line for line in checked.stdout.splitlines() if "error:" in line]
    assert [line.split(":")[1] for line in errors] == ["4", "5", "6", "7"], checked.stdout + checked.stderr
    assert '"widht"' in errors[0]
    assert 'did you mean "width"?' in errors[0]
