"""The trace of a request to the running service."""

from __future__ import annotations

from testing.service_process import RunningService, wait_until
from testing.tracing import ways_down

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
    trace = service.new_trace()
    with service.client(headers=trace.headers) as client:
        body = {"prompt": "a pear nobody else asks for", "seed": 4711, "steps": STEPS, "scheduler": "ddim"}
        made = client.post("/generate", json=body)
        seen = client.post("/segment", json={"image_id": made.json()["image_id"]})
        refused = client.post("/generate", json={"prompt": "x", "width": 7})
        odd = client.get("/v1/images", headers={b"traceparent": b"\xff\xfe"})

    wait_until(
        lambda: ways_down(trace.spans()) >= WAYS and len(trace.requests()) == 3,
        problem=lambda: WAYS - ways_down(trace.spans()),
    )
    spans = trace.spans()
    assert {way.split(" > ")[0] for way in ways_down(spans)} == {"POST /generate", "POST /segment"}
    returned = [answer.headers["traceparent"] for answer in (made, seen, refused)]
    expected = [f"00-{trace.trace_id}-{span['context']['span_id'][2:]}-01" for span in trace.requests()]
    assert sorted(returned) == sorted(expected)
    (denoising,) = trace.named("denoise")
    assert [event["attributes"]["step"] for event in denoising["events"]] == list(range(1, STEPS + 1))
    assert odd.status_code == 200
    assert trace.trace_id not in odd.headers["traceparent"]
    components = {span["resource"]["attributes"]["service.name"] for span in spans}
    assert components == {"Ingress", "Diffusion", "Clip", "Segmenter", "Renderer"}
    assert not [line for line in service.spans.read_text().splitlines() if "nobody else asks" in line]
