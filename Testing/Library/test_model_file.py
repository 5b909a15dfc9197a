from __future__ import annotations

import copy
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import CPU, SEGMENTS, paper_plan, same_weights, tiny_plan, tiny_recipe

from SparseUNet3DLib.checkpoint import Checkpoint
from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.mixture import USUAL, Mixture
from SparseUNet3DLib.model_file import Model, adapt_weights, load_model
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.normalisation import ChannelNormalisation, ChannelStatistics
from SparseUNet3DLib.recipe import AugmentationRecipe
from SparseUNet3DLib.segments import Segment
from SparseUNet3DLib.tensor_file import read_tensor_file, write_tensor_file

RECORD = {
    "volumes": [{"name": "thorax", "shape": [24, 32, 32], "spacing": [1.0, 1.0, 1.0], "annotated": 0.176}],
    "iterations": 1234,
    "seconds": 61.2,
    "device": "CPU, 2 threads",
    "held_out_iou": {"bright": 0.91234, "dark": None},
    "history": [{"iteration": 1, "seconds": 0.5, "loss": 2.5}],
    "date": "2024-02-03T04:05:06+00:00",
    "versions": {"torch": "2.6.0"},
}


def make_model(plan=None, segments=SEGMENTS) -> Model:
    """An untrained model with everything a trained one has."""
    plan = plan or tiny_plan(classes=len(segments) + 1)
    torch.manual_seed(1)
    return Model(
        plan=plan,
        recipe=tiny_recipe(augmentation=AugmentationRecipe(mirror=("x", "y"))),
        channels=tuple(
            ChannelNormalisation(f"CT {n}", ChannelStatistics(-1000.0, 1500.0, 40.5, 300.25) if n == 0 else None)
            for n in range(plan.in_channels)
        ),
        segments=segments,
        weights=build_network(plan).state_dict(),
        record=copy.deepcopy(RECORD),
        mixture=Mixture(0.5, 0.25),
    )


def save_changed(path, model: Model, change) -> None:
    """Write ``model`` with a header, or weights, that ``change(header, weights)`` has altered."""
    header = json.loads(json.dumps(model.header()))
    weights = dict(model.weights)
    change(header, weights)
    write_tensor_file(path, "model", header, weights)


