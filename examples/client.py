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
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key", help="if the service requires one")
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

    (image,) = client.generate("red apple in white plate", seed=7, on_progress=show)
    (out / "image.png").write_bytes(client.content(image.image_id))

    best = client.analysis(image.image_id).labels[0]
    print(f"It shows: {best.label} ({best.confidence:.0%})")
    for segment in client.segments(image.image_id):
        print(f"  {segment.labels[0].label}: {segment.area} pixels in {segment.box}")

    (edited,) = client.edits(image.image_id, "a green apple", region=0)
    (out / "edited.png").write_bytes(client.content(edited.image_id))


if __name__ == "__main__":
    main()
