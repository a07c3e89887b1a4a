"""FedBN: what stays is found by its type, and stays."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional

from roundel.core.data import Examples
from roundel.core.errors import CompositionError
from roundel.core.learning import Learner
from roundel.core.task import Task
from roundel.strategies.compose import compose
from roundel.strategies.fedbn import fedbn
from tests.federations import federate
from tests.nets import Net, labelled
from tests.strategies.toys import cohorts


class Block(nn.Module):
    """A block whose second norm has no name that would give it away."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(2)
        self.downsample = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2))


class Norms(nn.Module):
    """One norm of each kind, and something to share."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)
        self.sync = nn.SyncBatchNorm(2)
        self.group = nn.GroupNorm(1, 2)
        self.layer = nn.LayerNorm(2)
        self.rms = nn.RMSNorm(2)
        self.instance = nn.InstanceNorm1d(2, affine=True, track_running_stats=True)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)


def personal(model: nn.Module, **knobs) -> set[str]:
    find = fedbn(**knobs).personal
    assert find is not None
    return set(find(model))


def test_batch_norms_are_found_by_type_with_all_that_belongs_to_them():
    tensors = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {f"{norm}.{tensor}" for norm in ("bn1", "downsample.1") for tensor in tensors}
    assert personal(Block()) == expected


def test_other_norms_stay_only_if_all_are_asked_for():
    batch = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert personal(Norms()) == {f"sync.{name}" for name in batch}
    assert personal(Norms(), kinds="all") == (
        {f"{norm}.{name}" for norm in ("sync", "instance") for name in batch}
        | {f"{norm}.{name}" for norm in ("group", "layer") for name in ("weight", "bias")}
        | {"rms.weight"}
    )


def test_neither_statistics_nor_counters_are_in_what_is_shared():
    strategy = compose(fedbn())
    task = strategy.adapted(Task(name="net", model=Net))
    spec = Learner(task, seed=0).spec
    assert strategy.channels(spec).keys() == {"params"}
    shared = [entry.name for entry in (*spec.entries, *spec.integers) if not entry.personal]
    assert shared == ["body.weight", "body.bias", "head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("kinds", "kind", "remedy"),
    [("batch", "BatchNorm", 'use kinds = "all" or fedavg'), ("all", "normalisation", "use fedavg")],
)
def test_a_model_without_norms_is_an_error_with_the_remedy(kinds, kind, remedy):
    with pytest.raises(CompositionError) as raised:
        personal(Plain(), kinds=kinds)
    assert str(raised.value) == (
        f"fedbn keeps {kind} layers at the clients, and Plain has none: put some into the model, "
        f"or {remedy}"
    )


def test_a_model_of_nothing_but_norms_has_nothing_to_share():
    with pytest.raises(CompositionError, match="leaves nothing that is trained to share"):
        personal(nn.Sequential(nn.BatchNorm1d(2)))


def test_an_unknown_kind_is_refused():
    with pytest.raises(CompositionError, match="kinds = 'layer' must be one of 'batch', 'all'"):
        fedbn(kinds="layer")  # type: ignore[arg-type]


def trained_alone(model: nn.Module, examples: Examples, steps: int, lr: float) -> nn.Module:
    model = deepcopy(model).train()
    for _ in range(steps):
        loss = functional.cross_entropy(model(examples.inputs), examples.targets)
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.sub_(lr * parameter.grad)
    return model


def test_a_federation_is_clients_with_norms_of_their_own_around_an_averaged_rest(tmp_path):
    task = Task(name="net", model=lambda: Net(momentum=None).double())
    clients = [labelled(1), labelled(2, count=12)]
    clients = [Examples(each.inputs + k, each.targets) for k, each in enumerate(clients)]
    asked = [[0], [0, 1], [0]]
    strategy = compose(fedbn(), cohorts(*asked))
    settings = {"rounds": 3, "steps": 2, "lr": 0.5, "batch_size": "full"}
    ran = federate(tmp_path, strategy, task, clients, **settings)
    models = [task.new_model(0) for _ in clients]
    shared = ("body.weight", "body.bias", "head.weight", "head.bias")
    for cohort in asked:
        for client_id in cohort:
            models[client_id] = trained_alone(models[client_id], clients[client_id], 2, lr=0.5)
        states = [model.state_dict() for model in models]
        weights = [len(each) if k in cohort else 0 for k, each in enumerate(clients)]
        for name in shared:
            mean = (weights[0] * states[0][name] + weights[1] * states[1][name]) / sum(weights)
            for state in states:
                state[name].copy_(mean)
    for name in shared:
        torch.testing.assert_close(ran.model[name], models[0].state_dict()[name])
    for client_id, model in enumerate(models):
        state = model.state_dict()
        names = ("weight", "bias", "running_mean", "running_var")
        own = torch.cat([state[f"norm.{name}"] for name in names])
        torch.testing.assert_close(ran.clients[client_id]["personal"], own)
    # Client 1 has taken two steps and client 0 six: neither counts the other's.
    counters = [ran.clients[k]["personal integers"].tolist() for k in range(2)]
    assert counters == [[6], [2]]
    # The server's copy is that of a new model, and 26 float64 travel from each client.
    assert ran.model["norm.running_mean"].tolist() == [0.0] * 4
    assert int(ran.model["norm.num_batches_tracked"]) == 0
    assert ran.history.series("bytes_up") == [26 * 8, 2 * 26 * 8, 26 * 8]
