"""What makes training several times faster on a CPU is in force in the program that a user, or Slicer, starts."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
from command import run, write_case

#: Runs before the command line, in its process; at its end prints what the training has used.
WATCH = """
import atexit, json, resource
import torch
from torch import nn

seen = {"layouts": [], "outputs": [], "weights": []}

def look(layer, inputs, output):
    if isinstance(layer, nn.Conv3d) and layer.training and layer.kernel_size[0] == 3 and output.shape[2] >= 8:
        images = inputs[0] if isinstance(inputs[0], tuple) else inputs
        if layer.in_channels > 1:
            for image in images:
                seen["layouts"].append(image.is_contiguous(memory_format=torch.channels_last_3d))
            seen["weights"].append(layer.weight.is_contiguous(memory_format=torch.channels_last_3d))
        seen["outputs"].append(str(output.dtype))

nn.modules.module.register_module_forward_hook(look)

def tell():
    for n in range(20):
        torch.ones(2**24)
        if n == 13:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(json.dumps({"faults": faults} | {name: sorted(set(values)) for name, values in seen.items()}))

atexit.register(tell)
"""


def watch_densify(folder: Path, *options: str, choose: str = "") -> dict:
    write_case(folder)
    code, out, err = run(
        "densify", "vol.nrrd", "-a", "ann.seg.nrrd", "-o", "out.seg.nrrd", "--iterations", "2", "--device", "cpu",
        "--plan", "patch_size=16x16x16", "--plan", "widths=8,16", "--plan", "strides=2x2x2", "--progress", "none",
        *options, cwd=folder, code=WATCH + choose,
    )
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")
def test_the_allocator_keeps_what_a_step_frees(tmp_path: Path):
    # Six tensors of 64 MiB would cause at least 192 page faults, if they were mapped anew each time.
    assert watch_densify(tmp_path)["faults"] < 20


def test_convolutions_see_channels_last(tmp_path: Path):
    seen = watch_densify(tmp_path)
    assert seen["layouts"] == seen["weights"] == [True]


@pytest.mark.parametrize("faster, expected", [("bfloat16", "torch.bfloat16"), ("float32", "torch.float32")])
def test_the_precision_is_the_one_that_the_self_test_finds_faster(tmp_path: Path, faster: str, expected: str):
    pretend = f"""
from SparseUNet3DLib import device
device._time_convolution = lambda where, kind: 0.1 if kind == torch.{faster} else 0.2
"""
    assert watch_densify(tmp_path, choose=pretend)["outputs"] == [expected]


def test_float32_is_used_when_it_is_asked_for(tmp_path: Path):
    assert watch_densify(tmp_path, "--precision", "float32")["outputs"] == ["torch.float32"]
