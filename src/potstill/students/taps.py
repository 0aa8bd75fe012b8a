"""What a model says about a batch, and what it held on the way: exactly the layers asked for, never more."""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from potstill.core.batch import Batch
from potstill.core.errors import ModelError, SignalError
from potstill.core.shapes import AttentionsBHLL, StatesBLD
from potstill.core.signal import Attentions, HeadedStates, HiddenStates, OutputHead, Outputs, Scores, Want
from potstill.students.layouts import blocks_of, body_of, dimensions_of, head_of, layout_of
from potstill.students.pooled import config_of


def outputs(module: nn.Module, batch: Batch, want: Want) -> Outputs:
    """Logits [B, 1, C] of a classifier or [B, L, V] of a language model, and the wanted states and attention maps.

    Rows are padded on the right. Attention maps exist under the eager kernel alone; the first call that wants them
    switches the module to it for good, and says so. Attention scores come from the queries and keys, under any kernel.
    Where `headed` is wanted, the last states and their head stand in place of the logits; where no logits are wanted,
    none are computed. Raises SignalError when a wanted layer does not exist, when a model has no head of that kind, or
    when its scores are not known.
    """
    if want.headed:
        with _heard(module, want) as heard:
            found = headed(module, batch)
        logits = None
    else:
        found = logits = None
        with _heard(module, want) as heard:
            if want.logits or not want.inside:
                logits = module(**_inputs(module, batch)).logits
            else:
                last_hidden(module, batch)
    return Outputs(
        logits_BTV=logits.unsqueeze(1) if logits is not None and logits.dim() == 2 else logits,
        headed=found,
        hidden=HiddenStates(heard.hidden) if want.hidden_layers else None,
        attentions=Attentions(heard.attentions) if want.attention_layers else None,
        scores=_scores(module, want, heard) if want.score_layers else None,
    )


def last_hidden(module: nn.Module, batch: Batch) -> StatesBLD:
    """The last states, after the final norm, without computing any logits."""
    body = body_of(module)
    return body(**_inputs(body, batch))[0]


def headed(module: nn.Module, batch: Batch) -> HeadedStates:
    """The last states and the head that makes logits of them. Raises SignalError for a model without such a head."""
    return HeadedStates(last_hidden(module, batch), output_head(module))


def output_head(module: nn.Module) -> OutputHead:
    """The linear from last states to logits, with what the config does to them afterwards; the weights are the live
    ones. Raises SignalError for a model whose logits are made in another way."""
    head = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    if not isinstance(head, nn.Linear) or not _follows_the_body(head, module):
        raise SignalError(
            f"{type(module).__name__}: its logits are not one linear of its last states, so these cannot stand for "
            "them: use a causal language model, or an objective on logits"
        )
    config = config_of(module).get_text_config()
    divisor, softcap = getattr(config, "logits_scaling", None) or 1.0, getattr(config, "final_logit_softcapping", None)
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(divisor)
    return OutputHead(head.weight, head.bias, scale, None if softcap is None else float(softcap))


def _follows_the_body(head: nn.Linear, module: nn.Module) -> bool:
    """Whether body and head are all there is; an encoder's vocabulary has a layer of its own before it."""
    body = body_of(module)
    return all(part is body or part is head or not list(part.parameters()) for part in module.children())


def pooled_features(module: nn.Module, batch: Batch) -> Float[Tensor, "B D"]:
    """What the last linear of a classifier reads, without gradient and without dropout: the mean of the tokens, or
    what the stock head makes of its token. A probe fitted on these is exactly a new last linear."""
    seen: list[Tensor] = []
    handle = head_of(module).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    training = module.training
    try:
        with torch.no_grad():
            module.eval()(**_inputs(module, batch))
    finally:
        handle.remove()
        module.train(training)
    features = seen[0]
    if features.dim() == 2:
        return features
    last_B = batch.attention_BL.to(features.device).sum(1).clamp(min=1) - 1
    return features[torch.arange(len(features), device=features.device), last_B]


def install_head(module: nn.Module, weight_CD: Float[Tensor, "C D"], bias_C: Float[Tensor, " C"]) -> None:
    """Write a fitted probe into the classifier's last linear.

    Raises ModelError when the shapes differ or the linear has no bias.
    """
    head = head_of(module)
    if head.bias is None:
        raise ModelError(f"{type(module).__name__}: its head has no bias, which a probe needs: use head: fresh")
    if head.weight.shape != weight_CD.shape:
        raise ModelError(f"the probe is {tuple(weight_CD.shape)} and the head {tuple(head.weight.shape)}: fit it again")
    with torch.no_grad():
        head.weight.copy_(weight_CD)
        head.bias.copy_(bias_C)


@dataclass(slots=True)
class _Heard:
    hidden: dict[int, Tensor] = field(default_factory=dict)
    attentions: dict[int, Tensor] = field(default_factory=dict)
    queries: dict[int, Tensor] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)


