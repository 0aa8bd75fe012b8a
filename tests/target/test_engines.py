"""Every program on the same exported student gives the same answers, at any number of rows."""

import pytest
import torch

from potstill.export.runtimes import openvino_answer
from potstill.target.engines import ENGINES
from potstill.target.subjects import exports


def inputs(rows, length=5):
    tokens_BL = torch.randint(5, 20, (rows, length), generator=torch.Generator().manual_seed(0))
    return [tokens_BL, torch.ones_like(tokens_BL), torch.zeros_like(tokens_BL)]


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_the_programs_agree(exported, rows):
    folders = exports(exported)
    expected = ENGINES["PyTorch"].open(folders["huggingface"], "classify", 1)(inputs(rows))
    for name, program in ENGINES.items():
        for form, folder in folders.items():
            if form.startswith(program.reads) and form != "huggingface":
                found = program.open(folder, "classify", 2)(inputs(rows))
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=0, msg=f"{name}, {form}")


def test_rows_come_back_in_their_order_from_several_requests(exported):
    answer = openvino_answer(exports(exported)["openvino"], 2, hint="THROUGHPUT")
    every = inputs(8)
    one_by_one = [answer([one[row : row + 1] for one in every]) for row in range(8)]
    torch.testing.assert_close(answer(every), torch.cat(one_by_one), atol=1e-5, rtol=0)


def test_a_program_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not ENGINES["llama.cpp"].installed
