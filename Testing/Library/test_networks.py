from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from volumes_for_tests import make_plan_of

from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.networks.auto import AutoUNet, InstanceNorm
from SparseUNet3DLib.networks.batch_norm import BatchNorm, recompute_statistics
from SparseUNet3DLib.networks.convolution import Conv3d, UnbiasedConv3d
from SparseUNet3DLib.networks.paper import PaperUNet, _CentreCrop

NARROW = (1, 1, 1, 1)


def count_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def paper_on_meta(**options: object) -> PaperUNet:
    with torch.device("meta"):
        return PaperUNet(3, 3, **options)


def seeded(network_type: type, *args: object, **options: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network_type(*args, **options)


def random_image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


# -- the paper's network ---------------------------------------------------------------------------------


def test_paper_network_has_the_papers_number_of_parameters():
    convolutions = 27 * (
        3 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256 + 256 * 512
        + 768 * 256 + 256 * 256 + 384 * 128 + 128 * 128 + 192 * 64 + 64 * 64
    )
    up_convolutions = 8 * (512**2 + 256**2 + 128**2)
    biases = (32 + 64) + (64 + 128) + (128 + 256) + (256 + 512) + 2 * 256 + 2 * 128 + 2 * 64
    head = 64 * 3 + 3
    assert convolutions + up_convolutions + biases + head == 19_069_955
    assert count_parameters(paper_on_meta()) == 19_069_955


def test_batch_normalisation_adds_a_scale_and_a_shift_to_each_channel_of_the_fourteen_convolutions():
    network = paper_on_meta(batch_norm="batch")
    layers = [m for m in network.modules() if isinstance(m, BatchNorm)]
    assert len(layers) == 14
    assert sum(layer.num_features for layer in layers) == 2336
    assert count_parameters(network) == 19_069_955 + 2 * 2336


def test_paper_network_maps_the_papers_tile_to_the_papers_output():
    # x, y, z in the paper: 132 x 132 x 116 with 3 channels to 44 x 44 x 28 with 3 classes.
    image = torch.empty(1, 3, 116, 132, 132, device="meta")
    assert paper_on_meta()(image).shape == (1, 3, 28, 44, 44)


@pytest.mark.parametrize("k", range(8))
def test_inputs_of_92_plus_8k_voxels_lose_88(k: int):
    size = 92 + 8 * k
    image = torch.empty(1, 3, size, 92, 92, device="meta")
    assert paper_on_meta(widths=NARROW)(image).shape[2:] == (size - 88, 4, 4)


def test_layers_of_the_paper_network():
    network = paper_on_meta(batch_norm="batch")
    assert [(m.in_channels, m.out_channels) for level in network.down for m in level if isinstance(m, nn.Conv3d)] == [
        (3, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512),
    ]
    assert [(m.in_channels, m.out_channels) for level in network.merge for m in level if isinstance(m, nn.Conv3d)] == [
        (768, 256), (256, 256), (384, 128), (128, 128), (192, 64), (64, 64),
    ]
    assert [(m.in_channels, m.out_channels, m.bias) for m in network.up] == [
        (512, 512, None), (256, 256, None), (128, 128, None),
    ]
    for level in (*network.down, *network.merge):
        assert [type(m) for m in level] == [UnbiasedConv3d, BatchNorm, nn.ReLU] * 2


def receptive_fields(axis: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """First and last input voxel along ``axis`` that each of 12 output voxels of a 100-voxel input depends on.

    All weights are positive, so that no contribution cancels and no ReLU is dead. Averages are taken in
    place of maxima: they look at the same voxels, but pass gradient to all of them instead of to one.
    """
    network = PaperUNet(1, 1, NARROW)
    for parameter in network.parameters():
        nn.init.constant_(parameter, 1 / parameter[0].numel())
    monkeypatch.setattr("SparseUNet3DLib.networks.paper.max_pool", F.avg_pool3d)
    size = [92, 92, 92]
    size[axis] = 100
    image = torch.ones(1, 1, *size, requires_grad=True)
    out = network(image)[0, 0].movedim(axis, 0)
    fields = []
    for index in range(len(out)):
        (gradient,) = torch.autograd.grad(out[index, 0, 0], image, retain_graph=True)
        seen = gradient[0, 0].movedim(axis, 0).flatten(1).any(1).nonzero()
        fields.append((int(seen.min()), int(seen.max())))
    return fields


def test_receptive_field_of_the_paper_network(monkeypatch: pytest.MonkeyPatch):
    """Measured: 92 voxels for half of the output voxels, 100 for the others, in runs of four.

    Which of the two depends on where an output voxel falls on the grid of the deepest level, 8 voxels wide.
    The paper states about 155 x 155 x 180 um at voxels of 1.76 x 1.76 x 2.04 um. That is 88 voxels, by which
    an input is larger than its output; the measured fields are 162 x 162 x 188 and 176 x 176 x 204 um.
    """
    assert receptive_fields(0, monkeypatch) == [(0, 91)] * 4 + [(0, 99)] * 4 + [(8, 99)] * 4
    assert [round(92 * s) for s in (1.76, 1.76, 2.04)] == [162, 162, 188]
    assert [round(100 * s) for s in (1.76, 1.76, 2.04)] == [176, 176, 204]
    assert [88 * s for s in (1.76, 1.76, 2.04)] == pytest.approx([155, 155, 180], abs=0.6)


@pytest.mark.parametrize("batch_norm", [None, "batch"])
def test_skip_connections_are_cropped_to_the_centre(batch_norm: str | None):
    """With mirror-symmetric kernels a mirrored input gives the mirrored output, unless a crop is off centre."""
    network = seeded(PaperUNet, 1, 2, (2, 1, 1, 1), batch_norm)
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            weight = module.weight.data
            module.weight.data = (weight + weight.flip(2, 3, 4)) / 2
    nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(2))
    image = random_image(1, 1, 92, 92, 92)
    with torch.no_grad():
        out, mirrored = network(image), network(image.flip(2, 3, 4))
    assert out.std() > 0.01
    torch.testing.assert_close(mirrored.flip(2, 3, 4), out, rtol=1e-3, atol=1e-4)


# -- its slice-wise peer ---------------------------------------------------------------------------------


def test_2d_network_has_in_plane_shapes_only():
    image = torch.empty(1, 3, 5, 92, 108, device="meta")
    network = paper_on_meta(widths=NARROW, slice_wise=True)
    assert network(image).shape == (1, 3, 5, 4, 20)
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            assert module.kernel_size[0] == 1


def test_slices_of_the_2d_network_are_independent():
    network = seeded(PaperUNet, 1, 2, (2, 2, 2, 2), slice_wise=True)
    nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(2))
    image = random_image(1, 1, 4, 92, 92)
    other = image.clone()
    other[:, :, 2] += 1
    with torch.no_grad():
        before, after = network(image), network(other)
    torch.testing.assert_close(after[:, :, [0, 1, 3]], before[:, :, [0, 1, 3]])
    assert (after[:, :, 2] - before[:, :, 2]).abs().max() > 0.01


