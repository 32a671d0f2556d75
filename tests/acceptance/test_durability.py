"""What was acknowledged is there after every process was killed at once."""

from __future__ import annotations

from pathlib import Path

from pipeline.jobs import JobState
from pipeline.store import EventLog, JobStore, open_database
from tests.service_process import serving, wait_until


def test_images_sessions_and_results_survive_kill_9_of_everything(tmp_path: Path):
    contents: dict[str, bytes] = {}
    with serving(tmp_path) as service:
        for session in ("a", "b"):
            with service.client(headers={"X-Session-ID": session}) as client:
                made = client.post("/generate", json={"prompt": "pear", "seed": 3, "steps": 2}).json()
                contents[made["image_id"]] = client.get(f"/images/{made['image_id']}/content").content
                segments = client.post("/segment").json()["segmented_regions"]
        log = service.data_dir / "app.log"
        wait_until(lambda: "Regions rendered" in log.read_text())  # nobody asked for it
        segmented = (service.data_dir / "app.log").read_text().count("Image segmented")
        assert segmented == 1  # the same pixels, the same result
        service.kill_everything()

    with serving(tmp_path) as service:
        for session, (image_id, content) in zip(("a", "b"), contents.items(), strict=True):
            with service.client(headers={"X-Session-ID": session}) as client:
                again = client.post("/segment").json()
                assert again["image_id"] == image_id
                assert again["segmented_regions"] == segments
                assert client.get(f"/images/{image_id}/content").content == content
        log = (service.data_dir / "app.log").read_text()
        assert log.count("Image segmented") == segmented
        assert "from store" in log


def test_a_service_that_ends_gives_its_jobs_back(tmp_path: Path):
    body = {"prompt": "pear", "steps": 100, "width": 256, "height": 256}
    with serving(tmp_path) as service, service.client() as client:
        for _ in range(3):
            client.post("/generate", json=body, headers={"Prefer": "respond-async"}).raise_for_status()
    log = EventLog(open_database(f"sqlite:///{tmp_path / 'data' / 'truth.sqlite'}"))
    jobs = JobStore(log).list("public", limit=10)
    log.engine.dispose()
    assert [(job.state, job.attempts) for job in jobs] == [(JobState.QUEUED, 0)] * 3
