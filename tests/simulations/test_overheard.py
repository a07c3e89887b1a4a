"""What one round's clients send is heard, and nothing else changes."""

from roundel.simulations.overheard import Overheard
from roundel.simulations.recompute import Recorded, Rerun
from tests.simulations.bowls import PIECES, run_to


def test_the_updates_of_one_round_are_heard_and_rounds_come_out_as_recorded(tmp_path):
    history = run_to(tmp_path / "run", "faults.fail=0.3", "rounds=6")
    rerun = Rerun.of(Recorded.read(tmp_path / "run", "this"), 6, PIECES, load_test=False)
    clients = Overheard(
        clients=rerun.clients(rerun.store({})),
        strategy=rerun.simulation.plan.strategy,
        spec=rerun.simulation.learner.spec,
        round=4,
    )
    with rerun.computing():
        rounds = [state.round for state, _ in rerun.rounds(clients, rerun.server.initial_state())]
    assert rounds == [1, 2, 3, 4, 5, 6]
    counted = [
        line["client"]
        for line in history.clients()
        if (line["round"], line["status"]) == (4, "accepted")
    ]
    assert sorted(clients.heard) == counted
    assert all(heard["params"].shape == (4,) for heard in clients.heard.values())
    assert (clients.size, clients.states()) == (4, {})
