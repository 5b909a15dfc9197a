"""The data set of an experiment: a TOML file that names volumes, channels, segmentations and annotated slices."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from SparseUNet3DLib.atomic import folded
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.errors import InputError, MissingDependencyError, UsageError
from SparseUNet3DLib.experiments.volume_entry import VolumeEntry, read_entry, refuse_unknown
from SparseUNet3DLib.recipe import Recipe, preset

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_DATASET_KEYS = {"name", "package", "training", "volume"}
#: What a data set may say about training besides the recipe: parts of the plan, as `RunOptions.plan` takes them.
_PLAN_KEYS = {"patch_size", "widths", "spacing"}
#: Parts of the recipe that the protocols themselves decide, or for which there are other words.
_FIXED = {"augmentation", "name", "batch_norm", "network", "seconds", "members", "voxel_classifier"}


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


def name_in_files(text: str) -> str:
    """``text`` with a dash for everything that file names had better not hold."""
    return re.sub(r"[^\w.,-]+", "-", text)


def _dataset(values: dict, path: Path, warn: Callable[[str], None]) -> DataSet:
    refuse_unknown(values, _DATASET_KEYS, "A data set")
    volumes = values.get("volume")
    if not isinstance(volumes, list) or not volumes:
        raise InputError("it lists no volumes; add a [[volume]] with channels, segmentation and slices.")
    root = _package_folder(values["package"]) if "package" in values else path.parent
    entries: dict[str, VolumeEntry] = {}
    for number, entry in enumerate(volumes, start=1):
        name = str(entry.get("name", f"volume {number}")) if isinstance(entry, Mapping) else f"volume {number}"
        if any(folded(name_in_files(name)) == folded(name_in_files(other)) for other in entries):
            raise InputError(f"two volumes are named '{name}', as far as file names tell; give each a name of its own.")
        try:
            entries[name] = read_entry(entry, name, root, warn)
        except (InputError, UsageError) as error:
            raise type(error)(f"volume '{name}': {error}") from None
    cases = {name: entry.case for name, entry in entries.items()}
    _compare(cases, warn)
    training = values.get("training", {})
    if not isinstance(training, Mapping):
        raise InputError("[training] is described by a table of keys and values.")
    plan = {key: str(training[key]) for key in sorted(_PLAN_KEYS & training.keys())}
    recipe = _recipe({key: value for key, value in training.items() if key not in _PLAN_KEYS})
    thresholds = {name: entry.thresholds for name, entry in entries.items() if entry.thresholds}
    return DataSet(str(values.get("name", path.stem)), cases, recipe, plan, thresholds)


def _compare(cases: Mapping[str, Case], warn: Callable[[str], None]) -> None:
    """Refuse volumes that no network could learn from together, before any has been trained for hours."""
    (first, one), *others = cases.items()
    names = {s.name for s in one.annotation.segments}
    for name, case in others:
        if len(case.volume.array) != len(one.volume.array):
            raise InputError(
                f"volume '{name}' has {len(case.volume.array)} channel(s), but '{first}' has {len(one.volume.array)}; "
                "give all the same, in the same order."
            )
        own = {s.name for s in case.annotation.segments}
        if own.isdisjoint(names):
            raise InputError(
                f"volume '{name}' has the segments {', '.join(sorted(own))}, but '{first}' has "
                f"{', '.join(sorted(names))}; give them the same names, for example with 'labels'."
            )
        if own != names:
            warn(f"Volumes '{first}' and '{name}' do not have the same segments: {', '.join(sorted(own ^ names))}.")


def _package_folder(name: object) -> Path:
    found = importlib.util.find_spec(str(name))
    if found is None or found.origin is None:
        raise MissingDependencyError(
            f"The volumes come with the package '{name}', which is not installed; install it with 'pip install {name}'."
        )
    return Path(found.origin).parent


def _recipe(training: Mapping) -> Recipe:
    """The paper's recipe, or another preset, with what the data set wants changed.

    Raises:
        UsageError: a recipe has no such part.
    """
    changes = dict(training)
    known = {f.name for f in fields(Recipe)} - _FIXED
    unknown = sorted(changes.keys() - known - {"minutes", "preset"})
    if unknown:
        choices = ", ".join(sorted(known | _PLAN_KEYS | {"minutes", "preset"}))
        raise UsageError(f"[training] has no '{unknown[0]}'; choose among {choices}.")
    recipe = preset(str(changes.pop("preset", "paper")))
    if "minutes" in changes:
        minutes = changes.pop("minutes")
        if not isinstance(minutes, (int, float)) or not 0 < minutes < math.inf:
            raise UsageError(f"[training]: minutes must be a finite number above 0, not {minutes!r}.")
        changes = {"iterations": None, **changes, "seconds": 60.0 * minutes}
    elif "iterations" in changes:
        changes["seconds"] = None
    for name, value in changes.items():
        like = getattr(recipe, name)
        if value is not None and like is not None and not isinstance(value, (int, float, type(like))):
            raise UsageError(f"[training]: {name} must be like {like!r}, not {value!r}.")
    return replace(recipe, **changes)
