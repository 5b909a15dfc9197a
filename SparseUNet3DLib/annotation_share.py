"""How much of a volume is annotated, as Table 2 of Çiçek et al. (MICCAI 2016) counts it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.holding_out import known_without

#: Name of the planes across array axes z, y, x.
ORIENTATIONS = ("xy", "xz", "yz")


@dataclass(frozen=True)
class ClassShare:
    """One class: its name, annotated voxels, and their share (0..1) of all annotated voxels."""

    name: str
    voxels: int
    share: float


@dataclass(frozen=True)
class Shares:
    """How much of a volume is annotated.

    Attributes:
        total: annotated share of all voxels, 0..1.
        voxels: annotated voxels.
        loose: those of them that lie on no completely annotated plane.
        classes: per class, background first.
        planes: number of annotated planes per array axis (z, y, x).
        plane_shares: per array axis, the share (0..1) of all voxels that these planes hold.
    """

    total: float
    voxels: int
    loose: int
    classes: tuple[ClassShare, ...]
    planes: tuple[int, int, int]
    plane_shares: tuple[float, float, float]

    def as_table(self) -> str:
        """Text for the user; planes are counted in the order (yz, xz, xy) of the paper's Table 2."""
        counts = ",".join(str(count) for count in reversed(self.planes))
        names = ", ".join(reversed(ORIENTATIONS))
        lines = [f"{counts} planes ({names}): {100 * self.total:.1f} % of voxels annotated"]
        lines += [
            f"  {name} planes: {count}, {100 * share:.1f} %"
            for name, count, share in zip(ORIENTATIONS, self.planes, self.plane_shares, strict=True)
            if count
        ][::-1]
        if self.loose and any(self.planes):
            lines.append(f"{self.loose} of {self.voxels} annotated voxels lie on none of these planes")
        width = max(len(entry.name) for entry in self.classes)
        for entry in self.classes:
            share = f"{100 * entry.share:5.1f} %" if entry.voxels else "not annotated"
            lines.append(f"  {entry.name:<{width}}  {entry.voxels:>10}  {share}")
        return "\n".join(lines)


def share_annotated(annotation: SparseAnnotation) -> Shares:
    """Count what is annotated, in all, per class and per orientation."""
    counts = annotation.class_voxels
    voxels = int(counts.sum())
    planes = tuple(sum(plane.axis == axis for plane in annotation.planes) for axis in range(3))
    return Shares(
        total=voxels / annotation.annotated.size,
        voxels=voxels,
        loose=int(np.count_nonzero(known_without(annotation, annotation.planes))),
        classes=tuple(
            ClassShare(name, int(n), int(n) / max(voxels, 1))
            for name, n in zip(annotation.class_names, counts, strict=True)
        ),
        planes=planes,
        plane_shares=tuple(n / size for n, size in zip(planes, annotation.annotated.shape, strict=True)),
    )
