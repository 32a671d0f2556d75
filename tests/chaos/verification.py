"""Checks that a restarted service has exactly what was acknowledged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import httpx

from pipeline.imaging import codecs as images
from testing.service_process import RunningService, wait_until
from tests.chaos.clients import substance
from tests.chaos.ledger import Image, Listed, Session
from tests.chaos.litter import litter

PAGE = 20
PNG_END = b"IEND\xaeB`\x82"


def losses(service: RunningService, sessions: Sequence[Session]) -> list[str]:
    """Settle the requests in flight when the service was killed, compare everything, and return all deviations."""
    with service.client() as client:
        wait_until(lambda: not unfinished(client))
        listed = listed_images(client)
        unclaimed = set(listed).difference(*(session.images for session in sessions))
        for session in sessions:
            session.settle(listed, unclaimed)
        found = [f"image {image_id}: listed, but never requested" for image_id in sorted(unclaimed)]
        for session in sessions:
            found += [f"session {session.name}, {loss}" for loss in _losses_of_session(client, session, listed)]
        for path in litter(service.data_dir, sessions):
            image_id = path.name.partition(".")[0]
            if path.parent.name == "images" and client.get(f"/v1/images/{image_id}/content").status_code != 404:
                found.append(f"image {image_id}: served, and never acknowledged or listed")
    return found


def unfinished(client: httpx.Client) -> list[Listed]:
    """Return the queued and running jobs, at most a page of them."""
    jobs: list[Listed] = (
        client.get("/v1/jobs", params={"state": ["queued", "running"]}).raise_for_status().json()["jobs"]
    )
    return jobs


def listed_images(client: httpx.Client) -> dict[str, Listed]:
    """Return all images by id, from all pages."""
    listed: dict[str, Listed] = {}
    before: dict[str, str] = {}
    while True:
        page = client.get("/v1/images", params={"limit": str(PAGE), **before}).raise_for_status().json()
        listed |= {image["image_id"]: image for image in page["images"]}
        if page["next"] is None:
            return listed
        before = {"before": page["next"]}


def _losses_of_session(client: httpx.Client, session: Session, listed: dict[str, Listed]) -> Iterator[str]:
    for image_id, image in session.images.items():
        if image_id not in listed:
            yield f"image {image_id}: acknowledged, and not listed"
            continue
        if listed[image_id]["digest"] != image.digest:
            yield f"image {image_id}: listed with digest {listed[image_id]['digest']} instead of {image.digest}"
        for loss in _losses_of_image(client, image_id, image):
            yield f"image {image_id}: {loss}"
    for image_id in session.deleted:
        for path in (f"/v1/images/{image_id}", f"/v1/images/{image_id}/content"):
            if (status := client.get(path).status_code) != 404:
                yield f"image {image_id}: deleted, and {path} answers {status}"
    last = client.post("/segment", headers={"X-Session-ID": session.name}).json()
    if (found := last.get("image_id") or last["code"]) != (session.last or "no_image_yet"):
        yield f"last image: {found} instead of {session.last}"


def _losses_of_image(client: httpx.Client, image_id: str, image: Image) -> Iterator[str]:
    content = client.get(f"/v1/images/{image_id}/content")
    if content.status_code != 200:
        yield f"its content answers {content.status_code}"
        return
    png = content.content
    image.png = png if image.png is None else image.png
    if png != image.png:
        yield f"its content is {len(png)} bytes that are not the {len(image.png)} acknowledged ones"
    if not _is_whole(png, image.digest):
        yield "its content is not the whole picture"
    if content.headers["ETag"] != f'"{image.digest}"':
        yield f"its ETag is {content.headers['ETag']} instead of {image.digest}"
    for path in {"/segment": None} | image.answers:
        answer = client.post(path, json={"image_id": image_id})
        if answer.status_code != 200:
            yield f"{path} answers {answer.status_code}: {answer.text}"
        elif substance(answer) != image.answers.setdefault(path, substance(answer)):
            yield f"{path} answers something else than before"


def _is_whole(png: bytes, digest: str) -> bool:
    try:
        return png.endswith(PNG_END) and images.digest(images.decode_png(png)) == digest
    except ValueError:
        return False
