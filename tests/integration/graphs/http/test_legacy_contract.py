"""The legacy calls answer the recorded bytes: field names, their order, spelling of numbers, and defaults.

`python -m tests.integration.graphs.http.test_legacy_contract` records them anew; the legacy API never changes, so a
difference is a defect unless the fakes of the engines changed.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import zlib
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest

from pipeline.imaging.codecs import decode_png
from testing.harness import make_bench, working
from tests.integration.clients import client_of

RECORDED = Path(__file__).parents[3] / "data" / "legacy"
CALLS = {
    "root": ("GET", "/", None),
    "generate": ("POST", "/generate", {"prompt": "red apple in white plate", "seed": 7}),
    "analyze": ("POST", "/analyze", None),
    "probe": ("POST", "/probe", {"prompt": "metal"}),
    "segment": ("POST", "/segment", None),
    "visualize": ("POST", "/visualize", None),
}
PICTURE = re.compile(rb'"(iVBOR[A-Za-z0-9+/=]+)"')
IMAGE_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


def normalized(body: bytes) -> bytes:
    """Return a body without its image's id, and with the pixels of each PNG in place of its compressed bytes."""

    def describe(found: re.Match[bytes]) -> bytes:
        pixels = np.asarray(decode_png(b64decode(found[1])))
        return b'"<PNG of %dx%d, pixels %08x>"' % (pixels.shape[1], pixels.shape[0], zlib.crc32(pixels.tobytes()))

    return IMAGE_ID.sub(b"<image_id>", PICTURE.sub(describe, body))


async def answers(folder: Path) -> dict[str, bytes]:
    """Make the calls as a legacy client does, without an image's id, and return what each answered."""
    bench = make_bench(folder)
    found = {}
    async with working(bench), client_of(bench) as client:
        for name, (method, path, body) in CALLS.items():
            headers = {"X-Request-ID": f"request-{name}"}
            response = await client.request(method, path, json=body, headers=headers)
            head = f"{response.status_code} {response.headers['content-type']}\n".encode()
            found[name] = head + normalized(response.content) + b"\n"
    return found


@pytest.mark.anyio
async def test_legacy_calls_answer_the_recorded_bytes(tmp_path: Path):
    recorded = {path.stem: path.read_bytes() for path in RECORDED.glob("*.txt")}
    assert await answers(tmp_path) == recorded


def main() -> None:
    """Record the answers."""
    with tempfile.TemporaryDirectory() as folder:
        for name, answer in asyncio.run(answers(Path(folder))).items():
            (RECORDED / f"{name}.txt").write_bytes(answer)


if __name__ == "__main__":
    main()
