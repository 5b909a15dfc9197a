"""The page that pictures are put on: columns with titles, rows with labels, and legends below."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from SparseUNet3DLib.segments import Segment

if TYPE_CHECKING:
    from PIL import Image, ImageFont

CELL = 300  # pixels of the longer side of a slice
_GUTTER = 100  # left of the first column, for the row labels
_MARGIN = 12
_TEXT_SIZE = 14
_LINE = 22  # height of a line of text
_SWATCH = 14
_LEGEND_WIDTH = 250  # pixels at which a name in the legend is cut off
#: Fonts with more than ASCII letters, found by name where the system has them.
_FONTS = ("DejaVuSans.ttf", "arial.ttf", "Arial.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf")


def compose(
    titles: Sequence[str], rows: Sequence[tuple[str, list[Image.Image]]], legends: Sequence[tuple[Segment, ...]]
) -> Image.Image:
    """The page: titles above the columns, a label beside each row, the legends below.

    Args:
        titles: one per column.
        rows: label and pictures of each row; the pictures of a row have one size, at most ``CELL``.
        legends: segments whose names and colours are explained, each legend on lines of its own.
    """
    from PIL import Image, ImageDraw

    font = _font()
    lefts = [_GUTTER + n * (CELL + _MARGIN) for n in range(len(titles))]
    width = lefts[-1] + CELL + _MARGIN
    heights = [max(cells[0].height, 2 * _LINE) + _MARGIN for _, cells in rows]
    top = _MARGIN + _LINE
    names = [_Names.fit(legend, width - 2 * _MARGIN, font) for legend in legends]
    legends_height = sum(n.lines * _LINE + _MARGIN for n in names)
    page = Image.new("RGB", (width, top + sum(heights) + legends_height), "white")
    draw = ImageDraw.Draw(page)
    for left, title in zip(lefts, titles, strict=True):
        draw.text((left + CELL // 2, _MARGIN), _shortened(title, CELL, font), "black", font, anchor="ma")
    for (label, cells), height in zip(rows, heights, strict=True):
        middle = top + (height - _MARGIN) // 2
        draw.multiline_text((_MARGIN, middle), label, "black", font, anchor="lm")
        for left, cell in zip(lefts, cells, strict=True):
            x, y = left + (CELL - cell.width) // 2, middle - cell.height // 2
            page.paste(cell, (x, y))
            draw.rectangle((x - 1, y - 1, x + cell.width, y + cell.height), outline="grey")  # for bright images
        top += height
    for legend, layout in zip(legends, names, strict=True):
        for n, (segment, name) in enumerate(zip(legend, layout.names, strict=True)):
            left, up = _MARGIN + n % layout.per_line * layout.step, top + n // layout.per_line * _LINE
            color = tuple(round(255 * c) for c in segment.color)
            draw.rectangle((left, up, left + _SWATCH, up + _SWATCH), fill=color, outline="black")
            draw.text((left + _SWATCH + 6, up + _SWATCH // 2), name, "black", font, anchor="lm")
        top += layout.lines * _LINE + _MARGIN
    return page


@dataclass(frozen=True)
class _Names:
    """The names of one legend, in columns as wide as the longest."""

    names: list[str]
    step: int  # pixels from one column to the next
    per_line: int
    lines: int

    @classmethod
    def fit(cls, segments: Sequence[Segment], width: int, font: ImageFont.FreeTypeFont) -> _Names:
        names = [_shortened(s.name, _LEGEND_WIDTH, font) for s in segments]
        step = _SWATCH + 6 + math.ceil(max(font.getlength(name) for name in names)) + 2 * _MARGIN
        per_line = max(1, (width + 2 * _MARGIN) // step)
        return cls(names, step, per_line, math.ceil(len(names) / per_line))


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """``text`` on one line, cut off with dots where it is wider than ``width`` pixels."""
    text = _drawable(" ".join(text.split()), font)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _drawable(text: str, font: ImageFont.FreeTypeFont) -> str:
    """``text`` with letters that the font lacks, which it would draw as boxes, replaced by the nearest it has."""
    box = bytes(font.getmask("\U0010ffff"))
    return "".join(
        (unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode() or "?")
        if bytes(font.getmask(c)) == box
        else c
        for c in text
    )


def _font() -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    for name in _FONTS:
        try:
            return ImageFont.truetype(name, _TEXT_SIZE)
        except OSError:
            continue
    return ImageFont.load_default(_TEXT_SIZE)  # comes with pillow; has ASCII letters only
