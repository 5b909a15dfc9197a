from __future__ import annotations

import numpy as np
import pytest

from SparseUNet3DLib.segments import Segment

pytest.importorskip("PIL")

from PIL import Image, ImageFont

from SparseUNet3DLib.picture_page import _drawable, _shortened, compose

SLICE = Image.new("RGB", (300, 200), "grey")


def page(columns: int, legend: tuple[Segment, ...]) -> np.ndarray:
    titles = ["a title that is far too long for the column it is above"] * columns
    rows = [(name, [SLICE] * columns) for name in ("axial\nz = 1", "coronal\ny = 2", "sagittal\nx = 3")]
    return np.asarray(compose(titles, rows, [legend] if legend else []))


@pytest.mark.parametrize("columns", [1, 4])
def test_legend_of_forty_segments_is_complete_and_on_the_page(columns):
    legend = tuple(Segment(f"s{n}", f"segment {n} " + "x" * (5 * n), (n / 255, 0.5, 1)) for n in range(40))

    pixels = page(columns, legend)

    for n in range(40):
        swatch = np.count_nonzero((pixels == (n, 128, 255)).all(axis=-1))
        assert swatch == 13 * 13  # whole squares, neither cut off nor covered by a name
    assert (pixels[:, -5:] == 255).all()
    assert (pixels[-5:] == 255).all()


def test_names_in_the_legend_stand_beside_their_colour():
    pixels = page(2, (Segment("a", "liver", (1, 0, 0)), Segment("b", "", (0, 1, 0))))

    rows, columns = np.nonzero((pixels == (255, 0, 0)).all(axis=-1))
    beside = pixels[rows.min() : rows.max(), columns.max() + 2 :]
    assert (beside.sum(axis=-1) < 200).any()
    assert (pixels == (0, 255, 0)).all(axis=-1).any()


def test_page_without_legend_ends_below_the_last_row():
    assert len(page(1, ())) < len(page(1, (Segment("a", "liver"),)))


def test_titles_stay_within_their_column():
    pixels = page(2, ())
    between = slice(100 + 300 + 1, 100 + 300 + 11)

    assert (pixels[:, between] == 255).all()


def test_long_and_broken_text_is_shortened_to_one_line():
    font = ImageFont.load_default(14)

    short = _shortened("left\nlung  " + "very " * 40 + "long", 120, font)

    assert short.startswith("left lung very")
    assert short.endswith("...")
    assert font.getlength(short) <= 120
    assert _shortened("left lung", 120, font) == "left lung"


def test_letters_that_the_font_lacks_become_the_nearest_it_has():
    font = ImageFont.load_default(14)

    assert _drawable("Größe é x=3", font) == "Gro?e e x=3"
