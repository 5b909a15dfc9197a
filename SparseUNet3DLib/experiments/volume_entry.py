"""One ``[[volume]]`` of a data set's TOML file: its channels, its labels, and which slices are annotated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from SparseUNet3DLib.annotated_slices import slices_in_file
from SparseUNet3DLib.annotation import SparseAnnotation, from_painted, from_planes, parse_planes
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.image_files import image_array, read_image
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.segmentation_files import on_grid, read_named
from SparseUNet3DLib.segments import BACKGROUND_NAME, Segment, Segmentation, distinct_color
from SparseUNet3DLib.volumes import read_volume

_KEYS = {"name", "channels", "segmentation", "labels", "slices", "segments"}
_PHANTOM_KEYS = {"name", "phantom", "slices"}
_PHANTOM_OPTIONS = {"seed", "shape", "spacing", "light"}
#: In ``labels``, the value of voxels that nobody has annotated; as on the paper's label maps.
_UNLABELLED = "unlabelled"
#: A slice counts as annotated where more than this share of it is; others hold the lines where annotated ones cross.
_ANNOTATED_SHARE = 0.5


@dataclass(frozen=True)
class VolumeEntry:
    """What an entry describes.

    Attributes:
        case: the volume with all that is annotated.
        thresholds: of a generated volume, the best IoU that a threshold reaches, by segment.
    """

    case: Case
    thresholds: dict[str, float] | None = None


def read_entry(entry: Mapping, name: str, root: Path, warn: Callable[[str], None]) -> VolumeEntry:
    """The volume that ``entry`` describes; paths in it are relative to ``root``.

    Raises:
        InputError, UsageError: something in it cannot be used; the sentence says what.
    """
    refuse_unknown(entry, _KEYS | _PHANTOM_KEYS, "A volume")
    if "phantom" in entry:
        # Here, because what it needs of SciPy takes longer to load than many a command to run.
        from SparseUNet3DLib.phantom import best_threshold_iou, make_phantom

        refuse_unknown(entry, _PHANTOM_KEYS, "A generated volume")
        volume, segmentation = make_phantom(**_phantom_options(entry["phantom"]))
        annotation = from_planes(segmentation, parse_planes(texts(entry, "slices"), segmentation.labels.shape))
        return VolumeEntry(Case(replace(volume, name=name), annotation), best_threshold_iou(volume, segmentation))
    for key in ("channels", "segmentation"):
        if key not in entry:
            raise InputError(f"'{key}' is missing; name the file(s).")
    volume = read_volume([root / c for c in texts(entry, "channels")], warn=warn)
    path = root / str(entry["segmentation"])
    if "labels" in entry:
        annotation = _read_labels(path, entry, volume.geometry)
    else:
        segmentation = on_grid(read_named(path), volume.geometry, str(path), warn)
        listed = slices_in_file(path)[0]
        slices = texts(entry, "slices") or (["auto"] if listed is None else listed)
        annotation = _as_meant(segmentation, slices)
    if "segments" in entry:
        annotation = _only(annotation, texts(entry, "segments"))
    return VolumeEntry(Case(replace(volume, name=name), annotation))


def refuse_unknown(values: object, known: set[str], what: str) -> None:
    """Refuse what is no table, or has other keys than those ``known``.

    Raises:
        InputError: it is so.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{what} is described by a table of keys and values.")
    unknown = sorted(values.keys() - known)
    if unknown:
        raise InputError(f"{what} has no '{unknown[0]}'; choose among {', '.join(sorted(known))}.")


def texts(entry: Mapping, key: str) -> list[str]:
    """The text or list of texts called ``key``; empty where there is none.

    Raises:
        InputError: it is something else.
    """
    values = entry.get(key, [])
    values = [values] if isinstance(values, str) else values
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise InputError(f"'{key}' must be a text in quotes, or a list of them, not {values!r}.")
    return values


