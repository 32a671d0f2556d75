"""Both Python clients against the real HTTP application: every method, and what images and regions can do."""

from __future__ import annotations

import asyncio
import io
import math
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image as PILImage
from pycocotools import mask as coco

from ai_pipeline_client import (
    AsyncClient,
    InvalidRequest,
    JobCancelled,
    LimitReached,
    NotFound,
    Progress,
    ServiceUnavailable,
    Timeout,
    Unauthorized,
)
from ai_pipeline_client.aio import images as asyncio_images
from ai_pipeline_client.aio import webhooks as asyncio_webhooks
from ai_pipeline_client.blocking import images as blocking_images
from ai_pipeline_client.blocking import webhooks as blocking_webhooks
from graphs.events import webhooks as webhook_dispatcher
from graphs.http.app import build_http_app
from graphs.http.auth import AccessControl
from pipeline.jobs import MAX_ATTEMPTS
from pipeline.settings import WebhookSettings
from testing.fakes import LABELS
from testing.harness import Bench, make_bench, working
from testing.waiting import until
from testing.webhook_receiver import Receiver
from tests.integration.clients import InStep, client_at, served, steps_into

pytestmark = pytest.mark.anyio

UNKNOWN_ID = "0198a3c0-0000-7000-8000-000000000000"
SMALL = (90, 60)
LOCAL_WEBHOOKS = WebhookSettings(allow_private_addresses=True, retry_after_s=(0.02,) * 1000)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.up()
    yield receiver
    receiver.down()


@pytest.fixture
async def local(tmp_path, anyio_backend, monkeypatch) -> AsyncIterator[str]:
    """A service that sends webhooks to this machine."""
    monkeypatch.setattr(webhook_dispatcher, "POLL_S", 0.05)
    bench = make_bench(tmp_path, webhooks=LOCAL_WEBHOOKS)
    async with working(bench), served(build_http_app(bench.services)) as url:
        yield url


async def pear(client: Any, **parameters: Any) -> Any:
    return await client.images.generate("pear", **{"seed": 3, "steps": 2} | parameters)


def opened(png: bytes) -> PILImage.Image:
    return PILImage.open(io.BytesIO(png))


def orange() -> PILImage.Image:
    return PILImage.new("RGB", SMALL, "orange")


# Making


async def test_several_images_are_returned_in_seed_order_with_a_preview_per_step(client, bench):
    reported: list[Progress] = []
    bench.workers.gate = InStep(bench, reported, several=True)
    images = await client.images.generate_many("pear", n=3, seed=7, steps=4, on_progress=steps_into(reported))

    assert [image.seed for image in images] == [7, 8, 9]
    assert {image.prompt for image in images} == {"pear"}
    assert len({image.image_id for image in images}) == 3
    for number in range(3):
        steps = [progress for progress in reported if progress.number == number]
        assert [progress.step for progress in steps] == [1, 2, 3, 4]
        assert {progress.num_steps for progress in steps} == {4}
        assert len({progress.job_id for progress in steps}) == 1
        assert all(opened(progress.preview).size == (64, 64) for progress in steps)


async def test_the_steps_of_a_single_image_are_reported(client, bench):
    reported: list[Progress] = []
    bench.workers.gate = InStep(bench, reported)
    all_progress: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        all_progress.append(progress)
        steps_into(reported)(progress)

    image = await client.images.generate("pear", steps=3, on_progress=on_progress)
    assert [(progress.number, progress.step) for progress in all_progress] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    (job,) = await client.jobs.page()
    assert {(progress.job_id, progress.num_steps) for progress in all_progress} == {(job.job_id, 3)}
    assert image == await client.images.get(image.image_id)
    assert image.job_id == job.job_id


