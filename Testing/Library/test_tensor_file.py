from __future__ import annotations

import json
import os
import pickle
import stat
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from SparseUNet3DLib.errors import InputError, OutputError
from SparseUNet3DLib.tensor_file import read_tensor_file, write_tensor_file

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, -2], dtype=torch.int64)}
HEADER = {"name": "Größe μ", "list": [1, 2.5, None], "nested": {"x": True}}


def write(path, kind="model"):
    write_tensor_file(path, kind, HEADER, TENSORS)
    return path


def test_header_and_tensors_come_back_as_they_were(tmp_path):
    header, tensors = read_tensor_file(write(tmp_path / "m.safetensors"), "model")
    assert header == HEADER
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_tensors_in_another_memory_layout_come_back_equal(tmp_path):
    weight = torch.randn(4, 3, 2, 2, 2).to(memory_format=torch.channels_last_3d)
    write_tensor_file(tmp_path / "m.safetensors", "model", {}, {"w": weight, "t": torch.arange(6).reshape(2, 3).t()})
    _, tensors = read_tensor_file(tmp_path / "m.safetensors", "model")
    assert torch.equal(tensors["w"], weight)
    assert tensors["t"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process has mapped")
def test_what_was_read_does_not_hold_the_file(tmp_path):
    """Windows refuses to replace a file that is mapped: a resumed run could not write its next checkpoint."""
    path = write(tmp_path / "checkpoint.safetensors")
    _, tensors = read_tensor_file(path, "model")
    assert path.name not in Path("/proc/self/maps").read_text()
    assert torch.equal(tensors["a"], TENSORS["a"])


def test_only_the_header_can_be_read(tmp_path):
    header, tensors = read_tensor_file(write(tmp_path / "m.safetensors"), "model", headers_only=True)
    assert header == HEADER
    assert tensors == {}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_the_umask_decides_who_may_read_the_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        path = write(tmp_path / "m.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_the_folder_must_exist(tmp_path):
    with pytest.raises(OutputError, match=r"the folder '.*missing' does not exist"):
        write(tmp_path / "missing" / "m.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_when_the_disk_is_full_the_file_that_was_there_stays(tmp_path):
    import resource

    path = write(tmp_path / "m.safetensors")
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"Cannot write '.*m\.safetensors': .+"):
            write_tensor_file(path, "model", HEADER, {"large": torch.ones(300_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


class Bomb:
    """Unpickling an instance makes a folder."""

    def __init__(self, folder) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("write_bomb", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_a_pickle_is_refused_and_not_executed(tmp_path, write_bomb):
    marker = tmp_path / "executed"
    with open(tmp_path / "m.safetensors", "wb") as file:
        write_bomb(Bomb(marker), file)
    with pytest.raises(InputError, match=r"'.*m\.safetensors' cannot be read as a SparseUNet3D model"):
        read_tensor_file(tmp_path / "m.safetensors", "model")
    assert not marker.exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"There is no model file '.*none\.safetensors'"):
        read_tensor_file(tmp_path / "none.safetensors", "model")
    with pytest.raises(InputError, match="is a folder; name the model file in it"):
        read_tensor_file(tmp_path, "model")


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 200, -1])
def test_a_truncated_file_is_refused(tmp_path, length):
    path = write(tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match="damaged, incomplete"):
        read_tensor_file(path, "model")


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_are_refused(tmp_path, seed):
    generator = torch.Generator().manual_seed(seed)
    content = torch.randint(256, (int(torch.randint(2000, (1,), generator=generator)),), generator=generator)
    path = tmp_path / "m.safetensors"
    path.write_bytes(bytes(content.tolist()))
    with pytest.raises(InputError, match="damaged, incomplete"):
        read_tensor_file(path, "model")


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_are_refused_or_read_as_tensors(tmp_path, seed):
    path = write(tmp_path / "m.safetensors")
    content = bytearray(path.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    for position in torch.randint(len(content), (3,), generator=generator).tolist():
        content[position] ^= 0x41
    path.write_bytes(content)
    try:
        header, tensors = read_tensor_file(path, "model")
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert isinstance(header, dict)
        assert all(isinstance(t, torch.Tensor) for t in tensors.values())


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_a_file_of_another_program_is_refused(tmp_path, metadata):
    save_file(TENSORS, tmp_path / "m.safetensors", metadata)
    with pytest.raises(InputError, match=r"m\.safetensors'.* another program"):
        read_tensor_file(tmp_path / "m.safetensors", "model")


@pytest.mark.parametrize("kind, wanted", [("model", "checkpoint"), ("checkpoint", "model")])
def test_a_file_of_the_other_kind_is_refused(tmp_path, kind, wanted):
    path = write(tmp_path / "m.safetensors", kind)
    with pytest.raises(InputError, match=f"is a SparseUNet3D {kind}, but a {wanted} is needed"):
        read_tensor_file(path, wanted)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"text"', "{", "", "[" * 5000])
def test_a_header_that_is_no_json_object_is_refused(tmp_path, text):
    path = tmp_path / "m.safetensors"
    save_file(TENSORS, path, {"sparseunet3d_kind": "model", "sparseunet3d_header": text})
    with pytest.raises(InputError, match="cannot be read as a SparseUNet3D model"):
        read_tensor_file(path, "model")


def test_the_header_is_plain_json_that_other_programs_can_read(tmp_path):
    content = write(tmp_path / "m.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    assert json.loads(metadata["sparseunet3d_header"]) == HEADER
