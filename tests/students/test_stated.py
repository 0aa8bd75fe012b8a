"""The licence that a model's own files state."""

import json
import struct

import pytest

from potstill.core.lineage import with_declared
from potstill.students.settings import ModelSettings
from potstill.students.stated import licence_of, stated_licence


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: other\nlicense_name: gemma\n---\n", "gemma"),
        ('---\nlicense: other\nlicense_name: "apache-2.0 and gemma"\n---\n', "apache-2.0 and gemma"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: [mit, cc-by-4.0]\n---\n", "mit AND cc-by-4.0"),
        ("---\nlicense:\n- mit\n- gemma\ntags: x\n---\n", "mit AND gemma"),
        ("---\nlicense: mit # the code\n---\n", "mit"),
        ("---\nlicense:\ntags: []\n---\n", "unknown"),
    ],
)
def test_cards(tmp_path, card, licence):
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == licence


def test_a_config_and_a_licence_file_speak_where_no_card_does(tmp_path):
    (tmp_path / "LICENSE").write_text("\n   # Gemma Terms of Use\n\nLast modified\n")
    assert licence_of(tmp_path) == "Gemma Terms of Use"
    (tmp_path / "config.json").write_text(json.dumps({"license": "mit"}))
    assert licence_of(tmp_path) == "mit"
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert licence_of(tmp_path) == "apache-2.0"
    (tmp_path / "README.md").unlink()
    for damaged in ("{", "[]", '{"license": 3}'):
        (tmp_path / "config.json").write_text(damaged)
        assert licence_of(tmp_path) == "Gemma Terms of Use"


def stated(name, licence=None):
    return stated_licence(ModelSettings(model_name_or_path=name, licence=licence))


def test_before_it_is_loaded(tmp_path):
    assert stated("packaged:gemma-3-270m") == "Gemma"
    assert stated("packaged:gemma-3-270m", "MIT") == "Gemma AND MIT", "declaring lifts nothing"
    assert stated(str(tmp_path)) == "unknown"
    assert stated(str(tmp_path), "MIT") == "MIT"
    assert stated("somebody/not-here") is None
    assert stated("somebody/not-here", "MIT") == "MIT"


def test_a_gguf_file_states_its_own(tmp_path):
    def text(value):
        return struct.pack("<Q", len(value)) + value

    entry = text(b"general.license") + struct.pack("<I", 8) + text(b"llama3.2")
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry)
    assert stated(str(tmp_path / "a.gguf")) == "llama3.2"
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    assert stated(str(tmp_path / "b.gguf")) == "unknown"


def test_both_hold_where_they_differ():
    assert with_declared("unknown", "MIT") == with_declared("MIT", None) == with_declared("MIT", "mit") == "MIT"
    assert with_declared("gemma", "MIT") == "gemma AND MIT"