async def test_on_progress_may_be_a_coroutine_function(url, bench):
    reported: list[int] = []

    async def on_progress(progress: Progress) -> None:
        await asyncio.sleep(0)
        if progress.step:
            reported.append(progress.step)

    async with client_at(url, "AsyncClient") as client:
        bench.workers.gate = InStep(bench, reported)
        await client.images.generate("pear", steps=2, on_progress=on_progress)
    assert reported == [1, 2]


async def test_seeds_metadata_and_tags_are_those_of_the_request(client):
    images = await client.images.generate_many(
        "pear", seeds=[5, 1], steps=2, metadata={"order": "7"}, tags=["fruit", "green"]
    )
    assert [image.seed for image in images] == [5, 1]
    for image in images:
        assert (image.metadata, image.tags, image.origin) == ({"order": "7"}, ("fruit", "green"), "generated")
        assert image.raw["tags"] == ["fruit", "green"]


@pytest.mark.parametrize("wrong", [{}, {"n": 2, "seeds": [1]}, {"seed": 1, "seeds": [1, 2]}])
async def test_the_number_of_images_is_given_in_one_way(client, wrong):
    with pytest.raises(ValueError, match="seeds"):
        await client.images.generate_many("pear", **wrong)


async def test_what_is_included_comes_with_the_image(client, bench):
    image = await pear(client, include=["content", "labels", "regions"])
    assert opened(image.included_content).size == (image.width, image.height)
    num_requests = len(bench.events)
    assert [region.label for region in await image.regions()] == ["apple", "plate"]
    assert (await image.numpy()).shape == (image.height, image.width, 3)
    assert len(bench.events) == num_requests  # without another request
    assert [label.label for label in image.included_labels] == list(LABELS[:5])
    assert [region.labels[0].label for region in image.included_labels.regions] == ["apple", "plate"]
    without = await client.images.get(image)
    assert (without.included_content, without.included_labels) == (None, None)
    assert {image, without} == {image}


async def test_events_of_other_jobs_are_ignored(client, bench):
    bench.workers.gate.clear()
    generating = asyncio.create_task(client.images.generate_many("pear", n=2, steps=2))
    await until(lambda: bench.workers.calls["generate"] == 2)
    (other,) = await client.images.submit("cup", steps=2)
    bench.workers.gate.set()
    assert [image.prompt for image in await generating] == ["pear", "pear"]
    (image,) = await client.jobs.wait(other)
    assert image.prompt == "cup"


async def test_variations(client):
    image = await pear(client)
    first, second = await image.vary(n=2, strength=0.5, steps=2, seed=5)
    assert (first.made_from, first.parameters.source.strength) == (image.image_id, 0.5)
    assert (first.seed, second.seed) == (5, 6)
    (job,) = await image.submit_variations(seeds=[9], steps=2)
    (third,) = await client.jobs.wait(job.job_id)
    assert (third.seed, third.made_from) == (9, image.image_id)
    made = await client.first("images.list", None, made_from=image)
    assert {each.image_id for each in made} == {first.image_id, second.image_id, third.image_id}


async def test_edits_of_each_kind_of_area(client):
    image = await pear(client)
    apple = await image.find("apple")
    areas = (
        {"region": apple},
        {"region": [apple, 1]},
        {"text": "apple"},
        {"mask": apple.mask},
        {"points": [(1, 1)]},
        {"points": [(19, 19)], "box": (5, 5, 60, 60)},
        {},
    )
    for area in areas:
        edited = await image.edit("a green apple", steps=2, **area)
        assert (edited.prompt, edited.made_from) == ("a green apple", image.image_id)
        assert (edited.parameters.source.mask is None) == (not area)
    by_region = await apple.edit("a green apple", steps=2, seed=8, tags=["edited"])
    assert (by_region.seed, by_region.tags) == (8, ("edited",))
    source = by_region.parameters.source.mask
    changed = coco.decode({"size": source.size, "counts": source.counts}) > 0
    assert changed[apple.mask].all()
    assert changed.sum() < 3 * apple.area
    assert [each.seed for each in await image.edit_many("cup", seeds=[4, 2], steps=2, region=0)] == [4, 2]
    jobs = await image.submit_edits("cup", n=2, seed=6, steps=2, text="apple")
    assert [each.seed for each in await client.jobs.wait(*jobs)] == [6, 7]


