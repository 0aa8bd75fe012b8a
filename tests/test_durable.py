import errno
import os

import pytest
from safetensors import SafetensorError

from potstill.core.errors import DiskError, FolderError
from potstill.durable import replace_file, sha256, write_all, write_file, writing


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("library", [False, True])
def test_a_full_disk_says_how_much_is_missing(tmp_path, code, library):
    error = SafetensorError(f"I/O error: x (os error {code})") if library else OSError(code, os.strerror(code))
    with (
        pytest.raises(DiskError, match=r"1,234,567 bytes are needed, [\d,]+ are free") as caught,
        writing(tmp_path, needed=1234567),
    ):
        raise error
    assert str(tmp_path) in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOENT])
def test_a_folder_that_cannot_be_written(tmp_path, code):
    with pytest.raises(FolderError, match="name another output folder"), writing(tmp_path / "gone"):
        raise OSError(code, os.strerror(code))


def test_a_broken_disk(tmp_path):
    with pytest.raises(DiskError, match="Input/output error"), writing(tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_an_error_that_is_not_about_writing_passes(tmp_path):
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:3]))
    write_file(tmp_path / "x", b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_a_replacement_is_whole_or_not_there(tmp_path, monkeypatch):
    replace_file(tmp_path / "x", b"old")

    def full(file, data):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="full"):
        replace_file(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"


def test_hash_of_abc(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_nothing_to_write(tmp_path):
    write_file(tmp_path / "x", b"")
    assert (tmp_path / "x").read_bytes() == b""
    write_all(-1, b"")
