"""The engine for CUDA devices beside the walks that test_chunked.py proves by interpretation: when it is chosen, how
much memory it takes, that its tiles fit together, and that every kernel compiles for a device."""

import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from potstill.core.signal import OutputHead
from potstill.divergences import chunked, tiles_triton
from potstill.divergences.chunked import engine_of, form_of
from potstill.divergences.tiles import Side, Task
from potstill.divergences.tiles_torch import TorchEngine
from potstill.divergences.tiles_triton import TritonEngine
from tests.divergences.test_chunked import Problem, errors, fused, plain

pytest.importorskip("triton")


def task_on(device, dtype, *, tokens=8, width=16, entries=64, teacher=24, store=True):
    def side(wide):
        return Side(
            torch.empty(tokens, wide, dtype=dtype, device=device),
            OutputHead(torch.empty(entries, wide, dtype=dtype, device=device)),
        )

    form = form_of("jensen_shannon", {})
    return Task(side(width), side(teacher), form, temperature=1.0, targets_N=None, store=store, block=64)


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "kind"),
    [
        ("cuda", torch.float32, (9, 0), TritonEngine),
        ("cuda", torch.bfloat16, (8, 0), TritonEngine),
        ("cuda", torch.float64, (9, 0), TorchEngine),
        ("cuda", torch.float16, (9, 0), TorchEngine),
        ("cuda", torch.bfloat16, (7, 5), TorchEngine),
        ("cpu", torch.float64, (9, 0), TorchEngine),
    ],
)
def test_is_chosen_on_a_cuda_device_that_can(device, dtype, capability, kind, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with FakeTensorMode():
        assert engine_of(task_on(device, dtype)) is kind


def test_is_not_chosen_without_triton(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(tiles_triton.importlib.util, "find_spec", lambda name: None)
    with FakeTensorMode():
        assert engine_of(task_on("cuda", torch.bfloat16)) is TorchEngine


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("size", [(49_152, 576, 960), (128_256, 4096, 4096), (262_144, 640, 1152)])
def test_workspace_stays_below_half_a_gigabyte(dtype, store, size):
    """Everything the engine holds besides the gradients it returns, at a batch that is larger than a block."""
    entries, width, teacher = size
    with torch.device("meta"):
        task = task_on("meta", dtype, tokens=8192, width=width, entries=entries, teacher=teacher, store=store)
        block = tiles_triton.block(task)
        engine = TritonEngine(
            Task(task.student, task.teacher, task.form, 1.0, None, store, block), states=True, head=True, bias=True
        )
        engine.begin(0, block)
    names = ("_kept", "_tile", "_reference", "_change", "_partial")
    held = [getattr(engine, name) for name in names]
    total = sum(one.numel() * one.element_size() for one in held if one is not None)
    assert total + engine._partial.numel() * 4 < 512 * 2**20  # the second: a product adds to a new sum of its own
    assert block >= 128


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("memory", ["balanced", "low"])
@pytest.mark.parametrize("name", ["jensen_shannon", "adaptive_kl"])
def test_several_tiles_and_blocks_equal_one(name, memory, dtype, monkeypatch):
    """Tiles of 64 entries, of which a range has three, two of them in one product of gradients; blocks of 64 tokens."""
    monkeypatch.setattr(tiles_triton, "SHAPE", (64, 64))
    monkeypatch.setattr(tiles_triton, "TILE", 64)
    monkeypatch.setattr(tiles_triton, "TILES_AT_ONCE", 2)
    monkeypatch.setattr(chunked, "engine_of", lambda task: TritonEngine)
    monkeypatch.setattr(chunked, "_block", lambda task, kind: 64)
    problem = Problem(tokens=70, entries=1301)
    leaves = problem.inputs(dtype)
    truth = [one.detach().double().requires_grad_() for one in leaves]
    problem.teacher_states = problem.teacher_states.to(dtype).double()
    problem.teacher_head = problem.teacher_head.to(dtype).double()
    params = {"beta": 0.5} if name == "jensen_shannon" else {}
    plain(problem, truth, name, params, hard=0.5, temperature=2.0).backward()
    fused(problem, leaves, name, params, hard=0.5, temperature=2.0, memory=memory).backward()
    assert max(errors(leaves, truth)) < (1e-5 if dtype == torch.float32 else 0.010)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from potstill.divergences import kernels_triton as kernels

FLOATS, HALF = "fp32", "*fp16"
KEYS = {"KEY_STEPS": 2.0**19, "LAST_KEY": 2.0**24 - 1.0}
FORM = dict.fromkeys(("variation", "w_0", "x_0", "y_0", "w_1", "x_1", "y_1"), FLOATS)
PAIR = {"s": HALF, "t": HALF, "stride": "i64", "reference_s": "*fp32", "reference_t": "*fp32", "known": "*fp32"}
SIZE = {"tokens": "i32", "width": "i32"}
SHAPE = {"ROWS": 1, "COLUMNS": 2048}
TILE = {"TILE": 4096, **SHAPE}
CASES = {
    "finish": ({"z": "*fp32", "stride": "i64", "bias": "*fp32", "scale": FLOATS, "softcap": FLOATS,
                "temperature": FLOATS}
               | SIZE, SHAPE),
    "observe": ({"s": "*fp32", "t": "*fp32", "stride": "i64", "half_s": HALF, "half_t": HALF, "half_stride": "i64",
                 "reference_s": "*fp32", "reference_t": "*fp32", "stats": "*fp32", "targets": "*i32", "first": "i32",
                 "temperature": FLOATS} | SIZE, SHAPE),
    "sum_slopes": (PAIR | {"sums": "*fp32"} | SIZE | FORM, {"TERMS": 2, **TILE}),
    "sum_gaps": (PAIR | {"sums": "*fp32", "head_keys": "*i32"} | SIZE, {**KEYS, **TILE}),
    "sort_mass": ({"t": HALF, "stride": "i64", "reference_t": "*fp32", "known": "*fp32", "mass": "*i64",
                   "prefix": "*i32", "shift": "i32"} | SIZE, {"BITS": 8, **KEYS, **TILE}),
    "differentiate": (PAIR | {"slopes": "*fp32", "targets": "*i32", "first": "i32", "change": "*bf16"} | SIZE
                      | {"softcap": FLOATS, "temperature": FLOATS} | FORM, {"MIXED": True, "TERMS": 2, **TILE}),
}
for name, (types, constants) in CASES.items():
    kernel = getattr(kernels, name)
    signature = types | dict.fromkeys(constants, "constexpr")
    assert list(signature) == kernel.arg_names, (name, list(signature), kernel.arg_names)
    made = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
    assert "cubin" in made.asm
    print(name)
"""


def test_every_kernel_compiles_for_a_device():
    """For an H100, by the compiler in Triton's package; no device is needed for that."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["finish", "observe", "sum_slopes", "sum_gaps", "sort_mass", "differentiate"]
