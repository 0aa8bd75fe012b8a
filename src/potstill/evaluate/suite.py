"""The sets of findings a report quotes: one call per measured subject. Intervals are 95 %."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from potstill.core.outcome import Finding
from potstill.evaluate import agreement, calibration, interval, metrics
from potstill.evaluate.interval import Estimate
from potstill.evaluate.predictions import Predictions, TokenSums
from potstill.evaluate.settings import EvaluateSettings

_PERCENTILE = "percentile bootstrap over rows"
_CENTRED = "bootstrap over rows, shifted by its bias"


def evaluate_classifier(
    subject: str,
    predictions: Predictions,
    *,
    classes: Sequence[str],
    settings: EvaluateSettings,
    teacher: Predictions | None = None,
    slices: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> list[Finding]:
    """quality.*, calibration.*, class.<name>.f1, slice.<name>.<value>.accuracy, and agreement.* with a teacher.

    classes: names by index. slices: name -> one value per row of `predictions`. Raises DataError when no row has a
    label, when slices do not fit the rows, or when the teacher read other rows.
    """
    findings = _quality(subject, predictions.labelled, settings, seed)
    findings += _calibration(subject, predictions.labelled, settings, seed)
    findings += _per_class(subject, predictions.labelled, classes, settings, seed)
    findings += _per_slice(subject, predictions, slices or {})
    if teacher is not None:
        findings += _agreement(subject, predictions, teacher, settings, seed)
    return findings


def evaluate_language_model(
    subject: str, sums: TokenSums, *, settings: EvaluateSettings, utf8_bytes: int | None = None, seed: int = 0
) -> list[Finding]:
    """quality.nll, quality.perplexity, quality.token_accuracy, with a teacher agreement.top1 and agreement.kl (the
    first alone where only its first choices are known).

    Sequences are resampled, not tokens: tokens of one text are not independent. utf8_bytes: size of the measured text,
    for quality.bits_per_byte.
    """
    tokens = sums.tokens_S

    def over(values: np.ndarray, counts: np.ndarray, statistic: interval.Statistic) -> Estimate:
        features = np.stack([values, counts], axis=-1)
        return interval.bootstrap(features, statistic, resamples=settings.bootstrap, seed=seed)[0]

    evidence = {
        "sequences": len(tokens),
        "tokens": int(tokens.sum()),
        "interval": "percentile bootstrap over sequences",
    }
    mean = interval.ratio_of_sums
    rows = [
        ("quality.nll", over(sums.nll_S, tokens, mean), "nats/token"),
        ("quality.perplexity", over(sums.nll_S, tokens, metrics.perplexity), "perplexity"),
        ("quality.token_accuracy", over(sums.correct_S, tokens, mean), "share"),
    ]
    if sums.compared_S is not None and sums.agreed_S is not None:
        rows.append(("agreement.top1", over(sums.agreed_S, sums.compared_S, mean), "share"))
    if sums.compared_S is not None and sums.kl_S is not None:
        rows.append(("agreement.kl", over(sums.kl_S, sums.compared_S, mean), "nats/token"))
    if utf8_bytes is not None:
        nll, scale = rows[0][1], metrics.bits_per_byte(float(tokens.sum()), utf8_bytes)
        bits = Estimate(nll.value * scale, nll.low * scale, nll.high * scale)
        rows.append(("quality.bits_per_byte", bits, "bits/byte"))
    return [_finding(name, estimate, subject, {"unit": unit, **evidence}) for name, estimate, unit in rows]


def dark_knowledge(
    teacher: Predictions,
    others: Mapping[str, Predictions],
    *,
    classes: Sequence[str],
    settings: EvaluateSettings,
    texts: Sequence[str] | None = None,
) -> list[Finding]:
    """dark_knowledge.entropy: the teacher's mean entropy, with the class-similarity matrix of everyone and the rows
    where the teacher hesitates most as evidence. `others`: subject -> its predictions on the same rows."""
    everyone = {"teacher": teacher, **others}
    matrices = {
        name: _plain(agreement.class_similarity(one.labelled.probabilities_NC, one.labelled.labels_N.numpy()))
        for name, one in everyone.items()
        if bool(one.known_N.any())
    }
    evidence = {
        "unit": "nats",
        "classes": list(classes),
        "class_similarity": matrices,
        "rows": agreement.telling_rows(teacher, others, classes=classes, count=settings.shown_rows, texts=texts),
    }
    return [Finding("dark_knowledge.entropy", float(agreement.entropy(teacher).mean()), "teacher", evidence=evidence)]


def over_seeds(runs: Sequence[Sequence[Finding]]) -> list[Finding]:
    """The same findings of several seeds as one each: the mean with Student's interval, the values in evidence.

    Only what every run measured is kept. Raises ValueError below two runs.
    """
    tables = [{(finding.subject, finding.name): finding for finding in run} for run in runs]
    merged = []
    for key, first in (tables[0] if tables else {}).items():
        if all(key in table for table in tables):
            values = [table[key].value for table in tables]
            evidence = {"unit": first.evidence.get("unit"), "values": values, "interval": "Student's t over seeds"}
            merged.append(_finding(first.name, interval.student_t(values), first.subject, evidence))
    return merged


def _quality(subject: str, rows: Predictions, settings: EvaluateSettings, seed: int) -> list[Finding]:
    labels_N, scores_NC = rows.labels_N.numpy(), rows.logits_NC.numpy()
    f1 = metrics.f1_features(scores_NC.argmax(-1), labels_N, rows.classes)
    nll_N = metrics.negative_log_likelihood(rows.logprobs_NC.numpy(), labels_N)
    draw = {"resamples": settings.bootstrap, "seed": seed}
    named = [
        ("quality.accuracy", interval.bootstrap_mean(metrics.correct(scores_NC, labels_N), **draw), "share"),
        ("quality.macro_f1", interval.bootstrap(f1, metrics.macro_f1, **draw)[0], "share"),
        ("quality.micro_f1", interval.bootstrap(f1, metrics.micro_f1, **draw)[0], "share"),
        ("quality.nll", interval.bootstrap_mean(nll_N, **draw), "nats/row"),
    ]
    evidence = {"rows": len(rows.ids), "interval": _PERCENTILE}
    return [_finding(name, estimate, subject, {"unit": unit, **evidence}) for name, estimate, unit in named]


def _calibration(subject: str, rows: Predictions, settings: EvaluateSettings, seed: int) -> list[Finding]:
    labels_N, probabilities_NC, bins = rows.labels_N.numpy(), rows.probabilities_NC, settings.calibration_bins
    features = calibration.calibration_features(probabilities_NC, labels_N, bins)
    ece = interval.bootstrap(
        features, calibration.ece_from_sums, resamples=settings.bootstrap, seed=seed, centred=True
    )[0]
    brier = interval.bootstrap_mean(
        calibration.brier(probabilities_NC, labels_N), resamples=settings.bootstrap, seed=seed
    )
    curve = calibration.reliability(probabilities_NC, labels_N, bins)
    shared = {"rows": len(rows.ids), "bins": bins}
    return [
        _finding(
            "calibration.ece",
            Estimate(ece.value, max(0.0, ece.low), ece.high),
            subject,
            {"unit": "share", **shared, "interval": _CENTRED, "reliability": curve.as_rows()},
        ),
        _finding("calibration.brier", brier, subject, {"unit": "squared distance, 0 to 2", "interval": _PERCENTILE}),
    ]


def _per_class(
    subject: str, rows: Predictions, classes: Sequence[str], settings: EvaluateSettings, seed: int
) -> list[Finding]:
    """F1 of every class that occurs among truths or predictions."""
    labels_N, predicted_N = rows.labels_N.numpy(), rows.logits_NC.argmax(-1).numpy()
    features = metrics.f1_features(predicted_N, labels_N, rows.classes)
    estimates = interval.bootstrap(features, metrics.f1_per_class, resamples=settings.bootstrap, seed=seed)
    hits, predictions, truths = np.split(features.sum(0), 3)
    return [
        _finding(
            f"class.{classes[index]}.f1",
            estimate,
            subject,
            {
                "unit": "share",
                "rows": int(truths[index]),
                "predicted": int(predictions[index]),
                "hits": int(hits[index]),
                "interval": _PERCENTILE,
            },
        )
        for index, estimate in enumerate(estimates)
        if predictions[index] + truths[index] > 0
    ]


def _per_slice(subject: str, predictions: Predictions, slices: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Accuracy of every slice that has a labelled row. Wilson's interval, because slices can be small."""
    known_N, labels_N = predictions.known_N.numpy(), predictions.labels_N.numpy()
    correct_N = metrics.correct(predictions.logits_NC.numpy(), labels_N)
    findings = []
    for (name, value), positions in metrics.slice_rows(slices, len(predictions.ids)).items():
        kept = positions[known_N[positions]]
        if len(kept):
            estimate = interval.wilson(float(correct_N[kept].sum()), len(kept))
            evidence = {"unit": "share", "rows": len(kept), "interval": "Wilson"}
            findings.append(_finding(f"slice.{name}.{value}.accuracy", estimate, subject, evidence))
    return findings


