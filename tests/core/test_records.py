"""What a run records, as it is written."""

from roundel.core.records import ClientRecord, RoundRecord


def record(**changes) -> RoundRecord:
    base = {"round": 4, "metrics": {}, "train_loss": None, "cohort": 3, "completed": 2}
    rest = {"failures": 1, "bytes_up": 5, "bytes_down": 6, "seconds": 0.5, "params_sha256": "f"}
    return RoundRecord(**{**base, **rest, **changes})


def test_a_round_that_was_not_evaluated_has_null_figures():
    line = record().line()
    assert list(line)[:3] == ["round", "loss", "accuracy"]
    assert (line["loss"], line["accuracy"], line["train_loss"]) == (None, None, None)
    assert "clients" not in line


def test_metrics_stand_beside_the_other_keys():
    line = record(metrics={"loss": 1.5, "mae": 2.0}, clients={"asked": 7}).line()
    assert (line["loss"], line["accuracy"], line["mae"]) == (1.5, None, 2.0)
    assert line["clients"] == {"asked": 7}


def test_a_clients_line_leaves_out_what_does_not_apply():
    line = ClientRecord(round=1, client=0, status="lost", reason="silent").line()
    assert line == {"round": 1, "client": 0, "status": "lost", "attempt": 0, "reason": "silent"}


def test_what_only_some_rounds_have_is_left_out_of_the_others():
    assert not {"clients", "confusion", "stopped", "width"} & set(record().line())
    rare = {"clients": {"asked": 7}, "confusion": [[1, 2], [0, 3]], "stopped": "enough", "width": 8}
    line = record(**rare).line()
    assert {key: line[key] for key in rare} == rare


def test_the_health_of_every_round_is_in_its_line():
    assert record().line()["health"] == {}
    assert record(health={"update_norm": {"p50": 0.5, "max": 2.0}}).line()["health"] == {
        "update_norm": {"p50": 0.5, "max": 2.0}
    }


def test_a_failed_evaluation_says_its_stage_and_a_failed_training_none():
    failed = {"round": 2, "client": 5, "status": "failed", "attempt": 0, "reason": "no"}
    training = ClientRecord(round=2, client=5, status="failed", reason="no")
    evaluation = ClientRecord(round=2, client=5, status="failed", stage="evaluate", reason="no")
    assert training.line() == failed
    assert evaluation.line() == failed | {"stage": "evaluate"}


def test_the_hash_of_an_accepted_update_is_in_its_line():
    line = ClientRecord(round=1, client=0, status="accepted", update_blake3="ab").line()
    assert line["update_blake3"] == "ab"
