import json
import random

import pyarrow.parquet as pq
import pytest

from potstill.core.errors import DataError, DiskError, FolderError
from potstill.teachers.manuscript import JOURNAL, Manuscript

JOB = {"model": "black-1", "seed": 0}


def row(index, sample=0, *, text=None, rejected=None, tokens=7):
    return {
        "index": index,
        "sample": sample,
        "seed": 1,
        "prompt_id": f"p{index}",
        "reference": None,
        "prompt": f"question {index}",
        "completion": f"answer {index}.{sample} 東京" if text is None else text,
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "reasoning": "",
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "completion_tokens": tokens - 3,
        "model": "black-1",
        "lineage": {"source": "s", "revision": "r", "licence": "MIT", "maker": "black-1", "generation": 1},
        "rejected": rejected,
    }


def texts(path):
    if path.suffix == ".parquet":
        return [one["completion"] for one in pq.read_table(path).to_pylist()]
    return [json.loads(line)["completion"] for line in path.read_text().splitlines()]


@pytest.fixture(params=[".jsonl", ".parquet"])
def output(request, tmp_path):
    return tmp_path / f"answers{request.param}"


def test_published_in_the_order_of_the_prompts_whatever_came_first(output):
    paper = Manuscript(output, JOB)
    places = [(index, sample) for index in range(20) for sample in range(3)]
    random.Random(1).shuffle(places)
    for place in places:
        paper.append([row(*place)])
    paper.publish()
    assert texts(output) == [f"answer {index}.{sample} 東京" for index in range(20) for sample in range(3)]
    assert paper.tokens == 60 * 7
    assert paper.model == "black-1"


def test_rejected_rows_stand_beside_with_their_reason(output):
    paper = Manuscript(output, JOB)
    paper.append([row(0), row(1, text="", rejected="empty answer"), row(2)])
    paper.publish()
    assert texts(output) == ["answer 0.0 東京", "answer 2.0 東京"]
    (told,) = [json.loads(line) for line in paper.rejects.read_text().splitlines()]
    assert (told["index"], told["rejected"]) == (1, "empty answer")
    assert (paper.kept, paper.rejected) == (2, {"empty answer": 1})


def test_a_journal_cut_at_every_byte_loses_only_the_line_it_cuts(output):
    paper = Manuscript(output, JOB)
    paper.append([row(index) for index in range(3)])
    paper.close()
    place = paper.folder / JOURNAL
    whole = place.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(0, len(whole) + 1, 7):
        place.write_bytes(whole[:cut])
        again = Manuscript(output, JOB)
        kept = sum(end <= cut for end in ends)
        assert sorted(again.written) == [(index, 0) for index in range(kept)]
        again.append([row(9)])
        again.close()
        assert len(place.read_text().splitlines()) == kept + 1


def test_a_row_never_stands_twice(output):
    paper = Manuscript(output, JOB)
    paper.append([row(0)])
    with pytest.raises(ValueError, match="twice"):
        paper.append([row(0)])
    paper.close()
    with pytest.raises(DataError, match=r"journal\.jsonl:2: .*twice"):
        Manuscript(output, JOB)


def test_a_damaged_line_is_named(output):
    paper = Manuscript(output, JOB)
    paper.append([row(0), row(1)])
    paper.close()
    place = paper.folder / JOURNAL
    place.write_bytes(place.read_bytes().replace(b"{", b"#", 1))
    with pytest.raises(DataError, match=r"journal\.jsonl:1: .* remove this line"):
        Manuscript(output, JOB)


def test_another_job_is_refused_with_what_differs(output):
    Manuscript(output, JOB).close()
    with pytest.raises(FolderError, match="these differ: seed"):
        Manuscript(output, JOB | {"seed": 1})


def test_a_file_that_is_there_is_not_replaced(output):
    output.write_text("mine")
    with pytest.raises(FolderError, match="exists"):
        Manuscript(output, JOB)
    assert output.read_text() == "mine"


def test_unknown_kind_of_output(tmp_path):
    with pytest.raises(DataError, match=r"\.jsonl or \.parquet"):
        Manuscript(tmp_path / "answers.csv", JOB)


def test_a_full_disk_keeps_what_was_kept(output, monkeypatch):
    paper = Manuscript(output, JOB)
    paper.append([row(0)])

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("potstill.teachers.manuscript.os.pwrite", full)
    with pytest.raises(DiskError):
        paper.append([row(1)])
    paper.close()
    monkeypatch.undo()
    assert sorted(Manuscript(output, JOB).written) == [(0, 0)]
