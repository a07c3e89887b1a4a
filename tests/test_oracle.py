"""Numbers that others have computed.

The cases lie in ``data/oracle_cases.json``; the environment variable ``ROUNDEL_ORACLE_CASES`` names
another file of the same format. Cases of algorithms or conventions that are not ours are skipped,
each with its reason. The end of a test run lists both; ``-rA`` shows what was held against what.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.oracle.cases import Case, UnknownCase, compare, read_cases
from tests.oracle.reference import draw_case
from tests.oracle.runner import run

BUNDLED = Path(__file__).parent / "data" / "oracle_cases.json"
CASES = read_cases(Path(os.environ.get("ROUNDEL_ORACLE_CASES") or BUNDLED))

OURS = [
    "fedavg_weighted",
    "fedavg_uniform",
    "fedavg_server_lr",
    "fedavgm_3rounds",
    "fedadagrad_v0_zero",
    "fedadam_paper_nobc_v0_zero",
    "fedadam_kingma_tf",
    "fedadam_flower",
    "fedadam_torch",
    "fedyogi_v0_zero",
    "fedprox_gd5",
    "scaffold_option2_3rounds",
]


def bundled(case_id: str) -> Case:
    return next(case for case in read_cases(BUNDLED) if case.id == case_id)


def tell(line: str) -> None:
    print(line)  # noqa: T201 - what `pytest -rA` shows of a test that passes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_case_is_reproduced(case, record_property):
    record_property("oracle case", case.id)
    try:
        compared = compare(case, run(case))
    except UnknownCase as unknown:
        pytest.skip(f"{case.id}: {unknown}")
    tell(f"{case.id}: compared {', '.join(compared)}")


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("FedAvg", {}),
        ("FedAvg", {"weighting": "uniform", "server_lr": 0.7}),
        ("FedAvgM", {"server_momentum": 0.6, "server_lr": 1.5}),
        ("FedAvgM", {"server_momentum": 0.9, "nesterov": True}),
        ("FedAdagrad", {}),
        ("FedAdagrad", {"beta_1": 0.0, "v_init": 0.0}),
        ("FedAdam", {}),
        ("FedAdam", {"bias_correction": "kingma", "v_init": 0.0}),
        ("FedAdam", {"bias_correction": "textbook", "v_init": 0.0, "weighting": "uniform"}),
        ("FedAdam", {"bias_correction": "flower"}),
        ("FedYogi", {}),
        ("FedYogi", {"bias_correction": "kingma", "v_init": 1e-6}),
        ("FedProx", {}),
        ("FedProx", {"mu": 2.0}),
        ("SCAFFOLD", {}),
        ("SCAFFOLD", {"server_lr": 0.5}),
    ],
    ids=str,
)
def test_cases_drawn_at_random_are_reproduced_too(algorithm, options, seed):
    case = draw_case(algorithm, options, seed)
    names = {path.split("[")[0] for path in compare(case, run(case))}
    assert names == case.expected.keys()


def test_every_case_is_either_run_or_known_to_be_unknown():
    ran, unknown = [], []
    for case in CASES:
        try:
            run(case)
            ran.append(case.id)
        except UnknownCase:
            unknown.append(case.id)
    tell(f"ran {len(ran)} cases: {', '.join(ran)}")
    tell(f"unknown are {len(unknown)} cases: {', '.join(unknown)}")
    assert len(ran) + len(unknown) == len(CASES)


@pytest.mark.parametrize("case_id", OURS)
def test_the_bundled_cases_of_our_algorithms_are_compared_in_all_they_expect(case_id):
    case = bundled(case_id)
    compared = compare(case, run(case))
    names = {path.split(".")[0].split("[")[0] for path in compared}
    assert names == case.expected.keys()


@pytest.mark.parametrize("case_id", OURS)
def test_a_case_that_expects_other_numbers_fails(case_id):
    case = bundled(case_id)
    computed = run(case)
    for name, value in case.expected.items():
        with pytest.raises(AssertionError, match=case_id):
            compare(replace(case, expected={name: shifted(value)}), computed)


def shifted(value):
    """Return the same nesting with its last number moved by a millionth."""
    if isinstance(value, list):
        return [*value[:-1], shifted(value[-1])]
    if isinstance(value, dict):
        return {name: shifted(inner) for name, inner in value.items()}
    return value * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize(
    ("case_id", "change"),
    [
        ("fedavg_weighted", {"algorithm": "FedNew"}),
        ("fedavg_weighted", {"algorithm": "FedAvg + noise"}),
        ("fedavg_weighted", {"kind": "edge"}),
        ("fedavg_weighted", {"inputs": {"client_params": [[1.0]], "num_examples": [1]}}),
        ("fedavg_weighted", {"expected": {"something_else": 1.0}}),
        ("scaffold_option2_3rounds", {"convention": "option I: c_i^+ = g_i(x)"}),
    ],
)
def test_a_case_that_is_not_ours_is_unknown_and_not_wrong(case_id, change):
    case = replace(bundled(case_id), **change)
    with pytest.raises(UnknownCase):
        compare(case, run(case))


@pytest.mark.parametrize(
    ("case_id", "name", "value"),
    [
        ("fedavg_weighted", "total_examples", 1000),
        ("fedavg_weighted", "weighting", "by rank"),
        ("fedadam_kingma_tf", "bias_correction", "amsgrad"),
        ("fedadam_kingma_tf", "m_init", 1e-6),
        ("fedadagrad_v0_zero", "bias_correction", "kingma"),
        ("fedprox_gd5", "c_init", [0.0, 0.0]),
    ],
)
def test_an_input_that_means_nothing_here_makes_a_case_unknown(case_id, name, value):
    case = bundled(case_id)
    with pytest.raises(UnknownCase):
        run(replace(case, inputs={**case.inputs, name: value}))
