"""A layer that a CPU computes in a way of its own gives what the plain one gives, gradients included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from SparseUNet3DLib.networks.auto import AutoUNet
from SparseUNet3DLib.networks.convolution import EnlargingConv3d

CHANNELS_LAST = torch.channels_last_3d


def random_values(*shape: int, seed: int = 0, kind: torch.dtype = torch.float32) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.to(kind, memory_format=CHANNELS_LAST)


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (2, 1, 2), (3, 2, 1)])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3)])
@pytest.mark.parametrize("size", [(8, 9, 10), (16, 6, 7), (2, 4, 3), (1, 6, 6)])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_enlarging_convolves_the_enlarged_tensor(stride: tuple, kernel: tuple, size: tuple, bfloat16: bool):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = EnlargingConv3d(8, 4, kernel, stride).to(memory_format=CHANNELS_LAST)
    kind = torch.bfloat16 if bfloat16 else torch.float32
    sizes = [n * s for n, s in zip(size, stride, strict=True)]
    parts = [random_values(1, 3, *sizes, seed=3, kind=kind), random_values(1, 5, *size, seed=5, kind=kind)]
    parts = [p.requires_grad_() for p in parts]
    weights = random_values(1, 4, *sizes, seed=9)
    assert layer._is_split(*parts) == (min(size) >= 5), "the small sizes are for the plain way, the others for its own"
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        found = layer(tuple(parts))
    (found * weights).sum().backward()
    plain = [p.detach().float().requires_grad_() for p in (*parts, layer.weight)]
    enlarged = F.interpolate(plain[1], size=sizes, mode="nearest")
    expected = F.conv3d(torch.cat([plain[0], enlarged], dim=1), plain[2], padding=layer.padding)
    (expected * weights).sum().backward()
    tolerance = 0.02 if bfloat16 else 1e-5
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)
    for part, exact in zip((*parts, layer.weight), plain, strict=True):
        longest = float(exact.grad.abs().max())
        torch.testing.assert_close(part.grad.float(), exact.grad, rtol=tolerance, atol=tolerance * longest)


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
