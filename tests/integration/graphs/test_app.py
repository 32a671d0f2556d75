"""The clusters the application may be built for, and the modules each package imports."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from ray.serve import Application

from graphs.app import build
from pipeline.settings import PROJECT_ROOT, ServiceSettings, StorageSettings

MODEL_LIBRARIES = {"torch", "torchvision", "diffusers", "transformers", "open_clip", "ultralytics"}


def built(monkeypatch, nodes: int, settings: ServiceSettings) -> Application:
    dead = {"Alive": False}
    cluster = SimpleNamespace(nodes=lambda: [{"Alive": True}] * nodes + [dead], cluster_resources=lambda: {"CPU": 2.0})
    monkeypatch.setattr("graphs.app.ray", cluster)
    return build(settings)


@pytest.mark.parametrize(("shared", "nodes"), [(False, 1), (True, 3)])
def test_an_application_is_built_on_one_node_or_with_shared_storage(monkeypatch, tmp_path, shared, nodes):
    storage = (
        StorageSettings(database="postgresql+psycopg://db/truth", blobs="s3://bucket") if shared else StorageSettings()
    )
    assert built(monkeypatch, nodes, ServiceSettings(data_dir=tmp_path, storage=storage))


def test_several_nodes_with_local_storage_are_rejected_with_what_to_set(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"2 nodes.*storage\.database.*storage\.blobs"):
        built(monkeypatch, 2, ServiceSettings(data_dir=tmp_path))


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("graphs.app", MODEL_LIBRARIES | {"typer"}),
        ("cli.main", MODEL_LIBRARIES | {"ray"}),
        (
            "pipeline.records, pipeline.settings, pipeline.events, pipeline.errors, pipeline.cache, "
            "pipeline.artifacts, pipeline.imaging.codecs, pipeline.imaging.masks, "
            "pipeline.imaging.drawing, pipeline.store, pipeline.traces",
            MODEL_LIBRARIES | {"ray", "fastapi", "starlette", "typer", "opentelemetry.sdk"},
        ),
    ],
    ids=["graphs.app", "cli.main", "pipeline"],
)
def test_imports_do_not_load_unneeded_libraries(modules, unwanted):
    code = f"import sys, {modules}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert set(modules.split(", ")) <= loaded
    assert loaded & unwanted == set()
