"""PNG pictures for looking at a result: slices in three orientations beside what was annotated and found.

Needs the optional package pillow (10.1 or newer), which is imported only when a picture is made.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from SparseUNet3DLib.atomic import atomic_path
from SparseUNet3DLib.errors import InputError, MissingDependencyError
from SparseUNet3DLib.evaluation import CONFUSION_SEGMENTS, confusion, match_segments
from SparseUNet3DLib.geometry import AXIS_NAMES, Geometry
from SparseUNet3DLib.picture_page import CELL, compose
from SparseUNet3DLib.segments import Segment, Segmentation
from SparseUNet3DLib.volumes import Volume

if TYPE_CHECKING:
    from PIL import Image

    from SparseUNet3DLib.annotation import SparseAnnotation

_FILL = 0.4  # opacity of a segment over the image; its outline is opaque
_DIM = 0.35  # brightness of voxels that were not annotated
_LIFT = 0.15  # how far annotated voxels are lifted towards white, to show in black background too
_RGB_CHANNELS = (0, 2, 1)  # shown as red, green, blue: the stains of Çiçek et al. (lectin, catenin, DAPI)
_SAMPLE = 2_000_000  # voxels from which the window is taken


@dataclass(frozen=True)
class Column:
    """One column of slices.

    Attributes:
        title: text above the column.
        labels: (z, y, x) integer labels drawn over the image; none for the bare image.
        segments: names and colours of the labels, in label order.
        known: (z, y, x) bool; the voxels where it is false are dimmed.
    """

    title: str
    labels: np.ndarray | None = None
    segments: tuple[Segment, ...] = ()
    known: np.ndarray | None = None


def confusion_column(prediction: np.ndarray, truth: np.ndarray, title: str = "right and wrong") -> Column:
    """Column with true positives, false negatives and false positives in colours."""
    return Column(title, confusion(prediction, truth), CONFUSION_SEGMENTS)


def default_planes(labels: np.ndarray, annotated: np.ndarray | None = None) -> tuple[int, int, int]:
    """Plane index per array axis (z, y, x) that has most foreground outside the annotated voxels.

    So the picture shows what the network had to find by itself. Every segment has the same weight, however
    large it is: its area is divided by the area on the plane that has most of it. Where everything was
    annotated, all voxels count; where there is no foreground, it is the first plane.

    Args:
        labels: (z, y, x) integer labels, 0 is background.
        annotated: (z, y, x) bool; nothing if not given.
    """
    return tuple(_fullest_plane(labels, annotated, axis) for axis in range(3))


def _fullest_plane(labels: np.ndarray, annotated: np.ndarray | None, axis: int) -> int:
    segments = int(labels.max())
    areas = np.zeros((labels.shape[axis], segments + 1))
    for index in range(labels.shape[axis]):
        plane = labels.take(index, axis=axis)
        if annotated is not None:
            plane = plane[~annotated.take(index, axis=axis)]
        areas[index] = np.bincount(plane.ravel(), minlength=segments + 1)
    if annotated is not None and not areas[:, 1:].any():
        return _fullest_plane(labels, None, axis)
    return int((areas[:, 1:] / areas[:, 1:].max(axis=0, initial=1)).sum(axis=1).argmax())


def write_panels(
    path: str | os.PathLike,
    image: np.ndarray,
    geometry: Geometry,
    columns: Sequence[Column],
    planes: Sequence[int],
    channel: int | None = None,
) -> None:
    """Write a PNG with one row per orientation and ``columns`` beside each other, the legend below.

    Rows are axial, coronal and sagittal, whichever array axes come closest to these, turned as Slicer
    shows them: patient right on the left, anterior and superior up, in sagittal slices anterior on the
    left. Pixels keep the voxels' proportions. The grey values between the 0.5 and 99.5 percentile of the
    volume, leaving out its smallest value (padding around the scan), go from black to white.

    Args:
        path: the PNG file.
        image: (c, z, y, x) numbers.
        geometry: the grid of ``image`` and of all labels.
        columns: what to show; the first is usually ``Column("image")``.
        planes: plane index per array axis (z, y, x), see `default_planes`.
        channel: the channel to show. If not given, three channels are shown in red, blue and green (under
            labels in grey, so that colours have one meaning), and of any other number the first.

    Raises:
        InputError: shapes differ from ``geometry``, a label has no segment, or a plane or the channel does
            not exist.
        MissingDependencyError: pillow is not installed.
        OutputError: the file cannot be written.
    """
    require_pillow()
    _check(image, geometry, columns, planes, channel)
    channels = _shown_channels(image, channel)
    windows = [_window(image[c]) for c in channels]
    rows = []
    for view in _views(geometry):
        plane = (view.axis, planes[view.axis])
        raw = np.stack([_windowed(view.cut(image[c], plane), w) for c, w in zip(channels, windows, strict=True)], -1)
        label = f"{view.name}\n{AXIS_NAMES[view.axis]} = {plane[1]}"
        rows.append((label, [_cell(view, raw, column, plane) for column in columns]))
    # Each segment list that occurs, once, in the order of the columns.
    legends = list(dict.fromkeys(tuple(column.segments) for column in columns if column.segments))
    picture = compose([column.title for column in columns], rows, legends)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def write_summary(
    path: str | os.PathLike,
    volume: Volume,
    found: Segmentation,
    annotation: SparseAnnotation | None = None,
    truth: Segmentation | None = None,
    extra: Sequence[Column] = (),
) -> None:
    """Write the panels of one result: image, annotation, segmentation and, where it is known, the truth's verdict.

    Args:
        extra: further columns, put before the verdict.

    Raises:
        InputError: the grids differ.
        MissingDependencyError: pillow is not installed.
        OutputError: the file cannot be written.
    """
    columns, annotated = [Column("image")], None
    if annotation is not None:
        annotated = annotation.annotated
        columns.append(Column("annotation", annotation.labels, annotation.segments, annotated))
    columns.append(Column("segmentation", found.labels, found.segments))
    columns += extra
    shown = found
    if truth is not None:
        found_labels, true_labels, segments = match_segments(found, truth)
        columns.append(confusion_column(found_labels, true_labels))
        shown = Segmentation(true_labels, segments, truth.geometry)
    planes = default_planes(shown.labels, annotated)
    write_panels(path, volume.array, volume.geometry, columns, planes)


def require_pillow() -> None:
    """Make sure that pictures can be made.

    Raises:
        MissingDependencyError: pillow is not installed.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "Pictures need the Python package pillow, which is not installed; "
            "install it with: python -m pip install pillow"
        ) from error


