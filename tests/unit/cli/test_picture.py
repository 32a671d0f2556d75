"""The image in the terminal."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cli.picture import fit, show_picture
from pipeline.imaging.codecs import encode_png

RED, BLUE = (220, 20, 60), (10, 20, 230)


def halves(width: int = 256, height: int = 256) -> bytes:
    """Red above blue."""
    pixels = np.full((height, width, 3), BLUE, np.uint8)
    pixels[: height // 2] = RED
    return encode_png(pixels)


def printed(png: bytes, **console: Any) -> list[str]:
    terminal: dict[str, Any] = {"force_terminal": True, "color_system": "truecolor", "width": 40, "height": 60}
    file = io.StringIO()
    show_picture(png, Console(file=file, **terminal | console))
    return file.getvalue().splitlines()


def test_an_image_fills_the_width_of_the_terminal_in_true_colour():
    lines = printed(halves())
    assert [line.count("▄") for line in lines] == [40] * 20
    assert "2;220;20;60" in lines[0]
    assert "2;10;20;230" not in lines[0]
    assert "2;10;20;230" in lines[-1]


@pytest.mark.parametrize(
    "console",
    [
        {"force_terminal": False},
        {"color_system": None},
        {"color_system": "standard"},
        {"no_color": True},
    ],
)
def test_nothing_is_printed_without_a_colour_terminal(console):
    assert printed(halves(), **console) == []


@pytest.mark.parametrize(
    ("size", "columns", "rows", "fitted"),
    [
        ((256, 256), 200, 60, (64, 64)),  # limited to a maximum size
        ((256, 256), 30, 60, (30, 30)),
        ((256, 256), 200, 20, (40, 40)),  # limited by the height
        ((384, 96), 80, 60, (64, 16)),
        ((96, 384), 80, 30, (15, 60)),
        ((64, 64), 80, 60, (64, 64)),
        ((384, 64), 1, 60, (1, 2)),
        ((64, 64), 80, -2, (2, 2)),
    ],
)
def test_an_image_keeps_its_aspect_ratio_and_fits(size, columns, rows, fitted):
    assert fit(size, columns, rows) == fitted
