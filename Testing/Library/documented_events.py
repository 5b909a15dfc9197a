"""What the command line prints for programs: the fields that each event is documented to have."""

from __future__ import annotations

import json

import pytest

#: The fields of every event, with the types they may have.
NUMBER, OPTIONAL = (int, float), (int, float, type(None))
FIELDS = {
    "started": {"pid": int},
    "plan": {"plan": dict, "lines": list, "device": str, "memory_bytes": int, "held_out": dict},
    "phase": {"phase": str, "fraction": NUMBER},
    "step": {
        "iteration": int, "iterations": (int, type(None)), "seconds": NUMBER, "seconds_total": OPTIONAL,
        "fraction": NUMBER, "loss": NUMBER, "learning_rate": NUMBER, "eta_seconds": OPTIONAL,
        "network": int, "networks": int,
    },
    "validation": {"iteration": int, "mean_iou": OPTIONAL, "iou": dict},
    "checkpoint": {"path": str, "iteration": int},
    "preview": {"path": str, "iteration": int},
    "warning": {"message": str},
    "done": {"outputs": dict, "scores": (dict, type(None)), "held_out_iou": (dict, type(None))},
    "device": {"kind": str, "sentence": str},
    "card": {"text": str, "header": dict},
    "error": {"message": str, "exit_code": int, "kind": str},
}


def check_event(event: dict) -> None:
    """The event has exactly the fields that are documented."""
    expected = {"event": str, "time": NUMBER, **FIELDS[event["event"]]}
    assert event.keys() == expected.keys()
    for name, kinds in expected.items():
        assert isinstance(event[name], kinds), (event["event"], name, event[name])


def strict_lines(text: str) -> list[dict]:
    """Each line as strict JSON, which has no NaN."""

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
