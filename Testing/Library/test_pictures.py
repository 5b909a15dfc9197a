from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy import ndimage

from SparseUNet3DLib.errors import InputError, MissingDependencyError, OutputError
from SparseUNet3DLib.evaluation import CONFUSION_SEGMENTS
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.pictures import Column, confusion_column, default_planes, write_panels
from SparseUNet3DLib.segments import Segment

RED, BLUE = Segment("r", "red one", (1, 0, 0)), Segment("b", "blue one", (0, 0, 1))
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
LEFT, POSTERIOR, SUPERIOR = np.eye(3)
TILTED = np.array([[0.94, -0.34, 0.0], [0.34, 0.94, 0.0], [0.0, 0.0, 1.0]])


@pytest.fixture
def page(tmp_path):
    """Function that writes a picture and gives its pixels (height, width, 3)."""
    Image = pytest.importorskip("PIL.Image")

    def write(*arguments, **options) -> np.ndarray:
        path = tmp_path / "panels.png"
        write_panels(path, *arguments, **options)
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            return np.asarray(picture.convert("RGB")).astype(int)

    return write


def cells(pixels: np.ndarray, columns: int = 1) -> list[list[np.ndarray]]:
    """The slices on a page, row by row, without their frames: what is not white and larger than texts."""
    ink = ndimage.binary_fill_holes((pixels != 255).any(axis=-1))
    boxes = [
        box
        for number, box in enumerate(ndimage.find_objects(ndimage.label(ink)[0]), start=1)
        if box[1].stop - box[1].start >= 75
    ]
    boxes.sort(key=lambda box: ((box[0].start + box[0].stop) // 2, box[1].start))
    assert len(boxes) == 3 * columns
    boxes = [tuple(slice(side.start + 1, side.stop - 1) for side in box) for box in boxes]
    return [[pixels[box] for box in boxes[row * columns : (row + 1) * columns]] for row in range(3)]


def dark(shape: tuple[int, int, int], channels: int = 1) -> np.ndarray:
    return np.zeros((channels, *shape), np.float32)


def geometry_of(shape, spacing=(1.0, 1.0, 1.0), direction=IDENTITY) -> Geometry:
    return Geometry(tuple(reversed(shape)), spacing, (0.0, 0.0, 0.0), tuple(np.ravel(direction)))


def where_is(cell: np.ndarray, color: tuple[int, int, int]) -> tuple[float, float]:
    """Centre of a colour in a slice, as fractions of its height and width."""
    rows, columns = np.nonzero((cell == color).all(axis=-1))
    assert rows.size
    return (rows.mean() + 0.5) / cell.shape[0], (columns.mean() + 0.5) / cell.shape[1]


def test_segment_is_filled_see_through_with_an_opaque_outline(page):
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[2:8, 2:8, 2:8] = 1
    image = dark(labels.shape)
    image[0, :, :, 5:] = 1

    axial = cells(page(image, geometry_of(labels.shape), [Column("found", labels, (RED,))], (5, 5, 5)))[0][0]

    assert axial.shape == (300, 300, 3)
    assert axial[20, 20].tolist() == [0, 0, 0]
    assert axial[20, 280].tolist() == [255, 255, 255]
    assert axial[60, 100].tolist() == [255, 0, 0]
    assert axial[100, 60].tolist() == [255, 0, 0]
    assert axial[150, 100].tolist() == pytest.approx([102, 0, 0], abs=1)
    assert axial[150, 210].tolist() == pytest.approx([255, 153, 153], abs=2)


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((10, 20, 40), (1.0, 1.0, 1.0), [(150, 300), (75, 300), (150, 300)]),
        ((10, 40, 40), (0.5, 0.5, 4.0), [(300, 300), (300, 150), (300, 150)]),
        ((4, 500, 600), (0.1, 0.1, 30.0), [(250, 300), (300, 150), (300, 125)]),
    ],
)
def test_slices_have_the_proportions_of_the_body(page, shape, spacing, expected):
    rows = cells(page(dark(shape), geometry_of(shape, spacing), [Column("image")], (0, 0, 0)))

    assert [row[0].shape[:2] for row in rows] == expected


