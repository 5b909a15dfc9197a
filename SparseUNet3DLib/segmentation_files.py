"""Segmentations in files: Slicer's .seg.nrrd, or label maps of any format with names in a JSON sidecar."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from SparseUNet3DLib.atomic import atomic_path
from SparseUNet3DLib.errors import InputError, OutputError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.image_files import image_array, read_image, volume_stem, write_image
from SparseUNet3DLib.segment_records import (
    SegmentRecord,
    label_map_values,
    metadata_from_segments,
    records_from_metadata,
    records_from_sidecar,
    sidecar_text,
)
from SparseUNet3DLib.segments import Segment, Segmentation, distinct_color

_SLICER_SUFFIX = ".seg.nrrd"
_MAX_SEGMENTS = np.iinfo(np.uint16).max


def read_segmentation(path: str | os.PathLike) -> Segmentation:
    """Read a .seg.nrrd file, or a label map with optional sidecar ``<stem>.json``.

    In the result value n is the n-th segment of the file (or sidecar), whatever its value in the file;
    without names, "Segment 3" is made of the voxels of value 3. Layers that do not overlap are merged.

    Raises:
        InputError: the file or its sidecar cannot be used, values are not whole numbers from 0, a value
            belongs to no segment, two segments overlap, or there are more than 65535.
        MemoryLimitError: the voxels do not fit into memory.
    """
    path = Path(path)
    image = read_image(path)
    geometry = Geometry.from_image(image)
    records = records_from_metadata({key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}, path)
    layers = image_array(image)
    values = [_values_in(layer, path) for layer in layers]
    if not records:
        records = _records_of_label_map(values, path)
    segments = tuple(record.segment for record in records)
    _check_layers(records, len(layers), path)
    labels = _relabelled(layers[0], values[0], _labels_by_value(records, 0), path)
    for n in range(1, len(layers)):
        layer = _relabelled(layers[n], values[n], _labels_by_value(records, n), path)
        _check_no_overlap(labels, layer, segments, path)
        np.maximum(labels, layer, out=labels)
    return Segmentation(labels, segments, geometry)


def read_named(path: Path) -> Segmentation:
    """The segmentation in ``path``, whose segments can be told by their names.

    Raises:
        InputError: it cannot be used, or two segments have the same name.
    """
    segmentation = read_segmentation(path)
    counts = Counter(segment.name for segment in segmentation.segments)
    for name, count in counts.items():
        if count > 1:
            raise InputError(f"'{path}': {count} segments are named '{name}'; give each a name of its own.")
    return segmentation


def write_segmentation(segmentation: Segmentation, path: str | os.PathLike, compress: bool = True) -> None:
    """Write a .seg.nrrd file for Slicer, or for any other ending a label map with sidecar ``<stem>.json``.

    In a label map segments that were read from one keep their values there; in .seg.nrrd they are 1, 2, ...
    Files already there are replaced only when the new ones are complete.

    Raises:
        UsageError: the ending of ``path`` is not one of `image_files.WRITABLE_SUFFIXES`.
        OutputError: a file cannot be written, its format does not keep the grid, or the sidecar would
            replace a JSON file of another kind.
    """
    path = Path(path)
    if segmentation.labels.max() > len(segmentation.segments):
        raise ValueError(f"label {segmentation.labels.max()} has none of the {len(segmentation.segments)} segments")
    segments, sidecar = segmentation.segments, sidecar_to_write(path)
    if sidecar is None:
        metadata = metadata_from_segments(segments, segmentation.geometry.size, path)
        labels = _with_values(segmentation.labels, [*range(1, len(segments) + 1)])
        write_image(labels, segmentation.geometry, path, metadata, compress)
        return
    labels = _with_values(segmentation.labels, label_map_values(segments))
    with atomic_path(sidecar) as temporary:
        temporary.write_text(sidecar_text(segments), encoding="utf-8")
        write_image(labels, segmentation.geometry, path, compress=compress)


def _with_values(labels: np.ndarray, values: list[int]) -> np.ndarray:
    """``labels`` with ``values[n - 1]`` for each n, in the smallest type: few programs need more, Slicer half of it."""
    dtype = np.uint8 if max(values, default=0) <= np.iinfo(np.uint8).max else np.uint16
    if values == [*range(1, len(values) + 1)]:
        return labels.astype(dtype, copy=False)
    return np.array([0, *values], dtype)[labels]


def sidecar_of(path: str | os.PathLike) -> Path | None:
    """The file beside a segmentation that names its segments, or would; None for .seg.nrrd, which does so itself."""
    path = Path(path)
    return None if path.name.lower().endswith(_SLICER_SUFFIX) else path.with_name(f"{volume_stem(path)}.json")


def sidecar_to_write(path: str | os.PathLike) -> Path | None:
    """The file beside ``path`` that the names go to; None for .seg.nrrd, which holds them itself.

    Raises:
        OutputError: a JSON file of another kind is there.
    """
    sidecar = sidecar_of(path)
    if sidecar is not None and sidecar.exists() and not _is_sidecar(sidecar):
        raise OutputError(
            f"Cannot write '{path}': its segment names would replace '{sidecar}', which is another file; "
            "give another name, such as one that ends in .seg.nrrd."
        )
    return sidecar


def on_grid(
    segmentation: Segmentation,
    geometry: Geometry,
    source: str = "",
    warn: Callable[[str], None] = warnings.warn,
) -> Segmentation:
    """The segmentation on a volume's grid, of which it may cover a part or reach beyond.

    Slicer saves segmentations cropped to their contents. ``source`` is the file, for messages; ``warn``
    is told of labelled voxels that lie outside the volume and are left out.

    Raises:
        InputError: its voxels are not voxels of ``geometry``, or all labelled ones lie outside it.
    """
    if segmentation.geometry.same_grid(geometry):
        return replace(segmentation, geometry=geometry)
    labelled = int(np.count_nonzero(segmentation.labels))
    pasted = np.zeros(geometry.array_shape, np.uint16)
    # Where nothing is labelled there is nothing to misplace; Slicer saves an empty segmentation as one voxel.
    if labelled:
        title = f"segmentation '{source}'" if source else "segmentation"
        target, origin = _overlap(segmentation.geometry, geometry, title)
        pasted[target] = segmentation.labels[origin]
        lost = labelled - int(np.count_nonzero(pasted))
        if lost == labelled:
            raise InputError(
                f"The {title} ({segmentation.geometry.describe()}) lies outside the volume ({geometry.describe()}); "
                "choose the volume it was made on."
            )
        if lost:
            warn(f"{lost} of {labelled} labelled voxels of the {title} lie outside the volume and are left out.")
    return replace(segmentation, labels=pasted, geometry=geometry)


def _overlap(part: Geometry, whole: Geometry, title: str) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices (z, y, x) of the voxels that both grids have, in ``whole`` and in ``part``."""
    offset = part.offset_to(whole)
    if offset is None:
        raise InputError(
            f"The {title} lies on another voxel grid ({part.describe()}) than the volume ({whole.describe()}); in "
            "Slicer's Segment Editor press 'Specify geometry' beside the source volume, choose the volume as source "
            "geometry, and save again."
        )
    starts = [max(0, o) for o in offset]
    stops = [max(a, min(w, o + p)) for a, w, o, p in zip(starts, whole.size, offset, part.size, strict=True)]
    in_whole = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
    in_part = tuple(slice(a - o, b - o) for a, b, o in zip(starts, stops, offset, strict=True))
    return in_whole[::-1], in_part[::-1]


