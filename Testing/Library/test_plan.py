from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from volumes_for_tests import Triple, make_plan_of

from SparseUNet3DLib.errors import InputError, MemoryLimitError, SparseUNetError, UsageError
from SparseUNet3DLib.plan import ANISOTROPIC, LARGEST, Plan, fit_to_memory, format_triple
from SparseUNet3DLib.plan_overrides import override_plan
from SparseUNet3DLib.planner import lighter_steps, make_plan
from SparseUNet3DLib.recipe import Recipe, preset

PLENTY = 2**50
GIB = 2**30
ONE_MM = (1.0, 1.0, 1.0)


def planned(shape: Triple, spacing: tuple[float, float, float] = ONE_MM, on_gpu: bool = False, **options) -> Plan:
    recipe = options.pop("recipe", Recipe())
    memory = options.pop("memory", PLENTY)
    plan = make_plan(recipe, [shape], spacing, options.pop("channels", 1), options.pop("classes", 2), on_gpu)
    return fit_to_memory(plan, memory)


# -- levels ----------------------------------------------------------------------------------------------


def test_thick_slices_are_neither_pooled_nor_convolved_over_at_first():
    plan = planned((34, 128, 128), (10.0, 3.05, 3.05))
    assert plan.kernels[0] == (1, 3, 3)
    assert plan.strides[0] == (1, 2, 2)
    # After one pooling, 6.1 mm is alike enough to 10 mm.
    assert plan.kernels[1] == (3, 3, 3)
    assert plan.strides[1] == (2, 2, 2)
    assert plan.spacing == (10.0, 3.05, 3.05)


@pytest.mark.parametrize("axis", range(3))
def test_the_thick_axis_may_be_any(axis: int):
    shape, spacing = [128, 128, 128], [1.0, 1.0, 1.0]
    shape[axis], spacing[axis] = 32, 5.0
    plan = planned(tuple(shape), tuple(spacing))
    for index, n in enumerate(plan.strides[0]):
        assert n == (1 if index == axis else 2)
        assert plan.kernels[0][index] == (1 if index == axis else 3)


def test_patches_of_thick_slices_lose_slices_before_they_lose_their_width():
    assert planned((34, 96, 96), (10.0, 3.05, 3.05)).patch_size == (16, 88, 88)
    assert planned((34, 128, 128), (10.0, 3.05, 3.05)).patch_size == (16, 88, 88)


@pytest.mark.parametrize("fine", [0, 1, 2])
def test_patches_with_one_fine_axis_are_no_needles(fine: int):
    """Two axes of thick voxels, as of optical coherence tomography."""
    shape, spacing = [300] * 3, [1.0] * 3
    spacing[fine] = 0.4
    patch = planned(tuple(shape), tuple(spacing)).patch_size
    assert min(patch) >= 32
    assert 0.6 * 48**3 < math.prod(patch) < 1.6 * 48**3


@pytest.mark.parametrize("shape", [(1, 30, 8000), (7, 7, 5000), (20, 20, 5000)])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_no_axis_of_a_patch_is_longer_than_a_model_file_allows(shape: Triple, on_gpu: bool):
    assert max(planned(shape, on_gpu=on_gpu).patch_size) <= LARGEST


def test_isotropic_voxels_are_pooled_equally():
    plan = planned((200, 200, 200), (0.7, 0.7, 0.7))
    assert set(plan.strides) == {(2, 2, 2)}
    assert set(plan.kernels) == {(3, 3, 3)}
    assert len(set(plan.patch_size)) == 1


