"""``sparse-unet3d segment``: a trained model on one or many volumes."""

from __future__ import annotations

import argparse
from pathlib import Path

from SparseUNet3DLib.command_line.options import read_image
from SparseUNet3DLib.command_line.outputs import check_outputs, make_folder
from SparseUNet3DLib.dependencies import require_torch
from SparseUNet3DLib.errors import InputError, MemoryLimitError, UsageError
from SparseUNet3DLib.events import Reporter
from SparseUNet3DLib.image_files import volume_stem
from SparseUNet3DLib.segmentation_files import write_segmentation
from SparseUNet3DLib.volumes import write_scalar_volume


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Run the command.

    One volume that cannot be used does not keep the others from being segmented.

    Raises:
        InputError: at the end, naming the volumes that failed.
    """
    require_torch()
    from SparseUNet3DLib.command_line.training_options import inference_settings, tune_allocator
    from SparseUNet3DLib.model_file import load_model
    from SparseUNet3DLib.out_of_memory import is_out_of_memory
    from SparseUNet3DLib.workflow import segment

    volumes = [[image] for image in args.image] + args.cases
    targets = _targets(volumes, args)
    tune_allocator()
    model, settings = load_model(args.model), inference_settings(args)
    outputs, failed = {}, []
    for files, target in zip(volumes, targets, strict=True):
        try:
            volume = read_image(files, reporter)
            if len(volumes) > 1:
                reporter.emit("phase", phase=f"reading {volume.name}", fraction=1.0)
            prediction = segment(model, volume, args.device, settings, reporter=reporter)
        except (InputError, MemoryLimitError, MemoryError, RuntimeError) as error:
            known = isinstance(error, (InputError, MemoryLimitError))
            if len(volumes) == 1 or not (known or is_out_of_memory(error)):
                raise
            failed.append(f"'{files[0]}'")
            reporter.emit("warning", message=f"'{files[0]}' was left out: {error if known else 'Memory ran out.'}")
            continue
        write_segmentation(prediction.segmentation, target, args.compress)
        outputs[volume.name] = str(target)
        if args.confidence:
            write_scalar_volume(prediction.confidence, volume.geometry, _confidence_path(target), args.compress)
    if failed:
        raise InputError(f"{len(failed)} of {len(volumes)} volumes could not be segmented: {', '.join(failed)}.")
    reporter.emit("done", outputs=outputs, scores=None, held_out_iou=None)


def _targets(volumes: list[list[Path]], args: argparse.Namespace) -> list[Path]:
    """Where each result goes.

    Raises:
        UsageError: nothing to do, or one name for many results.
        OutputError: a file exists, or a folder cannot be made or written.
    """
    if not volumes:
        raise UsageError("Name at least one volume to segment.")
    if args.output:
        if len(volumes) > 1:
            raise UsageError(f"{len(volumes)} volumes cannot all be written to '{args.output}'; use --output-folder.")
        targets = [args.output]
    else:
        targets = [args.output_folder / f"{volume_stem(files[0])}.seg.nrrd" for files in volumes]
        for target in targets:
            if targets.count(target) > 1:
                raise UsageError(f"Several volumes would be written to '{target}'; segment them into several folders.")
        make_folder(args.output_folder)
    outputs = [("segmentation", target) for target in targets]
    if args.confidence:
        outputs += [("confidence", _confidence_path(target)) for target in targets]
    check_outputs(outputs, [args.model, *(file for files in volumes for file in files)], args.overwrite)
    return targets


def _confidence_path(target: Path) -> Path:
    return target.with_name(f"{volume_stem(target)}.confidence.nrrd")
