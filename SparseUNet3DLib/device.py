"""The computing device: which one, how much memory it has, and the settings that make it fast."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import platform
import re
import shutil
import time
from contextlib import AbstractContextManager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from SparseUNet3DLib.errors import UsageError

_MALLOPT_TRIM_THRESHOLD, _MALLOPT_MMAP_MAX = -1, -4  # numbers of glibc's malloc.h
#: How much faster bfloat16 must be in the self-test to be preferred to float32.
_WORTHWHILE = 1.1
#: Operations per second that a mid-range GPU reaches in training a 3D U-Net, to compare a CPU with.
_USUAL_GPU = 5e12
#: Multiplications and additions in the convolution that is timed: forward, and two gradients.
_CONVOLUTION_OPERATIONS = 3 * 2 * 16 * 16 * 27 * 40**3


def choose_device(name: str = "auto") -> torch.device:
    """The device called ``name``; "auto" takes a CUDA GPU, else Apple's GPU, else the CPU, whichever computes.

    Raises:
        UsageError: the device does not exist here.
    """
    if name == "auto":
        if _cuda_works():
            return torch.device("cuda")
        return torch.device("mps" if _mps_works() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", name):
        raise UsageError(f"There is no device '{name}'; use auto, cpu, cuda, cuda:1 or mps.")
    try:
        device = torch.device(name)
        _compute_on(device)
    except (RuntimeError, AssertionError) as error:
        reason = re.split(r"[.\n]", str(error))[0][:100]
        raise UsageError(f"Device '{name}' is not available here; use auto or cpu instead ({reason}).") from None
    return device


def describe_device(device: torch.device) -> str:
    """The device as a user would name it, with its memory or cores."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"GPU: {properties.name}, {properties.total_memory / 2**30:.0f} GB"
    if device.type == "mps":
        return "GPU: Apple (Metal)"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def explain_device(device: torch.device) -> str:
    """The device in a sentence; of a CPU also how much slower than a GPU it is, and why no GPU is used."""
    if device.type != "cpu":
        return f"{describe_device(device)}."
    ratio = float(f"{_USUAL_GPU / convolution_speed(device):.1g}")
    slower = f"about {ratio:.0f} times slower than a usual GPU, because " if ratio > 1 else ""
    return f"{describe_device(device)}: {slower}{_why_no_gpu()}."


def convolution_speed(device: torch.device) -> float:
    """Operations per second in a small convolution and its gradients, in the faster of the two precisions."""
    return _CONVOLUTION_OPERATIONS / min(_time_convolution(device, t) for t in (torch.float32, torch.bfloat16))


def _why_no_gpu() -> str:
    if platform.system() == "Darwin":
        working = torch.backends.mps.is_available()
        return "Apple's GPU fails this program's self-test" if working else "this PyTorch cannot use Apple's GPU"
    if torch.version.cuda is None and torch.version.hip is None:
        if shutil.which("nvidia-smi"):
            return "the installed PyTorch is a build without GPU support; reinstall it with the PyTorch extension"
        return "no NVIDIA GPU was found"
    if torch.cuda.is_available():
        return "the GPU does not compute (too old for this PyTorch, or taken by another program)"
    return "PyTorch cannot use a GPU here (there is none, or its driver is missing or too old)"


def available_memory(device: torch.device) -> int:
    """Bytes that a task may use on ``device``: four fifths of what is free."""
    if device.type == "cuda":
        # What torch keeps of a former task's memory is free for the next one.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(0.8 * (torch.cuda.mem_get_info(device)[0] + kept))
    return int(0.8 * _free_main_memory())


def tune_allocator() -> bool:
    """Make glibc keep freed memory instead of returning it to the system; True where that worked.

    A training step allocates and frees the same hundreds of megabytes again and again; having the
    kernel map and zero them anew each time costs more than the convolutions (measured: a float32
    convolution runs 2.5 times faster). Called once by programs that do nothing else; a library
    function must not change its host's allocator.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MALLOPT_MMAP_MAX, 0) and libc.mallopt(_MALLOPT_TRIM_THRESHOLD, 2**31 - 1))


def zeros_apart(*shape: int) -> torch.Tensor:
    """Float32 zeros in main memory of their own, which the system has back as soon as they go.

    For what is large and comes again and again in other sizes: in the memory that `tune_allocator` keeps, small tensors
    come to lie between, and the next large one finds no place but at the end.

    Raises:
        MemoryError: there is not that much.
    """
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}  # not on Windows
    size = 4 * math.prod(shape)
    try:
        memory = mmap.mmap(-1, size, **private)
    except OSError as error:
        raise MemoryError(f"{size / 2**20:.0f} MiB of main memory are not there.") from error
    # Written at once and in order: where tiles touch its pages one by one, the system takes ten times as long.
    return torch.frombuffer(memory, dtype=torch.float32).zero_().view(shape)


def send(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``values``, a few numbers, on ``device``, without waiting for what a CUDA GPU still has to do."""
    return values.to(device, non_blocking=device.type == "cuda")


