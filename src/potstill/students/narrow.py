"""Tables of a wide encoder for a narrow one: what the largest singular directions keep of them."""

from __future__ import annotations

import torch
from torch import nn

from potstill.core.errors import ModelError
from potstill.students.layouts import body_of, layout_of


def seen_narrowly(wide: nn.Module, narrow: nn.Module) -> None:
    """Write into every embedding table of `narrow` that of `wide`, along the first right singular vectors V of the
    wide table of pieces E = U S V': E V is the best approximation of that width (Eckart and Young 1936).

    Raises ModelError: tables that cannot be paired, or a model that is not narrower.
    """
    ours, theirs = _tables(narrow), _tables(wide)
    pieces = body_of(wide).get_input_embeddings().weight
    width = body_of(narrow).get_input_embeddings().weight.shape[1]
    shapes = {name: tuple(table.weight.shape) for name, table in theirs.items()}
    fits = shapes.keys() == ours.keys() and all(
        len(ours[name].weight) == rows and wide_width == pieces.shape[1] for name, (rows, wide_width) in shapes.items()
    )
    if not fits or width >= pieces.shape[1]:
        raise ModelError(
            f"size.embeddings: svd makes tables of width {width} from tables {shapes}: only an encoder's, and a "
            "hidden_size below the model's, can be: set embeddings: fresh"
        )
    directions_DW = torch.linalg.svd(pieces.detach().double(), full_matrices=False).Vh[:width].T
    with torch.no_grad():
        for name, table in ours.items():
            table.weight.copy_((theirs[name].weight.detach().double() @ directions_DW).to(table.weight.dtype))


def _tables(module: nn.Module) -> dict[str, nn.Embedding]:
    places = layout_of(module).embeddings
    body = body_of(module)
    if places != ("embeddings",):
        return {}
    return {name: part for name, part in body.embeddings.named_modules() if isinstance(part, nn.Embedding)}
