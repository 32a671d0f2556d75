"""Starting and ending the service, and its errors."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import cv2
import psutil
import ray
import yaml
from typer.testing import CliRunner

from cli import launcher, main
from testing.ports import quiet_port
from testing.service_process import GONE_WITHIN_S, ROOT, RunningService, wait_until


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def test_a_prompt_generates_and_analyzes_an_image_beside_a_running_service(service: RunningService, tmp_path: Path):
    finished = command("generate", "red apple in white plate", "--local", "--seed", "3", "--out", str(tmp_path))

    assert finished.returncode == 0, finished.stdout + finished.stderr
    (folder,) = tmp_path.iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert result["parameters"]["prompt"] == "red apple in white plate"
    assert result["parameters"]["seed"] == 3
    assert len(result["labels"]) == 5
    spotlights = sorted((folder / "spotlights").iterdir())
    assert len(spotlights) == len(result["regions"]) > 0
    for picture in (folder / "image.png", folder / "overlay.png", *spotlights):
        assert cv2.imread(str(picture)).shape == (256, 256, 3)
    with service.client() as client:
        assert client.get("/healthz").status_code == 200


def test_a_port_and_a_data_folder_in_use_are_reported(service: RunningService, tmp_path: Path):
    port = service.url.rsplit(":", 1)[1]

    taken_port = command("serve", "--port", port, "--data-dir", str(tmp_path))
    taken_folder = command("serve", "--port", "0", "--data-dir", str(service.data_dir))

    assert taken_port.returncode == taken_folder.returncode == 1
    assert "--port" in taken_port.stderr
    assert "--data-dir" in taken_folder.stderr


def test_a_service_terminated_during_its_start_leaves_no_process(tmp_path: Path):
    console = tmp_path / "console.txt"
    arguments = ("serve", "--port", str(quiet_port()), "--no-ui", "--data-dir", str(tmp_path / "data"))
    with console.open("w") as output:
        process = psutil.Popen(
            [sys.executable, "-m", "cli.main", *arguments], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
    family: list[psutil.Process] = []

    def is_starting() -> bool:
        assert process.poll() is None, console.read_text()
        family[:] = [process, *process.children(recursive=True)]
        for child in family:
            with suppress(psutil.NoSuchProcess):  # it has ended, or is a zombie
                if "ray::ServeController" in " ".join(child.cmdline()):
                    return True
        return False

    try:
        wait_until(is_starting)
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=GONE_WITHIN_S)
        assert alive == []
        assert "Ready" not in console.read_text()
    finally:
        for left in family:
            with suppress(psutil.NoSuchProcess):
                left.kill()


def test_the_doctor_reports_what_is_missing(tmp_path: Path):
    runner = CliRunner()
    healthy = runner.invoke(main.app, ["doctor", "--port", "0", "--data-dir", str(tmp_path)])
    profile = yaml.safe_load((ROOT / "configs" / "mini.yaml").read_text())
    profile["sam2"]["model"]["source"] = "/nowhere/sam2"
    (tmp_path / "lame.yaml").write_text(yaml.safe_dump(profile))
    broken = runner.invoke(main.app, ["doctor", "--port", "0", "--profile", str(tmp_path / "lame.yaml")])

    assert healthy.exit_code == 0, healthy.stdout
    assert broken.exit_code == 1
    assert "/nowhere/sam2" in broken.stdout


def test_the_fractions_fit_on_one_gpu():
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    (application,) = config["applications"]
    fractions = application["args"]["num_gpus"]
    maxima = {d["name"]: d.get("autoscaling_config", {}).get("max_replicas", 1) for d in application["deployments"]}

    assert sum(fraction * maxima[name] for name, fraction in fractions.items()) <= 1
    assert not [d for d in application["deployments"] if "ray_actor_options" in d]


def test_ray_is_restarted_after_a_startup_timeout(monkeypatch, tmp_path: Path):
    started: list[subprocess.Popen[bytes]] = []

    def init(**_: object) -> None:
        started.append(subprocess.Popen(["sleep", "600"]))
        if len(started) == 1:
            raise RuntimeError("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    launcher.start_ray(launcher.LaunchOptions(), 0, tmp_path)
    first, second = started
    assert not psutil.pid_exists(first.pid)
    assert second.poll() is None
    second.kill()
    for process in started:
        process.wait()