@pytest.mark.parametrize(
    "direction",
    [
        IDENTITY,
        np.stack([-LEFT, -POSTERIOR, SUPERIOR], axis=1),
        np.stack([-LEFT, POSTERIOR, SUPERIOR], axis=1),  # left-handed
        np.stack([POSTERIOR, -SUPERIOR, -LEFT], axis=1),  # sagittal acquisition
        np.stack([SUPERIOR, LEFT, -POSTERIOR], axis=1),
        TILTED,  # oblique by 20 degrees
        -TILTED[:, [1, 2, 0]],  # oblique, permuted and left-handed
    ],
)
def test_slices_are_turned_as_radiologists_expect(page, direction):
    direction = np.asarray(direction).reshape(3, 3)
    shape = (12, 12, 12)
    k, j, i = np.indices(shape) - 5.5
    left, posterior, superior = (np.round(direction) @ np.stack([i, j, k]).reshape(3, -1)).reshape(3, *shape)
    labels = ((left < 0) & (posterior < 0) & (superior > 0)).astype(np.uint8)
    planes = default_planes(labels)

    rows = cells(page(dark(shape), geometry_of(shape, (1, 1, 1), direction), [Column("a", labels, (RED,))], planes))

    for row in rows:  # axial: anterior up, right on the left; coronal: superior up; sagittal: anterior left
        down, right = where_is(row[0], (255, 0, 0))
        assert down < 0.5
        assert right < 0.5


def test_rows_are_the_anatomical_planes_of_a_sagittal_acquisition(page):
    # Array axes (z, y, x) are right-left, superior-inferior, anterior-posterior; sizes tell them apart.
    shape = (10, 20, 40)
    direction = np.stack([POSTERIOR, -SUPERIOR, -LEFT], axis=1)

    rows = cells(page(dark(shape), geometry_of(shape, (1, 1, 1), direction), [Column("image")], (9, 0, 0)))

    heights_and_widths = [row[0].shape[:2] for row in rows]
    assert heights_and_widths == [(300, 75), (300, 150), (150, 300)]


def test_the_planes_asked_for_are_shown(page):
    shape = (4, 5, 6)
    labels = np.zeros(shape, np.uint8)
    labels[3], labels[:, 4] = 1, 2
    columns = [Column("a", labels, (RED, BLUE))]

    on_both = cells(page(dark(shape), geometry_of(shape), columns, (3, 4, 0)))
    on_none = cells(page(dark(shape), geometry_of(shape), columns, (0, 0, 0)))

    assert on_both[0][0][100, 100].tolist() == pytest.approx([102, 0, 0], abs=1)
    assert on_both[1][0][100, 100].tolist() == pytest.approx([0, 0, 102], abs=1)
    assert on_none[0][0][100, 100].tolist() == [0, 0, 0]


def test_voxels_without_annotation_are_dimmed(page):
    shape = (10, 10, 10)
    image = dark(shape)
    image[0] = np.linspace(0, 1, 10)  # along x
    known = np.zeros(shape, bool)
    known[:, 3] = True
    columns = [Column("image"), Column("annotation", np.zeros(shape, np.uint8), (RED,), known)]

    plain, annotation = cells(page(image, geometry_of(shape), columns, (5, 5, 5)), columns=2)[0]

    assert annotation[200].mean() == pytest.approx(0.35 * plain[200].mean(), rel=0.02)
    assert annotation[105].mean() > plain[105].mean()
    assert annotation[105, 5].min() > 30  # background that is black in the image shows too


def test_annotated_lines_survive_shrinking(page):
    shape = (3, 4, 1500)
    known = np.zeros(shape, bool)
    lines = [10, 501, 777, 1204]
    known[:, :, lines] = True
    labels = known.astype(np.uint8)
    labels[:, 2:] = 0  # the lower half is annotated as background
    columns = [Column("annotation", labels, (RED,), known)]

    axial = cells(page(dark(shape), geometry_of(shape, (1.0, 100.0, 100.0)), columns, (1, 1, 1)))[0][0]

    red = np.flatnonzero((axial[30] == (255, 0, 0)).all(axis=-1))
    assert red == pytest.approx(np.array(lines) / 5, abs=1)
    assert np.array_equal(np.flatnonzero(axial[60].min(axis=-1) > 30), red)


def test_confusion_column_has_the_colours_of_its_legend(page):
    shape = (9, 9, 9)
    truth, found = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    truth[:, :, :6], found[:, :, 3:] = 1, 1

    pixels = page(dark(shape), geometry_of(shape), [confusion_column(found, truth)], (4, 4, 4))

    colors = [tuple(round(255 * c) for c in s.color) for s in CONFUSION_SEGMENTS]
    positive, negative, invented = (where_is(cells(pixels)[0][0], color)[1] for color in colors)
    assert negative < 1 / 3 < positive < 2 / 3 < invented
    for color in colors:
        assert (pixels[960:] == color).all(axis=-1).any()  # below the third row


def test_three_channels_are_red_blue_green_and_grey_under_labels(page):
    shape = (6, 6, 6)
    image = dark(shape, 3)
    for channel in range(3):
        image[channel, :, :, 2 * channel : 2 * channel + 2] = 1
    columns = [Column("image"), Column("found", np.zeros(shape, np.uint8), (RED,))]

    colored, labelled = cells(page(image, geometry_of(shape), columns, (3, 3, 3)), columns=2)[0]

    assert colored[150, 25].tolist() == [255, 0, 0]
    assert colored[150, 150].tolist() == pytest.approx([0, 0, 255], abs=3)
    assert colored[150, 275].tolist() == [0, 255, 0]
    assert labelled[150, 25].tolist() == [85, 85, 85]


