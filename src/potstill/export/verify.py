"""The folder is the student: loaded again the way a user loads it, it must answer as the trained model does.

The texts are fixed, so that two exports are compared on the same thing. Any difference beyond the tolerance, any other
first choice, any other generated text is a `stop`, and a folder with a `stop` is not published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from potstill.core.outcome import Finding, Verdict
from potstill.core.task import Task
from potstill.students.load import LoadedModel, load_model
from potstill.students.pooled import MeanPooledClassifier, config_of, positions_of
from potstill.students.quiet import quiet
from potstill.students.settings import ModelSettings

FIXED_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Which of these is a prime number: 4, 6, 9 or 11?",
    "In 1905 a clerk in Bern published four papers, and physics was not the same afterwards.",
    "Grüße aus Zürich: 3 € für Käse, naïve café, 東京",
    "a",
)
NEW_TOKENS = 16
# Tokens of a fixed text that are read; fewer where the model reads fewer.
SHOWN = 32
_CLASSES = {
    "classify": AutoModelForSequenceClassification,
    "masked-lm": AutoModelForMaskedLM,
    "causal-lm": AutoModelForCausalLM,
}
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def verify(folder: Path, trained: LoadedModel, *, task: Task, tolerance: float) -> list[Finding]:
    """export.files, export.logit_difference, export.top1_agreement, export.chat_template, and for a causal language
    model export.generated_text. tolerance: the largest absolute difference of a logit."""
    files = folder_finding(folder, task)
    if files.verdict == "stop":
        return [files]
    module, tokenizer = reload(folder, trained, task)
    with _evaluating(trained.module), torch.inference_mode():
        findings = [
            files,
            *logit_findings(logits(trained.module, trained.tokenizer), logits(module, tokenizer), tolerance),
            template_finding(trained.tokenizer, tokenizer),
        ]
        if task == "causal-lm":
            before, after = (generated(*pair) for pair in ((trained.module, trained.tokenizer), (module, tokenizer)))
            findings.append(shares("export.generated_text", before, after, {"new_tokens": NEW_TOKENS}))
    return findings


def reload(folder: Path, trained: LoadedModel, task: Task) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """As a user would: plain transformers, remote code off. A mean-pooled classifier has the sentence-transformers
    layout, which transformers alone does not read, and goes through our own loader."""
    if isinstance(trained.module, MeanPooledClassifier):
        loaded = load_model(ModelSettings(model_name_or_path=str(folder)), task=task, labels=None)
        return loaded.module, loaded.tokenizer
    with quiet():
        module = _CLASSES[task].from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    return module.eval(), tokenizer


def logits(module: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[Float[Tensor, "... V"]]:
    """One answer per fixed text, each alone, so that padding cannot hide or make a difference."""
    return [module(**inputs_of(module, tokenizer, text)).logits[0].float() for text in FIXED_TEXTS]


def logit_findings(
    trained: list[Tensor], reloaded: list[Tensor], tolerance: float, name: str = "export"
) -> list[Finding]:
    """The largest difference of any logit, and how often the first choice is the same."""
    if [one.shape for one in trained] != [other.shape for other in reloaded]:
        evidence = {"trained": str(trained[0].shape), "reloaded": str(reloaded[0].shape), "unit": "logits"}
        return [Finding(f"{name}.logit_shape", 0.0, bound=1.0, verdict="stop", evidence=evidence)]
    difference = max(float((one - other).abs().max()) for one, other in zip(trained, reloaded, strict=True))
    same = [
        value
        for one, other in zip(trained, reloaded, strict=True)
        for value in (one.argmax(-1) == other.argmax(-1)).flatten().tolist()
    ]
    finite = all(bool(torch.isfinite(one).all()) for one in (*trained, *reloaded))
    evidence = {"texts": len(trained), "positions": len(same), "unit": "logits, largest absolute difference"}
    share = sum(same) / len(same)
    return [
        Finding(
            f"{name}.logit_difference",
            difference,
            bound=tolerance,
            verdict=stop_unless(finite and difference <= tolerance),
            evidence=evidence,
        ),
        Finding(
            f"{name}.top1_agreement",
            share,
            bound=1.0,
            verdict=stop_unless(share == 1.0),
            evidence={**evidence, "unit": "share of positions"},
        ),
    ]


def generated(module: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Greedy continuations of the fixed texts."""
    texts = []
    for text in FIXED_TEXTS:
        inputs = inputs_of(module, tokenizer, text)
        output_BL = module.generate(  # type: ignore[operator]
            **inputs, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=tokenizer.pad_token_id or 0
        )
        texts.append(tokenizer.decode(output_BL[0, inputs["input_ids"].shape[1] :]))
    return texts


def template_finding(
    trained: PreTrainedTokenizerBase, reloaded: PreTrainedTokenizerBase, name: str = "export"
) -> Finding:
    """The chat template, character for character: a lost newline changes every prompt of a chat model."""
    before, after = (str(one.chat_template or "") for one in (trained, reloaded))
    evidence = {
        "unit": "1 when identical",
        "present": bool(before),
        "sha256": hashlib.sha256(before.encode()).hexdigest(),
        "reloaded_sha256": hashlib.sha256(after.encode()).hexdigest(),
    }
    same = before == after
    return Finding(f"{name}.chat_template", float(same), bound=1.0, verdict=stop_unless(same), evidence=evidence)


def folder_finding(folder: Path, task: Task) -> Finding:
    """export.files: how many files are missing that every loader expects, or present that none should read."""
    names = {file.name for file in folder.rglob("*") if file.is_file()}
    wanted = ["config.json", "tokenizer_config.json", *(["generation_config.json"] if task == "causal-lm" else [])]
    faults = [f"{name} is missing" for name in wanted if name not in names]
    if not {"model.safetensors", "model.safetensors.index.json"} & names:
        faults.append("model.safetensors is missing")
    faults += [f"{name} is a pickle" for name in sorted(names) if name.endswith(_PICKLES)]
    return Finding(
        "export.files",
        float(len(faults)),
        bound=0.0,
        verdict=stop_unless(not faults),
        evidence={"unit": "faults", "faults": faults, "files": sorted(names)},
    )


def shares(name: str, before: list[str], after: list[str], shown: Mapping[str, object]) -> Finding:
    """How many of these texts are the same on both sides."""
    same = [one == other for one, other in zip(before, after, strict=True)]
    share = sum(same) / len(same)
    different = [{"trained": one, "reloaded": other} for one, other in zip(before, after, strict=True) if one != other]
    evidence = {"unit": "share of texts", "texts": len(same), "different": different, **shown}
    return Finding(name, share, bound=1.0, verdict=stop_unless(share == 1.0), evidence=evidence)


def inputs_of(module: nn.Module, tokenizer: PreTrainedTokenizerBase, text: str) -> dict[str, Tensor]:
    """No longer than the model reads, whatever its tokenizer says: RoBERTa keeps rows before its first position."""
    longest = min(SHOWN, tokenizer.model_max_length, positions_of(config_of(module)) or SHOWN)
    encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=longest)
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def stop_unless(right: bool) -> Verdict:
    """The verdict on what must hold."""
    return "pass" if right else "stop"


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Dropout off inside, the module's own mode again outside."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
