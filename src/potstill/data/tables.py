"""Rows of Parquet files and of `datasets` folders and names: Arrow tables in, rows out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from potstill.core.errors import DataError
from potstill.core.lineage import Lineage
from potstill.data.quarantine import BadRow, Quarantine
from potstill.data.rows import Row
from potstill.data.settings import SourceSettings

ROWS_AT_ONCE = 1000
DAMAGE = (pa.ArrowException, OSError, EOFError)


def table_rows(
    tables: Iterator[pa.Table],
    file: str,
    lineage: Lineage,
    quarantine: Quarantine,
    classes: Mapping[str, tuple[str, ...]],
) -> Iterator[Row]:
    """Rows of Arrow tables, numbered from 1 over all of them.

    classes: names by column, where integers stand for names; a negative integer is the habit for "no label".

    Raises:
        DataError: the bytes are damaged, or a bad row under policy "stop".
    """
    number = 0
    try:
        for table in tables:
            for values in _one_by_one(table) if _has_bad_text(table) else table.to_pylist():
                number += 1
                if isinstance(values, BadRow):
                    quarantine.reject(file, number, values, "")
                else:
                    yield Row(file, number, _named(values, classes), lineage)
    except DAMAGE as error:
        raise damaged(file, error, number) from error


def damaged(file: str, error: BaseException, after: int = 0) -> DataError:
    """The one sentence for bytes that Arrow cannot read."""
    cause = " ".join(str(error).split())[:200]
    return DataError(f"{file}:{after + 1}: the file is damaged or not what its name says ({cause}); write it again")


def _has_bad_text(table: pa.Table) -> bool:
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error).upper().replace("-", ""):
            return True
        raise
    return False


def _one_by_one(table: pa.Table) -> Iterator[dict[str, Any] | BadRow]:
    for index in range(table.num_rows):
        try:
            yield {name: table.column(name)[index].as_py() for name in table.column_names}
        except UnicodeDecodeError as error:
            yield BadRow("not UTF-8", f"byte 0x{error.object[error.start]:02x}")


def _named(values: dict[str, Any], classes: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    for column, names in classes.items():
        index = values.get(column)
        if isinstance(index, int):
            values[column] = names[index] if 0 <= index < len(names) else None if index < 0 else index
    return values


def read_parquet(path: Path, source: SourceSettings, lineage: Lineage, quarantine: Quarantine) -> Iterator[Row]:
    """Rows of a Parquet file, with the columns that a source asks for; page checksums are verified where the writer
    left any.

    Raises:
        DataError: the file is missing, damaged, or not Parquet.
    """
    return parquet_rows(path, {*source.columns.model_dump(exclude={"slices"}).values(), *source.columns.slices},
                        source, lineage, quarantine)  # fmt: skip


def parquet_rows(
    path: Path, wanted: Collection[str | None] | None, source: SourceSettings, lineage: Lineage, quarantine: Quarantine
) -> Iterator[Row]:
    """As `read_parquet`. wanted: columns to read beside those that rows state of themselves; None reads all."""
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except DAMAGE as error:
        raise damaged(str(path), error) from error
    with file:
        names = file.schema_arrow.names
        known = source.columns.text in names or source.columns.completion in names or source.columns.messages in names
        # Without the main column everything is read, so that the message can say which columns there are.
        stated = {*(wanted or ()), "lineage", "spans"}
        columns = [name for name in names if name in stated] if known and wanted is not None else None
        batches = file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns)
        yield from table_rows((pa.Table.from_batches([batch]) for batch in batches), str(path), lineage, quarantine, {})


def open_folder(path: Path, split: str) -> Any:
    """A `datasets.Dataset` written by save_to_disk.

    Raises:
        DataError: not such a folder, a split that is not there, or damaged files.
    """
    # Imported where it is used: `datasets` takes a second, and most runs read files or packaged sets.
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except (*DAMAGE, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: the folder cannot be read as a saved data set ({' '.join(str(error).split())[:200]}); "
            f"make it with `Dataset.save_to_disk`, or name a .jsonl, .csv or .parquet file in it"
        ) from error
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise DataError(f"{path}: there is no split `{split}`; set split to one of: {', '.join(data)}")
        return data[split]
    if split not in ("train", str(data.split)):
        raise DataError(f"{path}: the folder holds one data set and no split `{split}`; remove `split`")
    return data


def open_hub(source: SourceSettings) -> Any:
    """A `datasets.Dataset` by its name on the hub or in the local cache; code in a data set is never run.

    Raises:
        DataError: whatever goes wrong there, in one sentence with the next step.
    """
    import datasets

    try:
        return datasets.load_dataset(
            source.dataset_name, source.dataset_config, revision=source.revision, split=source.split
        )
    # The hub's client raises errors of five libraries; all of them mean the same to the reader: no rows.
    except Exception as error:
        config = f" ({source.dataset_config})" if source.dataset_config else ""
        raise DataError(
            f"{source.dataset_name}{config}: no file or folder has this name, and `datasets` cannot load split "
            f"`{source.split}` ({type(error).__name__}: {' '.join(str(error).split())[:200]}); check the name and the "
            f"network, or save the set with `save_to_disk` where there is one and give that folder"
        ) from error


def dataset_rows(data: Any, file: str, lineage: Lineage, quarantine: Quarantine) -> Iterator[Row]:
    """Rows of a `datasets.Dataset`, class indices turned into their names."""
    tables = data.with_format("arrow").iter(batch_size=ROWS_AT_ONCE)
    return table_rows(tables, file, lineage, quarantine, class_names(data))


def class_names(data: Any) -> dict[str, tuple[str, ...]]:
    """Names of the classes by column, of columns that declare them."""
    return {column: tuple(feature.names) for column, feature in data.features.items() if hasattr(feature, "names")}


def folder_hash(path: Path) -> str:
    """SHA-256 over names and content of a saved data set's files, in order of their names."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.suffix in (".arrow", ".json") and file.is_file():
            with file.open("rb") as content:
                digest.update(f"{file.relative_to(path)}\0".encode())
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return "sha256:" + digest.hexdigest()


def hub_revision(data: Any, revision: str | None) -> str:
    """The commit the files came from where `datasets` tells it, else what was asked for."""
    for url in data.info.download_checksums or {}:
        if found := re.search(r"@([0-9a-f]{40})/", url):
            return found[1]
    return revision or "unknown"