async def test_a_wrong_area_is_refused_before_anything_is_sent(client):
    first, second = await pear(client), await pear(client, seed=4)
    region = await second.region(0)
    with pytest.raises(ValueError, match="is of image"):
        await first.edit("cup", region=region)
    with pytest.raises(ValueError, match="Pass one of"):
        await first.edit("cup", region=0, text="apple")
    assert len(await client.jobs.page()) == 2


# Pictures


async def test_a_picture_is_saved_in_the_format_of_its_suffix(client, tmp_path):
    image = await pear(client)
    assert await image.save(tmp_path / "apple.webp", max_side=32, quality=50) == tmp_path / "apple.webp"
    with PILImage.open(tmp_path / "apple.webp") as saved:
        assert (saved.format, saved.size) == ("WEBP", (32, 32))
    await image.save(str(tmp_path / "apple"), format="jpeg")
    with PILImage.open(tmp_path / "apple") as saved:
        assert (saved.format, saved.size) == ("JPEG", (image.width, image.height))
    with pytest.raises(ValueError, match=r"\.png, \.jpg, \.jpeg, \.webp"):
        await image.save(tmp_path / "apple.gif")


async def test_pixels_are_the_same_in_every_form(client):
    image = await pear(client)
    pixels = await image.numpy()
    assert (pixels.shape, pixels.dtype) == ((image.height, image.width, 3), np.uint8)
    assert np.array_equal(np.asarray(await image.pil()), pixels)
    assert np.array_equal(np.asarray(opened(await image.bytes())), pixels)


@pytest.mark.parametrize("form", ["path", "text", "bytes", "file", "pil", "numpy"])
async def test_pictures_of_every_form_can_be_uploaded(client, tmp_path, form):
    file = io.BytesIO()
    orange().save(file, "PNG")
    path = tmp_path / "orange.png"
    path.write_bytes(file.getvalue())
    picture: Any = {
        "path": path,
        "text": str(path),
        "bytes": file.getvalue(),
        "file": io.BytesIO(file.getvalue()),
        "pil": orange(),
        "numpy": np.asarray(orange()),
    }[form]
    uploaded = await client.images.upload(picture, tags=["fruit"], metadata={"order": "7"}, include=["labels"])
    assert ((uploaded.width, uploaded.height), uploaded.origin) == (SMALL, "uploaded")
    assert (uploaded.tags, uploaded.metadata, uploaded.parameters) == (("fruit",), {"order": "7"}, None)
    assert uploaded.raw["labels"]
    assert np.array_equal(await uploaded.numpy(), np.asarray(orange()))


async def test_what_is_no_picture_is_refused_before_it_is_sent(client, tmp_path):
    with pytest.raises(FileNotFoundError):
        await client.images.upload(str(tmp_path / "missing.png"))
    with pytest.raises(TypeError, match="int is no picture: pass a path"):
        await client.images.upload(3)
    with pytest.raises(TypeError, match="binary mode"):
        await client.images.upload(io.StringIO("text"))
    with pytest.raises(TypeError, match="float64"):
        await client.images.upload(np.zeros((4, 4, 3)))
    with pytest.raises(InvalidRequest, match="no PNG, JPEG or WebP"):
        await client.images.upload(b"text")


