"""nnU-Net v2 (Isensee et al. 2021) as a peer: its own planning and preprocessing, its ignore label for what nobody
annotated, fold "all", and training stopped in time for the prediction. Needs the extra `benchmark-nnunet`.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SparseUNet3DLib.cases import Case

_DATASET, _CASE = "Dataset001_Sparse", "volume"
#: Share of the budget that is left for the prediction.
_FOR_PREDICTION = 0.1


def nnunet(case: Case, seed: int, minutes: float, device: str = "cpu") -> np.ndarray:
    """Labels (z, y, x) after ``minutes`` for all of it."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        for name, folder in folders.items():
            folder.mkdir()
            os.environ[name] = str(folder)  # read by nnU-Net when it is imported
        os.environ["nnUNet_compile"] = "f"  # noqa: SIM112 (its own spelling)
        _write_dataset(case, folders["nnUNet_raw"] / _DATASET)
        plans, dataset = _plan(folders["nnUNet_preprocessed"] / _DATASET)
        trainer = _train(plans, dataset, seed, started + 60 * minutes * (1 - _FOR_PREDICTION), device)
        return _predict(trainer, folders["nnUNet_raw"] / _DATASET)


def _write_dataset(case: Case, folder: Path) -> None:
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    annotation, spacing = case.annotation, case.volume.geometry.array_spacing[::-1]
    ignore = len(annotation.segments) + 1
    labels = np.where(annotation.annotated, annotation.labels, ignore).astype(np.uint8)
    for n, channel in enumerate(case.volume.array):
        _write(channel.astype(np.float32), spacing, folder / "imagesTr" / f"{_CASE}_{n:04d}.nrrd")
    _write(labels, spacing, folder / "labelsTr" / f"{_CASE}.nrrd")
    is_ct = case.volume.array.shape[0] == 1 and case.volume.array.min() <= -500
    names = {s.name: n for n, s in enumerate(annotation.segments, start=1)}
    (folder / "dataset.json").write_text(json.dumps({
        "channel_names": {str(n): "CT" if is_ct else f"channel {n}" for n in range(len(case.volume.array))},
        "labels": {"background": 0, **names, "ignore": ignore},
        "numTraining": 1,
        "file_ending": ".nrrd",
    }))


def _write(array: np.ndarray, spacing: tuple[float, ...], path: Path) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def _plan(folder: Path) -> tuple[dict, dict]:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
        preprocess_dataset,
    )

    extract_fingerprint_dataset(1, num_processes=1)
    plan_experiment_dataset(1)
    preprocess_dataset(1, configurations=("3d_fullres",), num_processes=(1,))
    return tuple(json.loads((folder / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))


def _train(plans: dict, dataset: dict, seed: int, until: float, device: str) -> object:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.manual_seed(seed)
    np.random.seed(seed)
    if device == "cpu":  # else patches are prepared by processes, so that a GPU need not wait for them
        os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112
    # Its own starting script tells it in the plans whether a run goes on.
    plans = plans | {"continue_training": False}
    trainer = nnUNetTrainer(plans, "3d_fullres", "all", dataset, device=torch.device(device))
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    before = time.perf_counter()
    step = 0.0
    while time.perf_counter() + step < until:
        # The rate falls with the time, as it does with the epochs of a run that is not stopped.
        done = (time.perf_counter() - before) / (until - before)
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - done) ** 0.9
        start = time.perf_counter()
        trainer.train_step(next(trainer.dataloader_train))
        step = time.perf_counter() - start
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        if hasattr(loader, "_finish"):
            loader._finish()
    return trainer


def _predict(trainer: object, folder: Path) -> np.ndarray:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_mirroring=False, perform_everything_on_device=trainer.device.type == "cuda",
        device=trainer.device,
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, [trainer.network.state_dict()],
        trainer.dataset_json, "nnUNetTrainer", None,
    )
    trainer.set_deep_supervision_enabled(False)
    images = sorted(str(p) for p in (folder / "imagesTr").iterdir())
    array, properties = SimpleITKIO().read_images(images)
    return np.asarray(predictor.predict_single_npy_array(array, properties))
