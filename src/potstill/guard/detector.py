"""A score per account-day, a limit that one honest account-day in a hundred passes, and what to say of those above it.

The score is the log-odds of a ridge-penalised logistic regression over the features of the day so far, read at 25, 50,
100, … rows; a day of fewer than 25 is not judged. The limit is set on the highest reading of honest days, so that
looking often accuses nobody more.
Weights, limit and reference are a dated JSON made by benchmarks/guard.py.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from potstill.core.finding import Finding
from potstill.guard.features import FEATURES, Reference, Window
from potstill.guard.logformats import Query
from potstill.guard.pools import Pools
from potstill.guard.querylog import DAY
from potstill.guard.text import Read, read

FIRST_READING = 25
MOST_NAMED = 50
MOST_ACCOUNTS = 20_000
"""Account-days held at once; the one that has been silent longest is closed first."""


@dataclass(frozen=True, slots=True)
class Model:
    """Weights over standardised features; honest: scores of honest account-days, sorted, from which a score's share of
    honest days as high is read."""

    made: str
    means: Float[np.ndarray, " F"]
    scales: Float[np.ndarray, " F"]
    weights: Float[np.ndarray, " F"]
    intercept: float
    limit: float
    honest: Float[np.ndarray, " Q"]
    reference: Reference

    def score(self, window: Window) -> float:
        """Log-odds of the day so far."""
        return float(self.parts(window).sum() + self.intercept)

    def parts(self, window: Window) -> Float[np.ndarray, " F"]:
        """What each feature adds to the score. A feature beyond 4 standard deviations counts as 4."""
        z = np.clip((window.features(self.reference) - self.means) / self.scales, -4, 4)
        return z * self.weights

    def honest_share(self, score: float) -> float:
        """Share of honest account-days that score as high, never below what the number of them can show."""
        above = len(self.honest) - int(np.searchsorted(self.honest, score))
        return (above + 1) / (len(self.honest) + 1)

    def as_json(self) -> str:
        """For a file; `Model.of` reads it."""
        values = {name: getattr(self, name) for name in ("made", "intercept", "limit")}
        arrays = {name: getattr(self, name) for name in ("means", "scales", "weights", "honest")}
        arrays["reference_mean"] = self.reference.mean
        values |= {name: [round(float(x), 6) for x in array] for name, array in arrays.items()}
        return json.dumps({**values, "reference_within": self.reference.within, "features": FEATURES})

    @staticmethod
    def of(text: str) -> Model:
        """From `as_json`. Raises ValueError when it was made for other features."""
        values = json.loads(text)
        if tuple(values["features"]) != FEATURES:
            raise ValueError("the model of the guard was made for other features; run benchmarks/guard.py --ship")
        arrays = {name: np.array(values[name]) for name in ("means", "scales", "weights", "honest")}
        reference = Reference(np.array(values["reference_mean"]), values["reference_within"])
        return Model(
            made=values["made"], intercept=values["intercept"], limit=values["limit"], reference=reference, **arrays
        )


def shipped() -> Model:
    """The model that comes with the package."""
    return Model.of((Path(__file__).parent / "model.json").read_text(encoding="utf-8"))


def shipped_pools() -> Model:
    """The model of pools that comes with the package; benchmarks/guard_pools.py makes it."""
    return Model.of((Path(__file__).parent / "pools.json").read_text(encoding="utf-8"))


def fit(
    features_NF: Float[np.ndarray, "N F"], attack_N: Float[np.ndarray, " N"], *, ridge: float = 1.0, steps: int = 25
) -> tuple[Float[np.ndarray, " F"], Float[np.ndarray, " F"], Float[np.ndarray, " F"], float]:
    """Means, scales, weights and intercept by Newton's method; both classes count the same in all."""
    means, scales = features_NF.mean(0), np.maximum(features_NF.std(0), 0.05)
    x = np.c_[np.clip((features_NF - means) / scales, -4, 4), np.ones(len(features_NF))]
    counts = np.where(attack_N == 1, 0.5 / attack_N.mean(), 0.5 / (1 - attack_N.mean()))
    penalty = np.diag([ridge] * features_NF.shape[1] + [1e-6])
    w = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        gradient = x.T @ (counts * (p - attack_N)) + penalty @ w
        w -= np.linalg.solve((x.T * (counts * p * (1 - p))) @ x + penalty, gradient)
    return means, scales, w[:-1], float(w[-1])


