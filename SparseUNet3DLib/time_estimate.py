"""How much of a time budget has to be left for what follows training."""

from __future__ import annotations

import time
from dataclasses import replace

from SparseUNet3DLib.device import choose_precision, memory_format
from SparseUNet3DLib.held_out_answers import make_validation
from SparseUNet3DLib.inference import InferenceSettings, Predictor
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.preparation import Preparation
from SparseUNet3DLib.recipe import Recipe
from SparseUNet3DLib.volumes import Volume


def seconds_after_training(
    prepared: Preparation, volume: Volume, recipe: Recipe, settings: InferenceSettings | None
) -> float:
    """Measured with untrained networks: the whole ``volume``, and the held-out slices.

    Those of the last network are segmented for its IoU at the end, unless it learns from them before, and those of
    each for the mixture and the map of what is wrong.
    """
    _make_predictor(prepared, volume, recipe, settings)  # resamples the volume, for all that come after it
    started = time.perf_counter()
    predictor = _make_predictor(prepared, volume, recipe, settings)
    to_prepare = time.perf_counter() - started
    after = to_prepare + predictor.seconds_to_segment()
    if not prepared.folds[0].validation:
        return after
    networks = prepared.plan.members
    tiles = make_validation(prepared, prepared.folds[0]).count_tiles(prepared.plan)
    # A tile takes all networks so long, and those about held-out slices are asked one by one.
    to_score = (1 + 1 / networks) * tiles * predictor.seconds_per_tile()
    return after + networks * to_prepare + to_score


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
