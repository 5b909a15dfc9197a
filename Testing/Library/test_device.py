from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import SparseUNet3DLib
from SparseUNet3DLib.device import (
    _free_container_memory,
    _own_groups,
    autocast,
    available_memory,
    choose_device,
    choose_precision,
    computes_as_cpu,
    describe_device,
    explain_device,
    memory_format,
    zeros_apart,
)
from SparseUNet3DLib.errors import UsageError
from SparseUNet3DLib.out_of_memory import is_out_of_memory

CPU = torch.device("cpu")
#: Page faults of 6 tensors of 64 MiB, written to and freed one after the other, as a training step does;
#: before them, the allocator has had 14 such tensors to settle.
COUNT_FAULTS = """
import resource, sys
import torch
from SparseUNet3DLib.device import tune_allocator
tuned = tune_allocator() if sys.argv[1] == "tuned" else None
for n in range(20):
    torch.ones(2**24)
    if n == 13:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(tuned, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(allocator: str) -> tuple[str, int]:
    folder = str(Path(SparseUNet3DLib.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS, allocator], capture_output=True, text=True, check=True, env=environment
    )
    tuned, faults = result.stdout.split()
    return tuned, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")
def test_the_tuned_allocator_keeps_freed_memory():
    tuned, few = count_faults("tuned")
    _, many = count_faults("as it is")
    assert tuned == "True"
    # Not tuned, each tensor is mapped anew, in pages of at most 2 MiB.
    assert many >= 6 * 32
    assert few < 20


#: MiB by which a process that keeps what it frees grows by 256 MiB of one or the other kind, and what is left of that
#: once they are gone.
TELL_GROWTH = """
import resource, sys
import torch
from SparseUNet3DLib.device import tune_allocator, zeros_apart
def used():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20
tune_allocator()
make = zeros_apart if sys.argv[1] == "apart" else torch.zeros
make(8, 8, 8).fill_(1)
before = used()
tensor = make(4, 4096, 4096)
assert tensor.shape == (4, 4096, 4096) and tensor.sum() == 0
tensor.fill_(1)
grown = used() - before
del tensor
print(grown, used() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")
@pytest.mark.parametrize(("kind", "left"), [("apart", 0), ("usual", 256)])
def test_memory_apart_goes_back_to_the_system_although_the_allocator_keeps_the_usual(kind, left):
    folder = str(Path(SparseUNet3DLib.__file__).parent.parent)
    result = subprocess.run(
        [sys.executable, "-c", TELL_GROWTH, kind], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": folder},
    )
    grown, still = map(float, result.stdout.split())
    assert grown == pytest.approx(256, abs=16)
    assert still == pytest.approx(left, abs=16)


def test_more_memory_apart_than_there_is_ends_as_out_of_memory():
    with pytest.raises(MemoryError, match="4194304 MiB of main memory are not there"):
        zeros_apart(2**20, 2**20)


def test_float32_is_honoured():
    assert choose_precision(CPU, "float32") == torch.float32
    layer = torch.nn.Conv3d(1, 1, 3)
    with autocast(CPU, choose_precision(CPU, "float32")):
        assert layer(torch.zeros(1, 1, 3, 3, 3)).dtype == torch.float32


def test_precision_is_chosen_among_the_two():
    precision = choose_precision(CPU)
    assert precision in (torch.float32, torch.bfloat16)
    with autocast(CPU, precision):
        assert torch.nn.Conv3d(1, 1, 3)(torch.zeros(1, 1, 3, 3, 3)).dtype == precision


def test_the_cpu_can_always_be_chosen():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    assert describe_device(CPU).startswith("CPU, ")
    assert memory_format(CPU) == torch.channels_last_3d
    assert memory_format(torch.device("mps")) == torch.contiguous_format


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "cuda:-1", "meta"])
def test_a_device_that_does_not_exist_is_refused(name: str):
    with pytest.raises(UsageError, match=f"There is no device '{name}'; use auto, cpu"):
        choose_device(name)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="Device 'cuda:99' is not available here; use auto or cpu"):
        choose_device("cuda:99")