def _check(
    image: np.ndarray, geometry: Geometry, columns: Sequence[Column], planes: Sequence[int], channel: int | None
) -> None:
    shape = geometry.array_shape
    if image.ndim != 4 or image.shape[1:] != shape:
        expected = ", ".join(("channels", *map(str, shape)))
        raise InputError(f"The image has shape {image.shape}, but its grid asks for ({expected}), in order c, z, y, x.")
    if channel is not None and not 0 <= channel < len(image):
        raise InputError(f"There is no channel {channel} to show: the image has channels 0 to {len(image) - 1}.")
    for name, index, size in zip(AXIS_NAMES, planes, shape, strict=True):
        if not 0 <= index < size:
            raise InputError(f"There is no plane {name} = {index} to show: the volume has 0 to {size - 1}.")
    for column in columns:
        for array in (column.labels, column.known):
            if array is not None and array.shape != shape:
                raise InputError(f"'{column.title}' has shape {array.shape} (z, y, x), but the image has {shape}.")
        if column.labels is not None and not 0 <= column.labels.min() <= column.labels.max() <= len(column.segments):
            raise InputError(
                f"'{column.title}' has labels from {column.labels.min()} to {column.labels.max()}, "
                f"but there are {len(column.segments)} segments."
            )


@dataclass(frozen=True)
class _View:
    """How to cut and turn a volume for one orientation."""

    name: str
    axis: int  # array axis (z, y, x) that the slices are perpendicular to
    transposed: bool  # of the two array axes that remain, the first runs to the right instead of down
    flip_down: bool
    flip_right: bool
    pixels: tuple[int, int]  # height and width of the picture

    def cut(self, volume: np.ndarray, plane: tuple[int, int]) -> np.ndarray:
        """(height, width) voxels of one slice of a (z, y, x) array."""
        axis, index = plane
        cut = volume.take(index, axis=axis)
        cut = cut.T if self.transposed else cut
        return cut[:: -1 if self.flip_down else 1, :: -1 if self.flip_right else 1]


