"""Pages are one file, say what was found, and nothing that a user wrote can run in them."""

import json
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

from roundel.core.records import ClientRecord
from roundel.reports.page import comparison_page, run_page
from roundel.reports.pictures import ComparisonPictures, Picture, RunPictures
from roundel.reports.run_report import read_runs
from tests.reports.made_reports import made_report
from tests.reports.made_runs import make_run, record

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"
PICTURE = Picture(svg="<svg/>", words=EVIL, caption=EVIL, narrow="<svg/>")
PICTURES = ComparisonPictures(
    curves=(PICTURE,), differences=(PICTURE,), spreads=(PICTURE,), partitions=(PICTURE,)
)
NO_PICTURES = ComparisonPictures(curves=(), differences=(), spreads=(), partitions=())


class Read(HTMLParser):
    """What a browser makes of a page: its elements, their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.own: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "source"}:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] in {"script", "style"}:
            self.own[self._open[-1]] = self.own.get(self._open[-1], "") + data
        else:
            self.text += data

    def said(self) -> str:
        return " ".join(self.text.split())


def test_a_comparison_says_in_words_what_was_compared_found_and_is_to_be_known():
    said = Read(comparison_page(made_report(seeds="3"), NO_PICTURES)).said()
    assert said.startswith(
        "fedavg, fedprox mu=0.1, scaffold, fedadam on digits "
        "fedavg, fedprox mu=0.1, scaffold, fedadam on digits"
    )
    assert "12 of 12 runs have finished" in said
    assert "4 strategies with 3 seeds: 12 runs of" in said
    assert "The others are compared with fedavg." in said
    assert "fedprox mu=0.1 is better than fedavg by 0.0100." in said
    assert "Before you believe it 3 seeds cannot carry p-values; 5 can." in said
    assert "the mean over the last 5 % of a run's rounds" in said
    assert "roundel compare fedavg 'fedprox mu=0.1' scaffold fedadam" in said
    assert "No run has measured anything yet." in said


def test_arms_of_one_strategy_are_not_counted_as_strategies():
    report = made_report(["fedavg", "fedprox mu=0.01,0.1"], grid=["partition.alpha=0.1,1.0"])
    said = Read(comparison_page(report, NO_PICTURES)).said()
    assert "3 arms of 2 strategies on 2 problems with 3 seeds: 18 runs of" in said
    assert "alpha=0.1: every arm" in said


def test_nothing_of_what_a_user_wrote_becomes_an_element():
    report = made_report(
        ["fedavg", f"fedprox label={json.dumps(EVIL)}"],
        findings=[EVIL],
        notes=[EVIL],
        settings=[f"name={json.dumps(EVIL)}"],
    )
    rows = tuple(replace(row, failed={1: EVIL}) for row in report.rows)
    page = Read(comparison_page(replace(report, rows=rows, environment={EVIL: EVIL}), PICTURES))
    tags = [tag for tag, _ in page.tags]
    assert (tags.count("script"), tags.count("img")) == (1, 4)
    assert page.text.count("<script>alert(1)</script>") >= 5
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)


def test_the_policy_allows_our_own_style_and_script_and_pictures_in_the_page_alone():
    page = Read(comparison_page(made_report(), PICTURES))
    (policy,) = [
        attributes["content"]
        for tag, attributes in page.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    style, script = (
        f"'sha256-{b64encode(sha256(page.own[name].encode()).digest()).decode()}'"
        for name in ("style", "script")
    )
    assert policy == (
        f"default-src 'none'; img-src data:; style-src {style}; script-src {script}; "
        "base-uri 'none'; form-action 'none'"
    )


def test_a_page_names_no_address_but_its_own_pictures():
    text = comparison_page(made_report(), PICTURES)
    assert not re.search(r"https?:|//[a-z]", text.replace("// ", ""))
    for tag, attributes in Read(text).tags:
        address = attributes.get("src") or attributes.get("srcset") or attributes.get("href")
        assert address is None or address.startswith("data:"), tag


def test_every_picture_has_words_for_those_who_do_not_see_it():
    page = Read(comparison_page(made_report(), PICTURES))
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    assert dict(page.tags)["html"] == {"lang": "en"}


def test_a_table_sorts_by_exact_numbers_and_its_headings_belong_to_columns():
    page = Read(comparison_page(made_report(), NO_PICTURES))
    numbers = [attributes.get("data-value") for tag, attributes in page.tags if tag == "td"]
    assert "100000.0" in numbers  # 100.0 kB
    assert "" in numbers  # not reached
    assert {attributes["scope"] for tag, attributes in page.tags if tag == "th"} == {"col", "row"}


def test_runs_are_told_one_by_one(tmp_path):
    clients = [ClientRecord(round=1, client=2, status="failed", reason=EVIL)]
    make_run(tmp_path / "one", record(1), clients=clients, settings=["name=mine", "rounds=1"])
    make_run(tmp_path / "two", record(1, stopped="good enough"), finished=False)
    runs = read_runs([tmp_path / "one", tmp_path / "two"])
    none = RunPictures(curves=(), heats=(None, None), partitions=(PICTURE, None))
    page = Read(run_page(runs, none))
    said = page.said()
    assert said.startswith("2 runs 2 runs one, two")
    assert (
        "one: fedavg on digits, finished, 1 of 1 rounds; the best accuracy was 0.1000, in round 1; "
        "1 client update did not count"
    ) in said
    assert "it stopped early: good enough" in said
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert EVIL in page.text


def test_one_run_is_called_by_its_name_and_says_how_to_run_it_again(tmp_path):
    make_run(tmp_path / "one", record(1), settings=["name=mine"])
    nothing = RunPictures(curves=(), heats=(None,), partitions=(None,))
    said = Read(run_page(read_runs([tmp_path / "one"]), nothing)).said()
    assert said.startswith("mine mine one In short fedavg on digits, finished")
    assert "roundel simulate -s name=mine" in said