def test_one_channel_can_be_chosen(page):
    shape = (6, 6, 6)
    image = dark(shape, 3)
    image[1, :, :, 3:] = 1

    axial = cells(page(image, geometry_of(shape), [Column("a", np.zeros(shape, int))], (3, 3, 3), channel=1))[0][0]

    assert axial[150, 25].tolist() == [0, 0, 0]
    assert axial[150, 275].min() >= 254


def test_window_ignores_padding_outliers_and_what_is_not_a_number(page):
    random = np.random.default_rng(0)
    shape = (20, 20, 20)
    image = random.uniform(100, 200, (1, *shape))
    image[0, :, :8] = -3024  # padding
    image[0, 0, 19, 19], image[0, 0, 19, 18] = 1e9, np.nan
    image[0, 10, 8:] = np.linspace(100, 200, 20)

    axial = cells(page(image, geometry_of(shape), [Column("a", np.zeros(shape, int))], (10, 0, 0)))[0][0]

    assert axial[50, 150].tolist() == [0, 0, 0]
    assert axial[200, 2].max() < 10
    assert axial[200, 150] == pytest.approx(128, abs=12)
    assert axial[200, 297].min() > 245


@pytest.mark.parametrize("values", [[7, 7], [0, 1]])
def test_images_of_one_or_two_values_can_be_shown(page, values):
    image = np.resize(np.array(values, np.int16), (1, 4, 4, 4))

    axial = cells(page(image, geometry_of((4, 4, 4)), [Column("a", np.zeros((4, 4, 4), int))], (2, 2, 2)))[0][0]

    assert np.ptp(axial) >= 250 * (values[0] != values[1])


def test_default_planes_show_most_of_what_was_not_annotated():
    labels = np.zeros((10, 11, 12), np.uint8)
    labels[2:5, 3:9, 4:8] = 1
    labels[4, 2:10] = 1
    assert default_planes(labels)[0] == 4

    annotated = np.zeros(labels.shape, bool)
    annotated[4] = True
    z, y, x = default_planes(labels, annotated)

    assert z in (2, 3)
    assert y in range(3, 9)
    assert x in range(4, 8)


def test_default_planes_give_small_segments_their_weight():
    labels = np.zeros((10, 20, 20), np.uint8)
    labels[:, :10] = 1
    labels[1, :12] = 1
    labels[7, 15, 15] = 2

    assert default_planes(labels)[0] == 7


def test_default_planes_where_everything_or_nothing_is_known():
    labels = np.zeros((4, 5, 6), np.uint8)
    assert default_planes(labels) == (0, 0, 0)
    labels[3, 2, 1] = 1
    assert default_planes(labels, np.ones(labels.shape, bool)) == (3, 2, 1)


def test_what_does_not_fit_is_refused(page):
    shape, grid = (2, 3, 4), geometry_of((2, 3, 4))
    labels = np.full(shape, 2)

    with pytest.raises(InputError, match=r"image has shape \(2, 3, 4\), but .* \(channels, 2, 3, 4\)"):
        page(dark(shape)[0], grid, [Column("image")], (0, 0, 0))
    with pytest.raises(InputError, match="'found' has shape"):
        page(dark(shape), grid, [Column("found", labels[:1], (RED, BLUE))], (0, 0, 0))
    with pytest.raises(InputError, match="'found' has labels from 2 to 2, but there are 1 segments"):
        page(dark(shape), grid, [Column("found", labels, (RED,))], (0, 0, 0))
    with pytest.raises(InputError, match="'found' has labels from -2"):
        page(dark(shape), grid, [Column("found", -labels, (RED, BLUE))], (0, 0, 0))
    with pytest.raises(InputError, match=r"no plane y = 3 .* 0 to 2"):
        page(dark(shape), grid, [Column("image")], (0, 3, 0))
    with pytest.raises(InputError, match=r"no channel 1 .* 0 to 0"):
        page(dark(shape), grid, [Column("image")], (0, 0, 0), channel=1)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("PIL")
    with pytest.raises(OutputError, match="nowhere"):
        write_panels(tmp_path / "nowhere" / "a.png", dark((2, 2, 2)), geometry_of((2, 2, 2)), [Column("a")], (0, 0, 0))


def test_missing_package_is_explained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)  # what Python itself puts there for "cannot be imported"
    monkeypatch.delitem(sys.modules, "PIL.Image", raising=False)

    with pytest.raises(MissingDependencyError, match="pip install pillow"):
        write_panels(tmp_path / "a.png", dark((2, 2, 2)), geometry_of((2, 2, 2)), [Column("a")], (0, 0, 0))
