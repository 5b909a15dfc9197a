"""What the commands show on a terminal."""

from __future__ import annotations

import os
import re
import struct
import sys
from pathlib import Path

import pytest
from command import DENSIFY, call, painted, run, start, structures, write_case

from SparseUNet3DLib.command_line.parser import make_parser
from SparseUNet3DLib.segmentation_files import read_segmentation, write_segmentation
from SparseUNet3DLib.segments import Segment, Segmentation


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a volume, its annotation and its truth, in which the test runs."""
    write_case(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_fits_80_columns_and_explains_every_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    parser = make_parser()
    (commands,) = (action.choices for action in parser._actions if action.choices and not action.option_strings)
    assert list(commands) == ["densify", "train", "segment", "evaluate", "info", "device", "demo", "experiment"]
    for name, command in commands.items():
        assert call(name, "--help") == 0
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80
        for action in command._actions:
            assert action.help, (name, action.dest)
            assert all(option in text for option in action.option_strings)
    assert call("--help") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert all(name in text for name in commands)
    assert "Exit codes: 0 done, 1 unexpected error, 2 usage, 3 input" in text


def test_version(capsys: pytest.CaptureFixture[str]):
    assert call("--version") == 0
    assert re.fullmatch(r"sparse-unet3d \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_terminal_of_80_columns(folder: Path):
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    options = ("--iterations", 15, "--truth", "truth.seg.nrrd", "--hold-out", 1)
    with start(*DENSIFY, *options, cwd=folder, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # how Linux says that the other end was closed
            pass
    os.close(ours)
    assert process.returncode == 0
    text = shown.decode()
    lines = text.replace("\r\n", "\n").split("\n")
    drawn = [part for line in lines for part in line.split("\r")]
    assert max(map(len, drawn)) <= 80
    assert any(re.fullmatch(r"Training \d+%  step \d+/15  loss \d\.\d{4}  .*left", part.rstrip()) for part in drawn)
    # What stands on the screen in the end: of each line, what was drawn last.
    screen = [line.split("\r")[-1].rstrip() for line in lines]
    assert any(line.startswith("Training 100%  step 15/15") for line in screen)
    assert "Segmenting 100%" in screen
    assert "segmentation: out.seg.nrrd" in screen
    assert "\x1b" not in text


def test_names_that_the_terminal_cannot_show_become_escapes(folder: Path):
    labels = painted(structures())
    grid = read_segmentation("truth.seg.nrrd").geometry
    segments = (Segment("a", "Närve \u2603\x1b[2J"), Segment("b", "x" * 100))
    write_segmentation(Segmentation(labels, segments, grid), "odd.seg.nrrd")
    arguments = ("evaluate", "odd.seg.nrrd", "--truth", "odd.seg.nrrd")
    code, out, err = run(*arguments, cwd=folder, env={"PYTHONIOENCODING": "ascii"})
    assert (code, err) == (0, "")
    assert "N\\xe4rve \\u2603\\x1b[2J" in out
    assert max(map(len, out.splitlines())) <= 80


def test_results_that_nobody_listens_to_any_more_are_written_all_the_same(folder: Path):
    with start(*DENSIFY, "--iterations", 1, cwd=folder) as process:
        process.stdout.close()
        err = process.stderr.read().decode()
    assert process.returncode == 0, err
    assert Path("out.seg.nrrd").exists()
    assert "Traceback" not in err
