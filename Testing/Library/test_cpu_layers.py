"""Layers that a CPU computes in a way of its own give what the plain ones give, gradients included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from SparseUNet3DLib.networks.auto import AutoUNet
from SparseUNet3DLib.networks.convolution import JoiningConv3d
from SparseUNet3DLib.networks.instance_norm import InstanceNorm
from SparseUNet3DLib.networks.pooling import enlarge

CHANNELS_LAST = torch.channels_last_3d


def random_values(*shape: int, seed: int = 0, kind: torch.dtype = torch.float32) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.to(kind, memory_format=CHANNELS_LAST)


@pytest.mark.parametrize("size", [(8, 8, 8), (3, 5, 7), (2, 1, 4)])
def test_normalisation_in_bfloat16_keeps_its_statistics_in_float32(size: tuple[int, int, int]):
    norm = InstanceNorm(16)
    for n, parameter in enumerate(norm.parameters()):
        parameter.data = random_values(16, 1, 1, 1, 1, seed=n).flatten() + 2
    # The mean is large beside the spread: rounded to bfloat16 it would be wrong by as much as the spread.
    image = (random_values(1, 16, *size) + 100).to(torch.bfloat16).requires_grad_()
    exact = image.detach().double().requires_grad_()
    found = norm(image)
    expected = F.batch_norm(exact, None, None, *(p.double() for p in norm.parameters()), training=True)
    assert found.dtype == torch.bfloat16 and found.is_contiguous(memory_format=CHANNELS_LAST)
    torch.testing.assert_close(found.double(), expected, rtol=0.01, atol=0.01)
    weights = random_values(1, 16, *size, seed=5)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(image.grad.double(), exact.grad, rtol=0.02, atol=0.02)


def test_statistics_of_many_voxels_are_nearer_to_the_truth_than_torchs():
    image = random_values(1, 16, 48, 48, 48) * 3 + 5
    exact = F.batch_norm(image.double(), None, None, training=True)
    ours = (InstanceNorm(16)(image).double() - exact).abs().max()
    assert ours <= (F.batch_norm(image, None, None, training=True).double() - exact).abs().max()


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (3, 1, 2), (1, 1, 1)])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_enlarging_and_its_gradient_are_torchs(stride: tuple[int, int, int], kind: torch.dtype):
    small = [random_values(2, 4, 3, 5, 2, kind=kind).requires_grad_() for _ in range(2)]
    size = [n * s for n, s in zip((3, 5, 2), stride, strict=True)]
    found, expected = enlarge(small[0], stride), F.interpolate(small[1], size=size, mode="nearest")
    assert torch.equal(found, expected) and found.is_contiguous(memory_format=CHANNELS_LAST)
    weights = random_values(2, 4, *size, seed=1, kind=kind)
    for out in (found, expected):
        out.backward(weights)
    tolerance = 1e-6 if kind == torch.float32 else 0.03
    torch.testing.assert_close(small[0].grad, small[1].grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [(12, 16, 16), (3, 4, 2), (1, 8, 8)], ids=["large", "small", "less than the kernel"])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_two_tensors_are_convolved_as_if_joined(size: tuple[int, int, int], bfloat16: bool):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = JoiningConv3d(8, 4, 3, padding=1, bias=False).to(memory_format=CHANNELS_LAST)
    kind = torch.bfloat16 if bfloat16 else torch.float32
    parts = [random_values(1, c, *size, seed=c, kind=kind).requires_grad_() for c in (3, 5)]
    weights = random_values(1, 4, *size, seed=9)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        found = layer(tuple(parts))
    (found * weights).sum().backward()
    joined = torch.cat([p.detach().float() for p in parts], dim=1).requires_grad_()
    kernel = layer.weight.detach().clone().requires_grad_()
    expected = F.conv3d(joined, kernel, padding=1)
    (expected * weights).sum().backward()
    tolerance = 0.05 if bfloat16 else 1e-4
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)
    gradients = torch.cat([p.grad.float() for p in parts], dim=1)
    torch.testing.assert_close(gradients, joined.grad, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(layer.weight.grad, kernel.grad, rtol=tolerance, atol=40 * tolerance)


def test_the_planned_networks_weights_have_the_names_and_shapes_of_a_plain_one():
    network = AutoUNet(1, 2, ((2, 2, 2),), ((3, 3, 3),) * 2, (4, 8))
    shapes = {n: tuple(t.shape) for n, t in network.state_dict().items() if t.ndim == 5}
    assert shapes == {
        "down.0.0.weight": (4, 1, 3, 3, 3), "down.0.3.weight": (4, 4, 3, 3, 3),
        "down.1.0.weight": (8, 4, 3, 3, 3), "down.1.3.weight": (8, 8, 3, 3, 3),
        "narrow.0.weight": (4, 8, 1, 1, 1),
        "up.0.0.weight": (4, 8, 3, 3, 3), "up.0.3.weight": (4, 4, 3, 3, 3),
        "head.weight": (2, 4, 1, 1, 1),
    }  # fmt: skip
    assert isinstance(network.head, nn.Conv3d)