async def test_a_notebook_shows_an_image(url):
    async with client_at(url, "Client") as client:
        image = (await pear(client)).target
        shown = await asyncio.to_thread(image._repr_html_)
        assert "<img src='data:image/png;base64," in shown
        assert "pear · 256 × 256 · seed 3" in shown
        assert opened(await asyncio.to_thread(image._repr_png_)).size == (256, 256)
        region = await asyncio.to_thread(image.find, "apple")
        assert opened(await asyncio.to_thread(region._repr_png_)).mode == "RGBA"
        await asyncio.to_thread(image.delete)
        assert "<img" not in await asyncio.to_thread(image._repr_html_)
    async with client_at(url, "AsyncClient") as client:
        image = await pear(client)
        assert image._repr_png_() is None
        assert "<img" in (await client.images.get(image, include=["content"]))._repr_html_()


# What images show


async def test_labels_by_the_profile_and_by_the_caller(client):
    image = await pear(client)
    labels = await image.labels()
    assert sum(label.confidence for label in labels) == pytest.approx(1)
    assert [region.region_id for region in labels.regions] == [0, 1]
    assert labels[0].label == "apple"
    assert str(labels).count("%") == 5 < len(labels)
    own = await image.labels(["tench, Tinca tinca", "dog"], templates=["a {label}", "one {label}"])
    assert {label.label for label in own} == {"tench, Tinca tinca", "dog"}
    assert re.fullmatch(r"\w.* \d+%, .* \d+%", str(own))
    assert own._repr_html_().count("<tr>") == 2

    concepts = await image.probe(["red", "metal"])
    assert [match.concept for match in concepts.matches] == ["red", "metal"]
    assert sum(match.share for match in concepts.matches) + concepts.none_of_these == pytest.approx(1)
    assert [region.label for region in concepts.regions] == ["apple", "plate"]


async def test_regions_have_masks_and_pictures(client, tmp_path):
    image = await pear(client)
    pixels = await image.numpy()
    regions = await image.regions()
    assert [(region.region_id, region.label) for region in regions] == [(0, "apple"), (1, "plate")]
    for region in regions:
        assert (region.mask.shape, region.mask.dtype) == ((image.height, image.width), np.bool_)
        assert region.mask.sum() == region.area
        assert all(len(contour) >= 3 for contour in region.polygons)

        ys, xs = np.nonzero(region.mask)
        x0, y0, x1, y1 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        cutout = (await region.cutout()).numpy()
        assert cutout.shape == (y1 - y0, x1 - x0, 4)
        inside = region.mask[y0:y1, x0:x1]
        assert np.array_equal(cutout[..., 3] > 0, inside)
        assert np.array_equal(cutout[inside, :3], pixels[y0:y1, x0:x1][inside])
        assert (await region.spotlight()).numpy().shape == pixels.shape
        assert np.array_equal((await region.mask_picture()).numpy() > 0, region.mask)

    apple = regions[0]
    padded = await apple.cutout(padding=4)
    assert padded.pil().width > (await apple.cutout()).pil().width
    padded.save(tmp_path / "apple.png")
    padded.save(tmp_path / "apple.webp")
    assert (tmp_path / "apple.png").read_bytes() == bytes(padded)
    with PILImage.open(tmp_path / "apple.webp") as saved:
        assert (saved.format, saved.mode) == ("WEBP", "RGBA")


async def test_regions_are_found_by_text_and_at_points(client):
    image = await pear(client)
    found = await image.find("apple")
    assert (found.region_id, found.label) == (0, "apple")
    assert 0 < found.match <= 1
    disc = await image.region_at((19, 19), (1, 1, False))
    assert (disc.area, disc.match) == (found.area, None)
    assert disc.region_id >= 1_000_000
    assert await image.region(disc.region_id) == disc
    with pytest.raises(NotFound, match="no region 77"):
        await image.region(77)

    document = await image.coco()
    assert len(document["annotations"]) == 2
    assert len((await image.coco("apple"))["annotations"]) == 1
    assert opened((await image.overlay()).data).size == (image.width, image.height)


# Keeping