def test_a_cpu_pools_less_deeply_unless_few_slices_are_annotated():
    """Axes of 8 to 15 voxels are left at the bottom, else of 4 to 7."""
    shape = (200, 200, 200)
    few = make_plan(Recipe(), [shape], ONE_MM, 1, 2, few_slices=True)
    assert planned(shape).patch_size == few.patch_size == (48, 48, 48)
    assert planned(shape).total_stride == (4, 4, 4)
    assert few.total_stride == (8, 8, 8)
    on_gpu = planned(shape, on_gpu=True)
    assert {n // t for n, t in zip(on_gpu.patch_size, on_gpu.total_stride, strict=True)} == {4}


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("z", [1, 2, 5, 7, 10])
def test_a_thin_stack_is_pooled_in_plane_only_but_as_deep_as_a_wide_one(z: int, on_gpu: bool):
    plan = planned((z, 256, 256), on_gpu=on_gpu)
    wide = planned((256, 256, 256), on_gpu=on_gpu)
    assert plan.total_stride[1] == plan.total_stride[2] >= wide.total_stride[1]
    assert plan.total_stride[0] == (2 if on_gpu and z >= 8 else 1)
    assert plan.patch_size[0] == z
    # A single slice cannot be convolved over; once an axis is convolved over, it stays so.
    assert {k[0] for k in plan.kernels} == {1 if z == 1 else 3}
    assert {k[1:] for k in plan.kernels} == {(3, 3)}


def test_a_thin_stack_of_fine_slices_keeps_in_plane_kernels():
    plan = planned((5, 128, 128), (0.5, 1.0, 1.0))
    assert {k[1:] for k in plan.kernels} == {(3, 3)}
    assert len(plan.strides) >= 3


@pytest.mark.parametrize("shape", [(16, 16, 16), (7, 7, 7), (3, 4, 5), (1, 1, 1)])
def test_tiny_volumes_are_seen_whole(shape: Triple):
    plan = planned(shape)
    assert plan.patch_size == shape
    assert plan.total_stride == ((2, 2, 2) if shape == (16, 16, 16) else (1, 1, 1))
    assert plan.output_size == shape
    assert "patch " + format_triple(shape) in " ".join(plan.describe())
    assert override_plan(plan, {"batch_size": "1"}).batch_size == 1


def test_huge_volumes_do_not_need_huge_patches():
    for on_gpu, most in ((False, 48**3), (True, 160**3)):
        plan = planned((2048, 4096, 4096), on_gpu=on_gpu)
        z, y, x = plan.patch_size
        assert z * y * x <= most
        assert len(plan.strides) <= 5


def test_an_empty_volume_is_refused():
    with pytest.raises(InputError, match="0x8x8 voxels is empty"):
        planned((0, 8, 8))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 600)] * 3),
    spacing=st.tuples(*[st.sampled_from([0.3, 0.5, 1.0, 2.0, 5.0, 12.0])] * 3),
    on_gpu=st.booleans(),
)
def test_every_plan_is_consistent(shape: Triple, spacing: tuple[float, float, float], on_gpu: bool):
    plan = planned(shape, spacing, on_gpu)
    assert len(plan.widths) == len(plan.kernels) == len(plan.strides) + 1
    for size, total, n in zip(plan.patch_size, plan.total_stride, shape, strict=True):
        assert size % total == 0
        assert size < n + total
    reached = list(spacing)
    for stride, kernel in zip(plan.strides, plan.kernels, strict=False):
        pooled = [mm for mm, s in zip(reached, stride, strict=True) if s == 2]
        assert pooled and max(pooled) < ANISOTROPIC * min(pooled)
        # No axis is pooled that is not looked along.
        assert all(k == 3 for k, s in zip(kernel, stride, strict=True) if s == 2)
        reached = [mm * s for mm, s in zip(reached, stride, strict=True)]
    assert override_plan(plan, {}) == plan


def test_several_volumes_are_planned_by_their_medians():
    shapes = [(40, 40, 40), (50, 50, 50), (48, 48, 48)]
    plan = make_plan(Recipe(), shapes, (1.2, 1.2, 1.2), 1, 2)
    assert plan.spacing == (1.2, 1.2, 1.2)
    assert plan.patch_size == (48, 48, 48)


def test_with_few_slices_a_volume_that_is_not_large_is_seen_whole():
    shapes = {"small": (67, 52, 68), "large": (100, 100, 100)}
    plans = {name: make_plan(Recipe(), [s], (1.5,) * 3, 1, 2, few_slices=True) for name, s in shapes.items()}
    assert plans["small"].patch_size == (80, 56, 80)
    assert math.prod(planned(shapes["small"]).patch_size) < 0.5 * math.prod(plans["small"].patch_size)
    assert plans["large"].patch_size == planned(shapes["large"], (1.5,) * 3).patch_size


def test_plan_for_a_gpu_is_wider_and_sees_more():
    cpu, gpu = planned((256, 256, 256)), planned((256, 256, 256), on_gpu=True)
    assert gpu.widths[0] == 2 * cpu.widths[0]
    assert max(gpu.widths) > max(cpu.widths)
    assert min(gpu.patch_size) > max(cpu.patch_size)


def test_steps_made_for_a_gpu_become_lighter_on_a_cpu():
    cpu, gpu = planned((256, 256, 256)), planned((256, 256, 256), on_gpu=True)
    light = lighter_steps(gpu, on_gpu=False)
    assert replace(light, patch_size=gpu.patch_size, batch_size=gpu.batch_size) == gpu
    assert light.batch_size == 1
    assert math.prod(light.patch_size) <= 2.5 * math.prod(cpu.patch_size)
    assert not np.mod(light.patch_size, light.total_stride).any()
    for plan, on_gpu in ((cpu, False), (cpu, True), (gpu, True)):
        assert lighter_steps(plan, on_gpu) == plan
    paper = planned((256, 256, 256), recipe=preset("paper"))
    assert lighter_steps(paper, on_gpu=False) == paper


# -- memory ----------------------------------------------------------------------------------------------


