"""Pictures in the terminal: two pixels per character, as half blocks."""

from __future__ import annotations

import io

from PIL import Image
from rich.console import Console
from rich_pixels import Pixels

MAX_COLUMNS = 64
ROWS_BELOW = 4  # of the terminal, so that the whole picture is visible at once
ENOUGH_COLOURS = ("256", "truecolor")


def show_picture(png: bytes, console: Console) -> None:
    """Print a picture as large as the terminal allows; nothing if it isn't a terminal with at least 256 colours."""
    if not console.is_terminal or console.no_color or console.color_system not in ENOUGH_COLOURS:
        return
    with Image.open(io.BytesIO(png)) as picture:
        size = fit(picture.size, console.width, console.height - ROWS_BELOW)
        console.print(Pixels.from_image(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)), end="")


def fit(size: tuple[int, int], columns: int, rows: int) -> tuple[int, int]:
    """Return the width and height, in pixels, at which a picture fits into characters of one by two pixels.

    Args:
        size: of the picture, width and height in pixels.
        columns: of the terminal.
        rows: of the terminal, available for the picture.
    """
    width, height = size
    scale = min(min(columns, MAX_COLUMNS) / width, 2 * max(1, rows) / height)
    return max(1, int(width * scale)), max(2, 2 * round(height * scale / 2))
