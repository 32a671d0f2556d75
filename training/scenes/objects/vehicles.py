"""Drawing of vehicles: the bodywork has the colour; wheels and windows have their own."""

from __future__ import annotations

import math

from training.scenes.canvas import GLASS, GOLD, SILVER, STEEL, WHITE, Pen, tone

TYRE = (48, 48, 52)


def draw_wheel(pen: Pen, x: float, y: float, r: float, hub: tuple[int, int, int] = SILVER) -> None:
    """A wheel with a light rim, so that it stays visible on a dark ground."""
    pen.disc(x, y, r, colour=TYRE)
    pen.disc(x, y, r * 0.58, colour=hub)
    pen.disc(x, y, r * 0.2, colour=STEEL)


def draw_rocket(pen: Pen) -> None:
    w = pen.vary(0.32)
    pen.smooth([(-0.2, 0.6), (-0.26, 0.85), (0, pen.vary(1.1)), (0.26, 0.85), (0.2, 0.6)], (250, 150, 30))
    pen.smooth([(-0.1, 0.6), (-0.12, 0.78), (0, 0.94), (0.12, 0.78), (0.1, 0.6)], (255, 230, 110))
    fin = pen.pick((210, 55, 50), (60, 90, 190))
    for side in (-1, 1):
        pen.polygon(
            [(side * w * 0.9, 0.12), (side * (w + 0.36), 0.52), (side * (w + 0.36), 0.82), (side * w * 0.7, 0.6)], fin
        )
    hull = [
        (0, -1.05),
        (w * 0.62, -0.72),
        (w, -0.2),
        (w, 0.25),
        (w * 0.72, 0.62),
        (-w * 0.72, 0.62),
        (-w, 0.25),
        (-w, -0.2),
        (-w * 0.62, -0.72),
    ]
    pen.smooth(hull, tone(pen.colour, -0.25))
    pen.smooth([(x * 0.84 + pen.light * 0.045, y * 0.98) for x, y in hull])
    pen.smooth(
        [(0, -1.05), (w * 0.6, -0.74), (w * 0.66, -0.64), (0, -0.58), (-w * 0.66, -0.64), (-w * 0.6, -0.74)], fin
    )
    pen.disc(0, -0.26, 0.19, colour=STEEL)
    pen.disc(0, -0.26, 0.135, colour=GLASS)
    pen.polygon([(-0.06, 0.2), (0.06, 0.2), (0.05, 0.74), (-0.05, 0.74)], fin)


def draw_bus(pen: Pen) -> None:
    top = pen.vary(-0.52, 0.08)
    pen.pill(-1, top, 1, 0.42, 0.13, tone(pen.colour, -0.15))
    pen.pill(-1, top, 1, 0.34, 0.13)
    pen.box(-0.94, top + 0.05, 0.8, top + 0.1, tone(pen.colour, 0.35))
    glass = pen.pick(GLASS, (90, 120, 150))
    for i in range(5):
        pen.pill(-0.9 + i * 0.29, top + 0.17, -0.67 + i * 0.29, -0.02, 0.04, glass)
    pen.pill(0.56, top + 0.17, 0.74, 0.34, 0.03, glass)
    pen.pill(0.8, top + 0.15, 1.0, 0.02, 0.04, glass)
    pen.box(-0.98, 0.12, 0.5, 0.18, pen.pick(WHITE, (200, 60, 50)))
    pen.disc(0.95, 0.22, 0.06, colour=(255, 240, 150))
    for x in (-0.58, 0.4):
        pen.disc(x, 0.4, 0.26, colour=tone(pen.colour, -0.45))
        draw_wheel(pen, x, 0.44, 0.22)


