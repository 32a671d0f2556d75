"""A thousand valid, invalid and damaged uploads through the whole service."""

from __future__ import annotations

import io
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import httpx
import psutil
from PIL import Image

from pipeline.settings import AdmissionSettings
from testing.service_process import RunningService
from tests.hostile_pictures import damaged, fit_pictures, truncated, unfit_pictures
from tests.integration.clients import is_problem

SEED = 20_261_122
UPLOADS = 1000
CLIENTS = 4
CODES = {400: "malformed_body", 413: "body_too_large", 415: "unsupported_media_type", 422: "invalid_upload"}
RETRIES = 30  # after a 429

# Twice the measured growth: heaps of the ingress and renderer replicas and the proxy grow to their peak of 0.35 GB for
# large images and bodies, and hardly further. The bodies are 0.6 GB in total, so keeping them would exceed this bound.
MAX_GROWTH_BYTES = 700 << 20

BOUNDARY = b"----a1b2"
FORM = "multipart/form-data; boundary=----a1b2"
FILE = b'Content-Disposition: form-data; name="file"; filename="mine.png"'
FIELD = b'Content-Disposition: form-data; name="note"'


@dataclass(frozen=True)
class Upload:
    """A request to be sent.

    Attributes:
        is_fit: whether it must be accepted or refused; None if that depends on the damage.
    """

    what: str
    content_type: str | None
    body: bytes
    is_chunked: bool
    is_fit: bool | None


def form(*parts: tuple[bytes, bytes]) -> bytes:
    """Return the body of a form with parts (headers, content)."""
    opened = b"".join(b"--%s\r\n%s\r\n\r\n%s\r\n" % (BOUNDARY, headers, content) for headers, content in parts)
    return opened + b"--%s--\r\n" % BOUNDARY


Packing = Callable[[bytes], tuple[str | None, bytes]]  # an image as a content type and a body

FIT_PACKINGS: dict[str, Packing] = {
    **{kind: lambda data, kind=kind: (kind, data) for kind in ("image/png", "image/jpeg", "image/webp")},
    "shouted": lambda data: ("IMAGE/PNG ; charset=utf-8", data),
    "form": lambda data: (FORM, form((FILE + b"\r\nContent-Type: image/png", data))),
    "lying part": lambda data: (FORM, form((FILE + b"\r\nContent-Type: text/html", data))),
    "bytes that are no text": lambda data: (FORM, form((FILE.replace(b"mine", b"\xff\0\xfe"), data))),
    "way up": lambda data: (FORM, form((FILE.replace(b"mine.png", b"../../../etc/passwd"), data))),
    "fields before": lambda data: (FORM, form((FIELD, b"hello"), (FIELD, b"\xff"), (FILE, data))),
}
UNFIT_PACKINGS: dict[str, Packing] = {
    **{
        kind: lambda data, kind=kind: (kind, data) for kind in ("text/plain", "image/gif", "application/json", "/", ",")
    },
    "no type": lambda data: (None, data),
    "no form": lambda data: (FORM, data),
    "no boundary": lambda data: ("multipart/form-data", form((FILE, data))),
    "another boundary": lambda data: ("multipart/form-data; boundary=x", form((FILE, data))),
    "no file": lambda data: (FORM, form((FIELD, b"hello"))),
    "no parts": lambda data: (FORM, form()),
    "two files": lambda data: (FORM, form((FILE, data), (FILE, data))),
    "many fields": lambda data: (FORM, form(*[(FIELD, b"")] * 20, (FILE, data))),
    "nameless part": lambda data: (FORM, form((b"Content-Disposition: form-data", data))),
    "too many bytes": lambda data: ("image/png", data.ljust(AdmissionSettings().max_upload_bytes + 1, b"\0")),
}
STRANGE_CHARSETS = ("undefined", "punycode", "utf-16", "hex", "nonsense")  # of a form; Python knows some of them


