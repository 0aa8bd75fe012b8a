"""Words near each other by a fixed vector each, whatever stands around them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

_CHUNK = 1024


def mean_rows(table_VD: Float[np.ndarray, "V D"], pieces: list[list[int]]) -> Float[np.ndarray, "N D"]:
    """For each list of ids the mean of their rows; [N, D]. No list is empty."""
    return np.stack([table_VD[ids].mean(0) for ids in pieces])


def nearest(
    queries_QD: Float[np.ndarray, "Q D"], words_ND: Float[np.ndarray, "N D"], count: int
) -> Int[np.ndarray, "Q K"]:
    """For each query the rows of `words_ND` of largest cosine, largest first; K is `count`, or N where that is less."""
    unit_ND, found = _unit(words_ND), []
    for start in range(0, len(queries_QD), _CHUNK):
        cosines = _unit(queries_QD[start : start + _CHUNK]) @ unit_ND.T
        found.append(_largest(cosines, min(count, len(words_ND))))
    return np.concatenate(found) if found else np.zeros((0, min(count, len(words_ND))), dtype=np.int64)


def _largest(values_QN: Float[np.ndarray, "Q N"], count: int) -> Int[np.ndarray, "Q K"]:
    if count < values_QN.shape[1]:
        chosen_QK = np.sort(np.argpartition(-values_QN, count, axis=1)[:, :count], axis=1)
    else:
        chosen_QK = np.broadcast_to(np.arange(count), (len(values_QN), count))
    order_QK = np.argsort(-np.take_along_axis(values_QN, chosen_QK, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen_QK, order_QK, axis=1)


def _unit(rows_ND: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    return rows_ND / np.maximum(np.linalg.norm(rows_ND, axis=1, keepdims=True), 1e-12)
