"""A layer that a CPU computes in a way of its own gives what the plain one gives, gradients included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from SparseUNet3DLib.networks.auto import AutoUNet
from SparseUNet3DLib.networks.convolution import Conv3d, EnlargingConv3d

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


def test_a_network_that_has_segmented_first_can_be_trained():
    layer = EnlargingConv3d(8, 4, (3, 3, 3), (2, 2, 4)).to(memory_format=CHANNELS_LAST)
    parts = random_values(1, 3, 12, 12, 24), random_values(1, 5, 6, 6, 6)
    with torch.inference_mode():
        segmented = layer(parts)
    found = layer(parts)
    found.sum().backward()
    assert torch.equal(found, segmented) and layer.weight.grad.abs().min() > 0


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3)])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("size", [(8, 8, 8), (5, 7, 7), (5, 9, 6), (3, 3, 3)])
def test_small_images_in_float32_are_convolved_as_any(kernel: tuple, padded: bool, size: tuple):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = Conv3d(3, 4, kernel, padding=tuple(k // 2 for k in kernel) if padded else 0)
    image = random_values(1, 3, *size).requires_grad_()
    assert layer.is_left_to_torch(image) == torch.backends.mkldnn.is_available()
    found = layer(image)
    exact = [t.detach().double().requires_grad_() for t in (image, layer.weight, layer.bias)]
    expected = F.conv3d(*exact, padding=layer.padding)
    weights = random_values(*expected.shape, seed=1)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)
    for part, other in zip((image, layer.weight, layer.bias), exact, strict=True):
        torch.testing.assert_close(part.grad, other.grad.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_no_layer_of_a_planned_network_is_computed_by_torchs_slow_way(monkeypatch: pytest.MonkeyPatch):
    chosen, convolve = [], F.conv3d

    def look(x: torch.Tensor, weight: torch.Tensor, *args: object, **settings: object) -> torch.Tensor:
        ones = (1, 1, 1)
        backend = torch._C._select_conv_backend(x, weight, None, ones, ones, ones, False, (0, 0, 0), 1, None)
        if tuple(weight.shape[2:]) != ones:  # such a kernel is a plain product
            chosen.append(str(backend))
        return convolve(x, weight, *args, **settings)

    monkeypatch.setattr(F, "conv3d", look)
    network = AutoUNet(1, 2, ((2, 2, 2), (2, 2, 2)), ((3, 3, 3),) * 3, (16, 32, 64)).to(memory_format=CHANNELS_LAST)
    network(random_values(1, 1, 24, 24, 24))
    assert len(chosen) == 10 and set(chosen) == {"_ConvBackend.Mkldnn"}


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