def draw_uploads(chance: random.Random) -> list[Upload]:
    """Draw uploads: choose images, damage some, encode them as bodies, and damage some of these."""
    fit, unfit = fit_pictures(), unfit_pictures()

    def draw() -> Upload:
        name, data = chance.choice(list((fit if chance.random() < 0.8 else unfit).items()))
        packings = FIT_PACKINGS if chance.random() < 0.8 else UNFIT_PACKINGS
        packing = chance.choice(list(packings))
        is_fit: bool | None = name in fit and packing in FIT_PACKINGS
        if name in fit and chance.random() < 0.5:
            name, data = f"damaged {name}", damage(chance, data)
            is_fit = None if is_fit else False
        content_type, body = packings[packing](data)
        if content_type == FORM and chance.random() < 0.3:
            packing, body = f"damaged {packing}", damage(chance, body)
            is_fit = None
        elif content_type == FORM and chance.random() < 0.3:
            content_type = f"{FORM}; charset={chance.choice(STRANGE_CHARSETS)}"
            is_fit = is_fit and None  # the form's text may not be decodable
        return Upload(f"{name} as {packing}, {content_type}", content_type, body, chance.random() < 0.2, is_fit)

    return [draw() for _ in range(UPLOADS)]


def damage(chance: random.Random, data: bytes) -> bytes:
    """Change some bytes, truncate, or both."""
    changed = damaged(chance, data) if data and chance.random() < 0.7 else data
    return truncated(chance, changed) if changed and chance.random() < 0.5 else changed


def send(client: httpx.Client, upload: Upload) -> httpx.Response:
    """Post an upload, with retries after 429."""
    headers = {} if upload.content_type is None else {"Content-Type": upload.content_type}
    for _ in range(RETRIES):
        answer = client.post(
            "/v1/images/upload", content=iter([upload.body]) if upload.is_chunked else upload.body, headers=headers
        )
        if answer.status_code != 429:
            break
        threading.Event().wait(int(answer.headers["retry-after"]))
    return answer


def check(client: httpx.Client, upload: Upload) -> tuple[int, str]:
    """Send an upload; return the answer's status and a description of its fault, if any."""
    answer = send(client, upload)
    status = answer.status_code
    if status == 201:
        made = answer.json()
        content = client.get(f"{answer.headers['location']}/content").content
        is_valid = is_plain_png(content, (made["width"], made["height"]))
    else:
        is_valid = status in CODES and is_problem(answer, status, CODES[status])
    if is_valid and upload.is_fit in (None, status == 201):
        return status, ""
    return status, f"{upload.what}: {status} {answer.text}"


def is_plain_png(content: bytes, size: tuple[int, int]) -> bool:
    """Return whether this is an RGB PNG of that size without metadata."""
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        return (picture.format, picture.mode, picture.size, picture.info) == ("PNG", "RGB", size, {})


def own_bytes(service: RunningService) -> dict[psutil.Process, int]:
    """Return each process's unique set size, which excludes the shared object store."""
    found = {}
    for process in service.processes(""):
        with suppress(psutil.NoSuchProcess):
            found[process] = process.memory_full_info().uss
    return found


def test_a_thousand_hostile_uploads(service: RunningService):
    print(f"seed {SEED}")
    uploads = draw_uploads(random.Random(SEED))
    log = service.data_dir / "app.log"
    lost_workers = log.read_text().count("Lost the worker")
    before = own_bytes(service)

    with service.client(headers={"X-Session-ID": "hostile"}) as client, ThreadPoolExecutor(CLIENTS) as pool:
        outcomes = list(pool.map(lambda upload: check(client, upload), uploads))

    after = own_bytes(service)
    print(f"answers {dict(sorted(Counter(status for status, _ in outcomes).items()))}")
    growth = sum(after[process] - before[process] for process in before.keys() & after.keys())  # excludes new processes
    print(f"memory {sum(before.values()) / 1e6:.0f} MB before, {growth / 1e6:.0f} MB more after")
    assert [fault for _, fault in outcomes if fault] == []
    assert log.read_text().count("Lost the worker") == lost_workers
    assert growth < MAX_GROWTH_BYTES
