"""What a GPU computes in a way of its own is what torch's own layers compute; checked here on the CPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from SparseUNet3DLib.networks.convolution import Conv3d, UnbiasedConv3d
from SparseUNet3DLib.networks.pooling import WindowMaximum, repeat_voxels

LAYOUTS = (torch.contiguous_format, torch.channels_last_3d)
STRIDES = ((2, 2, 2), (1, 2, 2), (2, 1, 2), (1, 1, 3))


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def gradient(out: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(out, of, values(*out.shape), retain_graph=True)
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stride", STRIDES)
def test_maxima_and_where_they_come_from(stride: tuple[int, int, int], layout: torch.memory_format):
    image = values(2, 3, 4, 6, 12).round()  # with equal values in a window
    image = image.to(memory_format=layout).requires_grad_()
    expected, found = F.max_pool3d(image, stride), WindowMaximum.apply(image, stride)
    assert torch.equal(found, expected)
    assert torch.equal(gradient(found, image), gradient(expected, image))


@pytest.mark.parametrize("at", range(8))
def test_what_is_no_number_is_not_lost_among_maxima(at: int):
    window = torch.arange(8.0)
    window[at] = torch.nan
    assert WindowMaximum.apply(window.view(1, 1, 2, 2, 2), (2, 2, 2)).isnan().all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stride", STRIDES)
def test_repeated_voxels_are_nearest_neighbours(stride: tuple[int, int, int], layout: torch.memory_format):
    image = values(2, 3, 4, 5, 6).to(memory_format=layout).requires_grad_()
    expected = F.interpolate(image, scale_factor=tuple(map(float, stride)), mode="nearest")
    found = repeat_voxels(image, stride)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(gradient(found, image), gradient(expected, image))


@pytest.mark.parametrize("channels", [1, 3, 7, 8, 9])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3)])
@pytest.mark.parametrize("kind", ["padded", "valid", "without bias"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_convolution_two_at_a_time(
    channels: int, kernel: tuple[int, int, int], kind: str, layout: torch.memory_format
):
    if kind == "without bias":
        layer = UnbiasedConv3d(channels, 5, kernel)
    else:
        layer = Conv3d(channels, 5, kernel, padding=tuple(k // 2 for k in kernel) if kind == "padded" else 0)
    image = values(2, channels, 5, 6, 8).to(memory_format=layout).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.gains_by_pairs(image)
    expected, found = layer(image), layer.two_at_a_time(image)
    torch.testing.assert_close(found, expected)
    for of in (image, layer.weight):
        torch.testing.assert_close(gradient(found, of), gradient(expected, of), atol=1e-4, rtol=1e-4)


def test_a_convolution_that_gains_nothing_by_two_at_a_time():
    image = values(1, 8, 3, 4, 6)
    assert not Conv3d(8, 8, 3).gains_by_pairs(image)  # float32
    assert Conv3d(7, 8, 3).gains_by_pairs(image[:, :7])
    with torch.autocast("cpu", torch.bfloat16):
        assert Conv3d(8, 8, 3).gains_by_pairs(image)
        assert Conv3d(8, 8, 3, padding=1).gains_by_pairs(image)
        with torch.no_grad():
            assert Conv3d(8, 8, 3).gains_by_pairs(image)
            assert not Conv3d(8, 8, 3, padding=1).gains_by_pairs(image)
        assert not Conv3d(8, 8, 3).gains_by_pairs(values(1, 8, 3, 4, 7))  # five results
        assert not Conv3d(8, 8, (3, 3, 1)).gains_by_pairs(image)
        assert not Conv3d(64, 64, 3).gains_by_pairs(values(1, 64, 3, 4, 6))
