"""Harvests dealt to many accounts: what pools of accounts with one template catch, and which honest crowds they accuse.

    python benchmarks/guard_pools.py --crowds 20 --ship

Pools have a model of their own, fitted on harvests and honest crowds. Fitting, the limit and the figures use three sets
of seeds; the figures use questions that neither of the others saw. `--ship` writes the model into the package. A
harvest wants 20,000 answers, and must be seen within 1,000.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from guard import Day, fitted, share, texts

import potstill.guard
from potstill.guard.crowds import HONEST, dealt
from potstill.guard.detector import Model, detect, due, shipped
from potstill.guard.features import Reference, Window
from potstill.guard.logformats import Query
from potstill.guard.pools import Pools
from potstill.guard.querylog import DAY
from potstill.guard.simulate import ATTACKS, Texts
from potstill.guard.text import read

EARLY = 1_000
ACCOUNTS = (10, 50, 200, 1000)
KINDS = ("template farm", "trace coercion")
"""Harvests whose prompts share words; a sweep without a template forms no pool."""


def pool_days(kind: str, queries: Iterable[Query], reference: Reference) -> list[Day]:
    """Every pool of one crowd, with its features at each reading."""
    pools, windows, found = Pools(), defaultdict[str, Window](Window), defaultdict[str, list[np.ndarray]](list)
    rows = defaultdict[str, list[int]](list)
    for query in queries:
        text = read(query.prompt)
        for name, _ in pools.see(query, int(query.time // DAY)):
            windows[name].add(query, text)
            if due(windows[name]):
                found[name].append(windows[name].features(reference))
                rows[name].append(windows[name].rows)
    return [Day(kind, rows[name], np.stack(found[name])) for name in found]


def crowds(source: Texts, seeds: range) -> Iterator[tuple[str, Iterator[Query]]]:
    for number, (kind, crowd) in enumerate(HONEST.items()):
        yield from ((kind, crowd(source, seed * 10 + number)) for seed in seeds)


def harvests(source: Texts, seeds: range) -> Iterator[tuple[str, Iterator[Query]]]:
    for kind in KINDS:
        for seed in seeds:
            yield kind, dealt(ATTACKS[kind], source, seed, ACCOUNTS[seed % len(ACCOUNTS)], EARLY)


def days(groups: Iterable[tuple[str, Iterator[Query]]], reference: Reference) -> list[Day]:
    return [day for kind, queries in groups for day in pool_days(kind, queries, reference)]


def crowd_maxima(source: Texts, seeds: range, reference: Reference) -> list[Day]:
    """One Day per crowd that holds all its pools' readings, so that the limit is one of crowds and not of pools."""
    found = []
    for kind, queries in crowds(source, seeds):
        if pools := pool_days(kind, queries, reference):
            found.append(Day(kind, [0], np.concatenate([day.features for day in pools])))
    return found


def named(queries: Iterable[Query], model: Model, pools: Model | None) -> set[str]:
    """Accounts that any finding names."""
    return {
        account
        for finding in detect(queries, model, pools)
        for account in finding.evidence.get("accounts", (finding.subject,))
    }


def honest_figures(model: Model, pools: Model, source: Texts, seeds: range, say: Callable[[str], None]) -> None:
    everybody: list[bool] = []
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for kind, stream in crowds(source, seeds):
        queries = list(stream)
        accused = named(queries, model, pools)
        by_kind[kind].append(bool(accused))
        everybody += [account in accused for account in {query.account for query in queries}]
    for kind, hits in by_kind.items():
        say(f"- honest crowds in which anybody is accused, {kind}: {share(hits)}")
    say(f"- honest account-days of all crowds accused: {share(everybody)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crowds", type=int, default=20, help="crowds of each kind in each of three sets")
    parser.add_argument("--ship", action="store_true", help="write the package's model of pools")
    options = parser.parse_args()
    n, model, seen, unseen = options.crowds, shipped(), texts(False), texts(True)
    say = lambda line: print(line, flush=True)  # noqa: E731
    honest = days(crowds(seen, range(n)), model.reference)
    attacks = days(harvests(seen, range(10_000, 10_000 + n)), model.reference)
    pools = fitted(honest, attacks, crowd_maxima(seen, range(20_000, 20_000 + n), model.reference), model.reference)
    say(f"{len(honest)} honest pools and {len(attacks)} of harvests; limit {pools.limit:.2f}")
    if options.ship:
        (Path(potstill.guard.__file__).parent / "pools.json").write_text(pools.as_json() + "\n", encoding="utf-8")
    honest_figures(model, pools, unseen, range(30_000, 30_000 + n), say)
    for kind in KINDS:
        for accounts in ACCOUNTS:
            streams = [list(dealt(ATTACKS[kind], unseen, 40_000 + seed, accounts, EARLY)) for seed in range(n)]
            alone = [bool(named(queries, model, None)) for queries in streams]
            together = [bool(named(queries, model, pools)) for queries in streams]
            both = f"one by one {share(alone)}; pooled {share(together)}"
            say(f"- {kind} over {accounts} accounts, seen by {EARLY}: {both}")


if __name__ == "__main__":
    main()
