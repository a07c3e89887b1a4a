"""What the journal keeps, as JSON and back."""

import json
from collections.abc import Mapping
from typing import Any

from roundel.core.messages import ClientFailure, Evaluation, Ticket
from roundel.core.metrics import Metrics
from roundel.server.round import Outcome, Status


def outcomes_to_json(outcomes: Mapping[int, Outcome]) -> str:
    """Return what became of the clients of a round, as JSON."""
    return json.dumps(
        {
            client: [o.status.value, o.attempt, o.reason, _failure_to_json(o.failure)]
            for client, o in outcomes.items()
        }
    )


def outcomes_from_json(text: str, round: int, stage: int) -> dict[int, Outcome]:
    """Read what `outcomes_to_json` has written, of this round and stage."""
    outcomes: dict[int, Outcome] = {}
    for client, (status, attempt, reason, failure) in json.loads(text).items():
        ticket = Ticket(run="", round=round, client_id=int(client), stage=stage, attempt=attempt)
        outcomes[int(client)] = Outcome(
            Status(status), attempt, reason, _failure_from_json(failure, ticket)
        )
    return outcomes


def _failure_to_json(failure: ClientFailure | None) -> dict[str, str] | None:
    if failure is None:
        return None
    return {
        "stage": failure.stage,
        "error": failure.error,
        "location": failure.location,
        "traceback": failure.traceback,
    }


def _failure_from_json(fields: Mapping[str, str] | None, ticket: Ticket) -> ClientFailure | None:
    return None if fields is None else ClientFailure(ticket=ticket, **fields)


def answer_to_json(answer: Evaluation | ClientFailure) -> dict[str, Any]:
    """Return a client's answer to a survey as an object for JSON."""
    told: dict[str, Any] = {"ticket": vars(answer.ticket)}
    if isinstance(answer, ClientFailure):
        return {**told, "failure": _failure_to_json(answer)}
    return {**told, "sums": dict(answer.metrics.sums), "count": answer.metrics.count}


def answer_from_json(fields: Mapping[str, Any]) -> Evaluation | ClientFailure:
    """Read what `answer_to_json` has returned."""
    ticket = Ticket(**fields["ticket"])
    if "failure" in fields:
        return ClientFailure(ticket=ticket, **fields["failure"])
    return Evaluation(ticket=ticket, metrics=Metrics(fields["sums"], fields["count"]))
