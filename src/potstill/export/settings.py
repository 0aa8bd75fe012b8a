"""What leaves the run. No torch."""

from typing import Annotated, Literal

from pydantic import Field

from potstill.core.settings import Settings

FormatName = Literal[
    "huggingface",
    "huggingface-bf16",
    "onnx",
    "onnx-int8",
    "openvino",
    "openvino-int8",
    "openvino-int8-weights",
    "gguf",
    "gguf-q8_0",
    "gguf-q4_0",
    "gguf-q4_1",
    "gguf-q4_k_m",
]


def place(name: str) -> str:
    """The folder of a format in a run folder."""
    return "model" if name == "huggingface" else f"model-{name}"


class ExportSettings(Settings):
    """formats: folders to write. tolerance: the largest logit difference between the trained and the reloaded model, of
    a format whose weights are the trained ones in another program runtime_tolerance, and of one whose weights are these
    in fp16 fp16_tolerance. least_agreement: of one that is rounded or quantised, the least share of held-out rows
    (positions of a language model) with the trained model's first choice. calibration_rows: how many training rows a
    quantiser sees. purpose: of the release: `commercial` stops at licences that are not for commerce, `research` owes
    them nothing more, `unstated` warns."""

    formats: tuple[FormatName, ...] = ("huggingface",)
    tolerance: Annotated[float, Field(ge=0)] = 1e-5
    runtime_tolerance: Annotated[float, Field(ge=0)] = 1e-3
    fp16_tolerance: Annotated[float, Field(ge=0)] = 0.25
    least_agreement: Annotated[float, Field(gt=0, le=1)] = 0.9
    calibration_rows: Annotated[int, Field(ge=1)] = 256
    name: str | None = None
    purpose: Literal["unstated", "research", "commercial"] = "unstated"
