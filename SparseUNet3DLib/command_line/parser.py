"""What can be typed: the commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import SparseUNet3DLib
from SparseUNet3DLib.command_line import demo, densify, device, evaluate, experiment, info, segment, train
from SparseUNet3DLib.experiments.protocols import PROTOCOLS
from SparseUNet3DLib.recipe import NETWORKS, PRESETS

_SLICES_HELP = (
    "annotated slices, for example z:10,20 or y:33 or z:0-30:5 (repeatable; array axes z, y, x, counted from 0); "
    "'auto' finds them from the painted labels, and may be combined with slices on which nothing is to be seen. "
    "Default: what the annotation's file lists, if it does, else auto"
)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each command sets ``run``."""
    parser = argparse.ArgumentParser(
        prog="sparse-unet3d",
        description="Segment whole volumes from a few annotated slices with a 3D U-Net (Çiçek et al., MICCAI 2016).",
        epilog="Exit codes: 0 done, 1 unexpected error, 2 usage, 3 input, 4 missing package, 5 memory, 6 divergence, "
        "7 output, 130 interrupted (densify, train and experiment keep a checkpoint). @FILE stands for the arguments "
        "in FILE, one per line.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {SparseUNet3DLib.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_densify(commands)
    _add_train(commands)
    _add_segment(commands)
    _add_evaluate(commands)
    _add_info(commands)
    _add_device(commands)
    _add_demo(commands)
    _add_experiment(commands)
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """What was typed; the volumes to segment may come after options, where argparse by itself expects no more files."""
    parser = make_parser()
    args, left = parser.parse_known_args(arguments)
    options = [argument for argument in left if argument.startswith("-")]
    if options or (left and args.run is not segment.run):
        parser.error(f"unrecognized arguments: {' '.join(options or left)}")
    if left:
        args.image += map(Path, left)
    return args


def _add_densify(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "densify", densify.run, "learn from some slices of a volume and segment all of it")
    parser.add_argument("image", nargs="+", type=Path, help="volume; several files of one channel each are channels")
    parser.add_argument("--annotation", "-a", type=Path, required=True, help="painted slices, .seg.nrrd or label map")
    parser.add_argument("--output", "-o", type=Path, required=True, help="result to write, .seg.nrrd or label map")
    parser.add_argument("--model", type=Path, help="also save the trained model here (.safetensors)")
    parser.add_argument("--confidence", type=Path, help="also write the confidence in percent here")
    parser.add_argument("--truth", type=Path, help="dense segmentation to score the never annotated voxels against")
    parser.add_argument("--pictures", type=Path, help="also write a PNG of slices, annotation and result here")
    parser.add_argument("--preview", type=Path, help="rewrite this segmentation every so often while training")
    parser.add_argument(
        "--confusion", type=Path,
        help="write true and false positives and false negatives on the held-out slices as segments",
    )
    parser.add_argument("--repaint", action="store_true", help="let the network decide annotated voxels as well")
    _add_compression_option(parser)
    _add_annotation_options(parser)
    _add_training_options(parser)
    _add_inference_options(parser)
    _add_common_options(parser)


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "train", train.run, "train a model on one or several annotated volumes")
    parser.add_argument(
        "--case", "-c", nargs="+", type=Path, action="append", required=True, metavar="FILE", dest="cases",
        help="a volume (its channels) and, last, its annotation; repeat for every volume",
    )
    parser.add_argument("--output", "-o", type=Path, required=True, help="model to write (.safetensors)")
    _add_annotation_options(parser)
    _add_training_options(parser)
    _add_common_options(parser)


