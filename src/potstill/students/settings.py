"""Which model is loaded, and how a student is made from another model. No torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from potstill.core.settings import Settings

Positive = Annotated[int, Field(gt=0)]


class ModelSettings(Settings):
    """A model to load.

    model_name_or_path: a Hugging Face folder or hub id, a .gguf file, a packaged model (`packaged:minilm-l6-v2`,
    `packaged:smollm2-135m-instruct`, `packaged:gemma-3-270m`), or `stage:NAME`, the product of an earlier stage of the
    same recipe.
    pooling: how a sequence classifier reads its encoder: the first token through the stock head, or the mean of all
    tokens. head: `copy` what the model has, `fresh`, or a linear `probe` fitted on frozen features before training.
    licence: declared for a model whose own files state none; where they do, both hold.
    """

    model_name_or_path: Annotated[str, Field(min_length=1)]
    revision: str | None = None
    licence: Annotated[str, Field(min_length=1)] | None = None
    pooling: Literal["first", "mean"] | None = None


class SizeSettings(Settings):
    """A fresh, narrower model of the same architecture as the one it is named after.

    embeddings: how its tables begin: `fresh`, or `svd`, those of the named model along the first singular directions of
    its table of pieces, which only an encoder has.
    """

    hidden_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    intermediate_size: Positive
    num_key_value_heads: Positive | None = None
    embeddings: Literal["fresh", "svd"] = "fresh"

    @model_validator(mode="after")
    def heads_divide(self) -> "SizeSettings":
        """Attention splits the width evenly among its heads."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.num_key_value_heads and self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        return self


class StudentSettings(ModelSettings):
    """Who learns: the named model itself, some layers of it copied bitwise, or a fresh narrower one (`size`).

    layers: zero-based blocks to keep, in order; every: keep each k-th block (0, k, 2k, ...). vocabulary_size: keep the
    pieces the training text uses most. intermediate_size: keep the feed-forward neurons that matter most.
    max_positions: cut the learnt position table. architecture: a BERT rebuilt as a DistilBERT, without token types and
    pooler. head: `copy` what the model has; `fresh`, which also gives an encoder without a masked-language-model head
    one, tied to its embeddings; or a linear `probe` fitted on frozen features before training. freeze: parts that do
    not learn; `positions` is the position table alone.
    """

    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    every: Positive | None = None
    size: SizeSettings | None = None
    vocabulary_size: Positive | None = None
    intermediate_size: Positive | None = None
    max_positions: Positive | None = None
    architecture: Literal["distilbert"] | None = None
    head: Literal["copy", "fresh", "probe"] = "copy"
    freeze: tuple[Literal["embeddings", "positions", "body", "head"], ...] = ()

    @model_validator(mode="after")
    def one_way_to_choose_layers(self) -> "StudentSettings":
        """`layers`, `every` and `size` each decide the depth; only one may."""
        chosen = [name for name in ("layers", "every", "size") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} contradict each other: each decides the depth; keep one of them")
        if self.layers is not None and len(self.layers) == 0:
            raise ValueError("layers is empty: name at least one block to keep")
        if self.size is not None and self.architecture is not None:
            raise ValueError("size and architecture contradict each other: a fresh model has nothing to rebuild")
        if self.size is not None and self.intermediate_size is not None:
            raise ValueError("size and intermediate_size contradict each other: put intermediate_size inside size")
        return self