# -- batch normalisation ---------------------------------------------------------------------------------


def small_network(mode: str) -> nn.Sequential:
    return seeded(lambda: nn.Sequential(nn.Conv3d(1, 3, 3), BatchNorm(3, mode), nn.ReLU(), nn.Conv3d(3, 2, 1)))


def test_batch_statistics_are_those_of_the_image_also_at_test_time():
    network = small_network("batch")
    for seed in range(3):
        network.train()
        network(torch.randn(1, 1, 6, 6, 6, generator=torch.Generator().manual_seed(seed)) * 5 + 3)
    image = random_image(1, 1, 6, 6, 6)
    with torch.no_grad():
        in_training = network.train()(image)
        statistics = network[1].running_mean.clone()
        at_test_time = network.eval()(image)
    torch.testing.assert_close(at_test_time, in_training, rtol=0, atol=0)
    torch.testing.assert_close(network[1].running_mean, statistics, rtol=0, atol=0)


def test_running_statistics_are_moving_averages_as_in_torch():
    network = small_network("running")
    reference = nn.BatchNorm3d(3)
    for seed in range(4):
        batch = torch.randn(2, 1, 6, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 + 1
        with torch.no_grad():
            network.train()(batch)
            reference.train()(network[0](batch))
    image = random_image(1, 1, 6, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(network[:2].eval()(image), reference.eval()(network[0](image)))
        changed = network[:2].train()(image)
    assert not torch.allclose(changed, reference(network[0](image)), atol=1e-2)


def test_frozen_statistics_are_means_over_all_batches():
    network = small_network("frozen").eval()
    network[1].running_mean.fill_(100.0)  # what training left there must not linger
    batches = [torch.randn(1, 1, 6, 6, 6, generator=torch.Generator().manual_seed(s)) * (s + 1) for s in range(5)]
    with torch.no_grad():
        features = [network[0](batch) for batch in batches]
    recompute_statistics(network, batches)
    mean = torch.stack([f.mean((0, 2, 3, 4)) for f in features]).mean(0)
    variance = torch.stack([f.transpose(0, 1).flatten(1).var(1) for f in features]).mean(0)
    torch.testing.assert_close(network[1].running_mean, mean)
    torch.testing.assert_close(network[1].running_var, variance)
    assert not network[1].training
    assert network[1].momentum == nn.BatchNorm3d(3).momentum
    with torch.no_grad():
        expected = (features[0] - mean.view(1, 3, 1, 1, 1)) / (variance.view(1, 3, 1, 1, 1) + 1e-5).sqrt()
        torch.testing.assert_close(network[:2](batches[0]), expected)


def test_frozen_statistics_make_a_voxels_result_independent_of_its_surroundings():
    network = small_network("frozen").eval()
    recompute_statistics(network, [random_image(1, 1, 6, 6, 6)])
    image = random_image(1, 1, 8, 8, 8)
    other = image.clone()
    other[..., 5:] *= 10
    with torch.no_grad():
        torch.testing.assert_close(network(image)[..., :3], network(other)[..., :3])


def test_an_unknown_mode_of_batch_normalisation_is_refused():
    with pytest.raises(ValueError, match="momentary"):
        BatchNorm(3, "momentary")


# -- the planned network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 4, 5, 6, 7), (2, 3, 4, 4, 4), (3, 2, 1, 5, 5)])
@pytest.mark.usefixtures("fixed_random")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_instance_normalisation_equals_torchs(shape: tuple[int, ...], layout: torch.memory_format):
    generator = torch.Generator().manual_seed(0)
    ours, reference = InstanceNorm(shape[1]), nn.InstanceNorm3d(shape[1], affine=True)
    for parameter, other in zip(ours.parameters(), reference.parameters(), strict=True):
        nn.init.normal_(parameter, generator=generator)
        other.data.copy_(parameter)
    values = torch.randn(shape, generator=generator) * 30 - 7
    images = [values.clone(memory_format=layout).requires_grad_(), values.clone().requires_grad_()]
    outs = [ours(images[0]), reference(images[1])]
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-5, atol=1e-5)
    assert outs[0].is_contiguous(memory_format=layout)
    weights = torch.randn(shape, generator=generator)
    for out in outs:
        (out * weights).sum().backward()
    torch.testing.assert_close(images[0].grad, images[1].grad, rtol=1e-4, atol=1e-5)
    for parameter, other in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-4)


