"""Teach once, train many: what is read is what was heard, bit for bit, whatever happened in between."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from potstill.core.errors import DiskError, FolderError, SignalError
from potstill.core.protocols import Teacher
from potstill.core.signal import DenseLogits, HeadedStates, Want
from potstill.teachers import store as store_module
from potstill.teachers.codec import pack, rows_of
from potstill.teachers.framing import PREFIX
from potstill.teachers.packing import row_keys
from potstill.teachers.store import SignalStore
from potstill.teachers.stored import CodedTeacher, StoredTeacher
from tests.teachers.speech import Speaker, batch_of, packing

ROOT = Path(__file__).parents[2]
HEADED = Want(logits=False, headed=True)
EVERY = [[0, 1, 2], [3, 4], [5, 6, 7, 8]]


def opened(folder, **more):
    return SignalStore(folder, packing().as_meta(), **more)


def sealed(**change):
    """A manifest with one line, of which something is wrong."""
    line = {"name": "shard-000000.rows", "rows": 1, "bytes": 1, "sha256": "", "index_sha256": "", **change}
    return json.dumps({"version": 1, "terms": {}, "shards": [line]})


def states(signal):
    return signal.logits.states_BTD


@pytest.fixture
def recorded(tmp_path):
    """A store of nine rows in several shards, closed."""
    teacher = StoredTeacher(opened(tmp_path, shard_bytes=1500), packing(), Speaker())
    for rows in EVERY:
        teacher.signal(batch_of(rows), HEADED)
    teacher.close()
    return tmp_path


def test_it_is_a_teacher(tmp_path):
    assert isinstance(StoredTeacher(opened(tmp_path), packing()), Teacher)
    assert isinstance(CodedTeacher(Speaker(), packing()), Teacher)


@pytest.mark.parametrize("form", ["hidden-int8", "hidden-bf16", "hidden-fp32"])
def test_recording_and_replay_are_the_live_teacher_bit_for_bit(tmp_path, form):
    terms = packing(form).as_meta()
    live = CodedTeacher(Speaker(), packing(form))
    recording = StoredTeacher(SignalStore(tmp_path, terms, shard_bytes=1500), packing(form), Speaker())
    for rows in EVERY:
        heard = states(live.signal(batch_of(rows), HEADED))
        assert torch.equal(heard, states(recording.signal(batch_of(rows), HEADED)))
    recording.close()
    replay = StoredTeacher(SignalStore(tmp_path, terms), packing(form))
    for rows in EVERY:
        assert torch.equal(states(live.signal(batch_of(rows), HEADED)), states(replay.signal(batch_of(rows), HEADED)))


def test_rows_are_found_in_any_order_and_company(recorded):
    replay = StoredTeacher(opened(recorded), packing())
    alone = [states(replay.signal(batch_of([row]), HEADED))[0] for row in range(9)]
    assert torch.equal(states(replay.signal(batch_of([8, 0, 5]), HEADED)), torch.stack([alone[i] for i in (8, 0, 5)]))


def test_the_teacher_is_asked_once(tmp_path):
    speaker = Speaker()
    teacher = StoredTeacher(opened(tmp_path), packing(), speaker)
    for rows in (*EVERY, [8, 1], [0]):
        teacher.signal(batch_of(rows), HEADED)
    assert len(speaker.asked) == 3


def test_a_batch_with_a_missing_row_is_asked_about_whole(tmp_path):
    """A run that was killed within a batch must hear again exactly what it heard, down to its batch-mates."""
    whole = states(CodedTeacher(Speaker(), packing()).signal(batch_of([0, 1, 2]), HEADED))
    store = opened(tmp_path)
    store.append(rows_of(pack(Speaker().signal(batch_of([0, 1, 2]), HEADED), batch_of([0, 1, 2]), packing()))[:1])
    speaker = Speaker()
    assert torch.equal(states(StoredTeacher(store, packing(), speaker).signal(batch_of([0, 1, 2]), HEADED)), whole)
    assert speaker.asked == [("example-0", "example-1", "example-2")]
    assert store.rows == 3


def test_whole_logits_are_made_where_they_are_wanted(recorded):
    replay, batch = StoredTeacher(opened(recorded), packing()), batch_of([4, 2])
    headed, dense = replay.signal(batch, HEADED).logits, replay.signal(batch, Want()).logits
    assert isinstance(headed, HeadedStates)
    assert isinstance(dense, DenseLogits)
    asked = batch.weights["soft"] != 0
    assert torch.equal(dense.logits_BTV[asked], headed.head.logits(headed.states_BTD[asked]))
    assert not dense.logits_BTV[~asked].any()


def test_layers_that_were_not_recorded_are_refused(recorded):
    with pytest.raises(SignalError, match="wants hidden layer 2, which the stored signals lack"):
        StoredTeacher(opened(recorded), packing()).signal(batch_of([1]), Want(hidden_layers=(2,)))


def test_a_row_nobody_can_answer_is_refused(recorded):
    replay = StoredTeacher(opened(recorded), packing())
    with pytest.raises(SignalError, match="no signal for 1 rows of the batch, the first of them example-9"):
        replay.signal(batch_of([1, 9]), HEADED)


def test_an_answer_that_is_not_finite_is_handed_on_and_never_stored(tmp_path):
    """Fault 19 and 23: the training sees it and skips; nothing of it enters the store."""
    speaker, store = Speaker(), opened(tmp_path)
    speaker.table[7] = torch.nan
    teacher = StoredTeacher(store, packing(), speaker)
    heard = teacher.signal(batch_of([0, 1]), HEADED)
    assert torch.isnan(states(heard)).any()
    assert store.rows == 0
    speaker.table[7] = 0.5
    assert torch.isfinite(states(teacher.signal(batch_of([0, 1]), HEADED))).all()
    assert store.rows == 2


class TestTheFolder:
    def test_what_lies_there(self, recorded):
        names = {path.name for path in recorded.iterdir()}
        shards = {name for name in names if name.endswith(".rows")}
        assert len(shards) > 1
        assert names == {"store.json", ".lock", *shards, *(f"{name}.index" for name in shards)}
        manifest = json.loads((recorded / "store.json").read_text())
        assert manifest["terms"] == packing().as_meta()
        assert sum(line["rows"] for line in manifest["shards"]) == 9
        for line in manifest["shards"]:
            assert (recorded / line["name"]).stat().st_size == line["bytes"]

    def test_a_store_that_was_never_closed_is_read(self, tmp_path):
        StoredTeacher(opened(tmp_path), packing(), Speaker()).signal(batch_of([0, 1]), HEADED)
        assert opened(tmp_path).rows == 2

    def test_appending_goes_on_where_it_ended(self, recorded):
        before = {path.name: path.read_bytes() for path in recorded.glob("shard*")}
        teacher = StoredTeacher(opened(recorded), packing(), Speaker())
        teacher.signal(batch_of([20, 21]), HEADED)
        teacher.close()
        assert opened(recorded).rows == 11
        assert {name: (recorded / name).read_bytes() for name in before} == before

    @pytest.mark.parametrize("lost", [1, 50, 200, 700])
    def test_a_torn_end_is_cut_off_and_asked_for_again(self, tmp_path, lost):
        teacher = StoredTeacher(opened(tmp_path), packing(), Speaker())
        teacher.signal(batch_of([0, 1, 2]), HEADED)
        shard = tmp_path / "shard-000000.rows"
        whole = shard.read_bytes()
        for file in (teacher.store._file, teacher.store._lock):  # as when the process dies
            os.close(file)
        shard.write_bytes(whole[:-lost])
        assert opened(tmp_path).rows < 3
        again = StoredTeacher(opened(tmp_path), packing(), Speaker())
        again.signal(batch_of([0, 1, 2]), HEADED)
        assert shard.read_bytes() == whole

    def test_two_writers_are_refused_and_readers_are_not(self, recorded):
        writer = opened(recorded)
        writer.append(rows_of(pack(Speaker().signal(batch_of([30]), HEADED), batch_of([30]), packing())))
        reader = StoredTeacher(opened(recorded), packing(), Speaker())
        reader.signal(batch_of([3]), HEADED)
        with pytest.raises(FolderError, match="being written by another process"):
            reader.signal(batch_of([31]), HEADED)
        writer.close()
        reader.signal(batch_of([31]), HEADED)

    def test_a_full_disk_leaves_whole_rows(self, recorded, monkeypatch):
        """Fault 5."""
        store, real = opened(recorded), store_module.write_all

        def full(file, data):
            real(file, bytes(data)[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(store_module, "write_all", full)
        row = rows_of(pack(Speaker().signal(batch_of([40]), HEADED), batch_of([40]), packing()))
        with pytest.raises(DiskError, match="no room to write"):
            store.append(row)
        monkeypatch.setattr(store_module, "write_all", real)
        store.append(row)
        store.close()
        assert opened(recorded).rows == 10
        assert opened(recorded).verify() == []


class TestDamage:
    """Fault 17: a damaged shard is named, set aside, and its rows are asked for again."""

    def damaged(self, folder, change, name="shard-000001.rows"):
        raw = bytearray((folder / name).read_bytes())
        (folder / name).write_bytes(change(raw))

    def flip(self, raw):
        raw[-70] ^= 4  # within the last tensor, before its padding
        return raw

    @pytest.mark.parametrize("change", ["flip", "cut", "grow", "empty"])
    def test_it_is_found_named_and_rebuilt(self, recorded, change):
        changes = {
            "flip": self.flip,
            "cut": lambda raw: raw[:-1],
            "grow": lambda raw: raw + b"x",
            "empty": lambda raw: b"",
        }
        heard = [states(StoredTeacher(opened(recorded), packing()).signal(batch_of(rows), HEADED)) for rows in EVERY]
        self.damaged(recorded, changes[change])
        store = opened(recorded)
        before = store.rows
        found = store.verify()
        assert len(found) == 1
        assert "shard-000001.rows" in found[0]
        assert "rows will be asked for again" in found[0]
        assert store.rows < before
        speaker = Speaker()
        again = StoredTeacher(store, packing(), speaker)
        for rows, expected in zip(EVERY, heard, strict=True):
            assert torch.equal(states(again.signal(batch_of(rows), HEADED)), expected)
        assert 0 < len(speaker.asked) < 3
        again.close()
        assert opened(recorded).rows == before
        assert opened(recorded).verify() == []
        assert (recorded / "shard-000001.rows.damaged").exists()

    @pytest.mark.parametrize("change", ["flip", "missing", "garbage"])
    def test_so_is_an_index(self, recorded, change):
        name = "shard-000001.rows.index"
        if change == "missing":
            (recorded / name).unlink()
        else:
            self.damaged(recorded, self.flip if change == "flip" else lambda raw: b"<html>", name)
        assert "shard-000001.rows.index" in opened(recorded).verify()[0]
        assert opened(recorded).verify() == []

    def test_a_missing_shard(self, recorded):
        (recorded / "shard-000000.rows").unlink()
        assert "shard-000000.rows is missing" in opened(recorded).verify()[0]

    def test_a_flipped_bit_is_never_learnt_from(self, recorded):
        """Even between two checks of the whole store."""
        replay = StoredTeacher(opened(recorded), packing())
        for path in recorded.glob("shard-*.rows"):
            raw = bytearray(path.read_bytes())
            raw[PREFIX.size + PREFIX.unpack(raw[: PREFIX.size])[3]] ^= 1  # the first number of the first row
            path.write_bytes(raw)
        failed = 0
        for row in range(9):
            try:
                replay.signal(batch_of([row]), HEADED)
            except SignalError as error:
                assert "is damaged where row" in str(error)
                failed += 1
        assert failed == len(list(recorded.glob("shard-*.rows")))

    @pytest.mark.parametrize(
        "text",
        [
            "", "{", "[]", "\xff", "[" * 100_000,
            '{"version": 1, "terms": {}}',
            '{"version": 2, "terms": {}, "shards": []}',
            '{"version": 1, "terms": [], "shards": []}',
            '{"version": 1, "terms": {}, "shards": [{"name": "shard-000000.rows"}]}',
            sealed(name="../../etc/passwd"), sealed(name="/etc/passwd"), sealed(rows=-1), sealed(rows=True),
            sealed(sha256=5), sealed(more=1),
        ],
    )  # fmt: skip
    def test_a_manifest_that_says_nothing_is_refused(self, recorded, text):
        """Faults 17 and 27."""
        (recorded / "store.json").write_text(text, encoding="latin-1")
        with pytest.raises(SignalError, match=r"store\.json .*: move .* away"):
            opened(recorded)

    def test_other_terms_are_refused(self, recorded):
        """Faults 20 and 21."""
        with pytest.raises(SignalError, match="holds signals on other terms; these differ: form"):
            SignalStore(recorded, packing("hidden-bf16").as_meta())
        terms = packing().as_meta()
        terms["teacher"] = {**terms["teacher"], "weights": "x" * 64}
        with pytest.raises(SignalError, match="these differ: teacher"):
            SignalStore(recorded, terms)
        assert SignalStore(recorded).terms == packing().as_meta()

    def test_a_folder_without_a_store(self, tmp_path):
        with pytest.raises(SignalError, match="holds no stored signals"):
            SignalStore(tmp_path)


def child(module, *arguments, limit):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"tests.teachers.{module}", *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_recordings_end_with_the_same_bytes(tmp_path):
    found = json.loads(child("recorder", tmp_path, 10, 0, limit=120))
    assert sum(trial["deaths"] for trial in found["trials"]) >= 10
    assert {trial["content"] for trial in found["trials"]} == {found["undisturbed"]}


@pytest.mark.slow
def test_two_hundred_deaths(tmp_path):
    found = json.loads(child("recorder", tmp_path, 200, 1, limit=900))
    assert {trial["content"] for trial in found["trials"]} == {found["undisturbed"]}


def test_memory_does_not_grow_with_the_store(tmp_path):
    """Neither what is recorded nor what is read stays, but for the shards that are mapped at the moment."""
    writing, reading = map(int, child("hoarder", tmp_path, limit=120).split())
    assert sum(path.stat().st_size for path in tmp_path.glob("*.rows")) > 96_000_000
    assert max(writing, reading) < 24


def test_keys_tell_rows_of_other_lengths_apart(recorded):
    """The same example under another cut is another row: it is asked about, not replayed."""
    longer = batch_of([0], longest=30)
    assert row_keys(longer) == row_keys(batch_of([0], longest=12)) or opened(recorded).find(row_keys(longer)) == [None]


def test_open_files_stay_few(recorded):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    replay = StoredTeacher(opened(recorded), packing())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        for row in range(9):
            replay.signal(batch_of([row]), HEADED)
    assert len(os.listdir("/proc/self/fd")) - before <= store_module.MAPPED < limit
