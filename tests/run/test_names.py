"""Fault 27: a name or a path that would leave its place, in every place where a recipe says one. Refused before
anything is loaded or written, with the setting named."""

import pytest

from potstill.cli.main import main
from potstill.teachers.limits import Refused
from tests.run.tiny_recipe import classifier, language_model, set_value, write_recipe
from tests.teachers.served import Counting, service_of

HOSTILE = {
    "above": "../x",
    "above, later": "a/../../x",
    "above, on windows": "..\\x",
    "above, percent-encoded twice over": "..%2fx",
    "absolute": "/tmp/x",
    "absolute, on windows": "C:\\x",
    "at home": "~/x",
    "here": ".",
    "dots alone": "...",
    "empty": "",
    "hidden": ".x",
    "an option": "-rf",
    "reserved": "CON",
    "reserved, with an ending": "nul.txt",
    "reserved, a port": "com1",
    "a dot at the end": "x.",
    "10,000 long": "x" * 10_000,
    "NUL": "a\0b",
    "a line break": "x\ny",
    "a line break at the end": "x\n",
    "Cyrillic in Latin": "m\u043edel",
    "full width": "\uff4dodel",
    "full-width dots": "\uff0e\uff0e",
    "zero width": "mod\u200bel",
    "written backwards": "mod\u202eledom",
    "a division slash": "a\u2215b",
}
# Fine as a folder below the working directory, or as the address of one.
FINE_AS_A_PATH = {"hidden", "an option", "above, percent-encoded twice over", "Cyrillic in Latin"}
NAMES = ("name", "stages.0.name", "export.name")
PATHS = ("output_dir", "teacher.store.path", "teacher.key_file")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def refused(capsys, code, place):
    said = capsys.readouterr()
    assert code == 2, said.err
    assert said.out == ""
    assert place in said.err
    assert "Traceback" not in said.err
    assert "not foreseen" not in said.err
    assert len(said.err) < 2000, "a message quotes little of a long name"


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("place", NAMES)
def test_a_name_of_a_recipe(materials, tmp_path, capsys, place, hostile):
    recipe = classifier(materials)
    set_value(recipe, place, HOSTILE[hostile])
    before = sorted(tmp_path.rglob("*"))
    file = write_recipe(tmp_path, recipe)
    refused(capsys, main(["validate", str(file)]), place)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, file])


@pytest.mark.parametrize("hostile", [name for name in HOSTILE if name not in FINE_AS_A_PATH])
@pytest.mark.parametrize("place", PATHS)
def test_a_path_of_a_recipe(materials, tmp_path, capsys, place, hostile):
    recipe = language_model(materials)
    if place == "teacher.key_file":
        recipe["teacher"] = {"urls": ["http://127.0.0.1:9"]}
    set_value(recipe, place, HOSTILE[hostile])
    file = write_recipe(tmp_path, recipe)
    before = sorted(tmp_path.rglob("*"))
    refused(capsys, main(["validate", str(file)]), place.rpartition(".")[2])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "path",
    ["runs/a", "./runs/a", "runs//a", "r\u00e9sultats/\u03b2", "\u5b9f\u9a13/1", "\u043f\u0440\u043e\u0431\u0430"],
)
def test_paths_in_the_letters_of_their_users_are_fine(materials, tmp_path, capsys, path):
    recipe = language_model(materials)
    set_value(recipe, "output_dir", path)
    set_value(recipe, "teacher.store.path", path)
    assert main(["validate", str(write_recipe(tmp_path, recipe))]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_name_in_an_address_of_a_head(hostile):
    """A service takes the name of a head as a hash to compare, and never as a path."""
    with pytest.raises(Refused) as caught:
        service_of(Counting()).head_named(HOSTILE[hostile])
    assert caught.value.status == 404
    assert caught.value.reason == "this teacher has no head with that hash"
