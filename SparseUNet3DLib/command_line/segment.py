"""``sparse-unet3d segment``: a trained model on one or many volumes."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from SparseUNet3DLib.command_line.options import read_image
from SparseUNet3DLib.command_line.outputs import check_outputs, make_folder, place_of
from SparseUNet3DLib.dependencies import require_torch
from SparseUNet3DLib.errors import (
    InputError,
    Interrupted,
    MemoryLimitError,
    OutputError,
    SparseUNetError,
    UsageError,
)
from SparseUNet3DLib.events import Reporter
from SparseUNet3DLib.image_files import check_keeps_grid, volume_stem
from SparseUNet3DLib.segmentation_files import write_segmentation
from SparseUNet3DLib.stopping import StopRequest
from SparseUNet3DLib.volumes import write_scalar_volume


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Run the command.

    One volume that cannot be used does not keep the others from being segmented.

    Raises:
        InputError: at the end, naming the volumes that failed.
        Interrupted: stopped by Ctrl-C or SIGTERM.
    """
    require_torch()
    from SparseUNet3DLib.command_line.training_options import inference_settings, tune_allocator
    from SparseUNet3DLib.model_file import load_model
    from SparseUNet3DLib.out_of_memory import is_out_of_memory
    from SparseUNet3DLib.workflow import segment

    volumes = _wanted(args, reporter)
    tune_allocator()
    model, settings, stop = load_model(args.model), inference_settings(args), StopRequest()
    outputs, failed = {}, []
    with stop.signals():
        for files, target in volumes:
            volume = prediction = None  # the former one's memory is needed now
            try:
                volume = read_image(files, reporter)
                if len(volumes) > 1:
                    reporter.emit("phase", phase=f"reading {volume.name}", fraction=1.0)
                check_keeps_grid(target, volume.geometry)
                prediction = segment(model, volume, args.device, settings, reporter=reporter, stop=stop)
            except Interrupted as error:
                if len(volumes) == 1:
                    raise
                raise Interrupted(
                    f"{error} Segmented were {len(outputs)} of {len(volumes)} volumes; the same command with "
                    "--skip-existing goes on with the others."
                ) from None
            except (InputError, OutputError, MemoryLimitError, MemoryError, RuntimeError) as error:
                known = isinstance(error, SparseUNetError)
                if len(volumes) == 1 or not (known or is_out_of_memory(error)):
                    raise
                failed.append(f"'{files[0]}'")
                reporter.emit("warning", message=f"'{files[0]}' was left out: {error if known else 'Memory ran out.'}")
                continue
            if args.confidence:
                write_scalar_volume(prediction.confidence, volume.geometry, _confidence_path(target), args.compress)
            write_segmentation(prediction.segmentation, target, args.compress)  # last: it says that the volume is done
            outputs[volume.name] = str(target)
    if failed:
        raise InputError(f"{len(failed)} of {len(volumes)} volumes could not be segmented: {', '.join(failed)}.")
    reporter.emit("done", outputs=outputs, scores=None, held_out_iou=None)


def _wanted(args: argparse.Namespace, reporter: Reporter) -> list[tuple[list[Path], Path]]:
    """The files of each volume that is to be segmented, and where its result goes.

    Raises:
        UsageError, OutputError: see ``_targets``; a result exists and is neither to be replaced nor left out.
    """
    volumes = [[image] for image in args.image] + args.cases
    wanted = list(zip(volumes, _targets(volumes, args), strict=True))
    if args.skip_existing:
        wanted = [(files, target) for files, target in wanted if not target.exists()]
        if len(wanted) < len(volumes):
            message = f"{len(volumes) - len(wanted)} of {len(volumes)} volumes have a result and were left out."
            reporter.emit("warning", message=message)
    confidences = [_confidence_path(target) for _files, target in wanted] if args.confidence else []
    check_outputs(
        [*(("segmentation", target) for _files, target in wanted), *(("confidence", path) for path in confidences)],
        [args.model, *(file for files in volumes for file in files)],
        args.overwrite,
        confidences if args.skip_existing else [],  # of a volume that was interrupted
    )
    return wanted


def _targets(volumes: list[list[Path]], args: argparse.Namespace) -> list[Path]:
    """Where each result goes.

    Raises:
        UsageError: nothing to do, or one name for many results.
        OutputError: the folder cannot be made.
    """
    if not volumes:
        raise UsageError("Name at least one volume to segment.")
    if args.output:
        if len(volumes) > 1:
            raise UsageError(f"{len(volumes)} volumes cannot all be written to '{args.output}'; use --output-folder.")
        targets = [args.output]
    else:
        targets = [args.output_folder / f"{volume_stem(files[0])}.seg.nrrd" for files in volumes]
        counts = Counter(map(place_of, targets))
        for target in targets:
            if counts[place_of(target)] > 1:
                raise UsageError(f"Several volumes would be written to '{target}'; segment them into several folders.")
        make_folder(args.output_folder)
    return targets


def _confidence_path(target: Path) -> Path:
    return target.with_name(f"{volume_stem(target)}.confidence.nrrd")
