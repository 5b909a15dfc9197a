"""IoU on annotated planes that were held out from training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.inference import InferenceSettings, Predictor
from SparseUNet3DLib.mixture import HeldOutLogits
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.preparation import shape_at
from SparseUNet3DLib.resampling import Resample, resample_to
from SparseUNet3DLib.segments import Segment
from SparseUNet3DLib.tiles import Box, count_tiles

#: Validation is there for a curve; little overlap makes it cheap.
_SETTINGS = InferenceSettings(overlap=0.25)


class HeldOutValidation:
    """Scores a network on the held-out planes of ``cases``.

    Only the tiles that show a held-out plane are computed, laid so that the plane runs through their middle.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        normalisation: Sequence[ChannelNormalisation],
        device: torch.device,
        resample: Resample = resample_to,
    ) -> None:
        self._resample = resample
        self._cases, self._normalisation, self._device = cases, normalisation, device
        self._segments = cases[0].annotation.segments
        self._plan: Plan | None = None
        self._predictors: list[Predictor] = []

    def __call__(
        self, network: nn.Module, plan: Plan, precision: torch.dtype,
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> dict[str, float | None]:
        """IoU by segment name over the held-out voxels; None where a segment is neither there nor found.

        ``progress`` is told after each part how much of a plane is done (0..1); what it raises ends it.
        """
        joint = np.zeros((plan.classes, plan.classes), np.int64)
        for case, labels in zip(self._cases, self.segment(network, plan, precision, progress), strict=True):
            counted = case.annotation.annotated
            joint += joint_counts(case.annotation.labels[counted], labels[counted], plan.classes)
        return iou_by_segment(joint, self._segments)

    def count_tiles(self, plan: Plan) -> int:
        """How many tiles scoring takes."""
        total = 0
        for case in self._cases:
            shape = shape_at(case.volume, plan.spacing)
            for plane in case.annotation.planes:
                thin = tuple(1 if axis == plane.axis else n for axis, n in enumerate(shape))
                total += count_tiles(thin, plan, _SETTINGS.overlap)
        return total

    def segment(
        self, network: nn.Module, plan: Plan, precision: torch.dtype,
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> list[np.ndarray]:
        """Labels (z, y, x) uint16 of each case, on its held-out planes only; 0 elsewhere."""
        found = []
        for case, predictor in self._with_predictors(network, plan, precision):
            labels = np.zeros(case.annotation.labels.shape, np.uint16)
            for plane in case.annotation.planes:
                box = _plane_box(plane, case)
                labels[box.slices] = predictor.logits(box, box, progress).argmax(0).numpy()
            found.append(labels)
        return found

    def separate_logits(
        self, network: nn.Module, plan: Plan, precision: torch.dtype
    ) -> Iterator[tuple[Case, Plane, HeldOutLogits]]:
        """What the network, and its classifier of single voxels, make of each held-out plane.

        Yields:
            A case, one of its planes, and the logits of the plane's annotated voxels.
        """
        for case, predictor in self._with_predictors(network, plan, precision):
            for plane in case.annotation.planes:
                box = _plane_box(plane, case)
                annotated = case.annotation.annotated[box.slices]
                labels = torch.from_numpy(case.annotation.labels[box.slices][annotated].astype(np.int64))
                # A copy: of a turned volume this is a view that runs backwards, which torch does not know.
                seen = torch.from_numpy(annotated.copy())
                found = predictor.separate_logits(box, frame=box)
                of_network, of_voxels = (_in_half(logits[:, seen]) for logits in found)
                yield case, plane, HeldOutLogits(of_network, of_voxels, labels)

    def _with_predictors(
        self, network: nn.Module, plan: Plan, precision: torch.dtype
    ) -> Iterator[tuple[Case, Predictor]]:
        if plan != self._plan or plan.batch_norm == "frozen":
            self._plan = plan
            self._predictors = [
                Predictor(
                    network, plan, self._normalisation, case.volume.array, case.volume.geometry.array_spacing,
                    self._device, precision, _SETTINGS, resample=self._resample,
                )
                for case in self._cases
            ]
        for case, predictor in zip(self._cases, self._predictors, strict=True):
            predictor.network = network
            yield case, predictor

    def forget(self) -> None:
        """Give back the memory that is only needed to score: it is not asked for again soon."""
        self._plan, self._predictors = None, []


def joint_counts(truth: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes): how many of the voxels (n,) are of a class in truth, the row, and were taken for another."""
    pairs = truth.astype(np.int64) * classes + found
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def iou_by_segment(joint: np.ndarray, segments: Sequence[Segment]) -> dict[str, float | None]:
    """IoU by the segments' names from ``joint_counts``; None where a segment is neither there nor found."""
    hits = np.diag(joint)[1:]
    unions = joint.sum(0)[1:] + joint.sum(1)[1:] - hits
    return {s.name: float(h / u) if u else None for s, h, u in zip(segments, hits, unions, strict=True)}


def _in_half(logits: torch.Tensor) -> torch.Tensor:
    largest = torch.finfo(torch.float16).max
    return logits.clamp(-largest, largest).half()


def mean_iou(ious: Sequence[dict[str, float | None]]) -> dict[str, float | None] | None:
    """The mean IoU of each segment over the networks that have one; None where nothing was held out."""
    if not ious:
        return None
    values = {name: [i[name] for i in ious if i[name] is not None] for name in ious[0]}
    return {name: sum(v) / len(v) if v else None for name, v in values.items()}


def _plane_box(plane: Plane, case: Case) -> Box:
    """The plane's voxels as a box, one voxel thick."""
    shape = case.annotation.labels.shape
    start = tuple(plane.index if a == plane.axis else 0 for a in range(3))
    return Box(start, tuple(1 if a == plane.axis else n for a, n in enumerate(shape)))
