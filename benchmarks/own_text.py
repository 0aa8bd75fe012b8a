"""How far a student is from its teacher on the data's text, and on what it writes itself."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from potstill.core.batch import Batch
from potstill.core.signal import Want
from potstill.data.collate import collate
from potstill.data.encoded import Encoded
from potstill.divergences.catalogue import DIVERGENCES
from potstill.onpolicy import ends
from potstill.students.load import LoadedModel, load_model
from potstill.students.sample import Sampling, continued
from potstill.students.settings import ModelSettings
from potstill.students.taps import outputs
from potstill.train.rollout import WrittenRow, written_batch

MEASURES = {
    "perplexity": "Perplexity on the data",
    "kl": "KL to the teacher on the data (nats)",
    "own_reverse": "Rollout KL: KL(student, teacher) on its own text (nats)",
    "own_forward": "KL(teacher, student) on its own text (nats)",
}


@dataclass(frozen=True, slots=True)
class Ruler:
    """What every student is measured with: the teacher, rows of the data, and how many of their tokens are a prompt for
    how many new ones. at_once: rows of a batch. bf16: of the forward passes."""

    teacher: LoadedModel
    rows: Sequence[Encoded]
    prompt: int
    new: int
    at_once: int
    bf16: bool = False


def loaded(name: str | Path) -> LoadedModel:
    return load_model(ModelSettings(model_name_or_path=str(name)), task="causal-lm", labels=None, folder_of={})


def measured(stage: Path, ruler: Ruler) -> dict[str, Any]:
    """The product of a training, measured once: its last step, unless evaluations on the way chose another one."""
    file = stage / "own-text.json"
    if not file.exists():
        done, student = json.loads((stage / "stage.json").read_text()), loaded(stage / "model")
        sums = Counter[str]()
        for start in range(0, len(ruler.rows), ruler.at_once):
            some = ruler.rows[start : start + ruler.at_once]
            sums.update(_sums("", collate(some, pad_id=0, task="causal-lm"), student, ruler))
            sums.update(_sums("own_", _written(some, student, ruler, seed=start), student, ruler))
        found = {
            "perplexity": math.exp(sums["loss"] / sums["tokens"]),
            "kl": sums["forward_kl"] / sums["tokens"],
            "own_reverse": sums["own_reverse_kl"] / sums["own_tokens"],
            "own_forward": sums["own_forward_kl"] / sums["own_tokens"],
        }
        file.write_text(
            json.dumps({**found, **{name: done.get(name) for name in ("tokens", "seconds", "rollout", "best_step")}})
        )
    return json.loads(file.read_text())


def _written(rows: Sequence[Encoded], student: LoadedModel, ruler: Ruler, seed: int) -> Batch:
    sampling = Sampling(1.0, ruler.new, len(student.tokenizer), ends(student.module, student.tokenizer))
    prompts = [row.tokens[: ruler.prompt].tolist() for row in rows]
    new = continued(student.module, prompts, sampling, seed=seed)
    return written_batch([WrittenRow("", (*a, *b), ruler.prompt) for a, b in zip(prompts, new, strict=True)])


def _sums(prefix: str, batch: Batch, student: LoadedModel, ruler: Ruler) -> dict[str, float]:
    chosen = batch.weights["soft"] > 0
    ours, theirs = (_logprobs(one, batch, ruler.bf16)[chosen] for one in (student, ruler.teacher))
    found = {name: float(DIVERGENCES[name].function(theirs, ours).sum()) for name in ("forward_kl", "reverse_kl")}
    found["loss"] = -float(ours.gather(-1, batch.targets_BT[chosen][:, None]).sum())
    found["tokens"] = float(chosen.sum())
    return {f"{prefix}{name}": value for name, value in found.items()}


def _logprobs(one: LoadedModel, batch: Batch, bf16: bool) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = outputs(one.module.eval(), batch, Want()).logits_BTV
    assert found is not None
    return found.float().log_softmax(-1)
