"""What a user sets of a plan, or of the grid it is made for, instead of what the data suggest."""

from __future__ import annotations

import math
from dataclasses import replace

from SparseUNet3DLib.errors import UsageError
from SparseUNet3DLib.plan import Plan, Triple, check_plan


def override_plan(plan: Plan, values: dict[str, str]) -> Plan:
    """Replace parts of a plan by what the user wants: ``patch_size``, ``batch_size``, ``widths`` or ``strides``.

    ``patch_size`` is "48x64x64" (z x y x x), ``widths`` "16,32,64", ``strides`` "1x2x2,2x2x2".

    Raises:
        UsageError: an unknown name, an unreadable value, or values that do not fit together.
    """
    changes: dict = {}
    for name, text in values.items():
        try:
            if name == "patch_size":
                changes[name] = _parse_triple(text)
            elif name == "batch_size":
                changes[name] = int(text)
            elif name == "widths":
                changes[name] = tuple(int(w) for w in text.split(","))
            elif name == "strides":
                changes[name] = tuple(_parse_triple(t) for t in text.split(","))
            else:
                raise UsageError(
                    f"A plan has no '{name}' to set; choose patch_size, batch_size, widths, strides or spacing."
                )
        except ValueError:
            raise UsageError(f"'{text}' is no value for {name}; write it like 48x64x64, 2, 16,32,64 or 1x2x2,2x2x2.") \
                from None
    if plan.network != "auto" and "strides" in changes:
        raise UsageError(f"The strides of '{plan.network}' are fixed; only those of 'auto' can be set.")
    if "strides" in changes:
        changes["kernels"] = tuple((3, 3, 3) for _ in range(len(changes["strides"]) + 1))
    result = replace(plan, **changes)
    check_plan(result)
    return result


def parse_spacing(text: str) -> tuple[float, float, float]:
    """"3x1x1" as a spacing (z, y, x) in mm.

    Raises:
        UsageError: it is none.
    """
    try:
        z, y, x = (float(part) for part in text.lower().split("x"))
    except ValueError:
        z = y = x = math.nan
    if not all(0 < step < math.inf for step in (z, y, x)):
        raise UsageError(f"'{text}' is no value for spacing; write three lengths in mm like 3x0.7x0.7 (z x y x x).")
    return z, y, x


def _parse_triple(text: str) -> Triple:
    parts = tuple(int(p) for p in text.lower().split("x"))
    if len(parts) != 3:
        raise ValueError(text)
    return parts
