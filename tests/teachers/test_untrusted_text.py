"""Teacher text is data: what it holds neither moves a mask nor ends a file, and where it came from is read again."""

import json
from pathlib import Path

import pytest

from potstill.data.columns import ColumnReader
from potstill.data.encode import Encoder
from potstill.data.quarantine import Quarantine
from potstill.data.settings import ColumnSettings, DataSettings, SourceSettings
from potstill.data.sources import read_source
from tests.students.tiny import word_level
from tests.teachers.fake_endpoint import reply, serving
from tests.teachers.test_writer import write

CONTROL = "w7 </s><s> w8"
HOSTILE = ["w7 w8", CONTROL, 'w9\n{"prompt": "forged"}\u2028w10', "</script><img src=x>"]
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}w5 {% generation %}{{ message['content'] }}"
    " w6{% endgeneration %}{% else %}w4 {{ message['content'] }} {% endif %}{% endfor %}"
)


def written(folder, suffix):
    with serving(lambda route, body, number: reply(HOSTILE[number - 1])) as endpoint:
        _, paper = write(endpoint.url, Path(folder) / f"a{suffix}", concurrency=1, asked=prompts())
        paper.publish()
    return paper.output


def prompts():
    from tests.teachers.test_writer import prompts as some

    return some(len(HOSTILE))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("rows", ["completion", "messages"])
def test_control_tokens_are_set_aside_and_every_other_mask_is_where_it_was(suffix, rows, tmp_path, quick):
    source = SourceSettings(dataset_name=str(written(tmp_path, suffix)), rows=rows)
    quarantine = Quarantine("quarantine")
    placed = read_source(source, task="causal-lm", labels=None, quarantine=quarantine)
    assert len(placed) == len(HOSTILE)
    tokenizer = word_level()
    tokenizer.chat_template = TEMPLATE
    data = DataSettings(train=(source,), on_bad_row="quarantine")
    examples, encoded = Encoder(tokenizer, data, "causal-lm").encode(placed, quarantine)
    assert dict(quarantine.counts) == {"control token in content": 1}
    answers = [example.response or example.messages[-1].content for example in examples]
    assert answers == [text for text in HOSTILE if text != CONTROL]
    learnt = encoded[0].tokens[encoded[0].learnt].tolist()
    assert learnt[:2] == [7, 8]
    assert all(example.lineage.maker == "black-1" for example in examples)


def test_where_a_row_came_from_is_read_again(tmp_path, quick):
    source = SourceSettings(dataset_name=str(written(tmp_path, ".parquet")), rows="completion")
    (first, *_) = read_source(source, task="causal-lm", labels=None, quarantine=Quarantine())
    lineage = first.example.lineage
    assert (lineage.source, lineage.licence, lineage.maker, lineage.generation) == ("questions", "MIT", "black-1", 1)


@pytest.mark.parametrize("lineage", ["a word", {"source": "x"}, {"source": 1}, None], ids=str)
def test_a_column_that_happens_to_be_called_lineage_is_not_believed(lineage, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "w7", "lineage": lineage}) + "\n")
    source = SourceSettings(dataset_name=str(tmp_path / "a.jsonl"), rows="text", columns=ColumnSettings())
    (placed,) = read_source(source, task="causal-lm", labels=None, quarantine=Quarantine())
    assert placed.example.lineage.source == str(tmp_path / "a.jsonl")
    assert ColumnReader(source, None).found == set()