def draw_train(pen: Pen) -> None:
    """A steam locomotive: chimney, boiler, cab, cowcatcher."""
    dark = tone(pen.colour, -0.35) if sum(pen.colour) > 150 else tone(pen.colour, 0.22)
    for x, y, r in ((0.42, -0.78, 0.12), (0.2, -0.88, 0.15), (-0.08, -0.9, 0.17)):
        pen.disc(x, y, pen.vary(r, 0.1), colour=(222, 224, 228))
    pen.polygon([(0.46, -0.26), (0.74, -0.26), (0.8, -0.66), (0.4, -0.66)], dark)
    pen.pill(-0.35, -0.3, 0.9, 0.26, 0.12)
    pen.box(-0.3, -0.24, 0.82, -0.16, tone(pen.colour, 0.3))
    for x in (0.0, 0.34):
        pen.box(x, -0.3, x + 0.06, 0.26, dark)
    pen.disc(0.14, -0.32, 0.13, 0.14, GOLD)
    pen.box(-0.95, -0.58, -0.3, 0.3)
    pen.box(-1.05, -0.7, -0.2, -0.56, dark)
    pen.box(-0.8, -0.42, -0.46, -0.08, pen.pick(GLASS, (90, 120, 150)))
    pen.box(-1.0, 0.24, 0.92, 0.38, dark)
    pen.polygon([(0.86, 0.2), (1.12, 0.66), (0.8, 0.66)], pen.pick((200, 60, 50), STEEL))
    pen.disc(0.92, -0.06, 0.1, colour=(255, 240, 150))
    for x, r in ((-0.66, 0.27), (-0.08, 0.27), (0.42, 0.19), (0.76, 0.0)):
        if r:
            draw_wheel(pen, x, 0.72 - r, r)
    pen.line([(-0.66, 0.5), (-0.08, 0.5), (0.42, 0.54)], 0.06, STEEL)


def draw_tractor(pen: Pen) -> None:
    pen.line([(0.42, -0.2), (0.42, -0.72)], 0.09, STEEL)
    pen.polygon([(-0.1, -0.26), (0.8, -0.2), (0.92, -0.05), (0.92, 0.34), (-0.1, 0.4)])
    pen.polygon([(-0.1, -0.26), (0.8, -0.2), (0.86, -0.12), (-0.1, -0.16)], tone(pen.colour, 0.3))
    for i in range(4):
        pen.line([(0.62 + i * 0.08, 0.0), (0.62 + i * 0.08, 0.26)], 0.035, pen.ink)
    pen.polygon([(-0.72, -0.86), (0.0, -0.86), (0.06, -0.1), (0.06, 0.3), (-0.8, 0.3)])
    pen.polygon([(-0.6, -0.72), (-0.1, -0.72), (-0.05, -0.18), (-0.66, -0.18)], pen.pick(GLASS, (90, 120, 150)))
    pen.pill(-0.84, -0.98, 0.1, -0.84, 0.06, tone(pen.colour, -0.3))
    r = pen.vary(0.54, 0.05)
    pen.disc(-0.46, 0.34, r + 0.1, colour=tone(pen.colour, -0.25))
    hub = pen.pick(GOLD, WHITE)
    for i in range(12):
        a = math.tau * i / 12
        pen.line([(-0.46, 0.4), (-0.46 + math.cos(a) * (r + 0.05), 0.4 + math.sin(a) * (r + 0.05))], 0.1, TYRE)
    draw_wheel(pen, -0.46, 0.4, r, hub)
    draw_wheel(pen, 0.66, 0.62, 0.32, hub)


