from __future__ import annotations

import json

import numpy as np
import pytest

from SparseUNet3DLib.normalisation import (
    ChannelNormalisation,
    ChannelStatistics,
    fit_normalisation,
    measure_statistics,
)

TYPES = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64]


def apply(statistics: ChannelStatistics, channel: np.ndarray) -> np.ndarray:
    return (channel.astype(np.float64).clip(statistics.low, statistics.high) - statistics.mean) / statistics.sd


def ct_volume(seed: int = 0) -> np.ndarray:
    """(1, z, y, x) int16: half air, half soft tissue, some bone."""
    rng = np.random.default_rng(seed)
    volume = rng.normal(40, 20, (12, 20, 20))
    volume[:, :10] = rng.normal(-1000, 5, (12, 10, 20))
    volume[:, 15:17] = rng.normal(700, 100, (12, 2, 20))
    return volume.round().astype(np.int16)[None]


def mr_volume(scale: float = 1.0, dtype: type = np.uint16) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.gamma(3, 40, (1, 12, 20, 20)) * scale).astype(dtype)


def test_ct_is_normalised_by_one_scale_for_all_volumes():
    volumes = [ct_volume(0), ct_volume(1)]
    (channel,) = fit_normalisation(("ct",), volumes)
    assert channel.name == "ct"
    assert channel.fixed == measure_statistics([v[0] for v in volumes])
    soft = np.full((4, 4, 4), 40, np.int16)
    # A volume of soft tissue alone keeps its place on the scale instead of becoming the mean.
    assert channel.statistics(soft) == channel.fixed
    assert apply(channel.fixed, soft) == pytest.approx(np.full((4, 4, 4), (40 - channel.fixed.mean) / channel.fixed.sd))
    assert channel.fixed.low == pytest.approx(-1011, abs=10)


def test_mr_is_normalised_by_each_volumes_own_scale():
    (channel,) = fit_normalisation(("mr",), [mr_volume(), mr_volume(3.0)])
    assert channel.fixed is None
    for scale in (1.0, 7.0):
        volume = mr_volume(scale)[0]
        result = apply(channel.statistics(volume), volume)
        assert result.mean() == pytest.approx(0, abs=1e-4)
        assert result.std() == pytest.approx(1, abs=1e-4)
    dim, bright = (apply(channel.statistics(v), v) for v in (mr_volume(1.0, float)[0], mr_volume(50.0, float)[0]))
    np.testing.assert_allclose(dim, bright, atol=1e-3)


@pytest.mark.parametrize(
    "volumes",
    [
        [ct_volume(), mr_volume(dtype=np.int16)],  # not all of them are CT
        [ct_volume() + 1024],  # stored without negative values
        [ct_volume().clip(max=100)],  # no bone
        [np.where(ct_volume() < -900, np.int16(-32768), ct_volume())],  # no Hounsfield unit is that low
    ],
    ids=["mixed", "shifted", "no bone", "padding"],
)
def test_what_may_be_no_ct_is_normalised_per_volume(volumes: list[np.ndarray]):
    assert fit_normalisation(("image",), volumes)[0].fixed is None


def test_channels_are_judged_one_by_one():
    volume = np.concatenate([ct_volume(), mr_volume(dtype=np.int16)])
    ct, mr = fit_normalisation(("ct", "mr"), [volume])
    assert ct.fixed is not None and mr.fixed is None
    assert (ct.name, mr.name) == ("ct", "mr")


@pytest.mark.parametrize("dtype", TYPES)
def test_any_number_type_gives_the_same_statistics(dtype: type):
    values = (np.arange(2000) % 101).reshape(10, 10, 20)
    statistics = measure_statistics([values.astype(dtype)])
    expected = values.clip(*np.percentile(values, (0.5, 99.5)))
    assert (statistics.low, statistics.high) == (expected.min(), expected.max())
    assert statistics.mean == pytest.approx(expected.mean(), rel=1e-5)
    assert statistics.sd == pytest.approx(expected.std(), rel=1e-5)


def test_padding_around_the_scan_does_not_set_the_scale():
    scan = ct_volume()[0]
    padded = np.full((12, 40, 40), -3024, np.int16)
    padded[:, 10:30, 10:30] = scan
    assert measure_statistics([padded]).low == pytest.approx(measure_statistics([scan]).low, abs=2)
    assert measure_statistics([padded]).sd == pytest.approx(measure_statistics([scan]).sd, rel=0.02)


def test_large_unsigned_values_do_not_wrap_around():
    values = np.array([0, 65535] * 500, np.uint16).reshape(10, 10, 10)
    statistics = measure_statistics([values, values])
    assert statistics == ChannelStatistics(0, 65535, 32767.5, 32767.5)
    assert apply(statistics, values).min() == -1 and apply(statistics, values).max() == 1


def test_outliers_do_not_set_the_scale():
    values = np.random.default_rng(0).normal(100, 10, (20, 20, 20))
    values[0, 0, :5] = 1e6
    statistics = measure_statistics([values])
    assert statistics.high < 140
    assert statistics.sd == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("value", [0, 100])
def test_a_constant_channel_becomes_zero(dtype: type, value: int):
    channel = np.full((4, 4, 4), value, dtype)
    statistics = measure_statistics([channel])
    assert statistics == ChannelStatistics(value, value, value, 1.0)
    assert not apply(statistics, channel).any()


def test_a_small_bright_structure_on_a_constant_ground_is_kept():
    channel = np.zeros((20, 20, 20), np.uint8)
    channel[10, 10, 10:13] = 200
    statistics = measure_statistics([channel])
    assert (statistics.low, statistics.high) == (0, 200)
    result = apply(statistics, channel)
    assert result[10, 10, 10] - result[0, 0, 0] > 1


def test_a_small_bright_structure_is_kept_also_in_a_large_volume():
    """Only every third voxel of this one is looked at; the structure lies between."""
    channel = np.zeros((170, 170, 170), np.uint8)
    channel.flat[1:3] = 200
    statistics = measure_statistics([channel])
    assert (statistics.low, statistics.high) == (0, 200)
    assert statistics.sd > 0


def test_large_volumes_are_measured_by_a_sample_spread_over_them():
    channel = np.broadcast_to(np.arange(170, dtype=np.float32)[:, None, None], (170, 170, 170))
    statistics = measure_statistics([channel])
    assert statistics.mean == pytest.approx(84.5, abs=0.5)
    assert (statistics.low, statistics.high) == (0, 169)


@pytest.mark.parametrize("volume", [ct_volume(), mr_volume()], ids=["ct", "mr"])
def test_a_normalisation_survives_json(volume: np.ndarray):
    (channel,) = fit_normalisation(("a",), [volume])
    assert ChannelNormalisation.from_dict(json.loads(json.dumps(channel.to_dict()))) == channel
