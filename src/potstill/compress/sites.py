"""Which layers of a model a scheme is about, found by walking the model; refused where it cannot be done whole."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from torch import nn

from potstill.compress.scheme import QuantScheme
from potstill.core.errors import InputError, ModelError
from potstill.students.layouts import LAYOUTS, blocks_of, body_of, layout_of


@dataclass(frozen=True, slots=True)
class Sites:
    """Dotted names of the layers to quantise, in the model's order."""

    linears: tuple[str, ...]
    embeddings: tuple[str, ...]


def sites(module: nn.Module, scheme: QuantScheme) -> Sites:
    """What `scheme` quantises in `module`.

    A model without a transformers config (a plain network) has no blocks: all its linears count as inside, and it has
    no head to keep.

    Raises ModelError for an architecture or a kind of layer that is not known; InputError for a name in `skip` that is
    nowhere, for tied weights of which only some would be quantised, and when nothing is left.
    """
    inside = _inside(module, scheme)
    layers = {name: one for name, one in module.named_modules() if isinstance(one, (nn.Linear, nn.Embedding))}
    skipped = _skipped(scheme.skip, list(layers))
    linears, embeddings = [], []
    for name, one in layers.items():
        if name in skipped:
            continue
        if isinstance(one, nn.Embedding):
            if "embeddings" not in scheme.keep:
                embeddings.append(_ordinary(name, one, nn.Embedding))
        elif id(one) in inside or "head" not in scheme.keep:
            linears.append(_ordinary(name, one, nn.Linear))
    if not linears and not embeddings:
        raise InputError(f"{type(module).__name__}: nothing is left to quantise: shorten `keep` or `skip`")
    _check_ties(layers, {*linears, *embeddings})
    return Sites(tuple(linears), tuple(embeddings))


def observed_bodies(module: nn.Module) -> list[nn.Module]:
    """Where an attention mask comes in: the model, and the base model within it, which may be called alone."""
    bodies = [module, body_of(module)] if hasattr(module, "config") else [module]
    return list({id(one): one for one in bodies}.values())


def _inside(module: nn.Module, scheme: QuantScheme) -> set[int]:
    if not hasattr(module, "config"):
        if "head" in scheme.keep:
            raise InputError(
                f"{type(module).__name__} is no transformers model, so it does not say which linear is its head: "
                "keep ('embeddings',) or nothing, and name layers that stay in floats in `skip`"
            )
        return {id(one) for one in module.modules()}
    if layout_of(module).transposed:
        known = ", ".join(sorted(name for name, row in LAYOUTS.items() if not row.transposed))
        raise ModelError(
            f"{type(module).__name__} keeps its weights as [in, out] in layers of its own, which are not quantised; "
            f"supported are {known}: use one of them"
        )
    return {id(one) for one in blocks_of(module).modules()}


def _skipped(skip: tuple[str, ...], names: list[str]) -> set[str]:
    found: set[str] = set()
    for one in skip:
        under = {name for name in names if name == one or name.startswith(f"{one}.")}
        if not under:
            near = difflib.get_close_matches(one, names, 1, 0)
            raise InputError(f"skip: no layer is called `{one}` or lies in it; the nearest is `{''.join(near)}`")
        found |= under
    return found


def _ordinary(name: str, layer: nn.Module, kind: type[nn.Module]) -> str:
    if type(layer) is not kind:
        part = "keep the embeddings" if kind is nn.Embedding else f"name it in `skip`, as `{name}`"
        raise ModelError(
            f"{name} is a {type(layer).__name__}, not a plain {kind.__name__}, and would lose what it adds: {part}"
        )
    return name


def _check_ties(layers: dict[str, nn.Linear | nn.Embedding], chosen: set[str]) -> None:
    holders: dict[int, list[str]] = {}
    for name, one in layers.items():
        holders.setdefault(id(one.weight), []).append(name)
    for names in holders.values():
        if 0 < len(chosen.intersection(names)) < len(names):
            first = next(name for name in names if name in chosen)
            other = next(name for name in names if name not in chosen)
            raise InputError(
                f"{first} and {other} share one weight (tied embeddings) and only {first} would be quantised: "
                "keep both embeddings and head, or neither"
            )
