"""What a coordinator says that it runs."""

import json
from pathlib import Path

import pytest

from roundel.core.errors import ConfigError, ProtocolError
from roundel.simulations.flowerapps.served.terms import (
    AppTerms,
    app_terms,
    check_app,
    check_settings,
)

TERMS = AppTerms(
    app="birds",
    seed=-3,
    clients=4,
    config={"lr": 1.0, "flag": True, "count": 1, "name": "a"},
    reply_limit=10,
)


def test_terms_arrive_as_they_were_said_with_the_types_of_settings():
    found = app_terms(TERMS.text())
    assert found == TERMS
    assert found is not None
    assert [type(value) for value in found.config.values()] == [float, bool, int, str]


def test_an_experiment_is_none():
    assert app_terms('{"rounds": 3}') is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1",
        "3",
        "[" * 100_000,
        '{"flower": 1}',
        json.dumps({"flower": {**TERMS.model_dump(), "clients": 0}}),
        json.dumps({"flower": {**TERMS.model_dump(), "clients": 1_000_001}}),
        json.dumps({"flower": {**TERMS.model_dump(), "seed": 1 << 80}}),
        json.dumps({"flower": {**TERMS.model_dump(), "config": {"a": [1]}}}),
    ],
)
def test_what_is_neither_is_refused(text):
    with pytest.raises(ProtocolError, match="the coordinator does not say what it runs"):
        app_terms(text)


def test_a_node_without_an_app_is_told_to_name_its_copy():
    with pytest.raises(ConfigError) as caught:
        check_app(TERMS, None, "host:1")
    assert str(caught.value) == (
        "this run is one of the Flower app 'birds', of which each node has a copy: join with "
        "`roundel join host:1 --flower DIRECTORY`"
    )


def test_a_node_with_an_app_is_told_to_join_an_ordinary_run_without():
    with pytest.raises(ConfigError) as caught:
        check_app(None, Path("birds"), "host:1")
    assert str(caught.value) == (
        "--flower birds has no place in this run, which is one of Roundel's own: join with "
        "`roundel join host:1`"
    )
    check_app(None, None, "host:1")
    check_app(TERMS, Path("birds"), "host:1")


def test_a_setting_that_a_copy_has_not_is_refused():
    check_settings(TERMS, ["flag", "count", "lr", "name", "more"], Path("birds"))
    with pytest.raises(ConfigError) as caught:
        check_settings(TERMS, ["flag", "lr", "name"], Path("birds"))
    assert str(caught.value) == (
        "the coordinator sets 'count', which is not a setting of the app in birds; bring the same "
        "copy of the app as the coordinator has"
    )
