"""Draws the icon of the extension and of its module: three painted slices, and the solid body that comes of them.

    python Documentation/draw_icon.py

It has to be told apart at 24 pixels too, on light and on dark: hence few parts, in strong colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("SparseUNet3D.png", "SparseUNet3D/Resources/Icons/SparseUNet3D.png")
SIZE = 128
OVERSAMPLING = 8

#: Heights of the painted slices, from 0 at the bottom to 1. The body spans them.
SLICES = (0.02, 0.5, 0.98)
LAYERS = 80  # Of the body, from each slice to the next.
FACETS = 120  # Around the body.
#: How far the paint reaches beyond the body, so that it is seen around it.
MARGIN = 0.2

PLATE = (214, 220, 230, 225)
PLATE_SIDE = (136, 146, 163, 255)
OUTLINE = (40, 48, 64, 255)
PAINT = (255, 138, 0, 255)
BODY_COLOUR = (16, 168, 178)

Point = tuple[float, float]


def on_picture(x: float, y: float, z: float) -> Point:
    """A point of the volume, x and y from -1 to 1 and z from 0 to 1, seen obliquely from above."""
    unit = SIZE * OVERSAMPLING / 128
    return unit * (64 + 30.5 * (x - y)), unit * (98.5 - 69 * z + 11.5 * (x + y))


def cross_section(z: float, margin: float = 0.0) -> list[tuple[float, float, float]]:
    """The body's outline at a height: a circle whose size and place change a little from slice to slice."""
    radius = 0.55 + 0.05 * math.cos(2 * math.pi * z) + margin
    x, y = 0.08 * math.sin(5 * z), -0.08 * math.sin(5 * z)
    angles = (2 * math.pi * step / FACETS for step in range(FACETS))
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle), z) for angle in angles]


def shaded(light: float) -> tuple[int, int, int]:
    """The body's colour, from 0 in the dark to 1 in full light."""
    return tuple(round(min(255, value * (0.55 + 0.65 * light) + 40 * light**4)) for value in BODY_COLOUR)


def body_between(bottom: float, top: float) -> Iterator[tuple[list[Point], tuple[int, int, int]]]:
    """The facets of the body between two heights, from the bottom up: the nearer ones cover those behind them."""
    heights = [bottom + (top - bottom) * layer / LAYERS for layer in range(LAYERS + 1)]
    for low, high in pairwise(heights):
        lower, upper = cross_section(low), cross_section(high)
        for step in range(FACETS):
            following = (step + 1) % FACETS
            # Light comes from the left.
            light = max(0.0, math.cos(2 * math.pi * (step + 0.5) / FACETS - 2.0))
            facet = [lower[step], lower[following], upper[following], upper[step]]
            yield [on_picture(*point) for point in facet], shaded(light)
        yield [on_picture(*point) for point in upper], shaded(0.5)


def draw_slice(z: float) -> Image.Image:
    """A painted slice as a layer of its own, because one sees through it."""
    layer = Image.new("RGBA", (SIZE * OVERSAMPLING, SIZE * OVERSAMPLING))
    pen = ImageDraw.Draw(layer)
    corners = [on_picture(x, y, z) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    side = [(x, y + 4 * OVERSAMPLING) for x, y in corners]
    pen.polygon([*corners[1:], *reversed(side[1:])], PLATE_SIDE, OUTLINE, OVERSAMPLING)
    pen.polygon(corners, PLATE, OUTLINE, OVERSAMPLING)
    pen.polygon([on_picture(*point) for point in cross_section(z, MARGIN)], PAINT, OUTLINE, OVERSAMPLING)
    return layer


def draw() -> Image.Image:
    """The icon, on nothing."""
    picture = Image.new("RGBA", (SIZE * OVERSAMPLING, SIZE * OVERSAMPLING))
    for low, high in pairwise(SLICES):
        picture.alpha_composite(draw_slice(low))
        pen = ImageDraw.Draw(picture)
        for facet, colour in body_between(low, high):
            pen.polygon(facet, colour)
    picture.alpha_composite(draw_slice(SLICES[-1]))
    return picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def main() -> None:
    picture = draw()
    for target in TARGETS:
        path = ROOT / target
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, optimize=True)


if __name__ == "__main__":
    main()
