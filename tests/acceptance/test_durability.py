"""What was acknowledged is there after every process was killed at once, and after a plain end."""

from __future__ import annotations

from pathlib import Path

from pipeline.jobs import JobState
from pipeline.store import EventLog, JobStore, open_database
from tests.service_process import serving, wait_until


def test_nothing_is_lost_by_kill_9_of_everything_or_by_a_plain_end(tmp_path: Path):
    contents: dict[str, bytes] = {}
    with serving(tmp_path) as service:
        for session in ("a", "b"):
            with service.client(headers={"X-Session-ID": session}) as client:
                made = client.post("/generate", json={"prompt": "pear", "seed": 3, "steps": 2}).json()
                contents[made["image_id"]] = client.get(f"/v1/images/{made['image_id']}/content").content
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
                assert client.get(f"/v1/images/{image_id}/content").content == content
        log = (service.data_dir / "app.log").read_text()
        assert log.count("Image segmented") == segmented
        assert "from store" in log
        with service.client() as client:
            for _ in range(3):
                body = {"prompt": "pear", "steps": 100, "width": 256, "height": 256}
                client.post("/generate", json=body, headers={"Prefer": "respond-async"}).raise_for_status()

    log = EventLog(open_database(f"sqlite:///{tmp_path / 'data' / 'truth.sqlite'}"))
    unfinished = JobStore(log).list("public", limit=10, states=[JobState.QUEUED, JobState.RUNNING])
    log.engine.dispose()
    assert [(job.state, job.attempts) for job in unfinished] == [(JobState.QUEUED, 0)] * 3  # given back