async def test_images_are_listed_by_what_they_are(client, monkeypatch):
    for module in (asyncio_images, blocking_images):
        monkeypatch.setattr(module, "FULL_PAGE", 2)
    generated = [await pear(client, seed=seed, metadata={"seed": str(seed)}, tags=[f"s{seed}"]) for seed in range(4)]
    uploaded = await client.images.upload(orange())

    async def ids(**wanted: Any) -> list[str]:
        return [image.image_id for image in await client.first("images.list", None, **wanted)]

    oldest_first = [*(image.image_id for image in generated), uploaded.image_id]
    assert await ids() == oldest_first[::-1]
    assert await ids(order="asc") == oldest_first
    assert await ids(prompt="PEAR", order="asc") == oldest_first[:4]
    assert await ids(metadata={"seed": "2"}) == await ids(tags=["s2"]) == [oldest_first[2]]
    assert await ids(image_ids=oldest_first[:1]) == oldest_first[:1]
    assert await ids(created_before=generated[0].created_at) == []
    assert len(await ids(created_after=generated[0].created_at)) == 5
    later = datetime.now(UTC) + timedelta(days=1)
    assert await ids(created_after=later) == []

    page = await client.images.page(limit=3)
    assert [image.image_id for image in page] == oldest_first[:1:-1]
    rest = await client.images.page(after=page.next)
    assert ([image.image_id for image in rest], page.has_more, rest.has_more) == (oldest_first[1::-1], True, False)


async def test_metadata_and_tags_are_changed(client):
    image = await pear(client, metadata={"order": "7", "old": "x"}, tags=["a"])
    changed = await image.update(metadata={"old": None, "new": "y"})
    assert (changed.metadata, changed.tags) == ({"order": "7", "new": "y"}, ("a",))
    changed = await client.images.update(image, tags=[])
    assert (changed.metadata, changed.tags) == ({"order": "7", "new": "y"}, ())
    assert await client.images.get(image.image_id) == changed != image


async def test_images_are_deleted_one_by_one_and_together(client):
    first, second, third, fourth = await client.images.generate_many("pear", n=4, steps=2)
    await first.delete()
    await client.images.delete(first)
    await client.images.delete(second.image_id, third, first.image_id)
    assert [image.image_id for image in await client.images.page()] == [fourth.image_id]
    with pytest.raises(NotFound):
        await client.images.get(second)


async def test_an_object_of_another_kind_is_refused(client):
    (job,) = await client.images.submit("pear", steps=2)
    with pytest.raises(TypeError, match="3 has no image_id: pass the image, or its id"):
        await client.images.get(3)
    with pytest.raises(TypeError, match="has no webhook_id"):
        await client.webhooks.get(job)


async def test_sessions_are_separate(url, kind):
    async with client_at(url, kind, session="ann") as client:
        other = client.target.in_session("bob") if kind == "Client" else client.in_session("bob")
        await pear(client)
        assert len(await client.images.page(session="ann")) == 1
        assert len(await client.images.page(session="bob")) == 0
        await (asyncio.to_thread(other.images.upload, orange()) if kind == "Client" else other.images.upload(orange()))
        assert len(await client.images.page(session="bob")) == 1


# Jobs and events


async def test_jobs_are_submitted_listed_cancelled_and_retried(client, bench):
    bench.workers.gate.clear()
    first, second = await client.images.submit("pear", n=2, steps=2, seed=1)
    assert (await client.jobs.get(first)).parameters["prompt"] == "pear"
    assert first.request_id == second.request_id
    assert {job.job_id for job in await client.jobs.page(states=["queued", "running"])} == {first.job_id, second.job_id}
    assert len(await client.first("jobs.list", None, request_id=first.request_id)) == 2
    assert await client.first("jobs.list", None, request_id="another") == []
    cancelled = await client.jobs.cancel(second)
    assert cancelled.has_ended or cancelled.cancel_requested  # if it was running
    with pytest.raises(JobCancelled, match=second.job_id):
        await client.jobs.wait(second.job_id)

    bench.workers.gate.set()
    (image,) = await client.jobs.wait(first)
    assert image.seed == 1
    await client.jobs.retry(second)
    assert [image.seed for image in await client.jobs.wait(first, second)] == [1, 2]
    assert await client.jobs.wait() == []
    listed = await client.first("jobs.list", None, order="asc")
    assert [(job.job_id, job.state) for job in listed] == [(first.job_id, "succeeded"), (second.job_id, "succeeded")]