def _phantom_options(values: object) -> dict:
    refuse_unknown(values, _PHANTOM_OPTIONS, "A phantom")
    seed = values.get("seed", 0)
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"A phantom's seed must be a whole number from 0, not {seed!r}.")
    options: dict = {"seed": seed}
    for key, smallest in (("shape", 8), ("spacing", 0)):
        if key in values:
            numbers = values[key]
            kind = int if key == "shape" else (int, float)
            if not isinstance(numbers, list) or len(numbers) != 3 or not all(
                isinstance(n, kind) and n >= smallest and n > 0 for n in numbers
            ):
                raise InputError(f"A phantom's {key} must be three numbers [z, y, x], not {numbers!r}.")
            options[key] = tuple(numbers)
    if "light" in values:
        if not isinstance(values["light"], (int, float)) or not values["light"] > 0:
            raise InputError(f"A phantom's light must be a number above 0, not {values['light']!r}.")
        options["light"] = float(values["light"])
    return options


def _as_meant(segmentation: Segmentation, slices: Sequence[str]) -> SparseAnnotation:
    planes = parse_planes([s for s in slices if s != "auto"], segmentation.labels.shape)
    return from_painted(segmentation, planes) if "auto" in slices else from_planes(segmentation, planes)


def _read_labels(path: Path, entry: Mapping, geometry: Geometry) -> SparseAnnotation:
    """The annotation in a label map whose values ``labels`` explains, those of background and of no annotation, too."""
    labels = entry["labels"]
    if not isinstance(labels, Mapping) or not all(isinstance(v, int) for v in labels.values()):
        raise InputError("'labels' must name the values of the label map, as in { tubule = 1, background = 2 }.")
    values = {name: value for name, value in labels.items() if name.lower() not in (BACKGROUND_NAME, _UNLABELLED)}
    image = read_image(path)
    if not Geometry.from_image(image).same_grid(geometry):
        raise InputError(f"'{path}' lies on another grid than the channels; resample it to theirs.")
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(f"'{path}' has several values per voxel; a label map has one.")
    if len(set(labels.values())) < len(labels):
        raise InputError("'labels' gives several names to one value; give each value one name.")
    found = image_array(image)[0]
    _refuse_unnamed(found, labels, path)
    mapped = np.zeros(found.shape, np.uint16)
    for number, value in enumerate(values.values(), start=1):
        mapped[found == value] = number
    unlabelled = [value for name, value in labels.items() if name.lower() == _UNLABELLED]
    if 0 not in labels.values() and any(name.lower() == BACKGROUND_NAME for name in labels):
        unlabelled.append(0)  # background has a value of its own, so this is what nobody painted
    known = ~np.isin(found, unlabelled)
    segments = tuple(Segment(f"Segment_{n}", name, distinct_color(n)) for n, name in enumerate(values, start=1))
    segmentation = Segmentation(mapped, segments, geometry)
    slices = texts(entry, "slices")
    if slices or known.all():
        annotation = _as_meant(segmentation, slices or ["auto"])
    else:
        annotation = from_planes(segmentation, _annotated_planes(known))
    return replace(annotation, annotated=annotation.annotated & known)


def _refuse_unnamed(found: np.ndarray, labels: Mapping[str, int], path: Path) -> None:
    unnamed = sorted(set(np.unique(found).tolist()) - set(labels.values()) - {0})
    if unnamed:
        raise InputError(f"'{path}' has voxels of value {unnamed[0]:g}, which 'labels' does not name; add it.")


def _annotated_planes(known: np.ndarray) -> list[Plane]:
    """The planes of which most voxels are ``known`` (z, y, x)."""
    shares = [known.mean(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    return [Plane(axis, int(n)) for axis in range(3) for n in np.flatnonzero(shares[axis] > _ANNOTATED_SHARE)]


def _only(annotation: SparseAnnotation, names: Sequence[str]) -> SparseAnnotation:
    """The segments called ``names``; the others become background."""
    numbers = {s.name: n for n, s in enumerate(annotation.segments, start=1)}
    missing = [n for n in names if n not in numbers]
    if missing:
        raise InputError(f"there is no segment '{missing[0]}'; its segments are {', '.join(numbers)}.")
    table = np.zeros(len(annotation.segments) + 1, np.uint16)
    table[[numbers[n] for n in names]] = np.arange(1, len(names) + 1)
    segments = tuple(annotation.segments[numbers[n] - 1] for n in names)
    return replace(annotation, labels=table[annotation.labels], segments=segments)
