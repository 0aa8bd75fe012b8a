import torch

from potstill.core.batch import Batch
from potstill.core.signal import Outputs, Want
from potstill.evaluate.skills import RightRows


def batch(targets, weights, rows):
    targets, weights = torch.tensor(targets), torch.tensor(weights)
    tokens = torch.zeros_like(targets)
    ids = tuple(map(str, rows))
    return Batch(ids, tokens, tokens.bool(), targets, {"hard": weights, "soft": weights}, None, tuple(rows))


def test_a_row_is_right_when_all_that_counts_is():
    """Row 5: all right; row 6: one of two wrong; row 7: wrong where nothing counts; row 8: nothing counts."""
    targets = [[1, 2], [1, 2], [1, 2], [0, 0]]
    said = torch.tensor([[1, 2], [1, 0], [0, 2], [0, 0]])
    logits = torch.nn.functional.one_hot(said, 3).float()
    watched = RightRows(lambda batch, want: Outputs(logits))
    outputs = watched(batch(targets, [[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]], [5, 6, 7, 8]), Want())
    assert torch.equal(outputs.logits_BTV, logits)
    assert watched.right == {5: True, 6: False, 7: True}
    assert watched.shares({5: "a", 6: "a", 7: "b", 9: "c"}) == {"a": 0.5, "b": 1.0}
