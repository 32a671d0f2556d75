"""Contact sheets for visual inspection of the drawings: `python -m training.scenes.contact_sheet out.png [--side 128]`.

Writes every kind in several colours to the file named, and random scenes with captions and the outlines of their masks
to a second one in the same folder, `out-scenes.png`.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.records import Pixels
from training.scenes.objects.kinds import COLOURS, KINDS
from training.scenes.render import Scene, compose, draw_scene

SAMPLES = 4  # of each kind
COLUMNS = 12
SCENES = 48
LINE_PX = 11
OUTLINES = ((255, 255, 0), (0, 255, 255), (255, 0, 255))


def draw_kinds_sheet(side: int) -> Image.Image:
    """Every kind in several colours, with its name."""
    colours = list(COLOURS)
    cells = []
    for i, kind in enumerate(KINDS):
        for k in range(SAMPLES):
            colour = colours[(5 * i + 3 * k) % len(colours)]
            scene = compose([(kind, colour)], seed=SAMPLES * i + k, side=side)
            cells.append(caption_cell(scene.pixels, f"{colour} {kind}", lines=1))
    return lay_out(cells)


def draw_scenes_sheet(side: int) -> Image.Image:
    """Random scenes, plain and with the outlines of their masks, with their captions."""
    cells = []
    for seed in range(SCENES):
        scene = draw_scene(seed, side, num_things=1 + seed % 3)
        both = np.hstack([scene.pixels, outline(scene)])
        cells.append(caption_cell(both, scene.caption, lines=3))
    return lay_out(cells, COLUMNS // 2)


def outline(scene: Scene) -> Pixels:
    """The scene with the border of each mask in a colour of its own."""
    pixels = scene.pixels.copy()
    for thing, colour in zip(scene.things, OUTLINES, strict=False):
        inner = thing.mask.copy()
        inner[1:-1, 1:-1] &= thing.mask[:-2, 1:-1] & thing.mask[2:, 1:-1] & thing.mask[1:-1, :-2] & thing.mask[1:-1, 2:]
        pixels[thing.mask & ~inner] = colour
    return pixels


def caption_cell(pixels: Pixels, text: str, *, lines: int) -> Image.Image:
    """A picture over its caption."""
    height, width = pixels.shape[:2]
    cell = Image.new("RGB", (width + 4, height + lines * LINE_PX + 6), "white")
    cell.paste(Image.fromarray(pixels), (2, 2))
    wrapped = textwrap.wrap(text, width // 6)[:lines]
    ImageDraw.Draw(cell).multiline_text(
        (3, height + 3), "\n".join(wrapped), "black", ImageFont.load_default(10), spacing=1
    )
    return cell


def lay_out(cells: list[Image.Image], columns: int = COLUMNS) -> Image.Image:
    """Cells of one size in rows."""
    width, height = cells[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(cells) // columns) * height), "white")
    for i, cell in enumerate(cells):
        sheet.paste(cell, (i % columns * width, i // columns * height))
    return sheet


def main() -> None:
    """Read the command line and write both sheets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=128, help="of each picture, in pixels")
    arguments = parser.parse_args()
    draw_kinds_sheet(arguments.side).save(arguments.out)
    scenes = arguments.out.with_name(f"{arguments.out.stem}-scenes.png")
    draw_scenes_sheet(arguments.side).save(scenes)
    print(f"{arguments.out} and {scenes}")


if __name__ == "__main__":
    main()
