"""Deprecated methods of both clients: each warns, and returns what its successor returns."""

from __future__ import annotations

import inspect
import io
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from ai_pipeline_client import Client, ConnectionFailed, InvalidRequest, NotFound
from ai_pipeline_client.blocking.legacy import FlatMethods
from pipeline.jobs import JobState

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings(r"ignore:client\..* is deprecated:DeprecationWarning"),
]


@pytest.fixture
async def image(client: Any) -> Any:
    return await client.images.generate("pear", steps=2, seed=3)


def arguments(image_id: str, job_id: str) -> dict[str, tuple[Any, ...]]:
    """Return arguments of every deprecated method."""
    return {
        "analysis": (image_id,),
        "cancel": (job_id,),
        "coco": (image_id,),
        "content": (image_id,),
        "create": ("pear",),
        "create_edits": (image_id, "cup"),
        "create_variations": (image_id,),
        "cut_out": (image_id,),
        "delete": (image_id,),
        "edits": (image_id, "cup"),
        "embed": (),
        "every_image": (),
        "every_job": (),
        "find": (image_id, "apple"),
        "follow": (job_id,),
        "generate": ("pear",),
        "image": (image_id,),
        "job": (job_id,),
        "overlay": (image_id,),
        "probe": (image_id, ["red"]),
        "region": (image_id, 0),
        "retry": (job_id,),
        "segments": (image_id,),
        "spotlight": (image_id, 0),
        "upload": (b"",),
        "variations": (image_id,),
        "visualize": (image_id,),
        "wait": ([],),
    }


def test_every_deprecated_method_warns_at_its_call():
    methods = {name for name, _ in inspect.getmembers(FlatMethods, inspect.isfunction) if not name.startswith("_")}
    every = arguments("i", "j")
    assert methods == set(every)
    unreachable = Client("http://127.0.0.1:9", max_retries=0)
    calls: dict[str, Any] = {name: getattr(unreachable, name) for name in methods}
    calls |= {"images": unreachable.images, "jobs": unreachable.jobs, "events": unreachable.events}
    for name, method in calls.items():
        with pytest.warns(DeprecationWarning, match=rf"^client\.{name}\b.* is deprecated: use ") as warned:
            _exhausted(method, *every.get(name, ()))
        assert [warning.filename for warning in warned] == [__file__]


def _exhausted(method: Any, *args: Any) -> None:
    """Call a method of a client without a service; read its iterator, if it returns one."""
    with suppress(ConnectionFailed):
        returned = method(*args)
        if inspect.isgenerator(returned):
            next(returned)


async def test_generation(client):
    (old,) = await client.generate("pear", steps=2, seed=3)
    new = await client.images.generate("pear", steps=2, seed=3)
    assert (old.request, old.digest) == (new.parameters, new.digest)
    first, second = await client.generate("pear", steps=2, seed=3, n=2)
    assert [first.seed, second.seed] == [3, 4]
    accepted = await client.create("pear", steps=2, seed=3)
    (waited,) = await client.wait([job.job_id for job in accepted.jobs])
    assert (waited.digest, accepted.request_id) == (new.digest, accepted.jobs[0].request_id)
    with pytest.raises(InvalidRequest, match="send a few words"):
        await client.generate("")


async def test_variations_and_edits(client, image):
    image_id = image.image_id
    (old,) = await client.variations(image_id, strength=0.5, steps=2, seed=5)
    (new,) = await image.vary(strength=0.5, steps=2, seed=5)
    assert (old.request, old.digest) == (new.request, new.digest)

    whole = io.BytesIO()
    PILImage.new("L", (image.width, image.height), 255).save(whole, "PNG")
    for before, now in (
        ({"mask": whole.getvalue()}, {"mask": whole.getvalue()}),
        ({"region": 0}, {"region": 0}),
        ({"concept": "apple"}, {"text": "apple"}),
        ({"points": [(1, 1)]}, {"points": [(1, 1)]}),
        ({}, {}),
    ):
        (old,) = await client.edits(image_id, "a green apple", steps=2, seed=5, **before)
        new = await image.edit("a green apple", steps=2, seed=5, **now)
        assert (old.request, old.digest) == (new.request, new.digest)

    submitted = [
        await client.create_variations(image_id, steps=2, seed=6),
        await client.create_edits(image_id, "a green apple", region=0, steps=2, seed=7),
    ]
    images = await client.wait([job.job_id for accepted in submitted for job in accepted.jobs])
    assert [(made.seed, made.request.source.image_id) for made in images] == [(6, image_id), (7, image_id)]