def _agreement(
    subject: str, student: Predictions, teacher: Predictions, settings: EvaluateSettings, seed: int
) -> list[Finding]:
    """Agreement on all rows, labelled or not, and the share of the teacher's accuracy that was kept."""
    draw = {"resamples": settings.bootstrap, "seed": seed}
    top1 = interval.bootstrap_mean(agreement.same_first_choice(teacher, student), **draw)
    kl = interval.bootstrap_mean(agreement.kl_from_teacher(teacher, student), **draw)
    labelled_S, labelled_T = student.labelled, teacher.labelled
    labels_N = labelled_S.labels_N.numpy()
    both = np.stack([metrics.correct(one.logits_NC.numpy(), labels_N) for one in (labelled_S, labelled_T)], axis=-1)
    findings = [
        _finding("agreement.top1", top1, subject, {"unit": "share", "rows": len(student.ids), "interval": _PERCENTILE}),
        _finding("agreement.kl", kl, subject, {"unit": "nats/row", "rows": len(student.ids), "interval": _PERCENTILE}),
    ]
    if both[:, 1].any():
        kept = interval.bootstrap(both, interval.ratio_of_sums, **draw)[0]
        evidence = {"unit": "of the teacher's accuracy", "rows": len(both), "interval": "paired bootstrap over rows"}
        findings.append(_finding("quality.retention", kept, subject, evidence))
    return findings


def _finding(name: str, estimate: Estimate, subject: str, evidence: Mapping[str, object]) -> Finding:
    known = not np.isnan(estimate.interval).any()
    return Finding(name, estimate.value, subject, interval=estimate.interval if known else None, evidence=evidence)


def _plain(matrix: np.ndarray) -> list[list[float | None]]:
    """JSON has no NaN: a class without rows is null."""
    return [[None if np.isnan(value) else float(value) for value in row] for row in matrix]