def test_a_gpu_that_cannot_compute_is_not_chosen(monkeypatch: pytest.MonkeyPatch):
    """As one that this PyTorch has nothing compiled for."""
    zeros = torch.zeros

    def refuse(*size: int, **options: object) -> torch.Tensor:
        if "cuda" in str(options.get("device")):
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
        return zeros(*size, **options)

    monkeypatch.setattr(torch, "zeros", refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert choose_device("auto").type != "cuda"
    assert "the GPU does not compute (too old for this PyTorch, or taken by another" in explain_device(CPU)
    with pytest.raises(UsageError, match=r"Device 'cuda' is not available here.*no kernel image"):
        choose_device("cuda")


def test_available_memory_is_some_but_not_more_than_there_is():
    memory = available_memory(CPU)
    assert memory > 0
    if hasattr(os, "sysconf"):
        assert memory <= 0.8 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def write_cgroup(folder: Path, limit: str) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text("900\n")
    (folder / "memory.stat").write_text("anon 300\nfile 600\ninactive_file 500\nactive_file 100\n")
    return folder


def test_memory_of_a_container_is_its_limit_less_what_cannot_be_given_back(tmp_path: Path):
    assert _free_container_memory(write_cgroup(tmp_path, "1000"), 10_000) == 1000 - (900 - 500 - 100)


def test_a_container_over_its_limit_has_no_memory_left(tmp_path: Path):
    assert _free_container_memory(write_cgroup(tmp_path, "300"), 10_000) == 0


def test_without_a_containers_limit_all_memory_counts(tmp_path: Path):
    assert _free_container_memory(tmp_path, 10_000) == 10_000
    assert _free_container_memory(write_cgroup(tmp_path, "max"), 10_000) == 10_000


@pytest.mark.parametrize(
    "text, groups",
    [
        ("0::/\n", ["", ""]),  # in a container
        ("0::/system.slice/slurmstepd.scope/job_7\n", [
            "system.slice/slurmstepd.scope/job_7", "system.slice/slurmstepd.scope", "system.slice", ""]),
        ("12:memory:/job\n1:name=systemd:/\n", ["", ""]),  # version 1 only
    ],
)
def test_the_limits_of_a_clusters_job_lie_below_the_root(tmp_path: Path, text: str, groups: list[str]):
    (tmp_path / "cgroup").write_text(text)
    assert _own_groups(tmp_path / "cgroup") == groups
    assert _own_groups(tmp_path / "nowhere") == ["", ""]


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**50), lambda: np.empty(2**60, np.uint8)])
def test_running_out_of_memory_is_recognised(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "message",
    [
        # of Windows, CUDA, cuDNN and oneDNN
        "[enforce fail at alloc_cpu.cpp] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.00 GiB",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "could not create a memory object",
    ],
)
def test_messages_of_other_allocators_are_recognised(message: str):
    assert is_out_of_memory(RuntimeError(message))


def test_what_comes_of_a_lack_of_memory_is_taken_for_one():
    error = RuntimeError("operation failed due to a previous error during capture")
    assert not is_out_of_memory(error)
    error.__context__ = torch.OutOfMemoryError("CUDA out of memory.")
    assert is_out_of_memory(error)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(caught.value)
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_device_that_interpolates_wrongly_or_not_at_all_is_found_out(monkeypatch):
    assert computes_as_cpu(CPU)
    right, calls = F.grid_sample, []

    def wrong_at_first(*args: object, **options: object) -> torch.Tensor:
        calls.append(args)
        return right(*args, **options) + (len(calls) == 1)

    def missing(*_args: object, **_options: object) -> torch.Tensor:
        raise NotImplementedError("The operator 'aten::grid_sampler_3d' is not currently implemented")

    for broken in (wrong_at_first, missing):
        monkeypatch.setattr(F, "grid_sample", broken)
        assert not computes_as_cpu(CPU)