AUTO_SHAPES = {
    "isotropic": (((2, 2, 2), (2, 2, 2)), ((3, 3, 3),) * 3, (8, 8, 12)),
    "thick slices": (((1, 2, 2), (2, 2, 2)), ((1, 3, 3), (3, 3, 3), (3, 3, 3)), (6, 8, 8)),
    "one slice": (((1, 2, 2), (1, 2, 2)), ((1, 3, 3),) * 3, (1, 8, 12)),
    "no pooling": ((), ((3, 3, 3),), (5, 3, 7)),
    "single voxel at the bottom": (((2, 2, 2), (2, 2, 2)), ((3, 3, 3),) * 3, (4, 4, 4)),
}


@pytest.mark.parametrize("strides, kernels, size", AUTO_SHAPES.values(), ids=AUTO_SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("batch", [1, 2])
def test_planned_network_keeps_the_size_and_trains(
    strides: tuple, kernels: tuple, size: tuple[int, int, int], layout: torch.memory_format, batch: int
):
    widths = (4, 6, 8)[: len(kernels)]
    network = seeded(AutoUNet, 2, 3, strides, kernels, widths).to(memory_format=layout)
    image = random_image(batch, 2, *size)
    out = network(image.to(memory_format=layout))
    assert out.shape == (batch, 3, *size)
    with torch.no_grad():
        one_by_one = torch.cat([network.eval()(sample) for sample in image.split(1)])
    torch.testing.assert_close(out, one_by_one, rtol=1e-4, atol=1e-5)
    out.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        if not parameter.grad.any():  # instance normalisation leaves a single voxel as it is
            assert size == (4, 4, 4) and name.startswith("down.2")


@pytest.mark.parametrize("size", [(2, 8, 8), (1, 8, 8), (2, 2, 2), (8, 2, 8), (8, 8, 1)])
@pytest.mark.parametrize("channels", [1, 32])
def test_convolutions_over_less_than_a_kernel_are_right_in_bfloat16(size: tuple[int, int, int], channels: int):
    torch.manual_seed(0)
    layer = Conv3d(channels, 32, 3, padding=1, bias=False).to(memory_format=torch.channels_last_3d)
    image = torch.randn(2, channels, *size).to(memory_format=torch.channels_last_3d)
    expected = torch.nn.functional.conv3d(image, layer.weight, padding=1)
    (wanted,) = torch.autograd.grad(expected.square().sum(), layer.weight)
    rubbish = [torch.full((2**20,), torch.nan) for _ in range(8)]  # what a kernel finds that reads unwritten memory
    del rubbish
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(image)
    (found,) = torch.autograd.grad(out.float().square().sum(), layer.weight)
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.02 * expected.abs().max().item())
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02 * wanted.abs().max().item())


