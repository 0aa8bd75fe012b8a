"""How likely a row's text is to a language model, as a stage of a curation: exp of the mean loss of what is learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch

from potstill.core.protocols import Forward
from potstill.core.signal import Want
from potstill.data.collate import Collate, collator
from potstill.data.columns import Placed
from potstill.data.curate.candidate import Candidate
from potstill.data.curate.sieve import Decision, Stage
from potstill.data.difficulty.score import row_losses
from potstill.data.encode import Encoder
from potstill.data.encoded import Encoded
from potstill.data.quarantine import Quarantine
from potstill.data.settings import DataSettings, SourceSettings
from potstill.recipe_curating import QualitySettings
from potstill.students.load import load_model
from potstill.students.taps import outputs


def quality_stage(settings: QualitySettings, sources: Sequence[SourceSettings]) -> Stage:
    """Rows with their perplexity, less those above the bound and those that the model's tokenizer cannot read.

    Raises ModelError for a model that cannot be loaded, DataError for a max_length beyond its context.
    """
    made = load_model(settings, task="causal-lm", labels=None)
    reading = DataSettings(train=tuple(sources), max_length=settings.max_length)
    context = made.module.config.get_text_config().max_position_embeddings
    encoder = Encoder(made.tokenizer, reading, "causal-lm", context)
    collate = collator(made.tokenizer, "causal-lm")

    forward = partial(outputs, made.module)

    def stage(some: Sequence[Candidate]) -> list[Decision]:
        decisions: list[Decision] = []
        waiting: list[Candidate] = []
        rows: list[Encoded] = []
        for candidate in some:
            quarantine = Quarantine("quarantine")
            _, encoded = encoder.encode([Placed(candidate.example, candidate.file, candidate.line)], quarantine)
            if not encoded:
                decisions.append((candidate, quarantine.rejects[0].reason))
            else:
                waiting.append(candidate)
                rows.append(encoded[0])
        for start in range(0, len(rows), settings.batch):
            found = perplexities(rows[start : start + settings.batch], forward, collate)
            for candidate, value in zip(waiting[start:], found, strict=False):
                known = candidate.with_found(perplexity=value)
                unlikely = settings.max_perplexity is not None and value > settings.max_perplexity
                decisions.append((known, "unlikely to the model") if unlikely else known)
        return decisions

    return stage


@torch.no_grad()
def perplexities(rows: Sequence[Encoded], forward: Forward, collate: Collate) -> list[float]:
    """exp(mean negative log-likelihood) over the learnt tokens of each row; infinite where that is beyond a float."""
    batch = collate(rows, 0)
    logits_BTV = forward(batch, Want(teacher=False)).logits_BTV
    assert logits_BTV is not None, "whoever is asked for logits answers with them"
    losses = row_losses(logits_BTV, batch.targets_BT, batch.weights["hard"]).tolist()
    return [math.exp(loss) if loss < 700 else math.inf for loss in losses]
