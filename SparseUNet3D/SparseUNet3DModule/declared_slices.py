"""What the user says about slices, kept with the annotation that it is about.

The parameters hold what is said of the present annotation; it must not be taken for that of the next one, nor be lost.
"""

from __future__ import annotations

import json

from SparseUNet3DModule.parameters import SparseUNet3DParameters
from SparseUNet3DModule.volumes import geometryOf

_ATTRIBUTE = "SparseUNet3D.DeclaredSlices"


def keep(parameters: SparseUNet3DParameters) -> None:
    """Write it into the annotation's node, which is about to be exchanged, or to lie on another volume."""
    grid = _grid(parameters)
    if parameters.annotation is not None and grid:
        declared = _declared(parameters)
        declared[grid] = {"complete": list(parameters.completeSlices), "uses": dict(parameters.sliceUse)}
        parameters.annotation.SetAttribute(_ATTRIBUTE, json.dumps(declared))


def recall(parameters: SparseUNet3DParameters) -> None:
    """Put what was said of the present annotation, on a volume of this grid, into the parameters."""
    declared = _declared(parameters).get(_grid(parameters), {})
    parameters.completeSlices = declared.get("complete", [])
    parameters.sliceUse = declared.get("uses", {})


def _declared(parameters: SparseUNet3DParameters) -> dict[str, dict]:
    """What the annotation's node holds, by the volume's grid."""
    text = parameters.annotation.GetAttribute(_ATTRIBUTE) if parameters.annotation is not None else None
    return json.loads(text) if text else {}


def _grid(parameters: SparseUNet3DParameters) -> str:
    """The volume's grid, in which slices are counted; "" without a volume."""
    volume = parameters.volume
    return geometryOf(volume).describe() if volume is not None and volume.GetImageData() is not None else ""
