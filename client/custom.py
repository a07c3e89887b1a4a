"""Local training by a function of the user's, in place of the learning loop."""

from collections.abc import Mapping

from torch import Tensor

from roundel.core.clientstate import ClientState
from roundel.core.data import Examples
from roundel.core.errors import ConfigError
from roundel.core.job import LocalJob, Trained
from roundel.core.learning import Learner
from roundel.core.metrics import Metrics, to_float
from roundel.core.training import TrainFunction, TrainingContext, TrainingResult

_PREFIX = "training/"


def train_by(
    function: TrainFunction, learner: Learner, job: LocalJob, context: TrainingContext
) -> Trained:
    """Let the function train, and read off the model what became of it.

    Args:
        function: The user's.
        learner: Whose model is trained.
        job: Where it starts, and on what.
        context: What the function is told.

    Raises:
        DataError: There are no examples.
        ConfigError: The function returned something else than a result that can be sent.
    """
    learner.begin(job)
    # A copy: what the function leaves behind, such as gradients, frozen layers or another mode,
    # must not reach the next client.
    model, vector = learner.duplicate()
    examples = Examples(job.examples.inputs.clone(), job.examples.targets.clone())
    result = _checked(function(model, examples, context), function)
    vector, integers = learner.spec.read(model, vector)
    count = len(job.examples)
    loss = None if result.loss is None else to_float(result.loss)
    return Trained(
        vector=vector,
        integers=integers,
        metrics=Metrics() if loss is None else Metrics({"loss": loss * count}, count),
        steps=(result.steps,),
        state={f"{_PREFIX}{name}": value.detach().clone() for name, value in result.state.items()},
    )


def own_state(state: ClientState) -> dict[str, Tensor]:
    """Return a copy of the part of a client's state that its training function returned."""
    return {
        name.removeprefix(_PREFIX): value.clone()
        for name, value in state.items()
        if name.startswith(_PREFIX)
    }


def _checked(result: object, function: TrainFunction) -> TrainingResult:
    """Return what a function returned if it is a result that can be sent."""
    name = getattr(function, "__name__", repr(function))
    if not isinstance(result, TrainingResult):
        raise ConfigError(
            f"the training function {name} returned {type(result).__name__}; it must return a "
            f"{TrainingResult.__module__}.{TrainingResult.__name__}"
        )
    steps: object = result.steps
    if not isinstance(steps, int) or steps < 1:
        raise ConfigError(
            f"the training function {name} returned steps = {steps!r}; it must be how many steps "
            "it took, a whole number of at least 1"
        )
    state: Mapping[str, object] = result.state
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise ConfigError(
                f"the training function {name} returned state[{key!r}] of type "
                f"{type(value).__name__}; what comes back the next time must be tensors"
            )
    return result