@contextlib.contextmanager
def _heard(module: nn.Module, want: Want) -> Iterator[_Heard]:
    heard = _Heard()
    with contextlib.ExitStack() as hooks:
        if want.hidden_layers:
            _hear_hidden(module, want, heard, hooks)
        if want.attention_layers:
            _hear_attentions(module, want, heard, hooks)
        if want.score_layers:
            _hear_scores(module, want, heard, hooks)
        yield heard


def _hear_hidden(module: nn.Module, want: Want, heard: _Heard, hooks: contextlib.ExitStack) -> None:
    blocks = blocks_of(module)
    for layer in want.hidden_layers:
        if not -1 <= layer <= len(blocks):
            raise SignalError(
                f"hidden layer {layer} is wanted and the model has states 0 to {len(blocks)} (and -1, the last): "
                "correct the layer"
            )
        if layer == 0:
            hook = _keep_input(heard.hidden)
            hooks.enter_context(blocks[0].register_forward_pre_hook(hook, with_kwargs=True))
        else:
            part = body_of(module) if layer == -1 else blocks[layer - 1]
            hooks.enter_context(part.register_forward_hook(_keep_output(heard.hidden, layer, 0)))


def _hear_attentions(module: nn.Module, want: Want, heard: _Heard, hooks: contextlib.ExitStack) -> None:
    blocks, path = blocks_of(module), layout_of(module).attention
    body = body_of(module)
    if body.config._attn_implementation != "eager":
        warnings.warn(
            f"{type(module).__name__}: its {body.config._attn_implementation} attention returns no maps; from now on "
            "the eager kernel is used, which is slower",
            stacklevel=2,
        )
        (module if hasattr(module, "set_attn_implementation") else body).set_attn_implementation("eager")
    for layer in want.attention_layers:
        part = _block(blocks, layer).get_submodule(path)
        hooks.enter_context(part.register_forward_hook(_keep_output(heard.attentions, layer, 1)))


def _hear_scores(module: nn.Module, want: Want, heard: _Heard, hooks: contextlib.ExitStack) -> None:
    blocks, layout = blocks_of(module), layout_of(module)
    if layout.query is None or layout.key is None:
        raise SignalError(
            f"the attention scores of a `{config_of(module).model_type}` model are not products of two linears alone, "
            "so they cannot be compared: use an encoder such as BERT, or set objective.layers.attention to 0"
        )
    for layer in want.score_layers:
        block = _block(blocks, layer)
        for path, kept in ((layout.query, heard.queries), (layout.key, heard.keys)):
            hooks.enter_context(block.get_submodule(path).register_forward_hook(_keep_output(kept, layer, 0)))


def _block(blocks: nn.ModuleList, layer: int) -> nn.Module:
    if not 0 <= layer < len(blocks):
        raise SignalError(f"attention of block {layer} is wanted and the model has 0 to {len(blocks) - 1}: correct it")
    return blocks[layer]


def _scores(module: nn.Module, want: Want, heard: _Heard) -> Scores:
    """q k / sqrt(d), in at least fp32: differences of scores are what is learnt, and bf16 keeps three digits."""
    heads = dimensions_of(module).heads
    with torch.autocast(heard.queries[want.score_layers[0]].device.type, enabled=False):
        found = {layer: _products(heard.queries[layer], heard.keys[layer], heads) for layer in want.score_layers}
    return Scores(found)


def _products(query_BLD: StatesBLD, key_BLD: StatesBLD, heads: int) -> AttentionsBHLL:
    query_BHLd, key_BHLd = (
        one.to(torch.promote_types(one.dtype, torch.float32)).unflatten(-1, (heads, -1)).transpose(1, 2)
        for one in (query_BLD, key_BLD)
    )
    return query_BHLd @ key_BHLd.mT * query_BHLd.shape[-1] ** -0.5


def _keep_input(kept: dict[int, Tensor]) -> Any:
    def hook(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        kept[0] = inputs[0] if inputs else named["hidden_states"]

    return hook


def _keep_output(kept: dict[int, Tensor], layer: int, place: int) -> Any:
    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        kept[layer] = output if isinstance(output, Tensor) else output[place]

    return hook


@functools.cache
def _takes(kind: type[nn.Module]) -> frozenset[str]:
    """What a class's forward takes; asking each time would cost a tenth of a small student's latency."""
    return frozenset(inspect.signature(kind.forward).parameters)


def _tells_types_apart(module: nn.Module) -> bool:
    """RoBERTa's token types are a table of one row: it tells the texts of a pair apart by the tokens between them."""
    return getattr(config_of(module), "type_vocab_size", None) != 1


def _inputs(module: nn.Module, batch: Batch) -> dict[str, Any]:
    """The batch under the names that this module's forward takes, on its device."""
    device = next(module.parameters()).device
    takes = _takes(type(module))
    inputs: dict[str, Any] = {
        "input_ids": batch.tokens_BL.to(device),
        "attention_mask": batch.attention_BL.to(device).long(),
    }
    if batch.token_types_BL is not None and "token_type_ids" in takes and _tells_types_apart(module):
        inputs["token_type_ids"] = batch.token_types_BL.to(device)
    if "use_cache" in takes:
        inputs["use_cache"] = False
    return inputs
