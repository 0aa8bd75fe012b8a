import errno
import os

import pytest
from safetensors import safe_open

from potstill.core.errors import DiskError, FolderError
from potstill.students.load import load_model
from potstill.students.save import save_model
from potstill.students.settings import ModelSettings


@pytest.fixture
def loaded(bert_folder):
    return load_model(ModelSettings(model_name_or_path=str(bert_folder)), task="classify", labels=None)


def test_only_safetensors_and_text_are_written(loaded, tmp_path):
    save_model(loaded, tmp_path / "a" / "b")
    names = {path.name for path in (tmp_path / "a" / "b").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert {name.rsplit(".", 1)[1] for name in names} <= {"json", "safetensors", "jinja", "txt"}
    with safe_open(tmp_path / "a" / "b" / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(loaded.module.state_dict())


def test_a_file_in_the_way(loaded, tmp_path):
    (tmp_path / "m").write_text("")
    with pytest.raises(FolderError, match="name another output folder"):
        save_model(loaded, tmp_path / "m")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(loaded, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(FolderError, match="name another output folder"):
        save_model(loaded, tmp_path / "m")


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, DiskError), (errno.EROFS, FolderError)])
def test_what_the_system_says_is_passed_on(loaded, tmp_path, monkeypatch, number, kind):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(loaded.module, "save_pretrained", fail)
    with pytest.raises(kind, match=os.strerror(number)):
        save_model(loaded, tmp_path / "m")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device here")
def test_a_full_disk_while_weights_are_written(loaded, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").symlink_to("/dev/full")
    with pytest.raises(DiskError, match="Make room"):
        save_model(loaded, tmp_path / "m")