def _views(geometry: Geometry) -> list[_View]:
    """The three orientations; the direction matrix says which array axis runs closest to L, P and S."""
    direction = np.reshape(geometry.direction, (3, 3))
    # The assignment of patient axes to i, j, k that fits best as a whole, so that no axis is taken twice.
    index_axes = max(itertools.permutations(range(3)), key=lambda p: sum(abs(direction[r, p[r]]) for r in range(3)))
    axis = [2 - k for k in index_axes]  # array axis of L, P, S
    backward = [direction[r, k] < 0 for r, k in enumerate(index_axes)]
    left, posterior, superior = range(3)
    orientations = (
        ("axial", superior, posterior, left),
        ("coronal", posterior, superior, left),
        ("sagittal", left, superior, posterior),
    )
    views = []
    for name, normal, down, right in orientations:
        # S points up in all pictures, L and P point right or down.
        flip_down = backward[down] if down == posterior else not backward[down]
        pixels = _pixels(geometry, axis[down], axis[right])
        views.append(_View(name, axis[normal], axis[down] > axis[right], flip_down, backward[right], pixels))
    return views


def _pixels(geometry: Geometry, down: int, right: int) -> tuple[int, int]:
    height, width = (geometry.array_shape[a] * geometry.array_spacing[a] for a in (down, right))
    scale = CELL / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _shown_channels(image: np.ndarray, channel: int | None) -> tuple[int, ...]:
    if channel is not None:
        return (channel,)
    return _RGB_CHANNELS if len(image) == 3 else (0,)


def _window(volume: np.ndarray) -> tuple[float, float]:
    """Grey values shown as black and white."""
    sample = volume.ravel()[:: max(1, volume.size // _SAMPLE)].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    smallest = sample.min() if sample.size else 0.0
    inside = sample[sample > smallest]
    if not inside.size:
        return smallest, smallest + 1
    low, high = np.percentile(inside, (0.5, 99.5))
    return (low if low < high else smallest), high


def _windowed(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """uint8 of the same shape; what is not a number is black."""
    low, high = window
    scaled = (values.astype(np.float64) - low) / ((high - low) or 1.0)
    return (np.nan_to_num(scaled, nan=0.0).clip(0, 1) * 255).round().astype(np.uint8)


def _cell(view: _View, raw: np.ndarray, column: Column, plane: tuple[int, int]) -> Image.Image:
    """One slice of one column: ``raw`` is (height, width, 1 or 3) uint8 voxels."""
    from PIL import Image

    pixels = np.stack([_resized(raw[..., c], view.pixels, Image.Resampling.BICUBIC) for c in range(raw.shape[-1])], -1)
    pixels = pixels.astype(np.float32)
    if column.labels is not None:
        pixels = pixels.mean(axis=-1, keepdims=True)
    pixels = np.broadcast_to(pixels, (*view.pixels, 3)).copy()
    if column.known is not None:
        known = _resized_labels(view.cut(column.known, plane), view.pixels, thin=True) > 0
        pixels = np.where(known[..., None], pixels + _LIFT * (255 - pixels), pixels * _DIM)
    if column.labels is not None:
        labels = _resized_labels(view.cut(column.labels, plane), view.pixels, thin=column.known is not None)
        _paint(pixels, labels, column.segments)
    return Image.fromarray(pixels.round().astype(np.uint8))


def _resized(values: np.ndarray, pixels: tuple[int, int], resampling: Image.Resampling) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(np.ascontiguousarray(values)).resize(pixels[::-1], resampling))


def _resized_labels(labels: np.ndarray, pixels: tuple[int, int], thin: bool) -> np.ndarray:
    """Nearest label. ``thin`` lets lines of one voxel (annotated planes seen from the side) survive shrinking."""
    from PIL import Image

    labels = labels.astype(np.int32)
    if thin:
        labels = ndimage.maximum_filter(labels, [math.ceil(n / p) for n, p in zip(labels.shape, pixels, strict=True)])
    return _resized(labels, pixels, Image.Resampling.NEAREST)


def _paint(pixels: np.ndarray, labels: np.ndarray, segments: Sequence[Segment]) -> None:
    """Draw segments into ``pixels`` (height, width, 3): see-through inside, opaque at the outline."""
    colors = 255 * np.array([(0, 0, 0), *(s.color for s in segments)], np.float32)[labels]
    padded = np.pad(labels, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    outline = np.logical_or.reduce([n != labels for n in neighbours])
    opacity = np.where(labels > 0, np.where(outline, 1.0, _FILL), 0.0)[..., None]
    pixels[:] = pixels * (1 - opacity) + colors * opacity
