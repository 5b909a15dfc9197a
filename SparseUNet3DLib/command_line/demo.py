"""``sparse-unet3d demo``: the whole way on a real chest CT, with the scores of contour interpolation beside."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

from SparseUNet3DLib.annotation import SparseAnnotation, from_planes, parse_planes
from SparseUNet3DLib.annotation_share import share_annotated
from SparseUNet3DLib.atomic import atomic_path
from SparseUNet3DLib.command_line.console import say
from SparseUNet3DLib.command_line.options import read_image, read_segmentation_on
from SparseUNet3DLib.command_line.outputs import STOP_FILE, check_outputs, make_folder
from SparseUNet3DLib.dependencies import require_torch
from SparseUNet3DLib.errors import MissingDependencyError, UsageError
from SparseUNet3DLib.evaluation import NEVER_ANNOTATED, Scores, score
from SparseUNet3DLib.events import Reporter
from SparseUNet3DLib.segmentation_files import write_segmentation
from SparseUNet3DLib.segments import Segmentation
from SparseUNet3DLib.stopping import StopRequest

MINUTES = 3.5
#: Every sixth axial slice of 34: 17.6 % of the voxels.
SLICES = "z:2-32:6"
_FILES = {
    "annotation": "annotation.seg.nrrd",
    "segmentation": "segmentation.seg.nrrd",
    "interpolation": "contour-interpolation.seg.nrrd",
    "model": "model.safetensors",
    "pictures": "panels.png",
    "scores": "scores.json",
}
_KINDS = {"annotation": "segmentation", "interpolation": "segmentation"}


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Run the command."""
    require_torch()
    from SparseUNet3DLib.device import tune_allocator
    from SparseUNet3DLib.pictures import Column, require_pillow, write_summary
    from SparseUNet3DLib.recipe import preset
    from SparseUNet3DLib.workflow import RunOptions, densify

    if not 0 < args.minutes < math.inf:
        raise UsageError(f"--minutes must be above 0 and finite, not {args.minutes:g}.")
    require_pillow()
    image, truth_file = _sample_files()
    make_folder(args.output)
    files = {name: args.output / file for name, file in _FILES.items()}
    check_outputs([(_KINDS.get(name, name), file) for name, file in files.items()], [], args.overwrite)
    tune_allocator()
    volume = read_image([image], reporter)
    truth = read_segmentation_on(volume.geometry, truth_file, reporter)
    annotation = from_planes(truth, parse_planes([SLICES], truth.labels.shape))
    say(args, f"Chest CT '{image.name}' ({volume.geometry.describe()})")
    say(args, f"Annotated: axial slices {', '.join(str(p.index) for p in annotation.planes)}")
    say(args, share_annotated(annotation).as_table())
    # The slices are few and the others are scored, so none is held out.
    recipe, options = replace(preset("balanced"), seconds=60 * args.minutes), RunOptions(hold_out=0)
    # First what is quick, and may lack its package.
    interpolated, peer = _interpolate(annotation, truth)
    stop = StopRequest(args.output / STOP_FILE)
    with stop.signals():
        prediction, model = densify(volume, annotation, recipe, options, reporter, stop)
    ours = score(prediction.segmentation.labels, truth.labels, truth.segments, ~annotation.annotated, NEVER_ANNOTATED)
    write_segmentation(Segmentation(annotation.labels, truth.segments, volume.geometry), files["annotation"])
    write_segmentation(prediction.segmentation, files["segmentation"])
    write_segmentation(interpolated, files["interpolation"])
    model.save(files["model"])
    peer_errors = Column("contour interpolation", interpolated.labels, interpolated.segments)
    write_summary(files["pictures"], volume, prediction.segmentation, annotation, truth, [peer_errors])
    with atomic_path(files["scores"]) as temporary:
        scores = {"3D U-Net": ours.to_dict(), "contour interpolation": peer.to_dict()}
        temporary.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    say(args, _comparison(ours, peer))
    say(args, _advice(args.output, image))
    reporter.emit("done", outputs={n: str(f) for n, f in files.items()}, scores=ours.to_dict(), held_out_iou=None)


def _sample_files() -> tuple[Path, Path]:
    """Chest CT and its segmentation, as the package slicerio ships them.

    Raises:
        MissingDependencyError: slicerio is not installed.
    """
    try:
        import slicerio
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "The demo's chest CT comes with the package 'slicerio', which is not installed; "
            "install it with 'pip install SparseUNet3D[demo]'."
        ) from None
    folder = Path(slicerio.__file__).parent / "data"
    return folder / "CTChest4.nrrd", folder / "Segmentation.seg.nrrd"


def _interpolate(annotation: SparseAnnotation, truth: Segmentation) -> tuple[Segmentation, Scores]:
    """What Slicer's 'Fill between slices' makes of the same slices."""
    from SparseUNet3DLib.contour_interpolation import interpolate_between_slices

    labels = interpolate_between_slices(annotation.labels)
    scores = score(labels, truth.labels, truth.segments, ~annotation.annotated, NEVER_ANNOTATED)
    return Segmentation(labels, truth.segments, truth.geometry), scores


def _comparison(ours: Scores, peer: Scores) -> str:
    lines = [
        "",
        f"IoU on the {ours.voxels} voxels of the slices that were never annotated",
        f"{'segment':<32}{'3D U-Net':>10}{'contour interpolation':>24}",
    ]
    lines += [
        f"{a.name:<32}{a.iou:>10.3f}{b.iou:>24.3f}" for a, b in zip(ours.classes, peer.classes, strict=True)
    ]
    lines.append(f"{'mean':<32}{ours.mean_iou:>10.3f}{peer.mean_iou:>24.3f}")
    return "\n".join(lines)


def _advice(folder: Path, image: Path) -> str:
    return (
        f"\nResults are in '{folder.resolve()}'.\n"
        f"  {_FILES['pictures']}: slices, annotation, segmentation and errors beside each other\n"
        f"To see them in 3D Slicer, drag these two files into its window, and press OK:\n"
        f"  {image}\n"
        f"  {(folder / _FILES['segmentation']).resolve()}\n"
        f"To use the model on another CT:\n"
        f"  sparse-unet3d segment {folder / _FILES['model']} OTHER.nrrd \\\n"
        f"    --output other.seg.nrrd"
    )
