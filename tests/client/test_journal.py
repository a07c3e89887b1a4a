"""What a node keeps on its disk."""

import os
import stat

import pytest
import torch

from roundel.client import journal as journals
from roundel.client.journal import Held, Journal, NodeDirectory, Work
from roundel.core.errors import ProtocolError, RunDirectoryError
from tests.server.toys import bits

NOW_S = 1_700_000_000.0
DAY_S = 86_400.0
PIECES = (memoryview(b"head"), memoryview(b"tensors"))


def state_of(value: float) -> dict[str, torch.Tensor]:
    return {"control": torch.tensor([value, -0.0])}


def keep(journal: Journal, client_id: int, round: int, state=None, **how):
    work = Work(client_id=client_id, round=round)
    return journal.keep(work, PIECES, b"about", state, **{"seconds": 0.0, **how})


def names(path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


@pytest.fixture
def journal(tmp_path) -> Journal:
    return Journal(tmp_path)


# ---- updates


def test_an_update_comes_back_as_it_was_kept_also_in_another_process(journal, tmp_path):
    kept = keep(journal, 17, 4)
    assert (bytes(kept.payload), kept.about) == (b"headtensors", b"about")
    again = Journal(tmp_path).kept(Work(client_id=17, round=4))
    assert again is not None
    assert (bytes(again.payload), again.about) == (b"headtensors", b"about")


@pytest.mark.parametrize(
    "other",
    [
        Work(client_id=16, round=4),
        Work(client_id=17, round=5),
        Work(client_id=17, round=4, stage=1),
    ],
)
def test_an_update_is_the_answer_to_its_own_work_only(journal, other):
    keep(journal, 17, 4)
    assert journal.kept(other) is None


def test_a_client_has_one_update_at_most(journal, tmp_path):
    keep(journal, 17, 4)
    keep(journal, 17, 5)
    keep(journal, 2, 5)
    assert names(tmp_path) == ["client-17-5-0.update", "client-2-5-0.update"]


def test_updates_of_rounds_that_are_over_are_forgotten(journal, tmp_path):
    for client_id, round in ((1, 3), (2, 4), (3, 5)):
        keep(journal, client_id, round)
    journal.drop_before(5)
    assert names(tmp_path) == ["client-3-5-0.update"]
    journal.drop(3)
    journal.drop(3)
    assert names(tmp_path) == []


def test_an_update_can_still_be_read_once_its_file_is_gone(journal):
    kept = keep(journal, 1, 3)
    journal.drop(1)
    assert bytes(kept.payload) == b"headtensors"


@pytest.mark.parametrize("damaged", [b"", b"abc", b"\xff\xff\xff\xff"])
def test_what_a_power_cut_left_of_an_update_is_no_update(journal, tmp_path, damaged):
    keep(journal, 1, 3)
    (tmp_path / "client-1-3-0.update").write_bytes(damaged)
    assert Journal(tmp_path).kept(Work(client_id=1, round=3)) is None


# ---- states


def test_a_state_is_pending_until_its_round_commits(journal):
    keep(journal, 1, 3, state_of(0.5))
    assert journal.state(1) == {}
    assert journal.held([1, 2]) == [Held(client_id=1, pending=3)]
    journal.commit(3, [1])
    assert bits(journal.state(1)) == bits(state_of(0.5))
    assert journal.held([1, 2]) == journal.held(None) == [Held(client_id=1, committed=3)]


def test_a_state_whose_update_did_not_count_is_forgotten(journal, tmp_path):
    for client_id in (1, 2):
        keep(journal, client_id, 3, state_of(0.5))
    journal.commit(3, [2])
    assert names(tmp_path) == ["client-2-3.state"]


def test_a_commit_that_is_repeated_changes_nothing(journal):
    keep(journal, 1, 3, state_of(0.5))
    journal.commit(3, [1])
    keep(journal, 1, 4, state_of(1.5))
    journal.commit(3, [1])
    assert journal.held([1]) == [Held(client_id=1, committed=3, pending=4)]
    assert bits(journal.state(1)) == bits(state_of(0.5))


def test_a_state_takes_the_place_of_the_one_before(journal, tmp_path):
    for round in (3, 4):
        keep(journal, 1, round, state_of(round))
        journal.commit(round, [1])
    assert names(tmp_path) == ["client-1-4.state"]
    assert bits(journal.state(1)) == bits(state_of(4))


def test_an_empty_state_counts_too(journal):
    keep(journal, 1, 3, state_of(1.0))
    journal.commit(3, [1])
    keep(journal, 1, 4, {})
    journal.commit(4, [1])
    assert journal.state(1) == {}
    assert journal.held([1]) == [Held(client_id=1, committed=4)]


def test_another_process_finds_every_state(journal, tmp_path):
    keep(journal, 1, 3, state_of(3))
    journal.commit(3, [1])
    keep(journal, 1, 4, state_of(4))
    again = Journal(tmp_path)
    assert again.held([1]) == [Held(client_id=1, committed=3, pending=4)]
    assert bits(again.state(1)) == bits(state_of(3))


@pytest.mark.parametrize(
    ("settled", "held", "left"),
    [
        # What was pending counted, ...
        (4, Held(client_id=1, committed=4), ["client-1-4.state"]),
        # ... or may still count; then its update may be wanted, too.
        (
            3,
            Held(client_id=1, committed=3, pending=4),
            ["client-1-3.state", "client-1-4-0.update", "client-1-4.pending"],
        ),
    ],
)
def test_settling_promotes_what_counted_and_keeps_what_may(journal, tmp_path, settled, held, left):
    keep(journal, 1, 3, state_of(3))
    journal.commit(3, [1])
    keep(journal, 1, 4, state_of(4))
    again = Journal(tmp_path)
    again.settle(1, settled)
    assert again.held([1]) == [held]
    assert set(left) <= set(names(tmp_path)) <= {*left, "client-1-4-0.update"}


def test_settling_drops_what_did_not_count(journal, tmp_path):
    for round in (3, 5):
        keep(journal, 1, round, state_of(round))
        journal.commit(round, [1])
    (tmp_path / "client-1-4.pending").write_bytes(b"of a round that went on without it")
    again = Journal(tmp_path)
    again.settle(1, 5)
    assert again.held([1]) == [Held(client_id=1, committed=5)]


@pytest.mark.parametrize("round", [0, 2, 5])
def test_a_state_of_another_round_than_the_run_counts_on_is_refused(journal, round):
    keep(journal, 1, 3, state_of(3))
    journal.commit(3, [1])
    with pytest.raises(RunDirectoryError) as caught:
        journal.settle(1, round)
    assert f"client 1 as of round 3, and the run counts on that of round {round};" in str(
        caught.value
    )


def test_a_damaged_state_is_one_sentence(journal, tmp_path):
    keep(journal, 1, 3, state_of(3))
    journal.commit(3, [1])
    (tmp_path / "client-1-3.state").write_bytes(b"nonsense")
    with pytest.raises(RunDirectoryError, match=r"client-1-3\.state is damaged"):
        journal.state(1)


# ---- what reaches the disk


def test_a_state_reaches_the_disk_and_an_update_that_is_quickly_made_again_need_not(
    journal, monkeypatch
):
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), sync(handle)))
    keep(journal, 1, 3)
    assert len(synced) == 0
    keep(journal, 1, 4, seconds=2.0)
    assert len(synced) == 2  # the file and its directory
    keep(journal, 1, 5, state_of(1.0))
    assert len(synced) == 4  # the state and the directory


