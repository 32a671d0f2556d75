"""Images that show none of the kinds: negative examples on which CLIP learns to abstain.

None of them is a photograph. They have properties of photographs and stray regions that whole drawn objects lack:
natural spectra, clutter without an outline, and parts too small to be recognized.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.records import Pixels
from training.scenes.dataset import Scenes

SIDE = 96  # pixels of synthesized images
SPECTRUM = (0.6, 2.0)  # exponents of amplitude over frequency; photographs have about 1
COLOURFULNESS = (0.05, 0.6)  # of the noise, from gray to independent channels
LEAVES = (1.5, 6.5)  # shapes of a clutter, as powers of 2
PART = (0.12, 0.3)  # side of a part, as a share of its thing's
LEAST_CONTRAST = 12  # standard deviation of a part's levels
TILES = (5, 10)  # each way, of a shuffled scene
PARTS = 0.25  # share of small parts of objects; a larger one, cropped round, would look like a fruit
MASKED = 0.4  # share of the rest that is cropped along a blob, like a region


def draw_unknown(scenes: Scenes, fill: npt.NDArray[np.uint8], rng: np.random.Generator) -> Pixels:
    """Draw an image without any known class, (h, w, 3).

    Args:
        scenes: the source of cropped parts.
        fill: RGB outside a region, (3,).
        rng: source of every choice.
    """
    if rng.random() < PARTS:
        return cut_part(scenes, rng)
    chosen = rng.random()
    picture = draw_noise(rng) if chosen < 0.15 else draw_clutter(rng) if chosen < 0.9 else shuffle_tiles(scenes, rng)
    if rng.random() < MASKED:
        picture = np.where(draw_blob(picture.shape[:2], rng)[..., None], picture, fill)
    return picture


def draw_noise(rng: np.random.Generator) -> Pixels:
    """Coloured noise with a natural spectrum, (SIDE, SIDE, 3)."""
    frequencies = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    frequencies[0, 0] = 1 / SIDE
    exponent = rng.uniform(*SPECTRUM)
    shape = (3, *frequencies.shape)
    spectrum = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / frequencies**exponent
    waves = np.fft.irfft2(spectrum, (SIDE, SIDE))  # (3, h, w)
    gray = waves.mean(0, keepdims=True)
    waves = gray + rng.uniform(*COLOURFULNESS) * (waves - gray)
    levels = rng.uniform(60, 190, (3, 1, 1)) + rng.uniform(25, 70) * waves / waves.std()
    return np.ascontiguousarray(levels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def draw_clutter(rng: np.random.Generator) -> Pixels:
    """Overlapping shapes of all sizes, textured and shaded (the dead leaves model), (SIDE, SIDE, 3)."""
    canvas = draw_noise(rng).astype(np.float32)
    texture = canvas.mean(2, keepdims=True) - 128
    palette = draw_palette(rng)
    slope = np.linspace(-1, 1, SIDE, dtype=np.float32)
    for _ in range(int(2 ** rng.uniform(*LEAVES))):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        cv2.fillPoly(mask, [draw_leaf(rng)], 255, cv2.LINE_AA)
        share = (mask / np.float32(255))[..., None]
        tilt = rng.uniform(-40, 40) * slope[:, None, None] + rng.uniform(-40, 40) * slope[None, :, None]
        leaf = palette[rng.integers(len(palette))] + tilt + rng.uniform(0, 0.6) * texture
        canvas += share * (leaf - canvas)
    blurred = cv2.GaussianBlur(canvas, (0, 0), rng.choice((0.4, 1.0, 2.5)))
    rough = blurred + rng.normal(0, rng.uniform(0, 8), blurred.shape)
    return np.asarray(rough.clip(0, 255), np.uint8)


def draw_leaf(rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """The outline of a shape somewhere in a clutter, round or angular, (n, 2)."""
    size = SIDE * 0.9 / rng.uniform(1, 5) ** 1.5
    corners = int(rng.choice((3, 4, 5, 7, 24)))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners)) if corners < 24 else np.linspace(0, 2 * np.pi, corners)
    reach = size * (rng.uniform(0.5, 1.0, corners) if corners < 24 else 0.75 + 0.2 * np.cos(2 * angles))
    outline = rng.uniform(0, SIDE, 2) + np.stack([np.cos(angles), np.sin(angles)], 1) * reach[:, None] * rng.uniform(
        0.4, 1, 2
    )
    return np.asarray(outline, np.int32)


def draw_palette(rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Some colours, more or less gray, (n, 3)."""
    colours = rng.integers(0, 256, (rng.integers(3, 12), 3))
    grays = colours.mean(1, keepdims=True)
    palette: npt.NDArray[np.int64] = (grays + rng.uniform(0.1, 0.8) * (colours - grays)).astype(np.int64)
    return palette


def cut_part(scenes: Scenes, rng: np.random.Generator) -> Pixels:
    """A small part of an object, its texture without its shape."""
    index = rng.integers(len(scenes))
    rows, columns = np.nonzero(scenes.owners[index] == 1)
    if len(rows) == 0:
        return draw_noise(rng)
    side = max(6, round(max(np.ptp(rows), np.ptp(columns)) * rng.uniform(*PART)))
    k = rng.integers(len(rows))
    height, width = scenes.owners[index].shape
    y, x = min(int(rows[k]), height - side), min(int(columns[k]), width - side)
    part = np.array(scenes.pixels[index][y : y + side, x : x + side])
    return part if part.std() >= LEAST_CONTRAST else draw_clutter(rng)  # a plain part might be background


def shuffle_tiles(scenes: Scenes, rng: np.random.Generator) -> Pixels:
    """A scene with shuffled tiles, (s, s, 3)."""
    tiles = int(rng.integers(*TILES))
    picture = np.asarray(scenes.pixels[rng.integers(len(scenes))])
    side = picture.shape[0] // tiles
    cut = picture[: tiles * side, : tiles * side].reshape(tiles, side, tiles, side, 3).swapaxes(1, 2)
    shuffled = rng.permutation(cut.reshape(-1, side, side, 3)).reshape(tiles, tiles, side, side, 3)
    return np.ascontiguousarray(shuffled.swapaxes(1, 2).reshape(tiles * side, tiles * side, 3))


def draw_blob(size: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """A random mask without holes, (h, w), that covers much of the image."""
    height, width = size
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    waves = sum(rng.normal() / k * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in range(1, 5))
    reach = (0.38 + 0.12 * np.asarray(waves)).clip(0.1, 0.5)
    outline = np.stack([width * (0.5 + reach * np.cos(angles)), height * (0.5 + reach * np.sin(angles))], 1)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [outline.astype(np.int32)], 1)
    return mask > 0
