"""What one account (or one pool of accounts) did in one day, in memory that does not grow with its rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from potstill.guard.logformats import Query
from potstill.guard.text import WIDTH, Read

SHINGLE_CELLS = 2048
CELL_BITS = 8
SHARED = 0.1
"""A shingle that stands in this share of an account's rows belongs to a template."""
EVIDENCE_ROWS = 5

_PLANES = np.random.default_rng(20261124).standard_normal((CELL_BITS, WIDTH))
_POWERS = 1 << np.arange(CELL_BITS)

FEATURES = (
    *("rows", "rate", "regular_gaps", "hours"),
    *("coverage", "novelty", "likeness", "distance"),
    *("template", "neighbour", "repeats", "ordered"),
    *("coercion", "switching", "languages", "coercion_elsewhere"),
    *("logprobs", "candidates", "deterministic", "temperatures"),
    *("prompt_words", "output", "output_ratio"),
)


def unbiased_mmd2(
    sum_D: Float[np.ndarray, " D"], squares: float, rows: int, reference_D: Float[np.ndarray, " D"], within: float
) -> float:
    """Gretton et al. 2012, equation 3, for the inner-product kernel, from running sums alone.

    MMD²_u = (|Σx|² - Σ|x|²) / (m (m - 1)) + within - 2 <Σx / m, mean y>; within: the same first term of the reference.
    May be below 0, as an unbiased estimate of a square must. Zero for fewer than two rows.
    """
    if rows < 2:
        return 0.0
    own = (float(sum_D @ sum_D) - squares) / (rows * (rows - 1))
    return own + within - 2 * float(sum_D @ reference_D) / rows


@dataclass(frozen=True, slots=True)
class Reference:
    """Benign text: mean of its vectors, and the mean inner product of two different rows."""

    mean: Float[np.ndarray, " 256"]
    within: float

    @staticmethod
    def of(reads: list[Read]) -> Reference:
        """From rows that are known to be honest; at least two."""
        vectors = np.stack([one.vector for one in reads])
        total, n = vectors.sum(0), len(vectors)
        return Reference(total / n, (float(total @ total) - float((vectors**2).sum())) / (n * (n - 1)))


@dataclass(slots=True)
class Window:
    """Running sums of one account-day: about 25 kB, whatever the number of rows."""

    rows: int = 0
    first: float = 0.0
    last: float = 0.0
    gaps: float = 0.0
    gap_squares: float = 0.0
    hours: set[int] = field(default_factory=set)
    sum: Float[np.ndarray, " 256"] = field(default_factory=lambda: np.zeros(WIDTH))
    squares: float = 0.0
    previous: Float[np.ndarray, " 256"] | None = None
    previous_prompt: str = ""
    previous_language: str = ""
    cells: Float[np.ndarray, " C"] = field(default_factory=lambda: np.zeros(1 << CELL_BITS))
    shingles: Float[np.ndarray, " S"] = field(default_factory=lambda: np.zeros(SHINGLE_CELLS))
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_SUMMED, 0.0))
    languages: set[str] = field(default_factory=set)
    temperatures: set[float] = field(default_factory=set)
    evidence: list[int] = field(default_factory=list)
    readings: int = 0
    accused: bool = False

    def add(self, query: Query, text: Read) -> None:
        """Take one row."""
        sums = self.sums
        if self.rows:
            self._after_another(query, text)
        else:
            self.first = query.time
        self.rows += 1
        self.last = query.time
        self.hours.add(int(query.time // 3600) % 24)
        self.sum += text.vector
        self.squares += float(text.vector @ text.vector)
        self.cells[int((_PLANES @ text.vector > 0) @ _POWERS)] += 1
        self._shingle(text)
        sums["coercion"] += text.coerces
        sums["words"] += text.words
        sums["logprobs"] += query.logprobs > 0
        sums["candidates"] += query.candidates > 1
        sums["deterministic"] += query.temperature == 0
        sums["output"] += query.output or 0.0
        if len(self.temperatures) < 32 and query.temperature is not None:
            self.temperatures.add(query.temperature)
        if text.language:
            self.languages.add(text.language)
            self.previous_language = text.language
        self.previous, self.previous_prompt = text.vector, query.prompt[:80]
        if len(self.evidence) < EVIDENCE_ROWS or (text.coerces and sums["coercion"] <= EVIDENCE_ROWS):
            self.evidence = [*self.evidence, query.line][-EVIDENCE_ROWS:]

    def _after_another(self, query: Query, text: Read) -> None:
        sums, gap = self.sums, max(0.0, query.time - self.last)
        self.gaps += gap
        self.gap_squares += gap * gap
        likeness = float(self.previous @ text.vector) if self.previous is not None else 0.0
        sums["neighbour"] += likeness
        sums["repeats"] += likeness > 0.999
        sums["ordered"] += query.prompt[:80] >= self.previous_prompt
        switched = bool(text.language and self.previous_language and text.language != self.previous_language)
        sums["switches"] += switched
        sums["coercion_elsewhere"] += text.coerces and (switched or text.language not in ("", "en"))

    def _shingle(self, text: Read) -> None:
        if not len(text.shingles):
            return
        cells = text.shingles % np.uint32(SHINGLE_CELLS)
        seen = self.shingles[cells]
        self.sums["shared"] += np.count_nonzero(seen > SHARED * self.rows) / len(seen) if self.rows > 5 else 0.0
        self.sums["unseen"] += 1 - np.count_nonzero(seen) / len(seen)
        self.shingles[cells] = seen + 1

    def features(self, reference: Reference) -> Float[np.ndarray, " F"]:
        """In the order of FEATURES; counts as log(1 + x), shares as they are."""
        n, sums = self.rows, {name: value / self.rows for name, value in self.sums.items()}
        steps = max(1, n - 1)
        mean_gap = self.gaps / steps
        spread = math.sqrt(max(0.0, self.gap_squares / steps - mean_gap**2))
        used = self.cells[self.cells > 0] / n
        entropy = -float((used * np.log(used)).sum())
        own = (float(self.sum @ self.sum) - self.squares) / (n * steps)
        found = (
            *(math.log1p(n), math.log1p(n / max(1.0, (self.last - self.first) / 3600))),
            *(math.exp(-spread / mean_gap) if mean_gap else 1.0, len(self.hours) / 24),
            *(entropy / math.log(min(n, 1 << CELL_BITS) + 1), sums["unseen"], own),
            unbiased_mmd2(self.sum, self.squares, n, reference.mean, reference.within),
            *(sums["shared"], sums["neighbour"], sums["repeats"], abs(2 * sums["ordered"] - 1)),
            *(sums["coercion"], sums["switches"], math.log1p(len(self.languages)), sums["coercion_elsewhere"]),
            *(sums["logprobs"], sums["candidates"], sums["deterministic"], math.log1p(len(self.temperatures))),
            *(math.log1p(sums["words"]), math.log1p(sums["output"]), sums["output"] / (1 + sums["words"]) / 10),
        )
        return np.array(found)


_SUMMED = (
    *("neighbour", "repeats", "ordered", "switches", "coercion", "coercion_elsewhere", "shared", "unseen"),
    *("words", "logprobs", "candidates", "deterministic", "output"),
)
