"""Gray values to numbers around 0, per channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

#: Voxels looked at to measure a channel's statistics; more would not change them.
_SAMPLE = 2_000_000
#: The lowest value counts as padding where it makes up more than this share of the voxels.
_PADDING = 0.02


@dataclass(frozen=True)
class ChannelStatistics:
    """How one channel of one volume becomes numbers: clip to ``low``..``high``, then (v - mean) / sd."""

    low: float
    high: float
    mean: float
    sd: float


@dataclass(frozen=True)
class ChannelNormalisation:
    """How one channel is normalised in every volume.

    Attributes:
        name: the channel's name, for the model card.
        fixed: statistics of the training volumes, used for every volume. For channels whose gray values
            mean the same everywhere (CT). None: each volume is normalised by its own statistics.
    """

    name: str
    fixed: ChannelStatistics | None = None

    def statistics(self, channel: np.ndarray) -> ChannelStatistics:
        """What to use for ``channel`` (z, y, x)."""
        return self.fixed or measure_statistics([channel])

    def to_dict(self) -> dict:
        """As plain values, for a model file's header."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> ChannelNormalisation:
        """The normalisation that ``to_dict`` described."""
        fixed = values.get("fixed")
        return cls(values["name"], ChannelStatistics(**fixed) if fixed else None)


def fit_normalisation(names: Sequence[str], volumes: Sequence[np.ndarray]) -> tuple[ChannelNormalisation, ...]:
    """Choose a normalisation for each channel of the training ``volumes``, each (c, z, y, x)."""
    result = []
    for channel, name in enumerate(names):
        arrays = [v[channel] for v in volumes]
        is_ct = all(_looks_like_ct(a) for a in arrays)
        result.append(ChannelNormalisation(name, measure_statistics(arrays) if is_ct else None))
    return tuple(result)


def measure_statistics(channels: Sequence[np.ndarray]) -> ChannelStatistics:
    """Range from the 0.5 to the 99.5 percentile over all ``channels``, mean and deviation within it.

    Padding is left out: a CT's -3024 around the scanner's bore, or the 0 around a brain, would take up
    most of the range and leave the structures themselves with little contrast.
    """
    values = np.concatenate([_without_padding(_sample(c)) for c in channels])
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    if low == high:  # a small bright structure in an otherwise constant channel
        low, high = (float(f([f(c) for c in channels])) for f in (np.min, np.max))
    clipped = values.clip(low, high)
    return ChannelStatistics(low, high, float(clipped.mean()), float(clipped.std()) or 1.0)


def _without_padding(values: np.ndarray) -> np.ndarray:
    """``values`` without their lowest one, where so many voxels have exactly this value that it was filled in."""
    inside = values[values > values.min()]
    is_padding = inside.size < (1 - _PADDING) * values.size
    return inside if is_padding and inside.size and inside.min() < inside.max() else values


def _looks_like_ct(channel: np.ndarray) -> bool:
    """Hounsfield units: air near -1000 and bone above 150, which no other scanner produces."""
    values = _sample(channel)
    return bool(values.min() <= -500 and values.max() >= 150 and values.min() >= -10_000)


def _sample(channel: np.ndarray) -> np.ndarray:
    """Up to ``_SAMPLE`` voxels as float32, spread over the volume."""
    flat = channel.reshape(-1)
    # An odd step does not fall in with even row lengths.
    step = max(1, flat.size // _SAMPLE) | 1
    return flat[::step].astype(np.float32)
