"""Exported apps on a real SuperLink with two SuperNodes."""

import pytest
from safetensors.torch import load_file

from roundel.core.configfile import load_experiment
from roundel.simulations import simulate
from roundel.simulations.flowerapps.export import export_app
from tests.flowerapps.superlink import superlink, wait_until

CLIENTS, LIMIT_S = 3, 500
COMMON = (
    "rounds=2",
    "client.epochs=1",
    f"partition.clients={CLIENTS}",
    "cohort.size=2",
    "evaluation.clients=0",
    "engine.executor=loop",
)
STRATEGIES = {
    "fedavg": ("rounds=1",),
    "scaffold": (),
    "fedadam": (),
    "fedbn": ("task.model=mlp-norm", "evaluation.clients=2", "evaluation.clients_every=2"),
}


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 200)
def test_exported_apps_end_on_a_superlink_with_the_parameters_of_our_own_engine(tmp_path):
    for name, settings in STRATEGIES.items():
        said = [*COMMON, f"strategy.name={name}", *settings]
        export_app(load_experiment(None, said), tmp_path / f"app-{name}")
    with superlink(tmp_path / "flower", tmp_path / "app-fedavg" / "README.md") as running:
        for name in STRATEGIES:
            running.submit(tmp_path / f"app-{name}", tmp_path / name)
        ours = {
            name: simulate(
                settings=[*COMMON, f"strategy.name={name}", *settings], out=tmp_path / "own" / name
            )
            for name, settings in STRATEGIES.items()
        }
        models = [tmp_path / name / "model.safetensors" for name in STRATEGIES]
        done = wait_until(lambda: all(model.exists() for model in models), LIMIT_S)
        assert done, running.logs()
    for name, run in ours.items():
        lines = (tmp_path / name / "metrics.jsonl").read_text()
        for line in run.rounds:
            assert f'"params_sha256": "{line["params_sha256"]}"' in lines
        own = load_file(tmp_path / "own" / name / "model.safetensors")
        theirs = load_file(tmp_path / name / "model.safetensors")
        assert own.keys() == theirs.keys()
        assert all((own[key] == theirs[key]).all() for key in own)