class HoldAt:
    """A gate for workers that closes before a step until it is opened."""

    def __init__(self, bench: Bench, step: int) -> None:
        self._bench = bench
        self._step = step
        self.is_open = False

    async def wait(self) -> None:
        await until(lambda: self.is_open or self._bench.workers.steps < self._step)


async def test_a_running_job_has_a_preview(client, bench):
    gate = bench.workers.gate = HoldAt(bench, 3)
    steps: list[int] = []
    generating = asyncio.create_task(
        client.images.generate("pear", steps=4, on_progress=lambda progress: steps.append(progress.step))
    )
    await until(lambda: max(steps, default=0) >= 1)
    (job,) = await client.jobs.page(states=["running"])
    assert (job.num_steps, job.preview_url) == (4, f"/v1/jobs/{job.job_id}/preview.png")
    assert (await client.jobs.preview(job)).pil().size == (64, 64)
    gate.is_open = True
    await generating
    with pytest.raises(NotFound):
        await client.jobs.preview(job)


async def test_events_are_received_in_order_from_any_event(client):
    image = await pear(client)
    (job,) = await client.jobs.page()
    events = await client.first("jobs.stream", None, job)
    types = [event.type for event in events]
    assert types == ["job.submitted", "job.started", "image.created", "job.succeeded", "generation.finished"]
    assert events[2].image_id == image.image_id
    assert events[0].created_at.tzinfo is not None
    later = await client.first("jobs.stream", None, job.job_id, after=events[2].sequence)
    assert [event.type for event in later] == types[3:]

    assert [event.type for event in await client.first("events.stream", 4, after=0)] == types[:4]
    (created,) = await client.first("events.stream", 1, after=0, types=["image.created"])
    assert created.sequence == events[2].sequence


async def test_stored_events_are_listed(client):
    (job,) = await client.images.submit("pear", steps=2)
    await client.jobs.wait(job)
    events = await client.first("events.list")
    assert [event.type for event in events] == ["job.submitted", "job.started", "image.created", "job.succeeded"]
    assert [event.job_id for event in events] == [job.job_id] * 4
    assert [event.type for event in await client.first("events.list", after=events[1].sequence)] == [
        "image.created",
        "job.succeeded",
    ]
    wanted = ["job.started", "image.created"]
    assert [event.type for event in await client.first("events.list", types=wanted)] == wanted


async def test_stored_events_have_pages(client):
    (job,) = await client.images.submit("pear", steps=2)
    await client.jobs.wait(job)
    page = await client.events.page(limit=3, request_id=job.request_id)
    assert [event.type for event in page] == ["job.submitted", "job.started", "image.created"]
    (last,) = await client.events.page(after=page.next)
    assert (last.type, last.image_id is not None) == ("job.succeeded", True)
    listed = await client.first("events.list", request_id=job.request_id)
    assert [(event.type, event.event_id) for event in listed] == [
        (event.type, event.event_id) for event in [*page, last]
    ]
    assert await client.first("events.list", request_id="another") == []


# Webhooks


