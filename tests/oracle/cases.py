"""Oracle cases as data: read from a file, and compared with what was computed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class UnknownCase(Exception):
    """A case of an algorithm, a convention or a kind of input that is not ours."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case of an oracle file.

    Attributes:
        id: Names it in reports; never decides how it is run.
        algorithm: The algorithm, with its modifiers.
        kind: What it is about: ``"aggregation"``, ``"multi_round"``, ``"client_step"``, ...
        convention: Which of several readings of the algorithm is meant.
        inputs: Names to numbers.
        expected: Names to numbers.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
    """

    id: str
    algorithm: str
    kind: str
    convention: str
    inputs: Mapping[str, Any]
    expected: Mapping[str, Any]
    rtol: float
    atol: float


def read_cases(path: Path) -> list[Case]:
    """Read all cases of a file."""
    return [
        Case(
            id=case["id"],
            algorithm=case["algorithm"],
            kind=case["kind"],
            convention=case.get("convention", ""),
            inputs=case["inputs"],
            expected=case["expected"],
            rtol=case["tolerance"]["rtol"],
            atol=case["tolerance"]["atol"],
        )
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]
    ]


def vector(numbers: Any) -> Tensor:
    """Return numbers of any nesting as one float64 vector.

    Raises:
        UnknownCase: They are not numbers, or not of one shape.
    """
    try:
        return torch.tensor(numbers, dtype=torch.float64).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UnknownCase(f"it holds no plain numbers where they are needed: {error}") from error


def compare(case: Case, computed: Mapping[str, Any]) -> list[str]:
    """Hold every expected number that was computed against it; return which those are.

    Raises:
        AssertionError: One is off by more than the case's tolerance.
        UnknownCase: None of what is expected was computed.
    """
    compared = list(_compare(case, case.expected, computed, ""))
    if not compared:
        raise UnknownCase(f"nothing here computes its {', '.join(case.expected)}")
    return compared


def _compare(case: Case, expected: Any, computed: Any, path: str) -> Iterator[str]:
    if isinstance(expected, Mapping) and isinstance(computed, Mapping):
        for name in expected:
            if name in computed:
                yield from _compare(case, expected[name], computed[name], f"{path}.{name}")
    elif isinstance(expected, str):
        assert computed == expected, f"{case.id}{path} is {computed!r}"
        yield path.removeprefix(".")
    elif isinstance(expected, Sequence) and isinstance(computed, Sequence):
        assert len(computed) == len(expected), f"{path} has {len(computed)} entries"
        for place, (one, other) in enumerate(zip(expected, computed, strict=True)):
            yield from _compare(case, one, other, f"{path}[{place}]")
    else:
        torch.testing.assert_close(
            vector(computed) if not isinstance(computed, Tensor) else computed,
            vector(expected),
            rtol=case.rtol,
            atol=case.atol,
            msg=lambda message: f"{case.id}{path}: {message}",
        )
        yield path.removeprefix(".")