def test_too_little_memory_first_shrinks_the_batch_and_then_the_patch():
    full = planned((256, 256, 256), on_gpu=True)
    assert full.batch_size == 2
    need = full.training_bytes()
    halved = planned((256, 256, 256), memory=need - 1, on_gpu=True)
    assert (halved.batch_size, halved.patch_size) == (1, full.patch_size)
    small = planned((256, 256, 256), memory=halved.training_bytes() - 1, on_gpu=True)
    assert small.batch_size == 1
    assert sum(a != b for a, b in zip(small.patch_size, full.patch_size, strict=True)) == 1
    assert replace(small, patch_size=full.patch_size, batch_size=2) == full


@pytest.mark.parametrize("network, recipe", [("auto", Recipe()), ("paper", preset("paper"))])
def test_plans_shrink_until_a_sentence_says_that_nothing_fits(network: str, recipe: Recipe):
    plan = planned((256, 256, 256), on_gpu=True, recipe=recipe)
    steps = [plan]
    with pytest.raises(MemoryLimitError) as caught:
        while True:
            steps.append(steps[-1].smaller())
    assert len(steps) > 3
    for before, after in itertools.pairwise(steps):
        assert after.training_bytes() < before.training_bytes()
        assert override_plan(after, {}) == after  # legal sizes all the way
    assert format_triple(steps[-1].patch_size) in str(caught.value)
    assert "close other programs" in str(caught.value)
    assert caught.value.exit_code == 5
    if network == "paper":
        assert steps[-1].patch_size == (92, 92, 92)
    with pytest.raises(MemoryLimitError):
        planned((256, 256, 256), memory=10_000, recipe=recipe)


def test_many_classes_take_memory_for_their_logits():
    few, many = (replace(planned((64, 64, 64)), classes=n) for n in (2, 1002))
    logits = 4 * 1000 * math.prod(few.output_size) * few.batch_size  # in float32
    assert many.training_bytes() - few.training_bytes() >= 3 * logits


def test_a_plan_without_pooling_shrinks_too():
    plan = make_plan_of((7, 7, 7), strides=(), kernels=((3, 3, 3),), widths=(2,))
    assert plan.smaller().patch_size == (4, 7, 7)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_estimated_memory_grows_with_what_costs_memory(on_gpu: bool):
    plan = planned((128, 128, 128), on_gpu=on_gpu)
    size = plan.training_bytes()
    assert replace(plan, batch_size=2 * plan.batch_size).training_bytes() > 1.5 * size
    assert replace(plan, widths=tuple(2 * w for w in plan.widths)).training_bytes() > 1.9 * size


# -- the paper's network and its peer --------------------------------------------------------------------


def test_paper_plan_has_the_papers_sizes():
    plan = planned((64, 248, 244), recipe=preset("paper"), channels=3, classes=3)
    assert plan.patch_size == (116, 132, 132)  # 132 x 132 x 116 in x, y, z
    assert plan.output_size == (28, 44, 44)
    assert plan.margin == (44, 44, 44)
    assert plan.total_stride == (8, 8, 8)
    assert plan.widths == (32, 64, 128, 256)
    assert (plan.batch_size, plan.batch_norm) == (1, "batch")


@pytest.mark.parametrize("rows, expected", [(1, 92), (4, 92), (5, 100), (128, 220), (300, 388), (2000, 388)])
def test_tile_of_the_2d_network_covers_the_slice_up_to_300_voxels(rows: int, expected: int):
    plan = planned((20, rows, 300), recipe=Recipe(network="2d"))
    assert plan.patch_size == (1, expected, 388)
    assert plan.margin == (0, 44, 44)
    assert plan.output_size == (1, expected - 88, 300)


# -- overriding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(85, 120))
@pytest.mark.parametrize("axis", range(3))
def test_paper_network_takes_patches_of_92_plus_8k_voxels_only(size: int, axis: int):
    patch = [132, 132, 132]
    patch[axis] = size
    plan = make_plan_of((92, 92, 92), network="paper")
    if size in (92, 100, 108, 116):
        assert override_plan(plan, {"patch_size": format_triple(patch)}).output_size[axis] == size - 88
    else:
        with pytest.raises(UsageError, match=rf"patches of 92 \+ 8k voxels .*, not {size}\."):
            override_plan(plan, {"patch_size": format_triple(patch)})


def test_2d_network_takes_any_number_of_slices_but_legal_tiles_only():
    plan = make_plan_of((1, 92, 92), network="2d")
    assert override_plan(plan, {"patch_size": "1x100x132"}).output_size == (1, 12, 44)
    with pytest.raises(UsageError, match="92"):
        override_plan(plan, {"patch_size": "1x100x128"})


