"""Which slices each network of a table learns from, and on which it is scored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.plane_detection import Plane

#: The three networks that Tables 1 and 3 compare: name of the column, network, batch normalisation.
NETWORKS = {
    "3D w/o BN": ("paper", None),
    "3D with BN": ("paper", "batch"),
    "2D with BN": ("2d", "batch"),
}
#: Folds of the cross validation over slices (Table 1).
FOLDS = 3
#: Numbers of (yz, xz, xy) slices in the rows of Table 2.
SPARSITY = ((1, 1, 1), (2, 2, 1), (3, 3, 2), (5, 5, 3))

Planes = dict[str, tuple[Plane, ...]]


@dataclass(frozen=True)
class Run:
    """One cell of a table: a network to train and score.

    Attributes:
        row: name of the table's row.
        column: name of its column.
        network: a key of ``NETWORKS``.
        training: annotated planes to learn from, by the volume's name.
        test: annotated planes to score on, by the volume's name; never among those to learn from.
        unscored: planes of the test volumes of which nothing is scored, where they cross those to score on: what
            any network learns from that is compared on the same slices.
    """

    row: str
    column: str
    network: str
    training: Planes
    test: Planes
    unscored: Planes = field(default_factory=dict)


def semi_automated(cases: Mapping[str, Case]) -> list[Run]:
    """Table 1: cross validation over the annotated slices of all volumes, for each of the three networks.

    Neighbouring slices of an orientation go to different subsets, so that each subset is spread over all volumes.

    Raises:
        InputError: there are fewer slices than subsets.
    """
    slices = [(name, plane) for name, case in cases.items() for plane in _planes(case)]
    if len(slices) < FOLDS:
        raise InputError(f"Cross validation needs {FOLDS} annotated slices or more, not {len(slices)}; annotate more.")
    runs = []
    for fold in range(FOLDS):
        training = _by_volume([s for n, s in enumerate(slices) if n % FOLDS != fold])
        test = _by_volume([s for n, s in enumerate(slices) if n % FOLDS == fold])
        runs += [Run(f"subset {fold + 1}", network, network, training, test, training) for network in NETWORKS]
    return runs


def sparsity(cases: Mapping[str, Case]) -> list[Run]:
    """Table 2: each volume by itself, learnt from more and more of its slices, scored on those that no row uses.

    Of an orientation that has fewer slices than a row wants, all but those to be scored on are taken.

    Raises:
        InputError: a volume has no slice left to be scored on.
    """
    runs = []
    for name, case in cases.items():
        # The rows grow out of each other: a slice of one row is in all that follow.
        order = {axis: _spread([p for p in _planes(case) if p.axis == axis]) for axis in range(3)}
        most = {axis: SPARSITY[-1][2 - axis] for axis in range(3)}
        test = tuple(sorted(p for axis, planes in order.items() for p in planes[most[axis]:]))
        if not test:
            raise InputError(
                f"Volume '{name}' has no annotated slice beyond the {', '.join(map(str, SPARSITY[-1]))} (yz, xz, xy) "
                "that are learnt from in the last row, so that nothing is left to score on; annotate more slices."
            )
        learnt = {name: tuple(sorted(p for axis, planes in order.items() for p in planes[: most[axis]]))}
        for counts in SPARSITY:
            chosen = [p for axis, planes in order.items() for p in planes[: counts[2 - axis]]]
            row = ",".join(map(str, counts))
            runs.append(Run(row, name, "3D with BN", {name: tuple(sorted(chosen))}, {name: test}, learnt))
    return runs


def fully_automated(cases: Mapping[str, Case]) -> list[Run]:
    """Table 3: each volume is segmented by networks that learnt from all annotated slices of the others.

    Raises:
        InputError: there is only one volume.
    """
    if len(cases) < 2:
        raise InputError("Learning from some volumes and segmenting another needs two volumes or more; add one.")
    planes = {name: _planes(case) for name, case in cases.items()}
    return [
        Run(name, network, network, {n: p for n, p in planes.items() if n != name}, {name: planes[name]})
        for name in cases for network in NETWORKS
    ]


PROTOCOLS = {"semi-automated": semi_automated, "sparsity": sparsity, "fully-automated": fully_automated}


def _planes(case: Case) -> tuple[Plane, ...]:
    annotation: SparseAnnotation = case.annotation
    if not annotation.planes:
        raise InputError(f"Volume '{case.volume.name}' has no completely annotated slice; name some with 'slices'.")
    return tuple(sorted(annotation.planes))


def _by_volume(slices: Sequence[tuple[str, Plane]]) -> Planes:
    found: dict[str, list[Plane]] = defaultdict(list)
    for name, plane in slices:
        found[name].append(plane)
    return {name: tuple(planes) for name, planes in found.items()}


def _spread(planes: Sequence[Plane]) -> list[Plane]:
    """The planes of one orientation in an order in which any number of first ones is spread over all: middle first."""
    left = sorted(planes)
    if not left:
        return []
    low, high = left[0].index, left[-1].index
    chosen: list[Plane] = []
    while left:
        best = max(left, key=lambda p: (min([abs(p.index - c.index) for c in chosen], default=0),
                                        -abs(2 * p.index - low - high), -p.index))
        chosen.append(best)
        left.remove(best)
    return chosen
