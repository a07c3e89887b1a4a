"""Who attacks, and how: from the experiment to what clients do."""

import pytest
import torch

from roundel.core.config import AttackConfig, Experiment, PartitionConfig
from roundel.core.data import ClientData, Examples, InMemoryPopulation
from roundel.core.errors import ConfigError, DataError
from roundel.core.messages import Ticket
from roundel.simulations.attacks.adversary import SHARE, Adversary, sending, settled
from roundel.simulations.population import PartitionedPopulation

LABELS = torch.tensor([0, 1, 2])
PART = Examples(torch.zeros(3, 2), LABELS)
POPULATION = InMemoryPopulation([ClientData(train=PART, validation=PART, test=PART)] * 5)


def experiment(**attack) -> Experiment:
    return Experiment.model_validate(
        {"seed": 3, "attack": settled(AttackConfig.model_validate(attack)).model_dump()}
    )


def adversary(population: int = 5, **attack) -> Adversary:
    made = Adversary.of(experiment(**attack), population)
    assert made is not None
    return made


def ticket(client_id: int, round: int = 1) -> Ticket:
    return Ticket(run="r", round=round, client_id=client_id)


# ---- who


def test_nobody_attacks_unless_it_is_asked_for():
    assert settled(AttackConfig()) == AttackConfig()
    assert Adversary.of(Experiment(), 5) is None


@pytest.mark.parametrize(
    ("share", "population", "count"), [(0.2, 10, 2), (0.25, 10, 2), (0.3, 5, 2), (1.0, 7, 7)]
)
def test_a_share_of_the_population_is_drawn_from_the_seed(share, population, count):
    one, again = (adversary(population, kind="nan", share=share).clients for _ in range(2))
    assert one == again
    assert len(one) == count
    assert one <= set(range(population))


def test_another_seed_draws_others():
    drawn = set()
    for seed in range(5):
        changed = experiment(kind="nan").model_copy(update={"seed": seed})
        made = Adversary.of(changed, 1000)
        assert made is not None
        drawn.add(made.clients)
    assert len(drawn) == 5
    assert {len(clients) for clients in drawn} == {200}


def test_the_malicious_can_be_named():
    assert adversary(kind="nan", clients=[4, 1]).clients == {1, 4}


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (
            {"share": 0.05},
            "attack.share = 0.05 of 5 clients is nobody; raise it, or leave attack.kind out",
        ),
        (
            {"clients": [1, 5]},
            "attack.clients = [1, 5] must name clients of the population, which are 0 to 4",
        ),
        ({"clients": [4, 1, 1]}, "attack.clients = [4, 1, 1] names a client twice"),
        (
            {"clients": []},
            "attack.clients = [] must name clients of the population, which are 0 to 4",
        ),
    ],
)
def test_an_attack_by_nobody_is_refused(attack, message):
    with pytest.raises(ConfigError) as caught:
        adversary(kind="nan", **attack)
    assert str(caught.value) == message


# ---- what is settled


def test_every_knob_is_written_down_and_reads_back_the_same():
    said = settled(AttackConfig.model_validate({"kind": "alie", "ddof": 1}))
    assert said.knobs == {"z": 1.5, "sign": "minus", "ddof": 1, "knowledge": "all"}
    assert said.share == SHARE
    assert settled(said) == said


def test_named_clients_need_no_share():
    said = settled(AttackConfig(kind="nan", clients=[1]))
    assert (said.share, said.clients) == (None, [1])


def test_an_unknown_knob_is_refused():
    with pytest.raises(ConfigError, match=r"attack\.eps is not a knob of ipm; did you mean"):
        settled(AttackConfig.model_validate({"kind": "ipm", "eps": 0.1}))


def test_classes_are_those_of_the_pool_unless_they_are_set():
    pool = PartitionedPopulation.of(PartitionConfig(kind="iid", clients=1), PART, seed=0)
    assert settled(AttackConfig(kind="label_flip"), pool).knobs == {"classes": 3}
    chosen = AttackConfig.model_validate({"kind": "label_flip", "classes": 10})
    assert settled(chosen, pool).knobs == {"classes": 10}
    assert settled(AttackConfig(kind="label_flip"), POPULATION).knobs == {"classes": None}


# ---- on data


def test_malicious_clients_train_on_flipped_labels_and_are_judged_on_true_ones():
    poisoned = adversary(kind="label_flip", classes=3, clients=[1]).poisoned(POPULATION)
    assert poisoned.size == 5
    data = poisoned.client(1)
    assert data.train.targets.tolist() == [2, 1, 0]
    assert data.train.inputs is PART.inputs
    assert data.test.targets.tolist() == data.validation.targets.tolist() == [0, 1, 2]
    assert poisoned.client(0) is POPULATION.client(0)
    assert LABELS.tolist() == [0, 1, 2]


def test_attacks_on_updates_leave_the_data_alone():
    assert adversary(kind="nan").poisoned(POPULATION) is POPULATION


def test_a_label_beyond_the_classes_fails_the_client_in_one_sentence():
    poisoned = adversary(kind="label_flip", classes=2, clients=[1]).poisoned(POPULATION)
    with pytest.raises(DataError) as caught:
        poisoned.client(1)
    assert str(caught.value) == (
        "client 1 has the label 2, which is none of the classes that attack.classes counts; raise "
        "it"
    )


def test_targets_that_are_no_classes_cannot_be_flipped():
    floats = Examples(torch.zeros(3, 2), torch.zeros(3))
    clients = [ClientData(train=floats, validation=floats, test=floats)]
    attack = {"kind": "label_flip", "classes": 2, "clients": [0]}
    with pytest.raises(DataError, match=r"float32 are no class numbers"):
        adversary(1, **attack).poisoned(InMemoryPopulation(clients)).client(0)


# ---- on updates


def test_a_malicious_client_changes_its_parameters_and_nothing_else():
    channels = {"params": torch.tensor([1.0, -2.0]), "control": torch.tensor([5.0])}
    tamper = adversary(kind="sign_flip", clients=[1]).tamper(ticket(1))
    assert tamper is not None
    sent = tamper(channels)
    assert sent["params"].tolist() == [-1, 2]
    assert sent["params"].dtype == torch.float32
    assert sent["control"] is channels["control"]
    assert channels["params"].tolist() == [1, -2]


def test_honest_clients_and_those_who_poison_or_collude_have_nothing_to_do_alone():
    assert adversary(kind="sign_flip", clients=[1]).tamper(ticket(0)) is None
    assert adversary(kind="alie", clients=[1]).tamper(ticket(1)) is None
    assert adversary(kind="label_flip", classes=2, clients=[1]).tamper(ticket(1)) is None


def test_noise_is_another_for_each_client_and_round_and_the_same_again():
    attacker = adversary(kind="gaussian", clients=[1, 2])
    nothing = {"params": torch.zeros(3)}

    def noise(client_id: int, round: int) -> tuple[float, ...]:
        tamper = attacker.tamper(ticket(client_id, round))
        assert tamper is not None
        return tuple(tamper(nothing)["params"].tolist())

    assert noise(1, 1) == noise(1, 1)
    assert len({noise(1, 1), noise(2, 1), noise(1, 2)}) == 3


def test_what_was_crafted_takes_the_place_of_the_parameters():
    crafted = torch.tensor([0.1, 0.2], dtype=torch.float64)
    sent = sending(crafted)({"params": torch.zeros(2), "control": torch.ones(1)})
    assert sent["params"].equal(torch.tensor([0.1, 0.2]))
    assert sent["control"].tolist() == [1]
