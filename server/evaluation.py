"""What a round's model is worth: on the global test set, and on the clients' own examples."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from roundel.core.confusion import precision_recall
from roundel.core.goals import lower_is_better
from roundel.core.messages import ClientFailure, Evaluation
from roundel.core.metrics import Metrics, merge, spread
from roundel.core.records import ClientRecord
from roundel.server.admission import evaluation_defect, listed


@dataclass(frozen=True, kw_only=True)
class ClientFigures:
    """The figures of an evaluation on the clients' own held-out examples.

    Attributes:
        asked: How many clients were asked.
        pooled: The sums over all held-out examples of those that answered.
        parts: The sums of each client that has enough examples for figures of its own.
        small: How many clients have too few.
        failures: The clients whose evaluation failed.
        refused: The clients whose answers were refused, and why.
    """

    asked: int
    pooled: Metrics
    parts: Sequence[Metrics]
    small: int
    failures: Sequence[ClientFailure] = ()
    refused: Mapping[int, str] = field(default_factory=dict[int, str])

    @classmethod
    def of(
        cls, answers: Sequence[Evaluation | ClientFailure], min_examples: int
    ) -> "ClientFigures":
        """Sort the answers.

        A client that holds out nothing has no say. All figures have the names that most clients
        gave: one that gives others cannot take them from everybody.

        Args:
            answers: One for each client that was asked.
            min_examples: With fewer held-out examples a client is pooled and has no own figure.
        """
        failures = [answer for answer in answers if isinstance(answer, ClientFailure)]
        evaluations = [answer for answer in answers if isinstance(answer, Evaluation)]
        defects = {e.ticket.client_id: evaluation_defect(e) for e in evaluations}
        given = {
            e.ticket.client_id: e.metrics
            for e in evaluations
            if e.metrics.count and not defects[e.ticket.client_id]
        }
        ranking = Counter(_names(metrics) for metrics in given.values()).most_common(1)
        usual = ranking[0][0] if ranking else frozenset[str]()
        for client_id, metrics in given.items():
            if _names(metrics) != usual:
                defects[client_id] = f"it has {listed(_names(metrics))}, not {listed(usual)}"
        counted = [metrics for client_id, metrics in given.items() if not defects[client_id]]
        parts = [metrics for metrics in counted if metrics.count >= min_examples]
        return cls(
            asked=len(answers),
            pooled=merge(counted),
            parts=parts,
            small=len(counted) - len(parts),
            failures=failures,
            refused={client_id: defect for client_id, defect in defects.items() if defect},
        )

    def line(self) -> dict[str, Any]:
        """Return the figures as they are written: each metric's mean, and its spread."""
        return {
            "asked": self.asked,
            "answered": len(self.parts) + self.small,
            "failures": len(self.failures) + len(self.refused),
            "examples": self.pooled.count,
            "small": self.small,
            **{
                name: {"mean": mean, **self._spread(name)}
                for name, mean in self.pooled.means().items()
            },
        }

    def _spread(self, name: str) -> dict[str, float]:
        values = [part.means()[name] for part in self.parts]
        return spread(values, lower_is_better=lower_is_better(name)) if values else {}

    def records(self, round: int) -> tuple[ClientRecord, ...]:
        """Return a record for each client whose evaluation failed or was refused, by number."""
        failed = [
            ClientRecord(
                round=round,
                client=failure.ticket.client_id,
                status="failed",
                stage="evaluate",
                reason=failure.error,
                location=failure.location,
            )
            for failure in self.failures
        ]
        rejected = [
            ClientRecord(
                round=round, client=client_id, status="rejected", stage="evaluate", reason=reason
            )
            for client_id, reason in self.refused.items()
        ]
        return tuple(sorted((*failed, *rejected), key=lambda record: record.client))

    def tracebacks(self) -> dict[int, str]:
        """Return the traceback of each client whose evaluation failed in user code."""
        return {f.ticket.client_id: f.traceback for f in self.failures if f.traceback}


def figures(metrics: Metrics) -> dict[str, float]:
    """Return the means, and precision and recall averaged over the classes that have one."""
    means = metrics.means()
    confusion = metrics.confusion()
    if confusion is not None:
        for name, by_class in precision_recall(confusion).items():
            defined = [value for value in by_class if value is not None]
            means.setdefault(name, sum(defined) / len(defined))
    return means


def _names(metrics: Metrics) -> frozenset[str]:
    """Return the names that have a mean: which counts occur differs from client to client."""
    return frozenset(name for name in metrics.sums if "/" not in name)
