"""The lookup, as a playbook meets it."""

from __future__ import annotations

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader

from ansible_collections.llmfleet.serving.plugins.lookup.stack import LookupModule
from ansible_collections.llmfleet.serving.plugins.plugin_utils import _stacks


def look_up(*terms, folder=None):
    loader = DataLoader()
    if folder is not None:
        loader.set_basedir(str(folder))
    return LookupModule(loader=loader).run(list(terms), {})


def test_by_name():
    (row,) = look_up("cuda-12.4")
    assert row["driver"]["version"] == "550.163.01"
    assert [row["driver"]["branch"] for row in look_up("cuda-12.4", "current")] == ["550", "580"]


def test_as_a_dictionary():
    row = _stacks.row("current")
    assert look_up(row) == [row]


@pytest.mark.parametrize("where", ["mine.yml", "vars/mine.yml"])
def test_by_a_path_beside_the_playbook(tmp_path, where):
    path = tmp_path / where
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(_stacks.row("current")))
    assert look_up(where, folder=tmp_path) == look_up(str(path)) == [_stacks.row("current")]


@pytest.mark.parametrize(
    ("term", "said"),
    [
        ("cuda-12.5", "The stack 'cuda-12.5' is unknown: expected cuda-12.4, the path of a YAML file, or a dictionary"),
        ("engines", "The stack 'engines' is unknown: expected "),
        (124, "The stack '124' is unknown: expected cuda-12.4 or current, "),
        (
            {"driver": {}},
            "The stack given as a dictionary is malformed: cuda: missing; engines: missing; driver.branch",
        ),
        ("/nowhere/mine.yml", "The stack /nowhere/mine.yml cannot be read: "),
    ],
)
def test_a_mistake_is_one_message(term, said):
    with pytest.raises(AnsibleError) as caught:
        look_up(term)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"driver: [", "is not YAML: "),
        (b"\xff", "cannot be read: "),
        (b"", "is malformed: the whole: expected a dictionary, found None"),
        (b"driver: {version: 550.163}", "driver.version: expected a version in quotes"),
    ],
)
def test_a_bad_file_is_one_message(tmp_path, content, said):
    path = tmp_path / "mine.yml"
    path.write_bytes(content)
    with pytest.raises(AnsibleError) as caught:
        look_up(str(path))
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
