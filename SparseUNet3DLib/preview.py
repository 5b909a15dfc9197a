"""What a training comes to so far, written into a file meanwhile."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from SparseUNet3DLib.errors import MemoryLimitError, OutputError
from SparseUNet3DLib.events import Reporter
from SparseUNet3DLib.inference import InferenceSettings, Predictor
from SparseUNet3DLib.orientation import Turn
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.preparation import Preparation, shape_at
from SparseUNet3DLib.segmentation_files import write_segmentation
from SparseUNet3DLib.segments import Segmentation
from SparseUNet3DLib.stopping import StopRequest
from SparseUNet3DLib.tiles import count_tiles

#: As quickly as it can be done: tiles beside each other.
_SETTINGS = InferenceSettings(overlap=0.0)


class PreviewWriter:
    """Segments the first volume into the file ``path``, unless it cannot, or the user waits for the training to stop.

    Attributes:
        tiles: how many tiles that takes.
    """

    def __init__(self, prepared: Preparation, path: Path, reporter: Reporter, stop: StopRequest) -> None:
        self._prepared, self._path, self._reporter, self._stop = prepared, path, reporter, stop
        case = prepared.folds[0].training[0]
        self._grid = case.volume.geometry
        self._turn = Turn.between(self._grid.direction, prepared.plan.direction)
        self._case = self._turn.case(case)
        shape = shape_at(self._case.volume, prepared.plan.spacing)
        self.tiles = count_tiles(shape, prepared.plan, _SETTINGS.overlap)
        if prepared.plan.voxel_spacing:  # to classify a tile's voxels one by one takes about as long
            voxels = math.prod(shape_at(self._case.volume, prepared.plan.voxel_spacing))
            self.tiles += math.ceil(voxels / math.prod(prepared.plan.patch_size))

    def __call__(self, network: torch.nn.Module, plan: Plan, precision: torch.dtype, iteration: int) -> None:
        """Write what ``network`` finds after so many iterations."""
        prepared, case = self._prepared, self._case
        try:
            predictor = Predictor(
                network, plan, prepared.normalisation, case.volume.array, case.volume.geometry.array_spacing,
                prepared.device, precision, _SETTINGS, resample=prepared.resample,
            )
            labels, _ = predictor.segment(self._go_on)
            segmentation = Segmentation(self._turn.back(labels), case.annotation.segments, self._grid)
            write_segmentation(segmentation, self._path, compress=False)
        except _StopAskedError:
            return
        except (OutputError, MemoryLimitError) as error:  # the next one may succeed
            self._reporter.emit("warning", message=f"This preview is left out: {error}")
            return
        self._reporter.emit("preview", path=str(self._path), iteration=iteration)

    def _go_on(self, fraction: float) -> None:
        if self._stop.requested():
            raise _StopAskedError(fraction)


class _StopAskedError(Exception):
    """The user waits for the training to stop."""