class Fetched:
    """A few numbers on their way from a device, which may be given more to do before they are asked for."""

    def __init__(self, numbers: torch.Tensor) -> None:
        """``numbers`` (n,)."""
        on_gpu = numbers.device.type == "cuda"
        self._numbers = numbers.to("cpu", non_blocking=on_gpu)
        self._arrived = torch.cuda.current_stream(numbers.device).record_event() if on_gpu else None

    def values(self) -> list[float]:
        """The numbers, once they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._numbers.tolist()


def memory_format(device: torch.device) -> torch.memory_format:
    """Layout in which the device's 3D convolutions are fastest."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last_3d


def choose_precision(device: torch.device, wanted: str = "auto") -> torch.dtype:
    """bfloat16 where the device computes a small training step faster with it, else float32."""
    if wanted == "float32" or device.type == "mps":
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    seconds = {dtype: _time_convolution(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    return torch.bfloat16 if seconds[torch.float32] > _WORTHWHILE * seconds[torch.bfloat16] else torch.float32


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """Context in which the network runs in ``precision``."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)


def _time_convolution(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of the fastest of four small convolutions with their gradients (about 0.2 s in all).

    Not smaller: below 20,480 voxels of all channels in a plane, torch computes float32 without oneDNN.
    """
    layer = nn.Conv3d(16, 16, 3, padding=1).to(device, memory_format=memory_format(device))
    image = torch.zeros(1, 16, 40, 40, 40, device=device).to(memory_format=memory_format(device))
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        with autocast(device, dtype):
            out = layer(image)
        out.sum().backward()
        best = min(best, time.perf_counter() - start)
    return best


def _compute_on(device: torch.device) -> None:
    """Raises what torch raises where it cannot."""
    torch.zeros(1, device=device).add(1).item()


def _cuda_works() -> bool:
    """Whether the first CUDA GPU computes; it may be too old for this PyTorch, or another program's alone."""
    try:
        if torch.cuda.is_available():
            _compute_on(torch.device("cuda"))
            return True
    except (RuntimeError, AssertionError):
        pass
    return False


def _mps_works() -> bool:
    """Whether Apple's GPU computes what training needs; some releases of macOS and torch do not."""
    return torch.backends.mps.is_available() and computes_as_cpu(torch.device("mps"))


def computes_as_cpu(device: torch.device) -> bool:
    """Whether 3D convolution and interpolation give the same on ``device`` as on the CPU."""
    layer = nn.Conv3d(2, 2, 3, padding=1)
    image = torch.linspace(-1, 1, 2 * 8**3).reshape(1, 2, 8, 8, 8)
    grid = torch.linspace(-1.5, 1.5, 3 * 4**3).reshape(1, 4, 4, 4, 3)

    def compute(where: torch.device) -> list[torch.Tensor]:
        there = image.to(where)
        sampled = F.grid_sample(there, grid.to(where), padding_mode="reflection", align_corners=True)
        return [layer.to(where)(there).cpu(), sampled.cpu()]

    try:
        pairs = zip(compute(device), compute(torch.device("cpu")), strict=True)
        return all(torch.allclose(found, expected, atol=1e-4) for found, expected in pairs)
    except (RuntimeError, NotImplementedError):
        return False


def _free_main_memory() -> int:
    """Free main memory in bytes, as far as the system tells, within a container's limit."""
    if platform.system() == "Windows":
        status = (ctypes.c_ulonglong * 8)()
        ctypes.cast(status, ctypes.POINTER(ctypes.c_ulong))[0] = ctypes.sizeof(status)
        ctypes.windll.kernel32.GlobalMemoryStatusEx(status)
        return int(status[2])
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    groups = _own_groups(Path("/proc/self/cgroup"))
    return min(_free_container_memory(Path("/sys/fs/cgroup") / group, free) for group in groups)


def _own_groups(membership: Path) -> list[str]:
    """The control groups (version 2) whose limits hold for this process, from its own one up to the root, "".

    In a container the root has the limit; a cluster's jobs have theirs further down.
    """
    lines = membership.read_text().splitlines() if membership.exists() else []
    own = next((line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")), "")
    return [own, *(str(parent) for parent in Path(own).parents if str(parent) != "."), ""]


def _free_container_memory(cgroup: Path, unlimited: int) -> int:
    """Bytes that a container's limit leaves; ``unlimited`` where ``cgroup`` (version 2) sets none."""
    limit = cgroup / "memory.max"
    if not limit.exists() or limit.read_text().strip() == "max":
        return unlimited
    # Files read lately are counted as used, but make room when memory is needed.
    statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    files = int(statistics["inactive_file"]) + int(statistics["active_file"])
    used = int((cgroup / "memory.current").read_text()) - files
    return max(0, int(limit.read_text()) - used)