def readings(queries: Iterable[Query], window: Window) -> Iterator[Window]:
    """The window of one account-day, each time it is due to be read."""
    for query in queries:
        window.add(query, read(query.prompt))
        if due(window):
            yield window


def due(window: Window) -> bool:
    """Whether the day is to be read at this row."""
    if window.rows != FIRST_READING << window.readings:
        return False
    window.readings += 1
    return True


class Detector:
    """Holds the days that are open, of accounts and of pools: at most MOST_ACCOUNTS windows of about 25 kB, 500 MB at
    the very most.

    pool_model: what judges a pool; None looks at accounts one by one only.
    """

    def __init__(self, model: Model, pool_model: Model | None = None):
        self.model, self.pool_model = model, pool_model
        self._pools = Pools()
        self._open: OrderedDict[tuple[str, str, int], Window] = OrderedDict()

    def see(self, query: Query) -> Iterator[Finding]:
        """Take one row; a Finding for each account-day or pool-day that it brings above its limit."""
        text, day = read(query.prompt), int(query.time // DAY)
        if found := self._taken(query, text, ("account", query.account, day), self.model):
            yield finding(query.account, found[0], self.model, found[1])
        if self.pool_model is None:
            return
        for name, end in self._pools.see(query, day):
            if found := self._taken(query, text, ("pool", name, day), self.pool_model):
                yield pool_finding(name, end.accounts, found[0], self.pool_model, found[1])

    def _taken(self, query: Query, text: Read, key: tuple[str, str, int], model: Model) -> tuple[Window, float] | None:
        """The window and its score, when this row brings it above the limit."""
        window = self._open.setdefault(key, Window())
        self._open.move_to_end(key)
        if len(self._open) > MOST_ACCOUNTS:
            self._open.popitem(last=False)
        window.add(query, text)
        if window.accused or not due(window):
            return None
        score = model.score(window)
        window.accused = score > model.limit
        return (window, score) if window.accused else None


def detect(queries: Iterable[Query], model: Model, pool_model: Model | None = None) -> Iterator[Finding]:
    """One Finding per account-day or pool-day above its limit, as soon as it is."""
    detector = Detector(model, pool_model)
    for query in queries:
        yield from detector.see(query)


def finding(account: str, window: Window, model: Model, score: float) -> Finding:
    """Names the account, the window, some of its rows and the features that weighed most."""
    parts = model.parts(window)
    order = np.argsort(-parts)[:4]
    evidence = {
        "account": account,
        "from": window.first,
        "to": window.last,
        "rows_so_far": window.rows,
        "lines": window.evidence,
        "because": {FEATURES[i]: round(float(parts[i]), 3) for i in order if parts[i] > 0},
        "honest_share": model.honest_share(score),
        "limit_made": model.made,
    }
    return Finding("guard.account_day", score, account, bound=model.limit, verdict="warn", evidence=evidence)


def pool_finding(name: str, accounts: Mapping[str, int], window: Window, model: Model, score: float) -> Finding:
    """Names the words that are shared, and the accounts that share them with the rows of each, the busiest first."""
    one = finding(name, window, model, score)
    busiest = sorted(accounts.items(), key=lambda item: -item[1])[:MOST_NAMED]
    evidence = {name: value for name, value in one.evidence.items() if name != "account"}
    evidence |= {"shared": name, "accounts": dict(busiest), "number_of_accounts": len(accounts)}
    return Finding("guard.pool_day", score, f"{len(accounts)} accounts", None, model.limit, "warn", evidence)