def _values_in(layer: np.ndarray, path: Path) -> np.ndarray:
    """Values that occur in ``layer`` (z, y, x), ascending, checked to be whole numbers from 0."""
    values = np.unique(np.concatenate([np.unique(plane) for plane in layer]))
    fractions = values[~np.isfinite(values) | (values != np.floor(values))]
    if fractions.size:
        raise InputError(f"'{path}' is no label map: it holds the value {fractions[0]:g}, which is no whole number.")
    if values[0] < 0:
        raise InputError(f"'{path}' is no label map: it holds the negative value {values[0]:g}.")
    return values


def _records_of_label_map(values: list[np.ndarray], path: Path) -> list[SegmentRecord]:
    """Segments by the sidecar, or else one for each value of the label map."""
    if len(values) > 1:
        raise InputError(f"'{path}' has {len(values)} channels; a label map has one.")
    named = records_from_sidecar(path.with_name(f"{volume_stem(path)}.json"))
    if named is not None:
        return named
    present = [int(value) for value in values[0] if value]
    if len(present) > _MAX_SEGMENTS:
        raise InputError(f"'{path}' is no label map: it holds {len(present)} different values, more than 65535.")
    return [SegmentRecord(Segment(f"Segment_{v}", f"Segment {v}", distinct_color(v), value=v), v) for v in present]


def _check_layers(records: list[SegmentRecord], count: int, path: Path) -> None:
    for record in records:
        if not 0 <= record.layer < count:
            raise InputError(
                f"'{path}': segment '{record.segment.name}' should be in layer {record.layer} (from 0), but there are "
                f"{count}; save it again in Slicer."
            )


def _labels_by_value(records: list[SegmentRecord], layer: int) -> dict[int, int]:
    return {record.value: n for n, record in enumerate(records, start=1) if record.layer == layer}


def _relabelled(layer: np.ndarray, values: np.ndarray, labels: Mapping[int, int], path: Path) -> np.ndarray:
    """``layer`` (z, y, x), which holds ``values``, with each value replaced by its label, as uint16."""
    unclaimed = [int(value) for value in values if value and int(value) not in labels]
    if unclaimed:
        raise InputError(
            f"'{path}' has voxels of value {unclaimed[0]}, which belongs to none of its segments; add a segment with "
            "this value, or set these voxels to 0."
        )
    table = np.array([labels.get(int(value), 0) for value in values], np.uint16)
    relabelled = np.empty(layer.shape, np.uint16)
    for k, plane in enumerate(layer):  # an index array of the whole volume would need eight bytes a voxel
        relabelled[k] = table[np.searchsorted(values, plane)]
    return relabelled


def _check_no_overlap(labels: np.ndarray, layer: np.ndarray, segments: tuple[Segment, ...], path: Path) -> None:
    pairs: Counter[tuple[int, int]] = Counter()
    for one, other in zip(labels, layer, strict=True):  # slice by slice, as a whole volume's pairs take minutes to sort
        both = (one > 0) & (other > 0)
        if both.any():
            found, counts = np.unique(one[both].astype(np.int64) << 16 | other[both], return_counts=True)
            pairs.update({divmod(pair, 1 << 16): n for pair, n in zip(found.tolist(), counts.tolist(), strict=True)})
    if not pairs:
        return
    ((first, second), count), *_others = pairs.most_common(1)
    first, second = (segments[label - 1].name for label in (first, second))
    raise InputError(
        f"'{path}': segments '{first}' and '{second}' overlap in {count} voxels, but a voxel can belong to "
        "only one segment; in Slicer's Segment Editor use 'Logical operators' to subtract one from the other, and save "
        "again."
    )


def _is_sidecar(path: Path) -> bool:
    try:
        return records_from_sidecar(path) is not None
    except InputError:
        return False
