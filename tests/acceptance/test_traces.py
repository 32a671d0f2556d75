"""What a collector is told of a request to the running service."""

from __future__ import annotations

import secrets
from typing import Any

from tests.service_process import RunningService, wait_until
from tests.tracing import spans_in, ways_down

STEPS = 4
WAYS = {
    "POST /generate > accept job",
    "POST /generate > stage generate > call generate > Diffusion.generate > denoise",
    "POST /generate > stage generate > call generate > Diffusion.generate > decode",
    "POST /generate > stage generate > call encode > Renderer.encode",
    "POST /generate > stage generate > store image",
    "POST /generate > stage describe > cache acquire",
    "POST /generate > stage describe > call describe > Clip.describe > forward",
    "POST /generate > stage describe > store write",
    "POST /segment > stage segment > cache acquire",
    "POST /segment > stage segment > call segment > Segmenter.segment > encode",
    "POST /segment > stage segment > call segment > Segmenter.segment > decode",
    "POST /segment > stage describe_regions > call describe > Clip.describe > forward",
}


def test_one_trace_from_the_request_to_the_engines_steps(service: RunningService):
    trace_id, caller_id = secrets.token_hex(16), secrets.token_hex(8)
    with service.client(headers={"traceparent": f"00-{trace_id}-{caller_id}-01"}) as client:
        body = {"prompt": "a pear nobody else asks for", "seed": 4711, "steps": STEPS, "scheduler": "ddim"}
        made = client.post("/generate", json=body)
        seen = client.post("/segment", json={"image_id": made.json()["image_id"]})
        refused = client.post("/generate", json={"prompt": "x", "width": 7})
        odd = client.get("/v1/images", headers={b"traceparent": b"\xff\xfe"})

    def told() -> list[dict[str, Any]]:
        return [span for span in spans_in(service.spans) if span["context"]["trace_id"] == f"0x{trace_id}"]

    wait_until(
        lambda: ways_down(told()) >= WAYS and len(of_caller(told(), caller_id)) == 3,
        problem=lambda: WAYS - ways_down(told()),
    )
    spans = told()
    assert {way.split(" > ")[0] for way in ways_down(spans)} == {"POST /generate", "POST /segment"}
    requests = of_caller(spans, caller_id)
    returned = [answer.headers["traceparent"] for answer in (made, seen, refused)]
    assert sorted(returned) == sorted(f"00-{trace_id}-{span['context']['span_id'][2:]}-01" for span in requests)
    (denoising,) = [span for span in spans if span["name"] == "denoise"]
    assert [event["attributes"]["step"] for event in denoising["events"]] == list(range(1, STEPS + 1))
    assert odd.status_code == 200
    assert trace_id not in odd.headers["traceparent"]
    components = {span["resource"]["attributes"]["service.name"] for span in spans}
    assert components == {"Ingress", "Diffusion", "Clip", "Segmenter", "Renderer"}
    assert not [line for line in service.spans.read_text().splitlines() if "nobody else asks" in line]


def of_caller(spans: list[dict[str, Any]], caller_id: str) -> list[dict[str, Any]]:
    """The spans right under the caller's own."""
    return [span for span in spans if span["parent_id"] == f"0x{caller_id}"]