def test_parts_of_a_plan_can_be_set():
    plan = planned((64, 64, 64))
    changed = override_plan(
        plan, {"patch_size": "16x32X32", "batch_size": "3", "widths": "4,8,16", "strides": "1x2x2,2x2x2"}
    )
    assert changed.patch_size == (16, 32, 32)
    assert changed.batch_size == 3
    assert changed.widths == (4, 8, 16)
    assert changed.strides == ((1, 2, 2), (2, 2, 2))
    assert changed.total_stride == (2, 4, 4)
    assert len(changed.kernels) == 3


@pytest.mark.parametrize(
    "values, words",
    [
        ({"depth": "3"}, "no 'depth' to set; choose patch_size, batch_size, widths, strides or spacing"),
        ({"patch_size": "64"}, "'64' is no value for patch_size"),
        ({"patch_size": "64x64"}, "'64x64' is no value for patch_size"),
        ({"patch_size": "axbxc"}, "'axbxc' is no value for patch_size"),
        ({"patch_size": ""}, "'' is no value for patch_size"),
        ({"batch_size": "2.5"}, "'2.5' is no value for batch_size"),
        ({"batch_size": "0"}, "at least 1"),
        ({"batch_size": "-1"}, "at least 1"),
        ({"patch_size": "0x0x0"}, "at least 1"),
        ({"widths": "8,0,8,8"}, "at least 1"),
        ({"widths": "8;16"}, "'8;16' is no value for widths"),
        ({"widths": "8,16"}, "3 strides need 4 widths, not 2"),
        ({"strides": "2x2x2", "widths": "8,16,32"}, "1 strides need 2 widths, not 3"),
        ({"strides": "0x2x2,2x2x2,2x2x2"}, "at least 1"),
        ({"strides": "-2x2x2,2x2x2,2x2x2"}, "at least 1"),
        ({"strides": "2x2,2x2,2x2"}, "is no value for strides"),
        ({"patch_size": "64x64x60"}, "Patch size 64x64x60 must be a multiple of 8x8x8"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(values: dict[str, str], words: str):
    plan = make_plan_of((64, 64, 64), strides=((2, 2, 2),) * 3, kernels=((3, 3, 3),) * 4, widths=(4, 8, 16, 32))
    with pytest.raises(UsageError, match=re.escape(words)):
        override_plan(plan, values)


@pytest.mark.parametrize("network, patch", [("paper", (92, 92, 92)), ("2d", (1, 92, 92))])
def test_the_papers_network_may_be_narrower_but_its_strides_are_fixed(network: str, patch: Triple):
    plan = make_plan_of(patch, network=network)
    with pytest.raises(UsageError, match=f"strides of '{network}' are fixed"):
        override_plan(plan, {"strides": "2x2x2,2x2x2,2x2x2"})
    narrow = override_plan(plan, {"widths": "8,16,32,64"})
    assert narrow == replace(plan, widths=(8, 16, 32, 64))
    assert narrow.margin == plan.margin
    with pytest.raises(UsageError, match="3 strides need 4 widths, not 2"):
        override_plan(plan, {"widths": "8,16"})


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(["patch_size", "batch_size", "widths", "strides"]), text=st.text("0123456789x,-. ", max_size=9)
)
def test_any_text_gives_a_legal_plan_or_a_sentence(name: str, text: str):
    plan = make_plan_of((8, 8, 8))
    try:
        changed = override_plan(plan, {name: text})
    except SparseUNetError as error:
        assert isinstance(error, UsageError) and str(error).endswith(".")
    else:
        assert all(p % t == 0 for p, t in zip(changed.patch_size, changed.total_stride, strict=True))


# -- as plain values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        planned((34, 128, 128), (10.0, 3.05, 3.05)),
        planned((5, 5, 5)),
        planned((64, 248, 244), recipe=preset("paper"), channels=3, classes=3),
        planned((64, 248, 244), recipe=Recipe(network="2d")),
    ],
    ids=["auto", "tiny", "paper", "2d"],
)
def test_a_plan_survives_json(plan: Plan):
    values = json.loads(json.dumps(plan.to_dict()))
    assert Plan.from_dict(values) == plan
    assert Plan.from_dict({**values, "of_a_later_version": 1}) == plan
    assert hash(Plan.from_dict(values)) == hash(plan)


def test_description_names_what_was_chosen():
    text = "\n".join(planned((34, 128, 128), (10.0, 3.05, 3.05), classes=4).describe())
    assert "network auto: 1 channel(s), 4 classes, instance normalisation" in text
    assert "16 (1x3x3)" in text
    assert "pooling: 1x2x2" in text
    assert "spacing 10x3.05x3.05 mm" in text
    paper = planned((64, 248, 244), recipe=preset("paper"))
    assert "batch (batch statistics) normalisation" in paper.describe()[0]
    assert "none normalisation" in replace(paper, batch_norm=None).describe()[0]