async def test_webhooks_are_created_changed_and_deleted(client, monkeypatch):
    for module in (asyncio_webhooks, blocking_webhooks):
        monkeypatch.setattr(module, "FULL_PAGE", 1)
    first = await client.webhooks.create("https://example.com/first", types=["image.created"])
    second = await client.webhooks.create("https://example.com/second")
    assert first.secret.startswith("whsec_")
    assert first.secret not in repr(first)
    assert [webhook.url for webhook in await client.first("webhooks.list")] == [second.url, first.url]
    found = await client.webhooks.get(first.webhook_id)
    assert (found.types, found.enabled, found.secret) == (("image.created",), True, None)

    changed = await client.webhooks.update(first, url="https://example.com/third", enabled=False)
    assert (changed.url, changed.types, changed.enabled) == ("https://example.com/third", ("image.created",), False)
    assert (await client.webhooks.enable(first)).enabled
    rotated = await client.webhooks.rotate_secret(first)
    assert rotated.secret.startswith("whsec_")
    assert rotated.secret != first.secret
    assert rotated.previous_secret_expires_at > datetime.now(UTC)

    await client.webhooks.delete(first)
    await client.webhooks.delete(first)
    with pytest.raises(NotFound, match=first.webhook_id):
        await client.webhooks.get(first)


async def test_deliveries_are_listed_shown_and_sent_again(local, receiver, kind):
    async with client_at(local, kind) as client:
        webhook = await client.webhooks.create(receiver.url, types=["image.created"])
        tested = await client.webhooks.test(webhook)
        assert (tested.type, tested.state, tested.request) == ("webhook.tested", "pending", None)
        image = await pear(client)
        await until(lambda: len(receiver.messages) == 2)

        delivered: list[Any] = []
        while len(delivered) < 2:  # its outcome is stored after the receiver has it
            delivered = await client.first("webhooks.deliveries", None, webhook, states=["delivered"])
        assert [delivery.type for delivery in delivered] == ["image.created", "webhook.tested"]
        (created,) = await client.first("webhooks.deliveries", None, webhook, types=["image.created"])
        assert (created.subject, created.response_status) == (image.image_id, 204)
        shown = await client.webhooks.delivery(webhook, created)
        assert shown.request.headers["webhook-id"] == created.delivery_id
        assert image.image_id in shown.request.body
        assert shown.response.status == 204
        again = await client.webhooks.retry(webhook, created)
        assert again.delivery_id == created.delivery_id
        await until(lambda: len(receiver.messages) == 3)
        assert receiver.messages[2].id == created.delivery_id


# The service


async def test_about_and_models(client):
    about = await client.about()
    assert (about.status, about.device, about.profile) == ("online", "cpu", "mini")
    assert about.limits.min_side <= about.defaults.width <= about.limits.max_side
    models = await client.models.list()
    assert "mini" in {model.id for model in models}
    model = await client.models.get("mini")
    assert (model, model.raw["object"]) == (await client.models.get(models[0]), "model")
    assert {"generation", "edits", "segmentation"} <= set(model.capabilities)
    assert (model.defaults, model.limits["max_side"]) == (about.defaults, about.limits.max_side)
    assert "ddim" in model.schedulers
    assert "apple" in model.labels
    with pytest.raises(NotFound, match="no model"):
        await client.models.get("no such model")


async def test_embeddings_are_a_sequence_and_an_array(client):
    image = await pear(client)
    vectors = await client.embeddings(texts=["red"], images=[image, image.image_id])
    assert [len(vector) for vector in vectors] == [8, 8, 8]
    assert math.hypot(*vectors[1]) == pytest.approx(1)
    assert vectors[1:][0] == vectors[2]
    assert np.asarray(vectors).shape == (3, 8)
    assert vectors.numpy().dtype == np.float32


async def test_a_service_is_ready_once_its_models_are(client, bench):
    bench.workers.reason = "The file is missing."
    readiness = await client.ready()
    assert not readiness
    assert set(readiness.missing.values()) == {"The file is missing."}
    with pytest.raises(Timeout, match=r"isn't ready after 0 s\. The \w+ model is not ready: The file is missing"):
        await client.wait_until_ready(0)
    bench.workers.reason = ""
    await client.wait_until_ready(60)
    assert await client.ready()


