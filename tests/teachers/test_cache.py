import json

import pytest
import torch

from potstill.core.errors import DiskError, FolderError, SignalError
from potstill.core.protocols import Teacher
from potstill.core.signal import Voice, Want
from potstill.teachers.cache import ANSWERS, MANIFEST, AnswerCache


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def teacher(spoken, request):
    return spoken(torch.randn(7, 1, 5).to(request.param), "original")


@pytest.fixture
def cache(teacher, rows):
    return AnswerCache.record(teacher, [rows([3, 0, 6]), rows([1, 2]), rows([5])], rows_total=7)


def test_it_answers_bit_for_bit_without_asking_again(cache, teacher, rows):
    asked = teacher.asked
    signal = cache.signal(rows([6, 1, 5]), Want())
    assert signal.logits.logits_BTV.dtype == teacher.logits.dtype
    assert torch.equal(signal.logits.logits_BTV, teacher.logits[[6, 1, 5]])
    assert signal.voice == teacher.voice
    assert teacher.asked == asked == 6
    assert isinstance(cache, Teacher)


def test_a_row_that_was_never_asked_is_refused(cache, rows):
    with pytest.raises(SignalError, match="row 4 is example example-4, but the recorded answer there is for nobody"):
        cache.signal(rows([4]), Want())
    with pytest.raises(SignalError, match="row 7"):
        cache.signal(rows([7]), Want())


def test_rows_that_moved_are_refused(cache, teacher, rows):
    """The right position is not enough: it must hold the example that was answered."""
    moved = rows([1])
    object.__setattr__(moved, "ids", ("example-2",))
    with pytest.raises(SignalError, match="row 1 is example example-2, but the recorded answer there is for example-1"):
        cache.signal(moved, Want())


def test_states_are_refused(cache, rows):
    with pytest.raises(SignalError, match="only logits are recorded"):
        cache.signal(rows([0]), Want(attention_layers=(1,)))


def test_rows_of_several_positions_are_refused(spoken, rows):
    with pytest.raises(SignalError, match="answers for 4 positions a row, and answers are recorded for 1"):
        AnswerCache.record(spoken(torch.randn(2, 4, 5)), [rows([0, 1], 4)], rows_total=2)


def test_nothing_to_record_is_refused(spoken):
    with pytest.raises(SignalError, match="nothing to record"):
        AnswerCache.record(spoken(torch.randn(2, 1, 5)), [], rows_total=0)


def test_saved_and_loaded_it_is_the_same(cache, teacher, rows, tmp_path):
    cache.save(tmp_path / "answers")
    again = AnswerCache.load(tmp_path / "answers", teacher.voice)
    assert torch.equal(again.logits_RV, cache.logits_RV)
    assert again.logits_RV.dtype == teacher.logits.dtype
    assert again.ids == cache.ids
    assert {path.name for path in (tmp_path / "answers").iterdir()} == {ANSWERS, MANIFEST}


@pytest.mark.parametrize("voice", [Voice("another", 5), Voice("original", 6)])
def test_another_teachers_answers_are_refused(cache, tmp_path, voice):
    cache.save(tmp_path)
    with pytest.raises(SignalError, match=r"are by original \(5 entries\), and the teacher is .*: delete"):
        AnswerCache.load(tmp_path, voice)


def test_a_flipped_bit_is_noticed(cache, teacher, tmp_path):
    cache.save(tmp_path)
    payload = bytearray((tmp_path / ANSWERS).read_bytes())
    payload[-3] ^= 1
    (tmp_path / ANSWERS).write_bytes(payload)
    with pytest.raises(SignalError, match="are damaged"):
        AnswerCache.load(tmp_path, teacher.voice)


def test_a_truncated_file_is_noticed(cache, teacher, tmp_path):
    cache.save(tmp_path)
    (tmp_path / ANSWERS).write_bytes((tmp_path / ANSWERS).read_bytes()[:-10])
    with pytest.raises(SignalError, match="are damaged"):
        AnswerCache.load(tmp_path, teacher.voice)


@pytest.mark.parametrize("manifest", [None, "", "{", "[]", "{}", '{"teacher": "original"}', "\xff"])
def test_a_manifest_that_says_nothing_is_refused(cache, teacher, tmp_path, manifest):
    cache.save(tmp_path)
    (tmp_path / MANIFEST).unlink()
    if manifest is not None:
        (tmp_path / MANIFEST).write_text(manifest, encoding="latin-1")
    with pytest.raises(SignalError, match=r"cannot be read .*delete .* and the teacher will be asked again"):
        AnswerCache.load(tmp_path, teacher.voice)


def test_a_save_that_fails_leaves_the_earlier_one(cache, teacher, tmp_path, monkeypatch):
    cache.save(tmp_path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("potstill.durable.os.fsync", full)
    with pytest.raises(DiskError, match=r"no room to write \(No space left on device\)"):
        cache.save(tmp_path)
    assert AnswerCache.load(tmp_path, teacher.voice).ids == cache.ids


def test_a_folder_that_cannot_be_made(cache, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FolderError, match="cannot be written"):
        cache.save(tmp_path / "file")


def test_the_manifest_is_plain_json(cache, tmp_path):
    cache.save(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["teacher"] == "original"
    assert manifest["ids"][4] == ""
