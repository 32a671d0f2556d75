from __future__ import annotations

import pytest
import yaml
from pydantic import ValidationError

from cli.config import LaunchOptions, load_config
from pipeline.settings import PROJECT_ROOT, ModelSource, Profile, ServiceSettings, ThreadSettings

PROFILES = sorted(path.stem for path in (PROJECT_ROOT / "configs").glob("*.yaml"))
SERVE_CONFIG = yaml.safe_load((PROJECT_ROOT / "serve_config.yaml").read_text())
(APPLICATION,) = SERVE_CONFIG["applications"]


def branches(tree: dict, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    below = [found for key, value in tree.items() if isinstance(value, dict) for found in branches(value, (*path, key))]
    return [path, *below]


def mini() -> dict:
    return yaml.safe_load((PROJECT_ROOT / "configs" / "mini.yaml").read_text())


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_loads_and_its_defaults_are_within_its_limits(name):
    profile = ServiceSettings(profile=name).load_profile()
    defaults, limits = profile.diffusion.defaults, profile.diffusion.limits
    assert profile.name == name
    assert defaults.steps <= limits.max_steps
    assert defaults.guidance <= limits.max_guidance
    for side in (defaults.width, defaults.height):
        assert limits.min_side <= side <= limits.max_side
        assert side % limits.side_multiple == 0


def test_the_default_profile_exists():
    assert ServiceSettings().profile in PROFILES


@pytest.mark.parametrize("branch", branches(mini()), ids=".".join)
def test_an_unknown_key_is_refused_and_named_at_any_depth(branch):
    tree = mini()
    place = tree
    for key in branch:
        place = place[key]
    place["colour"] = "green"
    with pytest.raises(ValidationError, match="colour") as refused:
        Profile.model_validate(tree)
    assert refused.value.errors()[0]["type"] == "extra_forbidden"


def test_an_unknown_profile_names_the_known_ones():
    with pytest.raises(FileNotFoundError, match="'maxi'.*" + ".*".join(PROFILES)):
        ServiceSettings(profile="maxi").load_profile()


def test_a_profile_may_be_a_path(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(mini() | {"name": "mine", "threads": {"sam2": 7}}))
    assert ServiceSettings(profile=str(file)).load_profile().threads == ThreadSettings(sam2=7)


@pytest.mark.parametrize("content", ["", "- 1", "name: mini", "name: [mini", "name: mini\n\tthreads: {}"])
def test_a_file_without_a_profile_raises(tmp_path, content):
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"Profile|mine"):
        ServiceSettings(profile=str(file)).load_profile()


@pytest.mark.parametrize(
    ("source", "path"),
    [
        (".", PROJECT_ROOT),
        ("./models/mini/clip", PROJECT_ROOT / "models" / "mini" / "clip"),
        ("../elsewhere/model.pt", PROJECT_ROOT.parent / "elsewhere" / "model.pt"),
    ],
)
def test_a_relative_source_is_resolved_against_the_project_root(source, path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert ModelSource(source=source).local_path == path


def test_an_absolute_source_is_unchanged(tmp_path):
    assert ModelSource(source=str(tmp_path / "model.pt")).local_path == tmp_path.resolve() / "model.pt"


@pytest.mark.parametrize(
    "source", ["CompVis/stable-diffusion-v1-4", "ViT-B-32-quickgelu", "sam2.1_b.pt", "models/mini"]
)
def test_any_other_source_is_a_hub_name(source):
    assert ModelSource(source=source).local_path is None


def test_the_data_folder_is_relative_to_the_project_absolute_or_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert ServiceSettings(data_dir="data").data_path == PROJECT_ROOT / "data"
    assert ServiceSettings(data_dir="~/data").data_path == tmp_path.resolve() / "data"
    assert ServiceSettings(data_dir=tmp_path).data_path == tmp_path.resolve()


def test_the_environment_sets_the_storage_unless_the_settings_do(monkeypatch):
    monkeypatch.setenv("PIPELINE_DATABASE", "postgresql+psycopg://db/pipeline")
    monkeypatch.setenv("PIPELINE_BLOBS", "s3://pictures")
    storage = ServiceSettings.model_validate({"storage": {"retention": {"max_age_days": 3}}}).storage
    assert (storage.database, storage.blobs) == ("postgresql+psycopg://db/pipeline", "s3://pictures")
    assert not storage.is_local
    assert ServiceSettings.model_validate({"storage": {"blobs": "s3://others"}}).storage.blobs == "s3://others"


def test_with_an_empty_environment_storage_is_in_the_data_folder(monkeypatch):
    monkeypatch.setenv("PIPELINE_DATABASE", "")
    monkeypatch.delenv("PIPELINE_BLOBS", raising=False)
    assert ServiceSettings().storage.is_local


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        ServiceSettings().profile = "sd14"


@pytest.mark.parametrize("wrong", [{"num_gpus": {"Clip": 1.5}}, {"accelerator": "tpu"}, {"prof1le": "mini"}])
def test_invalid_service_settings_raise(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ServiceSettings.model_validate(wrong)


def test_serve_config_has_valid_settings_and_a_known_profile():
    settings = ServiceSettings.model_validate(APPLICATION["args"])
    assert settings.profile in PROFILES
    assert APPLICATION["import_path"] == "graphs.app:build"


def test_serve_config_requires_at_most_one_gpu_and_none_on_a_cpu():
    replicas = {d["name"]: d.get("autoscaling_config", {}).get("max_replicas", 1) for d in APPLICATION["deployments"]}
    fractions = ServiceSettings.model_validate(APPLICATION["args"]).num_gpus
    assert fractions.keys() <= replicas.keys()
    assert sum(replicas[name] * fraction for name, fraction in fractions.items()) <= 1 + 1e-9
    assert not [d["name"] for d in APPLICATION["deployments"] if "ray_actor_options" in d]


@pytest.mark.parametrize(("option", "allowed"), [(None, False), (True, True), (False, False)])
def test_the_command_line_keeps_other_webhook_settings(tmp_path, option, allowed):
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({"applications": [{"args": {"webhooks": {"timeout_s": 3}}}]}))
    webhooks = load_config(LaunchOptions(serve_config=file, allow_private_webhooks=option)).settings.webhooks
    assert (webhooks.timeout_s, webhooks.allow_private_addresses) == (3, allowed)
