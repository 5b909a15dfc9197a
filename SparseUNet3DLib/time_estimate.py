"""How much of a time budget has to be left for what follows training."""

from __future__ import annotations

import time
from dataclasses import replace

from SparseUNet3DLib.device import choose_precision, memory_format
from SparseUNet3DLib.inference import InferenceSettings, Predictor
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.preparation import Preparation
from SparseUNet3DLib.recipe import Recipe
from SparseUNet3DLib.volumes import Volume


def seconds_after_training(
    prepared: Preparation, volume: Volume, recipe: Recipe, settings: InferenceSettings | None
) -> float:
    """Measured with an untrained network: the whole ``volume``, and the held-out slices twice."""
    _make_predictor(prepared, volume, recipe, settings)  # resamples the volume, for all that come after it
    started = time.perf_counter()
    predictor = _make_predictor(prepared, volume, recipe, settings)
    to_prepare = time.perf_counter() - started
    held_out = sum(len(c.annotation.planes) for c in prepared.folds[0].validation)
    # A slice through the tiles shows about so many of them.
    tiles_of_a_slice = predictor.count_tiles() ** (2 / 3)
    # The held-out slices are segmented for their IoU at the end, and then for the mixture and the map of what is wrong.
    to_score = 2 * held_out * tiles_of_a_slice * predictor.seconds_per_tile()
    return (1 + prepared.plan.members if held_out else 1) * to_prepare + predictor.seconds_to_segment() + to_score


def _make_predictor(
    prepared: Preparation, volume: Volume, recipe: Recipe, settings: InferenceSettings | None
) -> Predictor:
    turned = prepared.turn(prepared.folds[0].training[0]).volume(volume)
    # Statistics are recomputed by a trained network only.
    plan = replace(prepared.plan, batch_norm=None if prepared.plan.batch_norm == "frozen" else prepared.plan.batch_norm)
    return Predictor(
        build_network(prepared.plan).to(prepared.device, memory_format=memory_format(prepared.device)), plan,
        prepared.normalisation, turned.array, turned.geometry.array_spacing, prepared.device,
        choose_precision(prepared.device, recipe.precision), settings or InferenceSettings(),
        resample=prepared.resample,
    )