def test_a_crash_while_a_state_is_written_leaves_the_one_before(journal, tmp_path, monkeypatch):
    keep(journal, 1, 3, state_of(3))
    journal.commit(3, [1])
    (tmp_path / ".client-1-4.pending.partial").write_bytes(b"half")
    again = Journal(tmp_path)
    assert again.held([1]) == [Held(client_id=1, committed=3)]
    assert names(tmp_path) == ["client-1-3.state"]


def test_a_crash_between_two_steps_of_a_commit_leaves_the_newer_state(journal, tmp_path):
    for round in (3, 4):
        keep(journal, 1, round, state_of(round))
        journal.commit(round, [1])
    os.link(tmp_path / "client-1-4.state", tmp_path / "client-1-3.state")
    assert Journal(tmp_path).held([1]) == [Held(client_id=1, committed=4)]
    assert names(tmp_path) == ["client-1-4.state"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(
    journal, tmp_path, monkeypatch
):
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunDirectoryError) as caught:
        keep(journal, 1, 3, state_of(3))
    assert str(caught.value).startswith(f"cannot write {tmp_path}: No space left on device; free")
    assert names(tmp_path) == []


def test_the_key_of_the_clients_noise_is_the_same_for_the_whole_run(journal, tmp_path):
    key = journal.secret()
    assert len(key) == 32
    assert Journal(tmp_path).secret() == journal.secret() == key
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


