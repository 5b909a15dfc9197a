"""The data set of an experiment: a TOML file that names volumes, channels, segmentations and annotated slices."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from SparseUNet3DLib.annotation import SparseAnnotation, from_painted, from_planes, parse_planes
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.errors import InputError, MissingDependencyError, UsageError
from SparseUNet3DLib.phantom import best_threshold_iou, make_phantom
from SparseUNet3DLib.recipe import Recipe, preset
from SparseUNet3DLib.segmentation_files import on_grid, read_segmentation
from SparseUNet3DLib.segments import Segmentation
from SparseUNet3DLib.volumes import Volume, read_volume

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_DATASET_KEYS = {"name", "package", "training", "volume"}
_VOLUME_KEYS = {"name", "channels", "segmentation", "slices", "phantom", "segments"}
_PHANTOM_KEYS = {"seed", "shape", "spacing"}
#: What a data set may say about training besides the recipe: parts of the plan, as `RunOptions.plan` takes them.
_PLAN_KEYS = {"patch_size", "widths", "batch_size"}


@dataclass(frozen=True)
class DataSet:
    """What an experiment is made on.

    Attributes:
        name: of the data set, for the tables.
        cases: its volumes by name, with all that is annotated.
        recipe: how every network of the experiment is trained.
        plan: parts of the networks' plan to override.
        thresholds: of generated volumes, by name: the best IoU that a threshold reaches, per segment.
    """

    name: str
    cases: dict[str, Case]
    recipe: Recipe
    plan: dict[str, str]
    thresholds: dict[str, dict[str, float]]


def read_dataset(path: Path, warn: Callable[[str], None] = lambda message: None) -> DataSet:
    """The data set that the TOML file ``path`` describes; paths in it are relative to it, or to its ``package``.

    Raises:
        InputError: the file, or one that it names, cannot be used; the sentence says which and why.
        MissingDependencyError: the package that the volumes come with is not installed.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read '{path}': {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' is no TOML file: {error}.") from error
    try:
        return _dataset(values, path, warn)
    except (InputError, UsageError) as error:
        raise type(error)(f"'{path}': {error}") from None


def _dataset(values: dict, path: Path, warn: Callable[[str], None]) -> DataSet:
    _refuse_unknown(values, _DATASET_KEYS, "A data set")
    volumes = values.get("volume")
    if not isinstance(volumes, list) or not volumes:
        raise InputError("it lists no volumes; add a [[volume]] with channels, segmentation and slices.")
    root = _package_folder(values["package"]) if "package" in values else path.parent
    cases: dict[str, Case] = {}
    thresholds: dict[str, dict[str, float]] = {}
    for number, entry in enumerate(volumes, start=1):
        name = str(entry.get("name", f"volume {number}"))
        if name in cases:
            raise InputError(f"two volumes are named '{name}'; give each a name of its own.")
        try:
            _refuse_unknown(entry, _VOLUME_KEYS, "A volume")
            volume, segmentation = _read_volume(entry, root, warn)
            cases[name] = Case(replace(volume, name=name), _annotation(entry, segmentation))
        except (InputError, UsageError) as error:
            raise type(error)(f"volume '{name}': {error}") from None
        if "phantom" in entry:
            thresholds[name] = best_threshold_iou(volume, segmentation)
    training = values.get("training", {})
    plan = {key: str(training[key]) for key in sorted(_PLAN_KEYS & training.keys())}
    recipe = _recipe({key: value for key, value in training.items() if key not in _PLAN_KEYS})
    return DataSet(str(values.get("name", path.stem)), cases, recipe, plan, thresholds)


def _refuse_unknown(values: object, known: set[str], what: str) -> None:
    if not isinstance(values, Mapping):
        raise InputError(f"{what} is described by a table of keys and values.")
    unknown = sorted(values.keys() - known)
    if unknown:
        raise InputError(f"{what} has no '{unknown[0]}'; choose among {', '.join(sorted(known))}.")


def _package_folder(name: object) -> Path:
    found = importlib.util.find_spec(str(name))
    if found is None or found.origin is None:
        raise MissingDependencyError(
            f"The volumes come with the package '{name}', which is not installed; install it with 'pip install {name}'."
        )
    return Path(found.origin).parent


def _read_volume(entry: Mapping, root: Path, warn: Callable[[str], None]) -> tuple[Volume, Segmentation]:
    if "phantom" in entry:
        options = dict(entry["phantom"])
        _refuse_unknown(options, _PHANTOM_KEYS, "A phantom")
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        return make_phantom(**options)
    for key in ("channels", "segmentation"):
        if key not in entry:
            raise InputError(f"'{key}' is missing; name the file(s).")
    channels = entry["channels"] if isinstance(entry["channels"], list) else [entry["channels"]]
    volume = read_volume([root / str(c) for c in channels], warn=warn)
    path = root / str(entry["segmentation"])
    segmentation = on_grid(read_segmentation(path), volume.geometry, str(path), warn)
    return volume, _only(segmentation, entry["segments"]) if "segments" in entry else segmentation


def _only(segmentation: Segmentation, names: object) -> Segmentation:
    """The segments called ``names``; the others become background."""
    numbers = {s.name: n for n, s in enumerate(segmentation.segments, start=1)}
    missing = [n for n in names if n not in numbers]
    if missing:
        raise InputError(f"there is no segment '{missing[0]}'; its segments are {', '.join(numbers)}.")
    labels = segmentation.labels * 0
    for value, name in enumerate(names, start=1):
        labels[segmentation.labels == numbers[name]] = value
    return Segmentation(labels, tuple(segmentation.segments[numbers[n] - 1] for n in names), segmentation.geometry)


def _annotation(entry: Mapping, segmentation: Segmentation) -> SparseAnnotation:
    slices = entry.get("slices", ["auto"])
    slices = [slices] if isinstance(slices, str) else [str(s) for s in slices]
    planes = parse_planes([s for s in slices if s != "auto"], segmentation.labels.shape)
    return from_painted(segmentation, planes) if "auto" in slices else from_planes(segmentation, planes)


def _recipe(training: Mapping) -> Recipe:
    """The paper's recipe, or another preset, with what the data set wants changed.

    Raises:
        UsageError: a recipe has no such part.
    """
    changes = dict(training)
    recipe = preset(str(changes.pop("preset", "paper")))
    if "minutes" in changes:
        changes |= {"seconds": 60 * float(changes.pop("minutes")), "iterations": None}
    elif "iterations" in changes:
        changes["seconds"] = None
    known = {f.name for f in fields(Recipe)} - {"augmentation", "name", "batch_norm", "network"}
    unknown = sorted(changes.keys() - known)
    if unknown:
        raise UsageError(f"[training] has no '{unknown[0]}'; choose among {', '.join(sorted(known | _PLAN_KEYS))}.")
    return replace(recipe, **changes)
