"""How much each unit of a model matters: neurons, heads, key-value groups, channels of the states, blocks.

Scores are read, never written into the model. Those of neurons, heads and groups are compared within a block only;
channels are shared by all blocks, so theirs are one row for the whole model. What no data is needed for,
||W1[j]|| ||W2[:, j]|| of each neuron, is `students.surgery.neuron_scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from potstill.compress.gates import open_gates
from potstill.core.batch import Batch
from potstill.core.errors import ModelError
from potstill.core.signal import Want
from potstill.divergences.reduce import weighted_mean
from potstill.students.axes import body_norms, sizes_of
from potstill.students.layouts import blocks_of
from potstill.students.taps import last_hidden, outputs

RowLosses = Callable[[nn.Module, Batch], Float[Tensor, " B"]]
PerBlock = tuple[Tensor, ...]


def label_losses(module: nn.Module, batch: Batch) -> Float[Tensor, " B"]:
    """Cross-entropy of each row (nats), the mean over its known targets; 0 for a row without any."""
    logits_BTV = outputs(module, batch, Want(teacher=False)).logits_BTV
    targets_BT, weights_BT = batch.targets_BT.to(logits_BTV.device), batch.weights["hard"].to(logits_BTV.device)
    losses_BT = -log_softmax(logits_BTV, dim=-1).gather(-1, targets_BT[..., None])[..., 0]
    rows = zip(losses_BT, weights_BT, strict=True)
    return torch.stack([weighted_mean(losses_T, weights_T) for losses_T, weights_T in rows])


@dataclass(frozen=True, slots=True)
class GateScores:
    """By block. neurons [F]; heads [H] and groups [G], of Euclidean length 1 in every block (0 where nothing flows)."""

    neurons: PerBlock
    heads: PerBlock
    groups: PerBlock


def gate_scores(module: nn.Module, batches: Sequence[Batch], losses: RowLosses = label_losses) -> GateScores:
    """First-order importance of neurons, heads and key-value groups, from one pass forward and back over `batches`.

    Neuron j: the mean over real tokens of |a_j dL/da_j|, L the loss of the token's row (Molchanov et al. 2017, arXiv
    1611.06440, section 2.2: what the loss changes by, to first order, when a_j is set to 0). Head h: the mean over rows
    of |dL/dxi_h|, xi_h a gate on the head's output, divided by the Euclidean length of the block's scores (Michel et
    al. 2019, arXiv 1905.10650, section 4.1). A group: the same with one gate for its queries' heads together. Dropout
    is off. losses: the loss of each row; the default is that of the labels.
    Raises ModelError: no rows, or none that the loss says anything about.
    """
    sizes = sizes_of(module)
    found = [torch.zeros(sizes.depth, size, dtype=torch.float64) for size in (sizes.neurons, sizes.heads, sizes.groups)]
    rows = tokens = 0
    with _evaluated(module, batches), open_gates(module) as gates:
        for batch in batches:
            total = losses(module, batch).sum()
            layers = range(sizes.depth)
            wanted = [gates.neurons[layer] for layer in layers] + [gates.heads[layer] for layer in layers]
            gradients = torch.autograd.grad(total, wanted)
            for layer in layers:
                neurons_NF = gradients[layer][batch.attention_BL.to(total.device)]
                heads_BH = gradients[sizes.depth + layer][:, 0]
                groups_BG = heads_BH.unflatten(1, (sizes.groups, -1)).sum(2)
                for scores, one in zip(found, (neurons_NF, heads_BH, groups_BG), strict=True):
                    scores[layer] += one.abs().double().sum(0).cpu()
            rows, tokens = rows + len(batch.ids), tokens + batch.tokens_read
    neurons, heads, groups = found[0] / tokens, found[1] / rows, found[2] / rows
    if not bool(neurons.any()):
        raise ModelError("no gradient arrives: no row of the calibration set has a label, or the loss is constant")
    return GateScores(tuple(neurons), tuple(_unit_length(heads)), tuple(_unit_length(groups)))


def channel_scores(module: nn.Module, batches: Sequence[Batch]) -> Float[Tensor, " D"]:
    """Of each channel of the states: the root of the mean square of what the norms hand on there, over real tokens and
    over all norms of the body (Muralidharan et al. 2024, arXiv 2407.14679, section 2.2, the embedding channels).

    One row for all blocks, because the residual stream is one. Raises ModelError when there are no rows.
    """
    norms = body_norms(module)
    squares = torch.zeros(sizes_of(module).width, dtype=torch.float64)
    tokens, real_BL = 0, torch.zeros(0, 0, dtype=torch.bool)

    def hear(_: nn.Module, __: object, output: Tensor) -> None:
        squares.add_(output[real_BL.to(output.device)].double().square().sum(0).cpu())

    with _evaluated(module, batches), torch.no_grad(), ExitStack() as hooks:
        for norm in norms.values():
            hooks.enter_context(norm.register_forward_hook(hear))
        for batch in batches:
            real_BL = batch.attention_BL
            last_hidden(module, batch)
            tokens += batch.tokens_read
    return (squares / (tokens * len(norms))).sqrt()


def block_influence(module: nn.Module, batches: Sequence[Batch]) -> list[float]:
    """Of each block: 1 - E cos(x, y), x its input and y its output, over all real tokens (Men et al. 2024, arXiv
    2403.03853, equation 1). A block that changes nothing has 0. Raises ModelError when there are no rows."""
    depth = len(blocks_of(module))
    totals, tokens = torch.zeros(depth, dtype=torch.float64), 0
    with _evaluated(module, batches), torch.inference_mode():
        for batch in batches:
            # State i is the output of block i - 1; the last one is taken before the final norm.
            states = outputs(module, batch, Want(teacher=False, hidden_layers=tuple(range(depth + 1)))).hidden.layers
            read = batch.attention_BL
            for block in range(depth):
                cosine_BL = torch.cosine_similarity(states[block], states[block + 1], dim=-1)
                totals[block] += (1 - cosine_BL[read]).double().sum()
            tokens += int(read.sum())
    return (totals / tokens).tolist()


@contextmanager
def _evaluated(module: nn.Module, batches: Sequence[Batch]) -> Iterator[None]:
    if not any(batch.tokens_read for batch in batches):
        raise ModelError("the calibration set is empty: give rows of the training split")
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _unit_length(scores: Float[Tensor, "L U"]) -> Float[Tensor, "L U"]:
    length = scores.norm(dim=1, keepdim=True)
    return scores / length.where(length > 0, torch.ones_like(length))
