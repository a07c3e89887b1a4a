"""Synchronous data-parallel SGD: one model in several processes, the mean of their gradients."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from roundel.core.config import TopologyConfig
from roundel.core.data import Examples
from roundel.core.errors import RunFailed
from roundel.core.files import writing
from roundel.core.job import LocalContext, LocalJob, Trained
from roundel.core.learning import Learner
from roundel.core.metrics import Metrics
from roundel.core.params import params_sha256
from roundel.core.seeds import derive, isolated_rng
from roundel.core.usercode import user_code
from roundel.server.aggregation import ServerState
from roundel.simulations.topologies.peers import Advance, Ground, Model, Topology, union
from roundel.simulations.topologies.ring import Ring, meeting_point, ring_elements
from roundel.strategies.plan import Plan

LOGS = "ranks"

_END_S = 5.0
_POLL_S = 0.02


def lr_scale(settings: TopologyConfig, round: int) -> float:
    """Return what the learning rate of a round is multiplied by.

    With ``scale_lr`` it is p, the number of ranks, reached over ``warmup_rounds`` rounds in equal
    steps from 1 (P. Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 2.2).

    Args:
        settings: The section ``topology``.
        round: The round, from 1.
    """
    if not settings.scale_lr:
        return 1.0
    share = min(1.0, (round - 1) / settings.warmup_rounds) if settings.warmup_rounds else 1.0
    return 1.0 + (settings.ranks - 1) * share


def shard(examples: Examples, rank: int, ranks: int) -> Examples:
    """Return every p-th example: what one rank trains on."""
    return examples.take(torch.arange(rank, len(examples), ranks))


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One of the processes.

    Attributes:
        plan: The experiment.
        learner: The model.
        examples: What this rank trains on.
        ring: The others.
    """

    plan: Plan
    learner: Learner
    examples: Examples
    ring: Ring

    def train(self, model: Model, number: int, steps: int) -> tuple[Model, Metrics]:
        """Take the steps of one round; the same on every rank.

        Every gradient is the mean over the ranks', so models stay equal. Buffers such as running
        statistics differ by rank; they are averaged at the end of the round.

        Raises:
            RunFailed: The user's code failed, another rank was lost, or models came apart.
        """
        settings, spec = self.plan.experiment.topology, self.learner.spec
        (phase,) = self.plan.phases(number)
        optimizer = replace(phase.optimizer, lr=phase.optimizer.lr * lr_scale(settings, number))
        seed = self.plan.experiment.seed_for("training")
        job = LocalJob(
            context=LocalContext(spec=spec, sent=model[0], lr=optimizer.lr),
            integers=model[1],
            examples=self.examples,
            phases=[replace(phase, optimizer=optimizer, epochs=None, steps=steps)],
            corrections=(self._averaged,),
            wants_impulse=False,
            seed=derive(seed, "batches", number, self.ring.rank),
        )
        what = f"training on rank {self.ring.rank} in round {number}"
        drawn = derive(seed, "training", number, self.ring.rank)
        with isolated_rng(drawn), user_code(what, RunFailed):
            trained = self.learner.train(job)
        after = self._with_buffers(trained)
        self._check_equal(after, number)
        return after, self._summed(trained.metrics)

    def _averaged(self, gradient: Tensor, _point: Tensor, _context: LocalContext) -> Tensor:
        return self.ring.mean(gradient)

    def _with_buffers(self, trained: Trained) -> Model:
        where = self.learner.spec.shared_buffers
        vector = trained.vector.clone()
        vector[where] = self.ring.mean(trained.vector[where])
        return vector, self.ring.largest(trained.integers)

    def _check_equal(self, model: Model, number: int) -> None:
        digest = int(params_sha256(*model)[:15], 16)
        low, high = self.ring.largest(torch.tensor([-digest, digest])).tolist()
        if -low != high:
            raise RunFailed(
                f"in round {number} the ranks' models came apart, although each step was the same: "
                "a loss or a model of your own gives other results from process to process"
            )

    def _summed(self, metrics: Metrics) -> Metrics:
        names = sorted(metrics.sums)
        own = torch.tensor(
            [*(metrics.sums[name] for name in names), metrics.count], dtype=torch.float64
        )
        *sums, count = self.ring.total(own).tolist()
        return Metrics(dict(zip(names, sums, strict=True)), int(count))

    def follow(self) -> None:
        """Do what rank 0 says until it says that it is over."""
        spec = self.learner.spec
        model = (
            self.ring.from_first(torch.zeros(spec.size, dtype=spec.dtype)),
            self.ring.from_first(torch.zeros(spec.integer_size, dtype=torch.int64)),
        )
        while True:
            number, steps = self.ring.from_first(torch.zeros(2, dtype=torch.int64)).tolist()
            if number == 0:
                return
            model, _ = self.train(model, number, steps)


