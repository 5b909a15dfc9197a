"""Stopping by signal, by file and from Python, with real signals, files and processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from SparseUNet3DLib.errors import UsageError
from SparseUNet3DLib.stopping import POLL_INTERVAL, StopRequest

posix_only = pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals between processes")


def ask_for_a_while(stop: StopRequest, looks: int = 3) -> str:
    """What is requested once the file has been looked at this many times."""
    for _ in range(looks):
        kind = stop.requested()
        time.sleep(1.1 * POLL_INTERVAL)
    return kind


def test_nothing_is_requested_to_begin_with(tmp_path):
    assert StopRequest().requested() == ""
    assert ask_for_a_while(StopRequest(tmp_path / "stop")) == ""


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"finish", "finish"),
        (b"finish\r\n", "finish"),
        (b"\xef\xbb\xbffinish\r\n", "finish"),
        ("finish\r\n".encode("utf-16"), "finish"),
        (b"", "interrupt"),
        (b"now", "interrupt"),
        (b"\xff", "interrupt"),
    ],
)
def test_the_stop_file_says_what_is_wanted(tmp_path, content, kind):
    stop = StopRequest(tmp_path / "stop")
    (tmp_path / "stop").write_bytes(content)
    assert ask_for_a_while(stop) == kind


def test_a_file_that_is_being_written_is_not_taken_for_an_empty_one(tmp_path):
    stop = StopRequest(tmp_path / "stop")
    (tmp_path / "stop").touch()
    assert stop.requested() == ""
    (tmp_path / "stop").write_text("finish")
    assert ask_for_a_while(stop) == "finish"


def test_a_file_that_comes_and_goes_is_not_added_up(tmp_path):
    stop = StopRequest(tmp_path / "stop")
    for _ in range(2):
        (tmp_path / "stop").touch()
        assert ask_for_a_while(stop, 1) == ""
        (tmp_path / "stop").unlink()
        assert ask_for_a_while(stop, 1) == ""


def test_what_cannot_be_read_as_a_file_stops_as_well(tmp_path):
    stop = StopRequest(tmp_path / "stop")
    (tmp_path / "stop").mkdir()
    assert ask_for_a_while(stop) == "interrupt"


def test_a_stop_file_of_an_earlier_run_is_removed(tmp_path):
    (tmp_path / "stop").touch()
    stop = StopRequest(tmp_path / "stop")
    assert not (tmp_path / "stop").exists()
    assert ask_for_a_while(stop) == ""


def test_a_folder_is_refused_as_stop_file(tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        StopRequest(tmp_path)


def test_a_stop_file_that_cannot_be_removed_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be removed"):
        StopRequest(tmp_path / "file" / "stop")


def test_the_file_is_looked_at_again_only_after_a_while(tmp_path):
    stop = StopRequest(tmp_path / "stop")
    assert stop.requested() == ""
    (tmp_path / "stop").write_text("finish")
    looks = 0
    while stop.requested() == "":
        looks += 1
    assert looks > 10


def test_a_request_from_python_can_be_raised_but_not_lowered():
    stop = StopRequest()
    stop.request("finish")
    assert stop.requested() == "finish"
    stop.request("interrupt")
    stop.request("finish")
    assert stop.requested() == "interrupt"


def test_a_stop_file_raises_a_request_to_finish(tmp_path):
    stop = StopRequest(tmp_path / "stop")
    stop.request("finish")
    (tmp_path / "stop").touch()
    assert ask_for_a_while(stop) == "interrupt"


@pytest.mark.parametrize("kind", ["", "stop"])
def test_an_unknown_request_is_an_error(kind):
    with pytest.raises(ValueError, match="'finish' or 'interrupt'"):
        StopRequest().request(kind)


@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_to_interrupt_and_the_handlers_are_put_back(number):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    stop = StopRequest()
    with stop.signals():
        os.kill(os.getpid(), number)
        assert stop.requested() == "interrupt"
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


@posix_only
def test_the_second_ctrl_c_leaves_at_once():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), StopRequest().signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@posix_only
def test_repeated_sigterm_stays_patient():
    stop = StopRequest()
    with stop.signals():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested() == "interrupt"


def test_in_another_thread_the_signals_are_left_alone():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with StopRequest().signals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


WORKER = """
import sys
from SparseUNet3DLib.stopping import StopRequest
stop = StopRequest()
with stop.signals():
    print("ready", flush=True)
    while not stop.requested():
        pass
print(stop.requested())
sys.exit(130)
"""


@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_process_ends_in_its_own_way_when_signalled(number):
    process = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.communicate(timeout=60)[0] == "interrupt\n"
    assert process.returncode == 130
