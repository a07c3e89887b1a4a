"""Two copies of an app are compared by what is in them."""

from roundel.core.fingerprint import MAX_BYTES, misfit
from roundel.simulations.flowerapps.project import read_project
from roundel.simulations.flowerapps.served.copies import app_fingerprint
from tests.flowerapps.running import CLIENT, write_app


def fingerprint(root, flower="1.41.0"):
    return app_fingerprint(read_project(root), flower)


def test_copies_are_the_same_wherever_they_lie_and_whatever_lies_beside_the_modules(tmp_path):
    one = write_app(tmp_path / "a" / "app")
    two = write_app(tmp_path / "b" / "app")
    (two / "notes.txt").write_text("mine")
    for other in (".venv", "__pycache__", "environment"):
        (two / other).mkdir()
        (two / other / "module.py").write_text("1")
    (two / "environment" / "pyvenv.cfg").touch()
    assert fingerprint(one) == fingerprint(two)


def test_copies_of_an_app_without_a_name_are_the_same_in_directories_of_any_name(tmp_path):
    one, two = write_app(tmp_path / "one"), write_app(tmp_path / "two")
    assert fingerprint(one) != fingerprint(two)
    for root in (one, two):
        file = root / "pyproject.toml"
        file.write_text(file.read_text().replace(f'name = "{root.name}"\n', ""))
    assert fingerprint(one) == fingerprint(two)


def test_what_differs_is_named(tmp_path):
    ours = write_app(tmp_path / "ours" / "app")
    theirs = write_app(tmp_path / "theirs" / "app", client=f"{CLIENT}\n# mine\n")
    assert "it differs in the code of client_app.py (hash " in misfit(
        "edge", fingerprint(theirs), fingerprint(ours)
    )
    (ours / "more").mkdir()
    (ours / "more" / "helper.py").touch()
    sentence = misfit("edge", fingerprint(theirs), fingerprint(ours))
    assert "the code of more/helper.py (none at the node, hash e3b0c44298fc1c14 at the" in sentence


def test_another_release_of_flower_does_not_fit(tmp_path):
    app = write_app(tmp_path / "app")
    assert "the code of flwr (1.41.2 at the node, 1.41.0 at the coordinator)" in misfit(
        "edge", fingerprint(app, "1.41.2"), fingerprint(app)
    )


def test_an_app_of_many_modules_is_hashed_as_one(tmp_path):
    app = write_app(tmp_path / "app")
    for number in range(200):
        (app / f"module_{number}.py").touch()
    before = fingerprint(app)
    assert len(before) <= MAX_BYTES
    (app / "module_7.py").write_text("1")
    assert "the code of one of 202 files" in misfit("edge", fingerprint(app), before)
