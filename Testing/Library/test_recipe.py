from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from SparseUNet3DLib.errors import UsageError
from SparseUNet3DLib.recipe import PRESETS, AugmentationRecipe, Recipe, preset


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_found_by_their_names(name: str):
    assert preset(name).name == name
    assert preset(name) is PRESETS[name]


def test_paper_preset_is_the_papers_training():
    recipe = preset("paper")
    assert recipe.network == "paper"
    assert recipe.iterations == 70_000 and recipe.seconds is None
    assert recipe.optimizer == "sgd"
    assert recipe.batch_norm == "batch"
    assert not recipe.dice and recipe.class_balance == 1.0
    assert recipe.augmentation.elastic_sd == 4 and recipe.augmentation.elastic_spacing == 32
    assert recipe.augmentation.mirror == ()


def test_presets_take_longer_the_more_thorough_they_are():
    assert preset("quick").seconds < preset("balanced").seconds < preset("thorough").seconds


def test_unknown_preset_is_refused_with_the_choices():
    with pytest.raises(UsageError, match=r"Unknown preset 'fast'; choose one of quick, balanced, thorough, paper\."):
        preset("fast")


@pytest.mark.parametrize("recipe", [*PRESETS.values(), Recipe(augmentation=AugmentationRecipe(mirror=("x", "z")))])
def test_a_recipe_survives_json(recipe: Recipe):
    values = json.loads(json.dumps(recipe.to_dict()))
    assert Recipe.from_dict(values) == recipe


def test_keys_of_other_versions_are_left_out():
    recipe = preset("quick")
    values = recipe.to_dict()
    values["of_a_later_version"] = 1
    values["augmentation"] = {**values["augmentation"], "of_a_later_version": [1, 2]}
    assert Recipe.from_dict(values) == recipe


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"network": "3d"}, "Unknown network '3d'; choose one of auto, paper, 2d."),
        ({"optimizer": "adam"}, "Unknown optimizer 'adam'; choose one of muon, adamw, sgd."),
        ({"schedule": "cosine"}, "Unknown schedule 'cosine'; choose one of one-cycle, steps."),
        ({"batch_norm": "none"}, "Unknown batch norm 'none'; choose one of None, batch, running, frozen."),
        ({"precision": "float16"}, "Unknown precision 'float16'; choose one of auto, float32."),
        ({"seconds": None}, "Training needs an end"),
        ({"seconds": 0.0}, "The number of seconds must be above 0 and finite, not 0.0."),
        ({"seconds": -5.0}, "The number of seconds must be above 0 and finite, not -5.0."),
        ({"seconds": float("nan")}, "The number of seconds must be above 0 and finite, not nan."),
        ({"seconds": float("inf")}, "The number of seconds must be above 0 and finite, not inf."),
        ({"learning_rate": -0.1}, "The learning rate must be above 0 and finite, not -0.1."),
        ({"momentum": 1.0}, "The momentum must be from 0 to below 1, not 1.0."),
        ({"momentum": float("nan")}, "The momentum must be from 0 to below 1, not nan."),
        ({"ema_decay": -0.1}, "The ema decay must be from 0 to below 1, not -0.1."),
        ({"foreground_share": 1.5}, "The foreground share must be from 0 to 1, not 1.5."),
        ({"weight_decay": -1.0}, "The weight decay must be 0 or more and finite, not -1.0."),
        ({"patience": 0.0}, "The patience must be above 0, not 0.0."),
        ({"augmentation_steps": 0}, "The augmentation steps must be above 0 and finite, not 0."),
        ({"members": 13}, "A run trains at most 12 networks, not 13."),
        ({"iterations": 0}, "The number of iterations must be above 0 and finite, not 0."),
        ({"augmentation": AugmentationRecipe(mirror=("x", "t"))}, "Mirror axes are x, y and z, not 'xt'."),
    ],
)
def test_nonsense_is_refused_in_a_sentence(changes: dict, words: str):
    with pytest.raises(UsageError, match=re.escape(words)):
        replace(preset("balanced"), **changes)


def test_either_limit_is_enough():
    assert Recipe(seconds=None, iterations=5).iterations == 5
    assert Recipe(seconds=5.0).iterations is None


def test_a_weakened_augmentation_changes_less():
    full = AugmentationRecipe(rotation=30.0, scaling=0.44, elastic_sd=8.0, gray_slope=1.69, mirror=("x",))
    half = full.weakened(0.5)
    assert (half.rotation, half.elastic_sd, half.elastic_spacing, half.mirror) == (15.0, 4.0, 32.0, ("x",))
    assert half.scaling == pytest.approx(0.2) and half.gray_slope == pytest.approx(1.3)
    assert full.weakened(1.0).rotation == 30.0 and full.weakened(1.0).scaling == pytest.approx(0.44)
    none = full.weakened(0.0)
    assert (none.rotation, none.scaling, none.elastic_sd, none.gray_slope) == (0.0, 0.0, 0.0, 1.0)


def test_the_papers_augmentation_does_not_grow():
    assert preset("paper").first_augmentation == 1.0
