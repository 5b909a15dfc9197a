"""Which slices of the annotation are annotated: found while the user paints, or said by the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from SparseUNet3DLib.annotation import from_planes, from_scribbles
from SparseUNet3DLib.annotation_share import share_annotated
from SparseUNet3DLib.errors import SparseUNetError
from SparseUNet3DLib.geometry import AXIS_NAMES
from SparseUNet3DLib.plane_detection import Plane, detect_planes
from SparseUNet3DLib.segments import Segmentation

TRAIN, HELD_OUT, IGNORE = "train", "held out", "ignore"
USES = (TRAIN, HELD_OUT, IGNORE)
#: Anatomical name of slices by the axis (R, A, S) that is most nearly across them.
_ORIENTATIONS = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class SliceRow:
    """One annotated slice, as the table shows it.

    Attributes:
        plane: array axis and index.
        orientation: "axial", "coronal" or "sagittal", or the nearest of them for oblique volumes.
        position: in mm along the slice's normal, in RAS.
        segments: names of what is painted on it; empty for pure background.
        use: "train", "held out" or "ignore".
        declared: the user said that it is complete (it is not only found).
    """

    plane: Plane
    orientation: str
    position: float
    segments: tuple[str, ...]
    use: str
    declared: bool


@dataclass(frozen=True)
class SliceOverview:
    """What is annotated.

    Attributes:
        rows: the annotated slices, sorted.
        shares: name of each class (background first) to the share of all voxels that are annotated as it, 0..1.
        problem: a sentence that says what is missing before this can be trained on; "" if nothing is.
    """

    rows: tuple[SliceRow, ...] = ()
    shares: dict[str, float] = field(default_factory=dict)
    problem: str = ""

    def planes(self, *uses: str) -> list[Plane]:
        """The planes with one of these uses; without any, all."""
        return [row.plane for row in self.rows if not uses or row.use in uses]


def parsePlane(text: str) -> Plane:
    """ "z:10" as a plane."""
    axis, _, index = text.partition(":")
    return Plane(AXIS_NAMES.index(axis), int(index))


def overview(
    painted: Segmentation,
    complete: Sequence[str],
    uses: dict[str, str],
    scribbles: bool = False,
    toWorld: np.ndarray | None = None,
    isDense: bool = False,
) -> SliceOverview:
    """What is annotated in ``painted``. Takes a while on large volumes; touches no node.

    Where it ``isDense``, slices are not looked for: of a result, those of thin structures would look like painted ones.
    ``toWorld`` (4x4) takes voxels (i, j, k, 1) to where they are seen, in RAS; None: as the geometry of ``painted``
    does.
    """
    if not painted.segments:
        return SliceOverview(problem="There is no segment yet; add one and paint it on a few slices.")
    declared = {plane for plane in map(parsePlane, complete) if plane.index < painted.labels.shape[plane.axis]}
    found: set[Plane] = set()
    if not scribbles:
        found = declared if isDense else set(detect_planes(painted.labels > 0, declared).planes)
    if toWorld is None:
        toWorld = np.diag([-1.0, -1.0, 1.0, 1.0]) @ painted.geometry.index_to_physical()
    rows = tuple(_row(plane, painted, uses, plane in declared, toWorld) for plane in sorted(found))
    return SliceOverview(rows, *_sharesAndProblem(painted, rows, scribbles))


def _row(
    plane: Plane, painted: Segmentation, uses: dict[str, str], declared: bool, toWorld: np.ndarray
) -> SliceRow:
    values = np.unique(painted.labels[plane.voxels])
    names = tuple(painted.segments[value - 1].name for value in values if value)
    orientation, position = describePlane(plane, toWorld)
    return SliceRow(plane, orientation, position, names, uses.get(str(plane), TRAIN), declared)


def _sharesAndProblem(
    painted: Segmentation, rows: Sequence[SliceRow], scribbles: bool
) -> tuple[dict[str, float], str]:
    planes = [row.plane for row in rows if row.use != IGNORE]
    if not scribbles and not planes:
        if painted.labels.any():
            return {}, (
                "No completely painted slice is found yet. Paint every structure on a slice, or go to it and press "
                "'Slice is complete'."
            )
        return {}, "Nothing is painted yet; paint the structures on a few slices."
    if not scribbles and not any(painted.labels[plane.voxels].any() for plane in planes):
        return {}, "Nothing is painted on these slices; paint the structures on at least one more."
    try:
        annotation = from_scribbles(painted) if scribbles else from_planes(painted, planes)
    except SparseUNetError as error:
        return {}, str(error)
    shared = share_annotated(annotation)
    shares = {entry.name: entry.share * shared.total for entry in shared.classes}
    if not scribbles and not any(row.use == TRAIN for row in rows):
        return shares, "No slice is left to train on; set one to 'train'."
    return shares, ""


def describePlane(plane: Plane, toWorld: np.ndarray) -> tuple[str, float]:
    """Anatomical orientation of a plane, and its position along that direction in mm (RAS)."""
    column = 2 - plane.axis
    main = int(np.argmax(np.abs(toWorld[:3, column])))
    first = [0, 0, 0]
    first[column] = plane.index
    return _ORIENTATIONS[main], float((toWorld @ [*first, 1.0])[main])
