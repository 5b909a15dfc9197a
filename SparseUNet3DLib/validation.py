"""IoU on annotated planes that were held out from training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.inference import InferenceSettings, Predictor
from SparseUNet3DLib.known_slices import KnownSlices
from SparseUNet3DLib.mixture import HeldOutLogits
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.preparation import shape_at
from SparseUNet3DLib.tiles import Box, count_tiles

#: Validation is there for a curve; little overlap makes it cheap.
_SETTINGS = InferenceSettings(overlap=0.25)


class HeldOutValidation:
    """Scores a network on the held-out planes of ``cases``.

    ``known`` are the slices of each case that the network may take notice of, the held-out ones not among
    them. Only the tiles that show a held-out plane are computed, laid so that the plane runs through their
    middle.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        known: Sequence[KnownSlices | None],
        normalisation: Sequence[ChannelNormalisation],
        device: torch.device,
    ) -> None:
        self._known = known
        self._cases, self._normalisation, self._device = cases, normalisation, device
        self._segments = cases[0].annotation.segments
        self._plan: Plan | None = None
        self._predictors: list[Predictor] = []

    def __call__(self, network: nn.Module, plan: Plan, precision: torch.dtype) -> dict[str, float | None]:
        """IoU by segment name over the held-out voxels; None where a segment is neither there nor found."""
        joint = np.zeros((plan.classes, plan.classes), np.int64)
        for case, labels in zip(self._cases, self.segment(network, plan, precision), strict=True):
            counted = case.annotation.annotated
            truth = case.annotation.labels[counted].astype(np.int64)
            joint += np.bincount(truth * plan.classes + labels[counted], minlength=joint.size).reshape(joint.shape)
        hits = np.diag(joint)[1:]
        unions = joint.sum(0)[1:] + joint.sum(1)[1:] - hits
        return {
            s.name: float(h / u) if u else None for s, h, u in zip(self._segments, hits, unions, strict=True)
        }

    def count_tiles(self, plan: Plan) -> int:
        """How many tiles scoring takes."""
        total = 0
        for case in self._cases:
            shape = shape_at(case.volume, plan.spacing)
            for plane in case.annotation.planes:
                thin = tuple(1 if axis == plane.axis else n for axis, n in enumerate(shape))
                total += count_tiles(thin, plan, _SETTINGS.overlap)
        return total

    def segment(self, network: nn.Module, plan: Plan, precision: torch.dtype) -> list[np.ndarray]:
        """Labels (z, y, x) uint16 of each case, on its held-out planes only; 0 elsewhere."""
        found = []
        for case, predictor in self._with_predictors(network, plan, precision):
            labels = np.zeros(case.annotation.labels.shape, np.uint16)
            for box in _plane_boxes(case):
                labels[box.slices] = predictor.logits(box, frame=box).argmax(0).numpy()
            found.append(labels)
        return found

    def separate_logits(
        self, network: nn.Module, plan: Plan, precision: torch.dtype
    ) -> Iterator[tuple[Case, Box, HeldOutLogits]]:
        """What the network, and its classifier of single voxels, make of each held-out plane.

        Yields:
            A case, the box (z, y, x) of one of its planes, and the logits of the plane's annotated voxels.
        """
        for case, predictor in self._with_predictors(network, plan, precision):
            for box in _plane_boxes(case):
                annotated = case.annotation.annotated[box.slices]
                labels = torch.from_numpy(case.annotation.labels[box.slices][annotated].astype(np.int64))
                # A copy: of a turned volume this is a view that runs backwards, which torch does not know.
                seen = torch.from_numpy(annotated.copy())
                of_network, of_voxels = (logits[:, seen] for logits in predictor.separate_logits(box, frame=box))
                yield case, box, HeldOutLogits(of_network, of_voxels, labels)

    def _with_predictors(
        self, network: nn.Module, plan: Plan, precision: torch.dtype
    ) -> Iterator[tuple[Case, Predictor]]:
        if plan != self._plan or plan.batch_norm == "frozen":
            self._plan = plan
            self._predictors = [
                self._make_predictor(case, known, network, plan, precision)
                for case, known in zip(self._cases, self._known, strict=True)
            ]
        for case, predictor in zip(self._cases, self._predictors, strict=True):
            predictor.network = network
            yield case, predictor

    def forget(self) -> None:
        """Give back the memory of volumes that were resampled for the network: it is not asked for again soon."""
        self._plan, self._predictors = None, []

    def _make_predictor(
        self, case: Case, known: KnownSlices | None, network: nn.Module, plan: Plan, precision: torch.dtype
    ) -> Predictor:
        return Predictor(
            network, plan, self._normalisation, case.volume.array, case.volume.geometry.array_spacing, self._device,
            precision, _SETTINGS, known=known,
        )


def _plane_boxes(case: Case) -> list[Box]:
    """One box, a voxel thick, per held-out plane."""
    shape = case.annotation.labels.shape
    boxes = []
    for plane in case.annotation.planes:
        start = tuple(plane.index if a == plane.axis else 0 for a in range(3))
        boxes.append(Box(start, tuple(1 if a == plane.axis else n for a, n in enumerate(shape))))
    return boxes
