"""What a run was begun with, kept in its folder: going on with it must not take the scene as it is by then."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from SparseUNet3DLib import recipe
from SparseUNet3DLib.atomic import atomic_path
from SparseUNet3DModule.runs import TrainingCase

_FILE = "begun.json"


@dataclass(frozen=True)
class Begun:
    """What a run was begun with.

    Attributes:
        volumeId: the volume that it segments.
        names: of its channels, after which the input files are named.
        annotation: differs for another painting, other slices or other segments.
        scribbles: only painted voxels count.
        startFrom: the model that it began with, or "".
        preset: name of the recipe; "" where an earlier version did not keep it.
    """

    volumeId: str
    names: tuple[str, ...]
    annotation: str
    scribbles: bool
    startFrom: str
    preset: str = ""

    def goingOn(self, preset: str, minutes: float | None) -> tuple[str, float | None]:
        """Preset and minutes to go on with, when these are chosen by then: its own recipe, but maybe for longer.

        Raises:
            UsageError: there is no such preset.
        """
        if self.preset in ("", preset):
            return preset, minutes
        seconds = recipe.preset(preset).seconds if recipe.preset(self.preset).seconds else None
        return self.preset, minutes or (seconds / 60 if seconds else None)


def annotationDigest(case: TrainingCase) -> str:
    """A short text that differs for another painting, other slices or other segments."""
    held = None if case.heldOut is None else [str(plane) for plane in case.heldOut]
    segments = [(segment.id, segment.name) for segment in case.painted.segments]
    digest = hashlib.sha256(json.dumps([segments, [str(plane) for plane in case.planes], held]).encode())
    digest.update(case.painted.labels)
    return digest.hexdigest()[:16]


def write(begun: Begun, folder: Path) -> None:
    """Keep it in the run's folder.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(folder / _FILE) as temporary:
        temporary.write_text(json.dumps(asdict(begun)), encoding="utf-8")


def read(folder: Path) -> Begun | None:
    """What the run in ``folder`` was begun with; None where nothing tells."""
    try:
        values = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return Begun(**{**values, "names": tuple(values["names"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
