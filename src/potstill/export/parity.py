"""Whether a student in another runtime answers as the trained one does.

With the trained weights it must, on fixed texts, up to rounding. Quantised it cannot: how often its first choice is
still the same is measured on held-out rows, and too seldom stops the export.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from potstill.core.outcome import Finding
from potstill.core.task import Task
from potstill.export.graph import Answering, input_names
from potstill.export.rows import Rows, tensors_of
from potstill.export.runtimes import Answer
from potstill.export.verify import (
    FIXED_TEXTS,
    NEW_TOKENS,
    inputs_of,
    logit_findings,
    shares,
    stop_unless,
    template_finding,
)
from potstill.students.load import LoadedModel


def as_trained(
    name: str, answer: Answer, trained: LoadedModel, folder: Path, *, task: Task, tolerance: float
) -> list[Finding]:
    """export.NAME.logit_difference, .top1_agreement, .chat_template, and of a causal language model .generated_text."""
    pairs = [(true, answer(inputs)) for inputs, true in _fixed(trained)]
    before, after = ([one[0].float() for one in side] for side in zip(*pairs, strict=True))
    findings = [
        *logit_findings(before, after, tolerance, name=f"export.{name}"),
        reloaded_template(name, trained, folder),
    ]
    if task == "causal-lm":
        texts = [continued(one, trained) for one in (of_module(trained.module), answer)]
        findings.append(shares(f"export.{name}.generated_text", *texts, {"new_tokens": NEW_TOKENS}))
    return findings


def near_trained(
    name: str,
    answer: Answer,
    trained: LoadedModel,
    *,
    rows: Rows,
    least_agreement: float,
    tolerance: float | None = None,
) -> list[Finding]:
    """export.NAME.top1_agreement over held-out rows (without any, over the fixed texts), with the share of positions
    and the mean largest difference of a logit as evidence. tolerance: where the weights are the trained ones in half
    precision, the most that a logit may differ by: export.NAME.logit_difference."""
    same, differences = [], []
    for inputs, mask, true in _held_out(trained, rows):
        found = answer(inputs)
        if true.dim() == 3:
            true, found = true[mask], found[mask]
        same += (true.argmax(-1) == found.argmax(-1)).tolist()
        differences += (true - found).abs().amax(-1).tolist()
    share, largest = sum(same) / len(same), float(torch.tensor(differences).max())
    evidence = {
        "unit": "share of first choices",
        "answers": len(same),
        "mean_largest_logit_difference": sum(differences) / len(differences),
        "largest_logit_difference": largest,
    }
    agreement = Finding(
        f"export.{name}.top1_agreement",
        share,
        bound=least_agreement,
        verdict=stop_unless(share >= least_agreement),
        evidence=evidence,
    )
    if tolerance is None:
        return [agreement]
    evidence = {"unit": "logits, largest absolute difference", "answers": len(same)}
    verdict = stop_unless(largest <= tolerance)
    return [
        agreement,
        Finding(f"export.{name}.logit_difference", largest, "student", None, tolerance, verdict, evidence),
    ]


def of_module(module: nn.Module) -> Answer:
    """A PyTorch model as a runtime would answer: logits in float32."""
    whole = Answering(module.eval())

    def answer(inputs: Sequence[Tensor]) -> Tensor:
        with torch.inference_mode():
            return whole(*inputs).float()

    return answer


def _fixed(trained: LoadedModel) -> Iterator[tuple[list[Tensor], Tensor]]:
    """The fixed texts, each alone, and the trained model's answers."""
    truth, names = of_module(trained.module), input_names(trained)
    for text in FIXED_TEXTS:
        encoded = inputs_of(trained.module, trained.tokenizer, text)
        inputs = [encoded[name] if name in encoded else torch.zeros_like(encoded["input_ids"]) for name in names]
        yield inputs, truth(inputs)


def _held_out(trained: LoadedModel, rows: Rows) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
    """Inputs, mask and the trained model's answers."""
    truth, names = of_module(trained.module), input_names(trained)
    for batch in rows.held_out:
        inputs = tensors_of(batch, names)
        yield inputs, batch.attention_BL.bool(), truth(inputs)
    if not rows.held_out:
        for inputs, true in _fixed(trained):
            yield inputs, inputs[1].bool(), true


def continued(answer: Answer, trained: LoadedModel) -> list[str]:
    """Greedy continuations of the fixed texts, each token from the whole text before it."""
    texts = []
    for inputs, _ in _fixed(trained):
        tokens_BL = inputs[0]
        start = tokens_BL.shape[1]
        for _ in range(NEW_TOKENS):
            logits_BLV = answer([tokens_BL, torch.ones_like(tokens_BL)])
            tokens_BL = torch.cat([tokens_BL, logits_BLV[:, -1:].argmax(-1)], dim=1)
        texts.append(trained.tokenizer.decode(tokens_BL[0, start:]))
    return texts


def reloaded_template(name: str, trained: LoadedModel, folder: Path) -> Finding:
    """export.NAME.chat_template: of the tokenizer that lies in the folder."""
    reloaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    return template_finding(trained.tokenizer, reloaded, name=f"export.{name}")
