"""What a model costs before it runs: parameters, bytes, memory. Times are in timing.py."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from potstill.core.errors import ModelError
from potstill.core.outcome import Finding
from potstill.evaluate.footprint import Footprint


def parameters(module: nn.Module) -> int:
    """Numbers that are stored: a tied tensor counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def embedding_parameters(module: nn.Module) -> int:
    """Of these, the token table. Half of a small encoder is often its vocabulary."""
    table = next((child for child in module.modules() if isinstance(child, nn.Embedding)), None)
    return 0 if table is None else table.weight.numel()


def folder_bytes(folder: Path) -> int:
    """Bytes of every file of a model folder, links followed. Raises ModelError when there is no such folder."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder, so its size cannot be measured. Next: export the model first.")
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def deployed_bytes(folder: Path) -> int:
    """Bytes of every file of an exported folder but its card: what is copied to where it runs, tokenizer included."""
    card = folder / "README.md"
    return folder_bytes(folder) - (card.stat().st_size if card.is_file() else 0)


def size_findings(subject: str, module: nn.Module, folder: Path | None, footprint: Footprint | None) -> list[Finding]:
    """cost.parameters, and cost.bytes and cost.peak_memory_bytes where a folder and a footprint were measured."""
    findings = [
        Finding(
            "cost.parameters",
            float(parameters(module)),
            subject,
            evidence={"unit": "parameters", "embedding": embedding_parameters(module)},
        )
    ]
    if folder is not None:
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        evidence = {"unit": "bytes", "weights": weights, "counts": "every file of the model folder"}
        findings.append(Finding("cost.bytes", float(folder_bytes(folder)), subject, evidence=evidence))
    if footprint is not None:
        evidence = {
            "unit": "bytes",
            "idle": footprint.idle,
            "peak": footprint.peak,
            "method": f"growth of the resident set over the imported libraries: load, one batch ({footprint.method})",
        }
        findings.append(Finding("cost.peak_memory_bytes", float(footprint.growth), subject, evidence=evidence))
    return findings