# ---- the directory


def test_two_processes_cannot_use_one_directory(tmp_path):
    with NodeDirectory(tmp_path / "state"):
        with pytest.raises(RunDirectoryError) as caught:
            NodeDirectory(tmp_path / "state")
        assert str(caught.value) == (
            f"{tmp_path / 'state'} is in use by another node; end that one, or join with another "
            "--name or --state"
        )
    NodeDirectory(tmp_path / "state").close()


def test_the_time_of_the_lock_says_when_the_coordinator_was_reached(tmp_path):
    with NodeDirectory(tmp_path) as directory:
        directory.note_contact(NOW_S)
        assert (tmp_path / ".lock").stat().st_mtime == NOW_S


def test_only_the_owner_can_look_into_the_directory(tmp_path):
    with NodeDirectory(tmp_path / "a" / "state") as directory:
        keep(directory.journal("r", NOW_S), 1, 3, state_of(3))
    inside = [tmp_path / "a" / "state", *(tmp_path / "a" / "state").rglob("*")]
    assert len(inside) == 6
    assert not any(path.stat().st_mode & 0o077 for path in inside)


def test_the_folder_of_a_run_survives_a_power_cut(tmp_path, monkeypatch):
    synced: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(
        journals, "sync_directory", lambda path: synced.append((path.name, names(path)))
    )
    with NodeDirectory(tmp_path / "node") as directory:
        directory.journal("r1", 0.0)
    assert synced == [("node", ["runs"]), ("runs", ["r1"])]


def test_runs_are_kept_apart_and_those_of_long_ago_are_removed(tmp_path):
    with NodeDirectory(tmp_path) as directory:
        for run in ("old", "new"):
            keep(directory.journal(run, NOW_S), 1, 3)
            os.utime(tmp_path / "runs" / run, (NOW_S, NOW_S))
        directory.journal("new", NOW_S + 29 * DAY_S)
        assert names(tmp_path / "runs") == ["new", "old"]
        last = directory.journal("last", NOW_S + 31 * DAY_S)
        assert last.kept(Work(client_id=1, round=3)) is None
        assert names(tmp_path / "runs") == ["last", "new"]
        again = directory.journal("new", NOW_S + 70 * DAY_S)
        assert again.kept(Work(client_id=1, round=3)) is not None


@pytest.mark.parametrize("run", ["", "..", ".hidden", "a/b", "a\n", "x" * 65, "\0"])
def test_a_run_whose_name_leads_elsewhere_is_refused(tmp_path, run):
    with (
        NodeDirectory(tmp_path) as directory,
        pytest.raises(ProtocolError, match="cannot be the identity of a run"),
    ):
        directory.journal(run, NOW_S)


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match=r"cannot write .*: Not a directory"):
        NodeDirectory(tmp_path / "file" / "state")


def test_constants_are_what_the_documentation_says():
    assert (journals.KEPT_DAYS, journals.WORTH_SYNCING_S) == (30, 1.0)
