"""Make the miniature stand-ins of the three models from a seed: `python -m training.stand_ins`.

They are untrained. They have the formats, the parts and the speed of small trained models, so that everything around
them can be built, tested and shown without a download.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.engines import weights
from pipeline.settings import PROJECT_ROOT

CARD = """# {title}

{what}

- **Untrained**: made from seed {seed} by `python -m training.stand_ins`, calibrated by statistics, shown no data.
- **Use**: developing and testing the service on a CPU. Nothing it says about a picture means anything.
- **Format**: {form}
- **Content**: `{digest}` (SHA-256, see `pipeline/engines/weights.py`)
- **Licence**: the project's, AGPL-3.0-or-later.{credit}
"""

TOKENIZER_CREDIT = " The byte-pair merges are CLIP's, from open_clip (MIT)."


def make_stand_ins(out: Path, seed: int) -> None:
    """Write `diffusion`, `clip` and `sam2` below `out`, replacing what is there, each with a model card."""
    # Imported here, so that asking for --help doesn't cost the model libraries.
    from training.stand_in_clip import make_clip
    from training.stand_in_diffusion import make_diffusion
    from training.stand_in_sam2 import make_sam2

    make(
        out / "diffusion", seed, make_diffusion,
        title="Stand-in for Stable Diffusion",
        what="Paints soft coloured blobs of 128 × 128 pixels that differ by prompt and seed.",
        form="a diffusers `StableDiffusionPipeline` folder, half precision, v-prediction, zero SNR, trailing DDIM",
        credit=TOKENIZER_CREDIT,
    )  # fmt: skip
    make(
        out / "clip", seed, make_clip,
        title="Stand-in for CLIP",
        what="Gives pictures (64 × 64) and texts vectors of 128 dimensions that differ from one another.",
        form="an open_clip folder for `local-dir:`, half precision, open_clip's own tokenizer",
    )  # fmt: skip
    make(
        out / "sam2", seed, make_sam2,
        title="Stand-in for SAM2",
        what="Finds a handful of regions that follow colours.",
        form="`config.json` with the arguments of ultralytics' `_build_sam2`, half precision, no video memory",
    )  # fmt: skip


def make(
    folder: Path, seed: int, write: Callable[[Path, int], None], *, title: str, what: str, form: str, credit: str = ""
) -> None:
    """Write one model and its card, and say so."""
    started = time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    write(folder, seed)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes for the owner alone, and a service runs as somebody else
    digest = weights.content_digest(folder)
    card = CARD.format(title=title, what=what, seed=seed, form=form, digest=digest, credit=credit)
    (folder / "README.md").write_text(card)
    size_mb = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    seconds = time.perf_counter() - started
    print(f"{folder}: {size_mb:.1f} MB in {seconds:.1f} s, fingerprint {weights.fingerprint(folder)}")


def main() -> None:
    """Read the command line and make the stand-ins."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PROJECT_ROOT / "models" / "mini", help="default: models/mini")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_stand_ins(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
