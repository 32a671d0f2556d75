"""Generate an image on a running service, analyze it, and edit a part of it.

python examples/client.py --server http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ai_pipeline_client import Client, PipelineError, Progress


def main() -> None:
    """Run the example; print the service's error if it fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", help="AI_PIPELINE_URL if left out, else http://127.0.0.1:8000")
    parser.add_argument("--api-key", help="if the service requires one; AI_PIPELINE_API_KEY if left out")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with Client(options.server, api_key=options.api_key) as client:
        try:
            make_and_change(client, options.out)
        except PipelineError as error:
            raise SystemExit(f"{error.title}: {error.detail}") from None


def make_and_change(client: Client, out: Path) -> None:
    """Generate an image, analyze it, and edit its best region."""

    def show(progress: Progress) -> None:
        print(f"step {progress.step} of {progress.num_steps}")
        if progress.preview is not None:
            (out / "preview.png").write_bytes(progress.preview)

    image = client.images.generate("red apple in white plate", seed=7, on_progress=show)
    image.save(out / "image.png")

    best = image.labels()[0]
    print(f"It shows: {best.label} ({best.confidence:.0%})")
    regions = image.regions()
    for region in regions:
        print(f"  {region.label}: {region.area} pixels in {region.box}")

    image.edit("a green apple", region=regions[0]).save(out / "edited.png")


if __name__ == "__main__":
    main()