@pytest.mark.parametrize(
    "plan",
    [tiny_plan(), tiny_plan(in_channels=2, batch_norm="running"), paper_plan(batch_norm="batch")],
    ids=["auto", "two channels", "paper"],
)
def test_a_model_comes_back_as_it_was(tmp_path, plan):
    segments = (Segment("a", "Herz ♥", (0.1, 0.2, 0.3), {"TerminologyEntry": "x~y^z"}), Segment("b", "b"))
    model = make_model(plan, segments)
    model.save(tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    assert (loaded.plan, loaded.recipe, loaded.channels) == (model.plan, model.recipe, model.channels)
    assert loaded.segments == segments
    assert loaded.segments[0].tags == segments[0].tags
    assert loaded.record == RECORD
    assert loaded.mixture == model.mixture
    assert loaded.header() == model.header()
    assert loaded.weights.keys() == model.weights.keys()
    assert all(torch.equal(loaded.weights[n], w) for n, w in model.weights.items())
    network = loaded.network(CPU)
    assert not network.training
    assert all(torch.equal(w, model.weights[n]) for n, w in network.state_dict().items())


def test_a_model_that_exists_is_replaced(tmp_path):
    path = tmp_path / "m.safetensors"
    make_model().save(path)
    make_model(segments=SEGMENTS[:1]).save(path)
    assert load_model(path).segments == SEGMENTS[:1]
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_the_card_says_what_the_model_is_and_how_it_came_to_be():
    card = make_model(tiny_plan(in_channels=2)).card()
    for text in (
        "Segments (2):", "1  bright", "2  dark", "Channels (2):", "CT 0, normalised as in training",
        "CT 1, normalised by each volume's own gray values", "network auto: 2 channel(s), 3 classes",
        "patch 16x16x16", "parameters", "recipe tiny, seed 0", "volume thorax", "17.6 % annotated",
        "1234 iterations in 61 s on CPU, 2 threads", "bright 0.912, dark -", "2024-02-03", "torch 2.6.0",
    ):
        assert text in card, text
    parameters = sum(p.numel() for p in build_network(tiny_plan(in_channels=2)).parameters())
    assert f"{parameters:,} parameters" in card


def test_the_card_of_a_model_without_a_record_is_shown_too():
    assert "recipe tiny" in replace(make_model(), record={}).card()


# -- files that cannot be used -------------------------------------------------------------------------


def set_plan(**values):
    return lambda header, weights: header["plan"].update(values)


def remove(key):
    return lambda header, weights: header.pop(key)


def put(key, value):
    return lambda header, weights: header.update({key: value})


HUGE = 10**30
CHANGES = {
    **{f"no {key}": remove(key) for key in ("format", "plan", "recipe", "channels", "segments", "record")},
    **{
        f"{key} is {value!r}": put(key, value)
        for key in ("format", "plan", "recipe", "channels", "segments", "record")
        for value in (None, "text", [1], {"a": 1})
        if (key, value) != ("record", {"a": 1})  # a record may hold anything
    },
    **{
        f"plan {name} {value!r}": set_plan(**{name: value})
        for name, values in {
            "widths": [[-4, 8], [0, 8], ["4", "8"], [4.5, 8], [HUGE, 8], [10_000, 8], [], [4], 4, None],
            "patch_size": [[16, 16], ["16", "16", "16"], [-16] * 3, [0] * 3, [HUGE] * 3, [4096] * 3, [17] * 3, "16"],
            "strides": [[[0, 2, 2]], [[2, 2]], [[-2, 2, 2]], [["2", 2, 2]], [[2, 2, 2]] * 9, [[4096] * 3] * 11, []],
            "kernels": [[[0, 3, 3]] * 2, [[3, 3]] * 2, [[HUGE] * 3] * 2, [], [[5, 5, 5]] * 2],
            "spacing": [[0, 1, 1], [1, 1], ["1", 1, 1], [float("nan"), 1, 1], [float("inf"), 1, 1], [-1, 1, 1], None],
            "in_channels": [0, -1, "1", 2, HUGE, 1.0],
            "classes": [0, 2, 4, "3", None],
            "batch_size": [0, -1, "2", HUGE],
            "network": ["other", None, 3, [], "paper"],
            "batch_norm": ["other", 3, "running"],
            "direction": [[1, 0, 0], [0] * 9, ["1"] * 9, [HUGE, 0, 0, 0, 1, 0, 0, 0, 1], [[1]] * 9, "LPS", None, 5],
        }.items()
        for value in values
    },
    "deep network": lambda h, w: h["plan"].update(
        widths=[1] * 5000, strides=[[1, 1, 1]] * 4999, kernels=[[1, 1, 1]] * 5000
    ),
    "unknown recipe network": lambda h, w: h["recipe"].update(network="other"),
    "no end of training": lambda h, w: h["recipe"].update(seconds=None, iterations=None),
    **{
        f"mixture {value!r}": put("mixture", value)
        for value in (
            None, [1, 1], {"network": 1.0}, {"network": 1.0, "voxels": -1.0}, {"network": HUGE * 1.0, "voxels": "1"},
            {"network": float("nan"), "voxels": 1.0}, {"network": 1.0, "voxels": float("inf")},
        )
    },
    "one segment too many": lambda h, w: h["segments"].append(h["segments"][0]),
    "one segment too few": lambda h, w: h["segments"].pop(),
    "colour of four numbers": lambda h, w: h["segments"][0].update(color=[1, 1, 1, 1]),
    "colour of text": lambda h, w: h["segments"][0].update(color="red"),
    "channel without name": lambda h, w: h["channels"][0].pop("name"),
    "channel with deviation 0": lambda h, w: h["channels"][0]["fixed"].update(sd=0.0),
    "channel with mean NaN": lambda h, w: h["channels"][0]["fixed"].update(mean=float("nan")),
    "channel with range of text": lambda h, w: h["channels"][0]["fixed"].update(low="0"),
    "record of a volume without shape": lambda h, w: h["record"]["volumes"][0].pop("shape"),
    "record of iterations without a device": lambda h, w: h["record"].pop("device"),
    "missing weight": lambda h, w: w.pop("head.bias"),
    "extra weight": lambda h, w: w.update(extra=torch.zeros(1)),
    "weight of another shape": lambda h, w: w.update({"head.bias": torch.zeros(4)}),
    "NaN weight": lambda h, w: w.update({"head.bias": torch.tensor([0.0, float("nan"), 0.0])}),
    "infinite weight": lambda h, w: w.update({"head.weight": torch.full((3, 4, 1, 1, 1), float("inf"))}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_model_whose_parts_are_impossible_is_refused_in_a_sentence(tmp_path, change):
    path = tmp_path / "m.safetensors"
    save_changed(path, make_model(), change)
    with pytest.raises(InputError, match=re.escape(str(path))) as caught:
        load_model(path)
    message = str(caught.value)
    assert len(message) < 600 + len(str(path))
    assert "\n" not in message
    assert message.endswith(".")


def test_a_newer_format_asks_for_an_update(tmp_path):
    path = tmp_path / "m.safetensors"
    save_changed(path, make_model(), put("format", 3))
    with pytest.raises(InputError, match=r"newer SparseUNet3D \(format 3\); update"):
        load_model(path)


def test_in_a_file_of_the_first_versions_both_logits_count_as_usual(tmp_path):
    path = tmp_path / "m.safetensors"
    save_changed(path, make_model(), remove("mixture"))
    assert load_model(path).mixture == USUAL


def test_what_the_first_versions_corrected_networks_by_is_left_out(tmp_path):
    def as_it_was(header: dict, weights: dict) -> None:
        header["plan"]["known_slices"] = header["recipe"]["known_slices"] = True
        weights["correction.0.weight"] = torch.ones(32, 10, 1, 1, 1)

    save_changed(tmp_path / "m.safetensors", make_model(), as_it_was)
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.header() == make_model().header()
    assert same_weights(loaded.weights, make_model().weights)


def test_fields_that_a_later_version_added_are_ignored(tmp_path):
    path = tmp_path / "m.safetensors"

    def add(header, weights):
        for part in (header, *(header[key] for key in ("plan", "recipe", "mixture")), header["recipe"]["augmentation"]):
            part["new"] = 1

    save_changed(path, make_model(), add)
    assert load_model(path).header() == make_model().header()


def test_a_misshapen_weight_is_named(tmp_path):
    path = tmp_path / "m.safetensors"
    save_changed(path, make_model(), lambda h, w: w.update({"head.bias": torch.zeros(4)}))
    with pytest.raises(InputError, match=r"weight 'head.bias' has shape \(4,\), not \(3,\)"):
        load_model(path)


def test_model_and_checkpoint_are_not_taken_for_each_other(tmp_path):
    make_model().save(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="is a SparseUNet3D model, but a checkpoint is needed"):
        Checkpoint(tmp_path / "m.safetensors")
    header, weights = read_tensor_file(tmp_path / "m.safetensors", "model")
    write_tensor_file(tmp_path / "c.safetensors", "checkpoint", header, weights)
    with pytest.raises(InputError, match="is a SparseUNet3D checkpoint, but a model is needed"):
        load_model(tmp_path / "c.safetensors")


# -- warm start ----------------------------------------------------------------------------------------


def logits(plan, weights) -> torch.Tensor:
    network = build_network(plan).eval()
    network.load_state_dict(weights)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        return network(torch.randn(1, 1, 16, 16, 16, generator=generator))[0]


def named(*ids: str) -> tuple[Segment, ...]:
    return tuple(Segment(i, f"name of {i}") for i in ids)


@pytest.mark.parametrize(
    "ids, sources",
    [
        ("ab", [0, 1, 2]),
        ("ba", [0, 2, 1]),
        ("b", [0, 2]),
        ("abc", [0, 1, 2, None]),
        ("cb", [0, None, 2]),
    ],
    ids=["same", "reordered", "dropped", "added", "replaced"],
)
def test_rows_of_the_head_follow_the_segments(ids, sources):
    model = make_model(segments=named("a", "b"))
    plan = replace(model.plan, classes=len(ids) + 1)
    before = dict(model.weights)
    old = logits(model.plan, model.weights)
    new = logits(plan, adapt_weights(model, plan, named(*ids)))
    for row, source in enumerate(sources):
        expected = old.mean(0) if source is None else old[source]
        torch.testing.assert_close(new[row], expected)
    assert all(model.weights[n] is t for n, t in before.items())  # the model itself is left alone


@pytest.mark.parametrize(
    "segments, sources",
    [
        ([("a", "kidney"), ("b", "liver")], [0, 2, 1]),  # "Segment_1" is any first one
        ([("x", "kidney"), ("y", "liver")], [0, 2, 1]),
        ([("a", "Liver"), ("b", "kidney")], [0, 1, 2]),  # renamed
        ([("a", "kidney"), ("b", "spleen")], [0, 2, None]),  # the kidney is known already
    ],
)
def test_segments_are_known_by_their_names_and_by_their_ids_where_they_were_renamed(segments, sources):
    model = make_model(segments=(Segment("a", "liver"), Segment("b", "kidney")))
    wanted = tuple(Segment(identifier, name) for identifier, name in segments)
    old = logits(model.plan, model.weights)
    new = logits(model.plan, adapt_weights(model, model.plan, wanted))
    for row, source in enumerate(sources):
        torch.testing.assert_close(new[row], old.mean(0) if source is None else old[source])


def test_another_patch_or_batch_is_no_other_network():
    model = make_model()
    plan = replace(model.plan, patch_size=(32, 32, 32), batch_size=1)
    assert all(torch.equal(w, model.weights[n]) for n, w in adapt_weights(model, plan, SEGMENTS).items())


@pytest.mark.parametrize(
    "change, words",
    [
        ({"widths": (4, 16)}, "widths (4, 8), not (4, 16)"),
        ({"in_channels": 2}, "in_channels 1, not 2"),
        ({"spacing": (2.0, 1.0, 1.0), "batch_norm": "batch"}, "batch_norm None, not batch"),
    ],
)
def test_another_network_cannot_be_started_from(change, words):
    model = make_model()
    with pytest.raises(InputError, match=re.escape(words)):
        adapt_weights(model, replace(model.plan, **change), SEGMENTS)


def test_weights_in_another_memory_layout_are_saved_as_they_are(tmp_path):
    model = make_model()
    weights = {n: t.to(memory_format=torch.channels_last_3d) if t.ndim == 5 else t for n, t in model.weights.items()}
    replace(model, weights=weights).save(tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    for name, tensor in model.weights.items():
        np.testing.assert_array_equal(loaded.weights[name].numpy(), tensor.numpy())