async def test_waiting_for_a_service_that_is_away_says_so(kind):
    async with client_at("http://127.0.0.1:9", kind) as client:
        with pytest.raises(Timeout, match=r"Nothing answers at http://127\.0\.0\.1:9\."):
            await client.wait_until_ready(0)


async def test_a_failure_of_one_image_is_raised_and_cancels_the_others(client, bench):
    bench.workers.deaths["generate"] = 2 * MAX_ATTEMPTS
    with pytest.raises(ServiceUnavailable, match="was lost again and again") as failed:
        await client.images.generate_many("pear", n=2, steps=2)
    assert failed.value.code == "worker_lost"
    assert failed.value.request_id
    await until(lambda: bench.services.feed.num_streams == 0)
    assert all(job.has_ended or job.cancel_requested for job in await client.jobs.page())


async def test_errors_say_what_to_send(client):
    with pytest.raises(InvalidRequest, match="send a few words") as rejected:
        await client.images.generate("")
    assert (rejected.value.status, rejected.value.code) == (422, "invalid_request")
    assert rejected.value.errors[0]["field"] == "prompt"
    assert rejected.value.request_id
    with pytest.raises(NotFound) as missing:
        await client.jobs.get(UNKNOWN_ID)
    assert (missing.value.title, missing.value.code) == ("Job not found", "job_not_found")
    with pytest.raises(NotFound, match=UNKNOWN_ID) as missing:
        await client.embeddings(images=[UNKNOWN_ID])  # responds like OpenAI
    assert (missing.value.title, missing.value.code) == ("Image not found", "image_not_found")
    assert str(missing.value) == (
        f"image_not_found (404): There is no image '{UNKNOWN_ID}'. It may have been deleted, or belong to another "
        f"owner. [request {missing.value.request_id}]"
    )


async def test_the_limit_of_webhooks_has_its_own_error(client):
    for number in range(WebhookSettings().max_per_owner):
        await client.webhooks.create(f"https://example.com/{number}")
    with pytest.raises(LimitReached, match="Delete one first"):
        await client.webhooks.create("https://example.com")


async def test_a_service_with_access_control_requires_an_api_key(bench, kind, monkeypatch):
    _, token = bench.store.keys.create("ann")
    async with served(build_http_app(bench.services, AccessControl(bench.store.keys))) as url:
        async with client_at(url, kind) as client:
            with pytest.raises(Unauthorized):
                await client.images.page()
        async with client_at(url, kind, api_key=token) as client:
            assert len(await client.images.page()) == 0
            me = await client.me()
            assert (me.owner, me.usage.images, me.limits.webhooks) == ("ann", 0, WebhookSettings().max_per_owner)
            created = await client.keys.create("laptop")
            assert created.token not in repr(created)
            assert (await client.first("keys.list", 1))[0].name == "laptop"
        async with client_at(url, kind, api_key=created.token) as client:
            assert (await client.me()).key.key_id == created.key_id
            await client.keys.delete(created)
        monkeypatch.setenv("AI_PIPELINE_URL", url)
        monkeypatch.setenv("AI_PIPELINE_API_KEY", token)
        async with client_at(None, kind) as client:
            assert len(await client.images.page()) == 0


async def test_a_client_of_httpx_is_used_and_left_open(url):
    sent: list[httpx.Request] = []
    async with httpx.AsyncClient(event_hooks={"request": [lambda request: _noted(request, sent)]}) as http_client:
        async with AsyncClient(url, http_client=http_client, headers={"X-Mine": "1"}) as client:
            assert len(await client.images.page()) == 0
        assert not http_client.is_closed
    assert sent[0].headers["x-mine"] == "1"
    assert re.fullmatch(r"ai-pipeline-client/\S+ python/3\.\d+\.\d+", sent[0].headers["user-agent"])


async def _noted(request: httpx.Request, sent: list[httpx.Request]) -> None:
    sent.append(request)