def _add_segment(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "segment", segment.run, "segment one or many volumes with a trained model")
    parser.add_argument("model", type=Path, help="model to use")
    parser.add_argument("image", nargs="*", type=Path, help="volumes, each with all its channels in one file")
    parser.add_argument(
        "--case", "-c", nargs="+", type=Path, action="append", default=[], metavar="FILE", dest="cases",
        help="one volume given as several files, a channel each; repeatable",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--output", "-o", type=Path, help="segmentation to write, for a single volume")
    target.add_argument("--output-folder", type=Path, help="folder to write NAME.seg.nrrd into for every volume")
    parser.add_argument("--confidence", action="store_true", help="write NAME.confidence.nrrd beside each result")
    parser.add_argument(
        "--skip-existing", action="store_true",
        help="leave out volumes whose result exists, for example to finish what was interrupted",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    _add_compression_option(parser)
    _add_inference_options(parser)
    _add_common_options(parser)


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "evaluate", evaluate.run, "score a segmentation against a true one")
    parser.add_argument("segmentation", type=Path, help="segmentation to score")
    parser.add_argument("--truth", type=Path, required=True, help="true segmentation; segments are matched by name")
    parser.add_argument("--annotation", "-a", type=Path, help="count only voxels that this annotation leaves open")
    parser.add_argument("--planes", nargs="+", metavar="SLICES", help="count only these slices, for example z:10,20")
    parser.add_argument("--json", type=Path, help="also write the scores here")
    parser.add_argument("--confusion", type=Path, help="write true and false positives, false negatives as segments")
    parser.add_argument("--image", nargs="+", type=Path, help="volume: for the pictures, and to count slices in")
    parser.add_argument("--pictures", type=Path, help="write a PNG of slices, segmentation and errors (needs --image)")
    _add_annotation_options(parser)
    _add_common_options(parser)


def _add_info(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "info", info.run, "print a model's card")
    parser.add_argument("model", type=Path, help="model to describe")
    parser.add_argument("--json", action="store_true", help="print the header as JSON instead")
    _add_progress_option(parser)


def _add_device(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "device", device.run, "say which device would be used, and how fast it is")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    _add_progress_option(parser)


def _add_demo(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "demo", demo.run, "run the whole way on a real chest CT, in a few minutes")
    parser.add_argument("--output", "-o", type=Path, default=Path("demo-output"), help="folder for the results")
    parser.add_argument("--minutes", type=float, default=demo.MINUTES, help="time budget (default %(default)g)")
    _add_common_options(parser)


def _add_experiment(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "experiment", experiment.run, "the paper's tables on a data set of your own")
    parser.add_argument("protocol", choices=PROTOCOLS, help=(
        "semi-automated: cross validation over slices (Table 1); sparsity: number of slices (Table 2); "
        "fully-automated: leave one volume out (Table 3)"))
    parser.add_argument("dataset", type=Path, help="TOML file that names volumes, segmentations and slices")
    parser.add_argument("--output", "-o", type=Path, help=(
        "folder for table, segmentations and pictures; what it has of the table already is not repeated "
        "(default: the file's name without .toml, with '-tables' added)"))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--no-pictures", action="store_true", help="draw no pictures: only table and segmentations")
    _add_progress_option(parser)


def _add_annotation_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("annotation")
    group.add_argument("--slices", action="append", metavar="SLICES", help=_SLICES_HELP)
    group.add_argument(
        "--scribbles", action="store_true",
        help="only painted voxels count; a segment of the background must be among them",
    )
    group.add_argument(
        "--background", default="background", metavar="NAME", help="its segment's name (default: %(default)s)"
    )


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--preset", default="balanced", choices=PRESETS, help="recipe (default: %(default)s)")
    group.add_argument("--minutes", type=float, help="time budget instead of the preset's")
    group.add_argument("--iterations", type=int, help="number of training steps instead of a time budget")
    group.add_argument("--network", choices=NETWORKS, help="network instead of the preset's")
    group.add_argument("--mirror", default="", metavar="AXES", help="axes along which mirroring is allowed, e.g. xy")
    held_out = group.add_mutually_exclusive_group()
    held_out.add_argument("--hold-out", type=int, metavar="N", help=(
        "slices per volume held out for validation, and never learnt; those that the program holds out by itself are "
        "learnt in the end"
    ))
    held_out.add_argument("--held-out", action="append", metavar="SLICES", help="these slices, for example z:10,20")
    group.add_argument("--plan", action="append", default=[], metavar="KEY=VALUE", help=(
        "override the plan: patch_size=32x96x96, batch_size=1, widths=16,32,64, strides=1x2x2,2x2x2 "
        "(kernels are 3x3x3 then) or spacing=3x0.7x0.7 (mm; all z x y x x)"))
    group.add_argument("--precision", choices=("auto", "float32"), help="number format of the network")
    group.add_argument("--seed", type=int, help="of all random numbers (default: 0)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    group.add_argument("--memory", type=float, metavar="GIB", help="memory that the run may use")
    group.add_argument("--run-folder", type=Path, help=(
        "where the checkpoint is kept (default: beside the output, removed when done). A file named 'stop' put "
        "there ends the run with a checkpoint; with the content 'finish' it ends training early but well"))
    begin = group.add_mutually_exclusive_group()
    begin.add_argument("--resume", action="store_true", help="go on from the run folder's checkpoint")
    begin.add_argument("--restart", action="store_true", help="begin anew although there is a checkpoint")
    group.add_argument("--start-from", type=Path, metavar="MODEL", help="go on from a trained model (warm start)")
    group.add_argument("--dry-run", action="store_true", help="show plan, memory and device, and stop")


def _add_inference_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("segmenting")
    group.add_argument("--overlap", type=float, default=0.5, help="overlap of tiles, 0 to 0.9 (default: %(default)g)")
    group.add_argument(
        "--average-mirrored", default="", metavar="AXES",
        help="average over mirrorings of these axes; does harm unless the training mirrored them, too (--mirror)",
    )


def _add_compression_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--uncompressed", dest="compress", action="store_false", help="write larger files, which are faster to read"
    )


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    _add_progress_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace existing output files")


def _add_progress_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--progress", choices=("terminal", "jsonl", "none"), default="terminal",
        help="terminal: for a person (default); jsonl: a JSON object per line on standard output; none: problems only",
    )
    parser.add_argument(
        "--stop-unheard", action="store_true",
        help="with jsonl: stop as by SIGTERM once nobody reads standard output any more",
    )


def _command(commands: argparse._SubParsersAction, name: str, run: object, summary: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    parser.set_defaults(run=run)
    return parser