@contextmanager
def all_reduce(ground: Ground, run: Path) -> Iterator[Topology]:
    """Train one model in several processes, as Horovod does; this process is rank 0.

        w <- w - lr mean_r g_r(w)      r over the ranks, each with a batch of its own

    The training examples of all clients are dealt out to the ranks like cards. In each step every
    rank draws ``client.batch_size`` examples of its share, and gradients are averaged by gloo; with
    p ranks that is SGD with batches p times as large. A round takes as many gradients, over all
    ranks, as the cohort of that round takes steps in a federation (rounded up to whole steps).
    ``topology.scale_lr`` multiplies the learning rate by p, as is usual with larger batches.

    Bytes are those that a ring sends: ``2 (p - 1) / p`` times the gradient, from each rank in each
    step. Processes end with the run, however it ends; if one is lost, the run fails. They meet
    where no other machine can join in.

    Args:
        ground: What there is.
        run: The run directory, from which the other ranks read the experiment.

    Raises:
        RunFailed: A process ended before its time.

    Source:
        A. Sergeev and M. Del Balso, "Horovod: fast and easy distributed deep learning in
        TensorFlow", 2018.
    """
    server = ground.server
    ranks = server.plan.experiment.topology.ranks
    with ExitStack() as stack:
        place = Path(stack.enter_context(TemporaryDirectory(prefix="roundel-ranks-")))
        store = meeting_point(place, ranks)
        watched = stack.enter_context(_processes(run, ranks, place))
        watched.wait_until(lambda: all(store.check([ready(r)]) for r in range(1, ranks)))
        first = Rank(
            plan=server.plan,
            learner=server.learner,
            examples=shard(union(ground.population), 0, ranks),
            ring=Ring(store, 0, ranks, watched.explain),
        )
        told = False

        def advance(state: ServerState) -> Advance:
            nonlocal told
            number = state.round + 1
            model = (state.params, state.integers)
            if not told:
                for part in model:
                    first.ring.from_first(part)
                told = True
            steps = -(-ground.steps(ground.cohort(state), number) // ranks)
            first.ring.from_first(torch.tensor([number, steps]))
            after, metrics = first.train(model, number, steps)
            size = first.learner.spec.trainable
            sent = sum(ring_elements(size.stop - size.start, ranks)) * steps
            return Advance(
                model=after,
                training=metrics,
                asked=ranks,
                completed=ranks,
                bytes_up=sent * model[0].element_size(),
                bytes_down=sent * model[0].element_size(),
                figures={"ranks": ranks, "steps": steps},
            )

        yield Topology(advance=advance)
        if not told:
            for part in (server.learner.initial, server.learner.initial_integers):
                first.ring.from_first(part)
        first.ring.from_first(torch.zeros(2, dtype=torch.int64))


def ready(rank: int) -> str:
    """Return by which key a rank says that it is there."""
    return f"rank {rank} is ready"


@dataclass(frozen=True, kw_only=True)
class _Watched:
    """The processes of the other ranks.

    Attributes:
        processes: Those of ranks 1, 2, ...
        logs: Where they write what they have to say.
    """

    processes: Sequence["subprocess.Popen[bytes]"]
    logs: Path

    def wait_until(self, there: Callable[[], bool]) -> None:
        """Wait until all are there.

        Raises:
            RunFailed: One has ended.
        """
        while not there():
            if said := self.ended():
                raise RunFailed(said)
            time.sleep(_POLL_S)

    def ended(self) -> str:
        """Say which process has ended and why; empty if none has."""
        for rank, process in enumerate(self.processes, start=1):
            if process.poll() is not None:
                log = log_of(self.logs, rank).read_text(errors="replace").strip()
                last = log.splitlines()[-1] if log else "it said nothing"
                return f"rank {rank} ended with code {process.returncode}: {last}"
        return ""

    def explain(self) -> str:
        """Say the same once a process that others have lost has had the time to end."""
        limit = time.monotonic() + _END_S
        while time.monotonic() < limit:
            if said := self.ended():
                return said
            time.sleep(_POLL_S)
        return ""


def log_of(logs: Path, rank: int) -> Path:
    """Return where a rank writes what it has to say."""
    return logs / f"rank-{rank}.log"


@contextmanager
def _processes(run: Path, ranks: int, place: Path) -> Iterator[_Watched]:
    logs = run / LOGS
    with writing(logs):
        logs.mkdir(exist_ok=True)
    processes: list[subprocess.Popen[bytes]] = []
    with ExitStack() as files:
        try:
            for rank in range(1, ranks):
                file = files.enter_context(log_of(logs, rank).open("ab"))
                command = [sys.executable, "-m", "roundel.simulations.topologies.rank"]
                command += [str(run), str(rank), str(place)]
                processes.append(
                    subprocess.Popen(  # noqa: S603 - our own command
                        command, stdin=subprocess.PIPE, stdout=file, stderr=file
                    )
                )
            yield _Watched(processes=processes, logs=logs)
        except BaseException:
            for process in processes:
                process.kill()
            raise
        finally:
            _end(processes)


def _end(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Give processes a moment to end by themselves, then end them."""
    limit = time.monotonic() + _END_S
    for process in processes:
        try:
            process.wait(max(0.0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