def test_first_logits_of_the_planned_network_are_undecided():
    network = seeded(AutoUNet, 1, 3, ((2, 2, 2),), ((3, 3, 3),) * 2, (8, 8))
    probabilities = network(random_image(1, 1, 8, 8, 8)).softmax(1)
    assert (probabilities - 1 / 3).abs().max() < 0.1


def test_build_network_makes_what_the_plan_says():
    auto = build_network(make_plan_of((8, 8, 8)))
    assert isinstance(auto, AutoUNet) and any(isinstance(m, InstanceNorm) for m in auto.modules())
    normalised = build_network(make_plan_of((8, 8, 8), batch_norm="running"))
    assert {m.mode for m in normalised.modules() if isinstance(m, BatchNorm)} == {"running"}
    assert not any(isinstance(m, InstanceNorm) for m in normalised.modules())
    paper = build_network(make_plan_of((92, 92, 92), network="paper", widths=NARROW))
    assert paper.down[0][0].kernel_size == (3, 3, 3)
    flat = build_network(make_plan_of((1, 92, 92), network="2d", widths=NARROW))
    assert flat.down[0][0].kernel_size == (1, 3, 3)


@pytest.mark.parametrize("network, patch", [("auto", (8, 8, 8)), ("paper", (92, 100, 92)), ("2d", (1, 92, 108))])
def test_output_size_of_the_plan_is_that_of_the_network(network: str, patch: tuple[int, int, int]):
    plan = make_plan_of(patch, network=network)
    with torch.device("meta"):
        out = build_network(plan)(torch.empty(1, 1, *patch))
    assert out.shape == (1, plan.classes, *plan.output_size)


# -- what makes the paper's network cheaper and must not change it ---------------------------------------


@pytest.fixture
def fixed_random() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.usefixtures("fixed_random")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_a_cropped_skip_has_the_gradient_of_indexing_in_its_own_layout(layout: torch.memory_format):
    whole = torch.randn(1, 3, 7, 8, 9).to(memory_format=layout).requires_grad_()
    weights = torch.randn(1, 3, 3, 4, 4)
    cropped = _CentreCrop.apply(whole, (3, 4, 4))
    torch.testing.assert_close(cropped, whole[..., 2:5, 2:6, 2:6])
    (found,) = torch.autograd.grad((cropped * weights).sum(), whole)
    (expected,) = torch.autograd.grad((whole[..., 2:5, 2:6, 2:6] * weights).sum(), whole)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.usefixtures("fixed_random")
@pytest.mark.parametrize("mode", ["batch", "running"])
def test_normalisation_takes_away_the_bias_that_is_not_added(mode: str):
    left_out = nn.Sequential(UnbiasedConv3d(2, 4, (3, 3, 3)), BatchNorm(4, mode))
    added = nn.Sequential(nn.Conv3d(2, 4, 3), BatchNorm(4, mode))
    added.load_state_dict(left_out.state_dict())
    nn.init.normal_(added[0].bias)
    assert sum(p.numel() for p in left_out.parameters()) == sum(p.numel() for p in added.parameters())
    for _ in range(60):  # until the moving averages have forgotten where they began
        images = torch.randn(2, 2, 6, 6, 6)
        torch.testing.assert_close(left_out(images), added(images), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(left_out.eval()(images), added.eval()(images), atol=0.02, rtol=0.02)