def draw_bicycle(pen: Pen) -> None:
    r, y = pen.vary(0.44, 0.04), 0.3
    back, front, pedal, seat, head = (-0.56, y), (0.56, y), (-0.06, y + 0.04), (-0.22, -0.36), (0.38, -0.36)
    for x, _ in (back, front):
        pen.ring(x, y, r, 0.085, TYRE)
        pen.ring(x, y, r - 0.07, 0.035, SILVER)
        for i in range(4):
            a = math.pi * i / 4 + 0.3
            dx, dy = math.cos(a) * r * 0.85, math.sin(a) * r * 0.85
            pen.line([(x - dx, y - dy), (x + dx, y + dy)], 0.015, SILVER)
    for start, end in ((back, pedal), (back, seat), (pedal, seat), (seat, head), (pedal, head), (head, front)):
        pen.line([start, end], 0.1)
    pen.line([head, (0.32, -0.6)], 0.08, STEEL)
    pen.curve([(0.2, -0.6), (0.42, -0.66), (0.54, -0.52)], 0.08, TYRE)
    pen.line([seat, (-0.27, -0.52)], 0.07, STEEL)
    pen.smooth([(-0.48, -0.6), (-0.08, -0.58), (-0.2, -0.48), (-0.42, -0.48)], TYRE)
    pen.disc(*pedal, 0.11, colour=STEEL)
    pen.line([(-0.16, y + 0.22), pedal, (0.04, y - 0.16)], 0.05, STEEL)


def draw_pickup_truck(pen: Pen) -> None:
    cab = pen.vary(-0.52, 0.08)
    pen.polygon([(-0.2, -0.08), (-0.16, cab), (0.24, cab), (0.48, -0.08)])
    pen.polygon([(-0.1, -0.1), (-0.07, cab + 0.1), (0.04, cab + 0.1), (0.04, -0.1)], pen.pick(GLASS, (90, 120, 150)))
    pen.polygon([(0.1, -0.1), (0.1, cab + 0.1), (0.2, cab + 0.1), (0.37, -0.1)], pen.pick(GLASS, (90, 120, 150)))
    pen.pill(-0.22, -0.12, 1.0, 0.38, 0.1)
    pen.box(-1.0, -0.1, -0.2, 0.38, tone(pen.colour, -0.12))
    pen.box(-1.0, -0.14, -0.22, -0.06, tone(pen.colour, -0.4) if sum(pen.colour) > 150 else tone(pen.colour, 0.25))
    for x in (-0.8, -0.62, -0.44):
        pen.line([(x, 0.0), (x, 0.3)], 0.035, pen.ink)
    pen.line([(0.07, -0.06), (0.07, 0.34)], 0.03, pen.ink)
    pen.line([(0.12, 0.04), (0.22, 0.04)], 0.04, pen.ink)
    pen.box(-1.03, 0.32, 1.03, 0.42, STEEL)
    pen.disc(0.95, 0.08, 0.07, colour=(255, 240, 150))
    for x in (-0.6, 0.62):
        pen.disc(x, 0.38, 0.29, colour=tone(pen.colour, -0.45))
        draw_wheel(pen, x, 0.42, 0.24)


def draw_tank(pen: Pen) -> None:
    dark = tone(pen.colour, -0.3) if sum(pen.colour) > 150 else tone(pen.colour, 0.2)
    lift = pen.vary(0.12, 0.6)
    pen.line([(0.2, -0.3), (1.08, -0.3 - lift)], 0.1, dark)
    pen.line([(0.94, -0.28 - lift), (1.08, -0.3 - lift)], 0.15, dark)
    pen.polygon([(-0.55, -0.08), (-0.42, -0.48), (0.2, -0.48), (0.42, -0.08)])
    pen.pill(-0.28, -0.6, 0.06, -0.46, 0.05, dark)
    pen.polygon([(-1.0, 0.16), (-0.8, -0.12), (0.8, -0.12), (1.02, 0.16)], tone(pen.colour, 0.1))
    pen.pill(-1.05, 0.1, 1.05, 0.6, 0.24, TYRE)
    pen.pill(-0.98, 0.17, 0.98, 0.53, 0.17, dark)
    for i in range(5):
        pen.disc(-0.76 + i * 0.38, 0.35, 0.165, colour=TYRE)
        pen.disc(-0.76 + i * 0.38, 0.35, 0.09, colour=SILVER)
