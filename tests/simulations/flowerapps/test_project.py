"""What the pyproject.toml of a Flower app says."""

import pytest

from roundel.core.errors import ConfigError
from roundel.simulations.flowerapps.project import AppError, node_settings, read_project

WHOLE = """
[project]
name = "birds"
[tool.flwr.app.components]
serverapp = "pkg.server_app:app"
clientapp = "pkg.client_app:parts.app"
[tool.flwr.app.config]
lr = 0.1
[tool.flwr.app.config.data]
name = "sparrows"
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        (tmp_path / "pyproject.toml").write_text(text)
        return tmp_path

    return write


def test_an_app_is_its_components_and_its_flat_settings(write):
    project = read_project(write(WHOLE))
    assert (project.name, project.clients) == ("birds", 10)
    assert (project.server, project.client) == ("pkg.server_app:app", "pkg.client_app:parts.app")
    assert project.config == {"lr": 0.1, "data.name": "sparrows"}
    assert project.named


def test_an_app_that_says_no_name_is_called_like_its_directory(write):
    root = write(WHOLE.replace('name = "birds"', ""))
    project = read_project(root)
    assert (project.name, project.named) == (root.name, False)


def test_settings_replace_values_and_anything_that_is_not_toml_is_a_text(write):
    project = read_project(write(WHOLE), ["lr=1", "data.name=great tits"])
    assert project.config == {"lr": 1, "data.name": "great tits"}


def test_the_federation_that_is_the_default_says_how_many_clients_there_are(write):
    options = "[tool.flwr.federations.local]\noptions.num-supernodes = 7\n"
    root = write(f'{WHOLE}\n[tool.flwr.federations]\ndefault = "local"\n{options}')
    assert read_project(root).clients == 7


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[project]\n", "has no [tool.flwr.app]: it is not a Flower app"),
        ("[", "is not a TOML file"),
        (WHOLE.replace("serverapp", "server"), "names no serverapp; add serverapp = "),
        (WHOLE.replace("pkg.server_app:app", "pkg.server_app"), "is not of the form module:"),
        (WHOLE.replace("lr = 0.1", "lr = [1]"), "the setting lr = [1] is a list; Flower takes"),
    ],
)
def test_what_is_wrong_with_the_file_is_named(write, text, sentence):
    root = write(text)
    with pytest.raises(AppError) as caught:
        read_project(root)
    assert sentence in str(caught.value)
    assert str(root / "pyproject.toml") in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_directory_without_an_app_is_refused(tmp_path):
    with pytest.raises(AppError, match="No such file or directory; name the directory of a Flower"):
        read_project(tmp_path)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("lrr=1", "'lrr' is not a setting of the app; did you mean 'lr'?"),
        ("lr", "'lr' is not a setting; write -s key=value"),
        ("lr=[1]", "is a list; Flower takes booleans, numbers and texts"),
    ],
)
def test_settings_that_the_app_has_not_are_refused(write, setting, sentence):
    with pytest.raises(ConfigError) as caught:
        read_project(write(WHOLE), [setting])
    assert sentence in str(caught.value)


def test_a_node_says_what_it_likes_about_itself_but_not_which_client_it_is():
    assert node_settings(["data = /srv/birds", "count=3", "odd=[1]"]) == {
        "data": "/srv/birds",
        "count": 3,
        "odd": "[1]",
    }
    with pytest.raises(ConfigError, match="choose the clients of this node with --partition I/N"):
        node_settings(["partition-id=3"])
    with pytest.raises(ConfigError, match="'data' is not a setting; write --node-config key=value"):
        node_settings(["data"])
