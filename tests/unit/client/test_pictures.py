"""Pictures and progress bars, also where their libraries are missing."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr
from typing import Any

import pytest
from PIL import Image as PILImage

from ai_pipeline_client import Picture, Progress, RegionFields, RunLengths, progress
from ai_pipeline_client.picture import encoded, format_of
from ai_pipeline_client.progress import Reporter

EXTRA = r'pip install "ai-pipeline-client\[images\]"'


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make imports of modules fail."""
    return lambda *names: [monkeypatch.setitem(sys.modules, name, None) for name in names]


def png(mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    PILImage.new(mode, (4, 3)).save(file, "PNG")
    return file.getvalue()


def a_region() -> RegionFields:
    return RegionFields(
        image_id="i",
        region_id=0,
        box=(0, 0, 1, 3),
        area=3,
        predicted_iou=1.0,
        stability=1.0,
        label="pear",
        confidence=1.0,
        labels=(),
        rle=RunLengths(size=(3, 1), counts="03"),
    )


def test_without_numpy_a_mask_says_what_to_install(without):
    assert a_region().mask.all()
    without("numpy")
    with pytest.raises(ImportError, match=f"This needs numpy, which isn't installed: {EXTRA}"):
        a_region().mask  # noqa: B018


def test_without_pillow_bytes_can_be_used_and_saved(without, tmp_path):
    content = png()
    without("PIL", "PIL.Image")
    picture = Picture(content)
    picture.save(tmp_path / "pear.png")
    assert (tmp_path / "pear.png").read_bytes() == encoded(picture) == encoded(io.BytesIO(content)) == content
    for use in (picture.pil, picture.numpy, lambda: picture.save(tmp_path / "pear.webp")):
        with pytest.raises(ImportError, match=f"This needs pillow, which isn't installed: {EXTRA}"):
            use()


def test_a_cutout_keeps_its_transparency():
    assert Picture(png("RGBA")).numpy().shape == (3, 4, 4)


@pytest.mark.parametrize(("name", "format_"), [("a.JPG", "jpeg"), ("a.jpeg", "jpeg"), ("a.b.webp", "webp")])
def test_the_suffix_is_the_format(name, format_):
    assert format_of(name) == format_
    assert format_of(name, "png") == "png"


def reported_to(stderr: io.StringIO, on_progress: Any = None, *, bar: bool) -> str:
    """Report the steps of two images; return what is written to stderr."""
    with redirect_stderr(stderr):
        reporter = Reporter(on_progress, bar)
        for step in range(3):
            for number in range(2):
                reporter.report(Progress(job_id=f"j{number}", number=number, step=step, num_steps=2))
        reporter.close()
    return stderr.getvalue()


def test_a_bar_of_plain_text_counts_the_steps_of_all_images(without):
    without("tqdm", "rich.progress")
    shown = reported_to(Terminal(), bar=True).split("\r")
    assert shown[-1] == f"{'#' * progress.WIDTH} 4/4\n"
    assert f"{'#' * 15}{'.' * 15} 2/4" in shown


@pytest.mark.parametrize(("module", "missing"), [("tqdm", []), ("rich", ["tqdm"])])
def test_a_bar_is_that_of_an_installed_library(without, module, missing):
    pytest.importorskip(module)
    without(*missing)
    shown = reported_to(Terminal(), bar=True)
    assert "Denoising" in shown
    assert "4/4" in shown or "100%" in shown


def test_there_is_no_bar_unless_it_is_requested_or_without_a_terminal():
    reported: list[Progress] = []
    assert reported_to(Terminal(), reported.append, bar=False) == ""
    assert len(reported) == 6
    assert reported_to(io.StringIO(), bar=True) == ""
