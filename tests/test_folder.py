"""What a run folder holds is read back as it was written."""

import pytest

from potstill.folder import RunFolder


@pytest.mark.parametrize("text", ["a\u2028b", "a\x85b", "a\x0bb\x1cc", "one\r\ntwo\rthree", "", '"\\'])
def test_a_line_holds_any_text(tmp_path, text):
    rows = [{"text": text}, {"text": "next"}]
    folder = RunFolder(tmp_path)
    folder.write_lines("rows.jsonl", rows)
    assert folder.read_lines("rows.jsonl") == rows
    assert folder.read_lines("other.jsonl") == []
