"""Bills of materials, held against the schemas of their own libraries."""

import json

import pytest

from potstill.core.errors import FolderError, InputError
from potstill.folder import RunFolder
from potstill.materials import bill


def test_a_cyclonedx_bill_is_one_and_names_everything(finished):
    pytest.importorskip("cyclonedx")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    run, record = finished
    text = bill(RunFolder(run), "cyclonedx")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    values = json.loads(text)
    nodes = record.ledger["graph"]["nodes"]
    assert {part["bom-ref"] for part in values["components"]} == {node["hash"] for node in nodes}
    assert {part["type"] for part in values["components"]} == {"data", "machine-learning-model"}
    depends = {one["ref"]: set(one.get("dependsOn", ())) for one in values["dependencies"]}
    assert all(depends[node["hash"]] == set(node["parents"]) for node in nodes)
    assert str(run.parent) not in text, "no path of this machine leaves it"


def test_an_spdx_bill_is_one(finished, tmp_path):
    pytest.importorskip("spdx_tools")
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    text = bill(RunFolder(finished[0]), "spdx")
    (tmp_path / "run.spdx.json").write_text(text)
    document = parse_file(str(tmp_path / "run.spdx.json"))
    assert validate_full_spdx_document(document) == []
    assert len(document.packages) == len(finished[1].ledger["graph"]["nodes"])
    assert str(finished[0].parent) not in text


def test_refusals(finished, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="there are cyclonedx, spdx"):
        bill(RunFolder(finished[0]), "pdf")
    with pytest.raises(FolderError, match="not sound"):
        bill(RunFolder(tmp_path), "cyclonedx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'potstill\[bom\]'"):
        bill(RunFolder(finished[0]), "spdx")