async def test_images(client, image):
    image_id = image.image_id
    assert await client.image(image_id) == image
    assert list(await client.images(limit=1)) == list(await client.images.page(limit=1)) == [image]
    assert await client.first("every_image", prompt="PEAR") == await client.first("images.list", prompt="PEAR")
    assert list(await client.images(until=image.created_at)) == []
    assert len(await client.images(since=image.created_at)) == 1
    assert await client.content(image_id) == await image.bytes()
    small = await client.content(image_id, format="webp", size=32, quality=50)
    assert small == await image.bytes(format="webp", max_side=32, quality=50)

    uploaded = await client.upload(await image.bytes())
    assert (uploaded.width, uploaded.height) == (image.width, image.height)
    first, second = await client.images.page()
    assert [each.image_id for each in await client.images(before=first.image_id)] == [second.image_id]
    await client.delete(uploaded.image_id)
    with pytest.raises(NotFound):
        await client.image(uploaded.image_id)


async def test_analysis(client, image):
    image_id = image.image_id
    assert await client.analysis(image_id) == await image.labels()
    own = {"labels": ["cat", "dog"], "templates": ["a {label}", "one {label}"]}
    assert await client.analysis(image_id, **own) == await image.labels(**own)
    assert await client.probe(image_id, ["red", "metal"]) == await image.probe(["red", "metal"])
    old = await client.embed(texts=["red"], image_ids=[image_id])
    assert list(old) == list(await client.embeddings(texts=["red"], images=[image]))


async def test_regions(client, image):
    image_id = image.image_id
    regions = await image.regions()
    outlines = await client.segments(image_id)
    run_lengths = await client.segments(image_id, format="rle")
    masks = await client.segments(image_id, format="png")
    for region, outline, rle, mask in zip(regions, outlines, run_lengths, masks, strict=True):
        assert (outline.region_id, outline.box, outline.area) == (region.region_id, region.box, region.area)
        assert (outline.labels, outline.polygon, rle.rle) == (region.labels, region.polygons, region.rle)
        decoded = np.asarray(PILImage.open(io.BytesIO(mask.mask)).convert("L")) > 0
        assert np.array_equal(decoded, region.mask)
        assert (await client.region(image_id, region.region_id)).rle == region.rle
        assert await client.spotlight(image_id, region.region_id) == bytes(await region.spotlight())
    (old,), new = await client.find(image_id, "apple"), await image.find("apple")
    assert (old.region_id, old.score) == (new.region_id, new.match)
    (old,), new = await client.cut_out(image_id, points=[(19, 19)], format="rle"), await image.region_at((19, 19))
    assert (old.region_id, old.rle) == (new.region_id, new.rle)
    assert await client.coco(image_id) == await image.coco()

    visualization = await client.visualize(image_id)
    assert await client.overlay(image_id) == visualization.overlay == bytes(await image.overlay())
    assert [(each.region_id, each.label) for each in visualization.spotlights] == [(0, "apple"), (1, "plate")]


async def test_jobs_and_events(client, bench):
    bench.workers.gate.clear()
    (job,) = (await client.create("pear", steps=2)).jobs
    assert await client.job(job.job_id) == await client.jobs.get(job)
    await client.cancel(job.job_id)
    bench.workers.gate.set()
    while (await client.job(job.job_id)).state != JobState.CANCELLED:
        pass
    assert list(await client.jobs(limit=1, states=["cancelled"])) == list(await client.jobs.page(states=["cancelled"]))
    await client.retry(job.job_id)
    await client.wait([job.job_id])
    assert await client.first("every_job") == await client.first("jobs.list")
    *followed, finished = await client.first("follow", None, job.job_id)
    *streamed, end = await client.first("jobs.stream", None, job)
    assert (followed, finished.type, finished.image_id) == (streamed, end.type, end.image_id)
    logged = await client.first("events", follow=False)
    assert logged == followed
    assert await client.first("events", 1, after=0) == await client.first("events.stream", 1, after=0)
