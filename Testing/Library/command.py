"""The command line on small volumes: called in this process, or started as a real one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from grids import oblique_left_handed

from SparseUNet3DLib.command_line import main
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.segmentation_files import write_segmentation
from SparseUNet3DLib.segments import Segment, Segmentation

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (24, 32, 32)
#: Axial slices that are painted.
PAINTED = (3, 8, 12, 16, 21)
#: Options with which a step of training takes some milliseconds.
SMALL = (
    *("--plan", "patch_size=16x16x16", "--plan", "widths=4,8", "--plan", "strides=2x2x2", "--plan", "batch_size=1"),
    *("--precision", "float32", "--device", "cpu"),
)
#: A short run on the files of ``write_case``.
DENSIFY = ("densify", "vol.nrrd", "-a", "ann.seg.nrrd", "-o", "out.seg.nrrd", *SMALL)
TERMINOLOGY = "Segmentation category and type~SCT^85756007^Tissue~SCT^10200004^Liver~^^~Anatomic codes~^^~^^"
SEGMENTS = (
    Segment("Segment_7", "liver", (0.8, 0.4, 0.3), {"TerminologyEntry": TERMINOLOGY}),
    Segment("S2", "left kidney", (0.125, 0.5, 0.875), {"Segmentation.Status": "inprogress"}),
)


def call(*arguments: object) -> int:
    """Run the command line in this process; its exit code."""
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


def start(
    *arguments: object, cwd: Path, code: str | None = None, python: Sequence[str] = (), **options: object
) -> subprocess.Popen:
    """Start the program in ``cwd`` as a process of its own; ``code`` is what it runs before the command line."""
    program = ["-m", "SparseUNet3DLib"]
    if code is not None:
        program = ["-c", f"{code}\nimport sys\nfrom SparseUNet3DLib.command_line import main\nsys.exit(main())"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    environment["PYTHONPATH"] = os.pathsep.join([*python, str(ROOT)])
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, *program, *map(str, arguments)], cwd=cwd, env=environment, **options)


def run(*arguments: object, cwd: Path, **options: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the program, run as a process of its own."""
    with start(*arguments, cwd=cwd, **options) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, (out or b"").decode(), (err or b"").decode()


def structures() -> np.ndarray:
    """Labels (z, y, x) uint16 of two touching ellipsoids."""
    z, y, x = np.mgrid[tuple(slice(0, n) for n in SHAPE)]
    liver = 2 * (z - 12) ** 2 + (y - 16) ** 2 + (x - 12) ** 2 < 80
    kidney = (2 * (z - 12) ** 2 + (y - 16) ** 2 + (x - 23) ** 2 < 40) & ~liver
    return liver.astype(np.uint16) + 2 * kidney.astype(np.uint16)


def painted(labels: np.ndarray, slices: Sequence[int] = PAINTED) -> np.ndarray:
    """``labels`` (z, y, x) on the axial ``slices`` only."""
    result = np.zeros_like(labels)
    result[list(slices)] = labels[list(slices)]
    return result


def write_image(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write ``array`` (z, y, x) as any other program would."""
    image = sitk.GetImageFromArray(array, isVector=False)
    geometry.apply_to(image)
    sitk.WriteImage(image, str(path))


def write_case(folder: Path, name: str = "", seed: int = 0) -> Geometry:
    """Write ``<name>vol.nrrd`` (oblique, left-handed, anisotropic) with ``ann`` and ``truth.seg.nrrd``; its grid."""
    labels = structures()
    noise = np.random.default_rng(seed).normal(0, 10, SHAPE)
    volume = folder / f"{name}vol.nrrd"
    write_image(volume, (100 * labels + noise).astype(np.int16), oblique_left_handed(SHAPE[::-1]))
    geometry = Geometry.from_image(sitk.ReadImage(str(volume)))
    write_segmentation(Segmentation(labels, SEGMENTS, geometry), folder / f"{name}truth.seg.nrrd")
    write_segmentation(Segmentation(painted(labels), SEGMENTS, geometry), folder / f"{name}ann.seg.nrrd")
    return geometry
