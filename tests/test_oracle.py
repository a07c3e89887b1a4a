"""Numbers that others have computed.

The cases lie in ``data/oracle_cases.json``; the environment variable ``ROUNDEL_ORACLE_CASES`` names
another file of the same format. Cases of algorithms or conventions that are not ours are skipped,
each with its reason. The end of a test run lists both; ``-rA`` shows what was held against what.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

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
    "fedsgd_weighted_gradients",
    "qfedavg_q0",
    "qfedavg_q0.1",
    "fedexp_eps0",
    "fednova_plain",
    "moon_contrastive_loss",
    "norm_clip_global_l2",
    "norm_clip_per_layer",
    "dp_adaptive_clip_trajectory",
    "dp_fixed_noise_std",
    "hierarchical_equals_flat",
    "dpsgd_ring4",
    "ring_allreduce_p4",
    "split_learning_cut",
    "fedbn_key_selection",
    "fedper_partial_aggregation",
    "ditto_personal_steps",
    "pfedme_local",
    "fedlora_fedit_vs_exact",
    "ffa_lora_exact",
    "attack_alie",
    "attack_ipm",
    "attack_sign_flip",
    "attack_label_flip",
    "median_odd",
    "trimmed_n5_b02",
    "trimmed_n5_b01_nothing_trimmed",
    "trimmed_n10_b029_floor",
    "krum_n7_f2",
    "multikrum_n7_f2_m3_weighted",
    "multikrum_byzfl_n7_f2",
    "bulyan_iterative_vs_oneshot",
    "rfa_weiszfeld_mean_init_R4",
    "centered_clipping_L1",
    "qsgd_given_uniforms",
    "topk_error_feedback_k1",
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
        ("SCAFFOLD", {"option": "I"}),
        ("SCAFFOLD", {"option": "I", "server_lr": 0.5}),
        ("FedSGD", {"server_lr": 0.3}),
        ("FedSGD", {"server_lr": 1.0, "weighting": "uniform"}),
        ("q-FedAvg", {"q": 0.0}),
        ("q-FedAvg", {"q": 0.1}),
        ("q-FedAvg", {"q": 2.0, "loss_offset": 1e-10}),
        ("q-FedAvg", {"q": 1.0, "lipschitz": 3.0}),
        ("FedExP", {"epsilon": 0.0}),
        ("FedExP", {"epsilon": 0.1, "weighting": "uniform"}),
        ("FedNova", {}),
        ("FedNova", {"momentum": 0.9}),
        ("FedNova", {"momentum": 0.5, "nesterov": True}),
        ("FedNova", {"mu": 0.5}),
        ("FedDyn", {"alpha": 0.3}),
        ("FedDyn", {"alpha": 0.01}),
        ("MOON", {"temperature": 0.5}),
        ("MOON", {"temperature": 0.01}),
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
    if isinstance(value, str):
        return value + "?"
    return value + 1e-6 * (1 + abs(value))


@pytest.mark.parametrize(
    ("case_id", "change"),
    [
        ("fedavg_weighted", {"algorithm": "FedNew"}),
        ("fedavg_weighted", {"algorithm": "FedAvg + noise"}),
        ("fedavg_weighted", {"kind": "edge"}),
        ("fedavg_weighted", {"inputs": {"client_params": [[1.0]], "num_examples": [1]}}),
        ("fedavg_weighted", {"expected": {"something_else": 1.0}}),
        ("scaffold_option2_3rounds", {"convention": "option III: c_i^+ = 0"}),
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
        ("qsgd_given_uniforms", "bucket", 2),
        ("topk_error_feedback_k1", "share", 0.5),
        ("fedsgd_weighted_gradients", "momentum", 0.9),
        ("qfedavg_q0.1", "num_examples", [1, 2, 3]),
        ("fedexp_eps0", "decay", 0.9),
        ("fednova_plain", "local_epochs", 2),
        ("moon_contrastive_loss", "l_sup", 1.0),
        ("scaffold_option2_3rounds", "option", "III"),
        ("norm_clip_global_l2", "noise_multiplier", 1.0),
        ("dp_adaptive_clip_trajectory", "noise_multiplier", 1.0),
        ("dp_fixed_noise_std", "num_examples", [1, 2]),
        ("dp_eps_z2_q1_T10", "clip_norm", 1.0),
        ("pfedme_local", "mu", 1e-3),
        ("ditto_personal_steps", "momentum", 0.9),
        ("fedper_partial_aggregation", "server_lr", 0.5),
        ("ffa_lora_exact", "alpha", 8),
    ],
)
def test_an_input_that_means_nothing_here_makes_a_case_unknown(case_id, name, value):
    case = bundled(case_id)
    with pytest.raises(UnknownCase):
        run(replace(case, inputs={**case.inputs, name: value}))


def test_fednova_with_a_pull_goes_as_far_as_released_code_does_if_the_case_speaks_of_it():
    case = bundled("fednova_plain")
    pulled = replace(case, inputs={**case.inputs, "mu": 0.5})
    found, silent = run(pulled), run(replace(pulled, convention=""))
    assert float(found["tau_eff"]) == pytest.approx(6.4, rel=1e-12)
    # 1 - 0.975**tau, over 0.025: for 2, 5 and 9 steps.
    norms = [(1 - 0.975**tau) / 0.025 for tau in (2, 5, 9)]
    assert found["a_norms"] == pytest.approx(norms, rel=1e-12)
    mean = sum(p * norm for p, norm in zip((0.2, 0.3, 0.5), norms, strict=True))
    assert float(silent["tau_eff"]) == pytest.approx(mean, rel=1e-12)
    assert not torch.equal(found["global_params"], silent["global_params"])


def test_fednova_with_momentum_and_a_pull_has_two_readings_and_is_unknown():
    case = bundled("fednova_plain")
    with pytest.raises(UnknownCase, match="it does not say which"):
        run(replace(case, inputs={**case.inputs, "mu": 0.5, "momentum": 0.9}))


def test_feddyn_without_steps_goes_to_the_minimum():
    # h = 0 and alpha = 2: the minimum of (x - 3)**2 / 2 + (x - 0)**2 is 1; h_k = h = -2; w = 1 + 1.
    inputs = {
        "global_params": [0.0],
        "client_quadratics": [{"a": [1.0], "b": [3.0]}],
        "alpha": 2.0,
    }
    case = replace(bundled("fednova_plain"), algorithm="FedDyn", convention="", inputs=inputs)
    found = run(case)
    assert found["h"].tolist() == pytest.approx([-2], rel=1e-12)
    assert found["h_k"][0].tolist() == pytest.approx([-2], rel=1e-12)
    assert found["global_params"].tolist() == pytest.approx([2], rel=1e-12)
