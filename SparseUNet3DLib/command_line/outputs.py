"""Where results go: checked before anything is computed, and the folder in which a run keeps its state."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from SparseUNet3DLib.atomic import folded
from SparseUNet3DLib.errors import InputError, OutputError, UsageError
from SparseUNet3DLib.image_files import WRITABLE_SUFFIXES
from SparseUNet3DLib.segmentation_files import sidecar_of, sidecar_to_write
from SparseUNet3DLib.stopping import StopRequest

STOP_FILE = "stop"
#: Endings of the files that each kind of output is written to.
_ENDINGS = {
    "segmentation": WRITABLE_SUFFIXES,
    "preview": WRITABLE_SUFFIXES,
    "confusion": WRITABLE_SUFFIXES,
    "confidence": WRITABLE_SUFFIXES,
    "model": (".safetensors",),
    "pictures": (".png",),
    "scores": (".json",),
}
_WITH_SIDECAR = ("segmentation", "preview", "confusion")


def check_outputs(
    outputs: Sequence[tuple[str, Path | None]],
    inputs: Iterable[Path | None],
    overwrite: bool,
    own: Collection[Path | None] = (),
    segmentations: Sequence[Path] = (),
) -> None:
    """Refuse outputs that cannot be written, before hours are spent on making them.

    Args:
        outputs: kind (a key of ``_ENDINGS``) and file of each; None where it is not wanted.
        inputs: files that are read, which an output must not replace.
        overwrite: whether other files may be replaced.
        own: outputs that may be there already, made by the same run before it was interrupted.
        segmentations: inputs, too, whose sidecars, also missing ones, no output may be: it would change what they say.

    Raises:
        UsageError: an ending is that of another format, or a file has two purposes.
        OutputError: a file exists, or its folder does not, or may not be written.
    """
    purposes = {
        place_of(sidecar): f"is where the segment names of '{path}' are looked for"
        for path in segmentations if (sidecar := sidecar_of(path))
    }
    purposes |= {place_of(path): "is an input already" for path in [*inputs, *segmentations] if path}
    for kind, path in outputs:
        if path is None:
            continue
        endings = _ENDINGS[kind]
        if not path.name.lower().endswith(endings):
            choice = f"one of {', '.join(endings)}" if len(endings) > 1 else endings[0]
            raise UsageError(f"Cannot write '{path}' ({kind}): its name must end in {choice}.")
        sidecar = sidecar_to_write(path) if kind in _WITH_SIDECAR else None
        for file in filter(None, (path, sidecar)):
            place = place_of(file)
            if place in purposes:
                raise UsageError(
                    f"'{file}' {purposes[place]}, and the {kind} would replace it; give another name."
                )
            purposes[place] = f"is the {kind} already"
            _check_place(file, overwrite or path in own)


def place_of(path: Path) -> str:
    """The same text for all names of a file."""
    return folded(os.path.realpath(path))


def _check_place(path: Path, overwrite: bool) -> None:
    folder = path.absolute().parent
    try:
        if path.is_dir():
            raise OutputError(f"Cannot write '{path}': it is a folder; give the name of a file.")
        if path.exists() and not overwrite:
            raise OutputError(f"'{path}' exists already; give another name, or --overwrite to replace it.")
        if not folder.is_dir():
            raise OutputError(f"Cannot write '{path}': the folder '{folder}' does not exist; create it first.")
    except OSError as error:
        raise OutputError(f"Cannot write '{path}': {error.strerror}; give another name.") from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"Cannot write '{path}': the folder '{folder}' may not be written; choose another.")


def make_folder(folder: Path) -> None:
    """Make the folder and those above it, where they are not there yet.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the folder '{folder}': {error.strerror}; choose another.") from error


@contextmanager
def run_folder(args: argparse.Namespace) -> Iterator[tuple[Path, StopRequest]]:
    """The folder of the run's checkpoint, and the requests to stop that may be put there as a file.

    After success a folder of our own choosing is removed, unless there are files of others in it.

    Raises:
        InputError: there is a checkpoint and nothing was said of it, or none to resume from.
        OutputError: the folder cannot be made.
    """
    from SparseUNet3DLib.checkpoint import FILE_NAME

    folder = args.run_folder or args.output.with_name(args.output.name + ".run")
    checkpoint = folder / FILE_NAME
    if checkpoint.exists() and not (args.resume or args.restart):
        raise InputError(
            f"'{folder}' holds the checkpoint of an earlier run; add --resume to go on with it, "
            "or --restart to begin anew."
        )
    if args.resume and not checkpoint.exists():
        raise InputError(f"There is no checkpoint in '{folder}' to resume from; leave --resume out to begin.")
    is_new = not folder.exists()
    make_folder(folder)
    try:
        yield folder, StopRequest(folder / STOP_FILE)
    except BaseException:
        if is_new:
            _remove_if_empty(folder)
        raise
    if args.run_folder is None:
        for file in (checkpoint, folder / STOP_FILE, *folder.glob(f".*.partial.{FILE_NAME}")):
            file.unlink(missing_ok=True)
        _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
