"""Use OpenAI's own client with this service: two images, a stream of previews, an edit with a mask.

python examples/openai_images.py --server http://127.0.0.1:8000 --out out
"""

from __future__ import annotations

import argparse
import base64
import io
from pathlib import Path

import numpy as np
from openai import OpenAI
from PIL import Image


def main() -> None:
    """Generate images, and write them to a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key", default="none", help="if the service requires one")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    client = OpenAI(base_url=f"{options.server}/v1", api_key=options.api_key)

    def save(name: str, encoded: str | None) -> bytes:
        picture = base64.b64decode(encoded or "")
        (options.out / name).write_bytes(picture)
        print(f"{name}: {len(picture)} bytes")
        return picture

    made = client.images.generate(prompt="a red apple on a white background", n=2, extra_body={"seed": 1})
    apple, _ = [save(f"apple-{number}.png", image.b64_json) for number, image in enumerate(made.data or ())]

    for event in client.images.generate(prompt="a blue cup", stream=True, partial_images=3, output_format="webp"):
        name = f"cup-{event.partial_image_index}" if event.type == "image_generation.partial_image" else "cup"
        save(f"{name}.webp", event.b64_json)

    edited = client.images.edit(
        image=("apple.png", apple, "image/png"),
        mask=("mask.png", with_hole(apple), "image/png"),
        prompt="a green apple",
    )
    save("green.png", edited.data[0].b64_json if edited.data else None)


def with_hole(picture: bytes) -> bytes:
    """Return the picture with a transparent centre, which the edit may change."""
    pixels = np.array(Image.open(io.BytesIO(picture)).convert("RGBA"))
    height, width = pixels.shape[:2]
    pixels[height // 8 : -height // 8, width // 8 : -width // 8, 3] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
