"""A student as one graph of tensor operations, which runtimes without Python can run.

Generation is not in it: a language model's graph reads a whole text and answers with the logits of every position.
"""

from __future__ import annotations

import inspect

import torch
from jaxtyping import Float
from torch import Tensor, nn

from potstill.core.errors import ModelError
from potstill.export.silence import silence
from potstill.students.load import LoadedModel
from potstill.students.pooled import MeanPooledClassifier, config_of, positions_of

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Sizes of the example that is traced: none of them 1, which tracing would take for a constant.
_ROWS, _TOKENS = 2, 8
_MOST = 2**20


class Answering(nn.Module):
    """Token ids, mask and, where the model reads them, token types, each [B, L], to logits."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        accepted = inspect.signature(module.forward).parameters
        self._options = {"use_cache": False} if "use_cache" in accepted else {}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Float[Tensor, "B ..."]:
        """Logits [B, C] of a classifier, [B, L, V] of a language model."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits: Tensor = self.module(
            input_ids=input_ids, attention_mask=attention_mask, **types, **self._options
        ).logits
        return logits


def input_names(loaded: LoadedModel) -> tuple[str, ...]:
    """What the graph takes: token types only where the tokenizer gives them and the model reads them."""
    module = loaded.module.encoder if isinstance(loaded.module, MeanPooledClassifier) else loaded.module
    typed = "token_type_ids" in loaded.tokenizer.model_input_names
    return INPUTS if typed and "token_type_ids" in inspect.signature(module.forward).parameters else INPUTS[:2]


def captured(loaded: LoadedModel) -> torch.export.ExportedProgram:
    """The graph of a model in evaluation mode, for any number of rows and any length that the model reads.

    Raises ModelError when torch cannot capture this architecture.
    """
    module, names = loaded.module, input_names(loaded)
    longest = positions_of(config_of(module)) or _MOST
    example = tuple(torch.ones(_ROWS, min(_TOKENS, longest), dtype=torch.long) for _ in names)
    sizes = {0: torch.export.Dim("rows", min=1, max=_MOST), 1: torch.export.Dim("tokens", min=1, max=longest)}
    was = module.training
    try:
        with silence():
            return torch.export.export(Answering(module.eval()), example, dynamic_shapes=(sizes,) * len(names))
    except Exception as error:  # torch raises many kinds, and says in the first line what it met
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{type(module).__name__} cannot be captured as a graph: {reason}. "
            "Next: leave the format out of export.formats; the Hugging Face folder needs no graph."
        ) from error
    finally:
        module.train(was)
