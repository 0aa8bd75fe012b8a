"""Harvests dealt to many accounts: what pools of accounts with one template catch, and which honest crowds they accuse.

    python benchmarks/guard_pools.py --crowds 30 --ship

The model is the one that the package carries. The limit of pools is set on honest crowds of every kind, and the figures
come from other seeds and from questions that no limit and no fit saw. `--ship` writes the limit into the package.
A harvest wants 20,000 answers, and must be seen within 1,000.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from guard import share, texts

import potstill.guard
from potstill.core.finding import Finding
from potstill.guard.crowds import HONEST
from potstill.guard.detector import Detector, Model, detect, shipped
from potstill.guard.logformats import Query
from potstill.guard.simulate import round_robin

FALSE_POSITIVES, BUDGET, EARLY = 0.01, 20_000, 1_000
ACCOUNTS = (10, 50, 200, 1000)


def pools(queries: Iterable[Query], model: Model, limit: float) -> list[Finding]:
    return [finding for finding in detect(queries, model, limit) if finding.name == "guard.pool_day"]


def highest(queries: Iterable[Query], model: Model) -> float:
    """The highest score of any pool of a crowd at any reading; minus infinity where no pool was read."""
    detector = Detector(model, math.inf)
    for query in queries:
        list(detector.see(query))
    return max(detector.highest("pool"), default=-math.inf)


def crowds(source: dict[str, list[str]], seeds: range) -> Iterable[tuple[str, list[Query]]]:
    for number, (kind, crowd) in enumerate(HONEST.items()):
        for seed in seeds:
            yield kind, list(crowd(source, seed * 10 + number))


def limit_of(scores: list[float]) -> float:
    """The k-th largest of n, k = floor(0.01 (n + 1)), or the largest where n is too small for that."""
    return sorted(scores)[-max(1, int(FALSE_POSITIVES * (len(scores) + 1)))]


def accused(model: Model, source: dict[str, list[str]], limit: float, seeds: range) -> dict[str, list[bool]]:
    """Per kind of crowd: whether any pool of it was named; and, under `account-days`, each account that sent rows."""
    found: dict[str, list[bool]] = defaultdict(list)
    for kind, queries in crowds(source, seeds):
        named = {name for finding in pools(queries, model, limit) for name in finding.evidence["accounts"]}
        found[kind].append(bool(named))
        found["account-days"] += [account in named for account in {query.account for query in queries}]
    return found


def harvested(
    model: Model, source: dict[str, list[str]], limit: float | None, accounts: int, seeds: range
) -> list[bool]:
    """Whether a harvest over so many accounts was named at all by 5 % of what it wants, by accounts or by pools."""
    return [bool(list(detect(round_robin(source, seed, accounts, EARLY), model, limit))) for seed in seeds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crowds", type=int, default=30, help="crowds of each kind, for the limit and for the figures")
    parser.add_argument("--ship", action="store_true", help="write the package's limit")
    options = parser.parse_args()
    n, model, seen, unseen = options.crowds, shipped(), texts(False), texts(True)
    scores: dict[str, list[float]] = defaultdict(list)
    for kind, queries in crowds(seen, range(n)):
        scores[kind].append(highest(queries, model))
    limit = limit_of([score for group in scores.values() for score in group])
    for kind, group in scores.items():
        print(f"- highest pool score of {kind}: {max(group):.2f}")
    print(f"limit {limit:.2f}", flush=True)
    if options.ship:
        values = {"made": datetime.date.today().isoformat(), "limit": round(limit, 6), "crowds": n * len(HONEST)}
        (Path(potstill.guard.__file__).parent / "pools.json").write_text(json.dumps(values) + "\n", encoding="utf-8")
    for kind, hits in accused(model, unseen, limit, range(5000, 5000 + n)).items():
        print(f"- honest {kind} accused: {share(hits)}", flush=True)
    for accounts in ACCOUNTS:
        alone = harvested(model, unseen, None, accounts, range(n))
        together = harvested(model, unseen, limit, accounts, range(n))
        print(
            f"- harvest over {accounts} accounts, by {EARLY}: alone {share(alone)}; pooled {share(together)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
