"""The fused loss against the plain formula in double precision, on both engines, in every shape it is offered for."""

import ctypes
import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from potstill.core.signal import OutputHead
from potstill.divergences import chunked, tiles, tiles_native, tiles_triton
from potstill.divergences.catalogue import DIVERGENCES
from potstill.divergences.chunked import linear_divergence
from potstill.divergences.mixtures import FORMS
from potstill.divergences.tiles_native import NativeEngine
from potstill.divergences.tiles_torch import TorchEngine
from potstill.divergences.tiles_triton import TritonEngine

ENGINES = ("native", "torch", "triton")
PARAMETERS = {
    "jensen_shannon": ({"beta": 0.0}, {"beta": 0.2}, {"beta": 0.5}, {"beta": 1.0}),
    "skew_kl": ({"alpha": 0.0}, {"alpha": 0.1}, {"alpha": 1.0}),
    "skew_reverse_kl": ({"alpha": 0.0}, {"alpha": 0.1}, {"alpha": 1.0}),
    "bidirectional": ({"lam": 0.0}, {"lam": 0.5}, {"lam": 0.9}, {"lam": 1.0}),
}
CASES = [(name, params) for name in DIVERGENCES for params in PARAMETERS.get(name, ({},))]


@pytest.fixture
def engine(request, monkeypatch):
    """Run on the named engine only."""
    if request.param == "native" and tiles_native.library() is None:
        pytest.skip("the compiled engine is not built, or this processor lacks AVX-512")
    if request.param == "triton":
        pytest.importorskip("triton")
        monkeypatch.setattr(tiles_triton, "SHAPE", (256, 512))  # the interpreter's time goes by programs
    kind = {"native": NativeEngine, "torch": TorchEngine, "triton": TritonEngine}[request.param]
    monkeypatch.setattr(chunked, "engine_of", lambda task: kind)
    return request.param


@dataclasses.dataclass
class Problem:
    """Random states and heads whose distributions are neither flat nor certain; fp64."""

    tokens: int = 70
    entries: int = 1001
    student: int = 50
    teacher: int = 66
    seed: int = 0

    def __post_init__(self):
        draw = torch.Generator().manual_seed(self.seed)
        normal = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=draw)  # noqa: E731
        self.states, self.head = normal(self.tokens, self.student), 0.3 * normal(self.entries, self.student)
        self.teacher_states, self.teacher_head = (
            normal(self.tokens, self.teacher),
            0.3 * normal(self.entries, self.teacher),
        )
        self.bias = normal(self.entries)
        self.weights = torch.rand(self.tokens, dtype=torch.float64, generator=draw) + 0.1
        self.targets = torch.randint(self.entries, (self.tokens,), generator=draw)

    def inputs(self, dtype=torch.float64):
        """Leaves that ask for gradients: states, head, bias."""
        return [one.to(dtype).clone().requires_grad_() for one in (self.states, self.head, self.bias)]


def plain(problem, leaves, name, params, *, temperature=1.0, hard=0.0, scale=1.0, softcap=None, dtype=torch.float64):
    """The same loss from whole logits."""
    states, head, bias = leaves
    z = scale * (states @ head.T + bias)
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    t = problem.teacher_states.to(dtype) @ problem.teacher_head.to(dtype).T
    pair = (torch.log_softmax(t / temperature, -1), torch.log_softmax(z / temperature, -1))
    share = problem.weights.to(dtype) / problem.weights.to(dtype).sum()
    loss = temperature**2 * (share * DIVERGENCES[name].function(*pair, **params)).sum()
    return loss + hard * (share * F.cross_entropy(z, problem.targets, reduction="none")).sum() if hard else loss


def fused(problem, leaves, name, params, *, temperature=1.0, hard=0.0, scale=1.0, softcap=None, **more):
    dtype = leaves[0].dtype
    return linear_divergence(
        leaves[0],
        OutputHead(leaves[1], leaves[2], scale, softcap),
        problem.teacher_states.to(dtype),
        problem.teacher_head.to(dtype),
        name,
        temperature,
        problem.weights,
        problem.targets if hard else None,
        hard,
        params,
        **more,
    )


def spoken_by(problem, dtype):
    """The teacher's states and head, rounded."""
    return problem.teacher_states.to(dtype), problem.teacher_head.to(dtype)


def errors(leaves, truth):
    return [
        float((one.grad.double() - true.grad.double()).norm() / true.grad.double().norm().clamp(min=1e-30))
        for one, true in zip(leaves, truth, strict=True)
    ]


SHAPES = (
    {},
    {"temperature": 2.0, "hard": 0.5},
    {"hard": 0.7, "scale": 0.7, "softcap": 3.0},
    {"temperature": 2.0, "hard": 0.7, "softcap": 5.0},
)


@pytest.mark.parametrize(("name", "params"), CASES)
@pytest.mark.parametrize("shape", SHAPES, ids=("plain", "warm", "capped", "all"))
def test_fp64_equals_the_plain_formula(name, params, shape):
    problem = Problem()
    truth, leaves = problem.inputs(), problem.inputs()
    expected, loss = plain(problem, truth, name, params, **shape), fused(problem, leaves, name, params, **shape)
    expected.backward()
    loss.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-12, abs=1e-13)
    nothing = (name in ("skew_kl", "skew_reverse_kl") and params == {"alpha": 1.0}) or params == {"lam": 0.5}
    for one, true in zip(leaves, truth, strict=True):
        bound = 1e-12 if nothing and not shape.get("hard") else 1e-10 * float(true.grad.norm())
        assert float((one.grad - true.grad).norm()) < bound


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
@pytest.mark.parametrize("memory", ["balanced", "low"])
@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("shape", SHAPES[::3], ids=("plain", "all"))
def test_fp32_is_as_close_to_the_truth_as_the_plain_formula_in_fp32(engine, name, memory, shape):
    problem, params = Problem(tokens=130, entries=3001), dict(DIVERGENCES[name].parameters)
    truth, naive, leaves = problem.inputs(), problem.inputs(torch.float32), problem.inputs(torch.float32)
    expected = plain(problem, truth, name, params, **shape)
    expected.backward()
    plain(problem, naive, name, params, dtype=torch.float32, **shape).backward()
    loss = fused(problem, leaves, name, params, memory=memory, **shape)
    loss.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=2e-6)
    for own, other in zip(errors(leaves, truth), errors(naive, truth), strict=True):
        assert own < 2 * other + 2e-6


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
@pytest.mark.parametrize("memory", ["balanced", "low"])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_bf16_gradients_are_within_one_per_cent(engine, name, memory):
    if engine == "native" and not tiles_native.library().potstill_tiles_support(1):
        pytest.skip("this processor has no AVX512-BF16")
    problem, params = Problem(tokens=130, entries=3001), dict(DIVERGENCES[name].parameters)
    leaves = problem.inputs(torch.bfloat16)
    truth = [one.detach().double().requires_grad_() for one in leaves]
    problem.teacher_states = problem.teacher_states.bfloat16().double()
    problem.teacher_head = problem.teacher_head.bfloat16().double()
    plain(problem, truth, name, params, hard=0.5).backward()
    fused(problem, leaves, name, params, hard=0.5, memory=memory).backward()
    assert all(one.grad.dtype == torch.bfloat16 for one in leaves)
    assert max(errors(leaves, truth)) < 0.010


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["reverse_kl", "jensen_shannon", "adaptive_kl"])
@pytest.mark.parametrize("room", [-(2**30), 660_000], ids=["nothing", "a part"])
def test_low_memory_computes_again_what_it_cannot_keep(name, dtype, room, monkeypatch):
    problem, params = Problem(tokens=130, entries=3001), dict(DIVERGENCES[name].parameters)
    leaves = problem.inputs(dtype)
    task = tiles.Task(
        *(tiles.Side(states, OutputHead(head)) for states, head in (leaves[:2], spoken_by(problem, dtype))),
        FORMS[name](**params), temperature=2.0, targets_N=None, store=False, block=64,
    )  # fmt: skip
    if not tiles_native.fits(task):
        pytest.skip("the compiled engine is not built, or not for this dtype and processor")
    monkeypatch.setattr(tiles_native, "LOW_WORKSPACE", tiles_native.SPARE + room)
    kept, block = tiles_native.room(task, 64), tiles_native.low_block(task)
    assert (kept == 0 and block > 64) if room < 0 else (0 < kept < 2 * 3001 and block == 64)
    truth = [one.detach().double().requires_grad_() for one in leaves]
    problem.teacher_states, problem.teacher_head = (one.double() for one in spoken_by(problem, dtype))
    plain(problem, truth, name, params, temperature=2.0, hard=0.5).backward()
    fused(problem, leaves, name, params, temperature=2.0, hard=0.5, memory="low").backward()
    assert max(errors(leaves, truth)) < (1e-5 if dtype == torch.float32 else 0.010)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["forward_kl", "jensen_shannon", "total_variation", "adaptive_kl"])
@pytest.mark.parametrize("widths", [(270, 330), (330, 270)], ids=["the teacher's", "the student's"])
@pytest.mark.parametrize("tokens", [130, 500], ids=["one block", "blocks after it"])
def test_the_gradient_of_the_head_lends_its_place_to_logits(name, dtype, widths, tokens, monkeypatch):
    problem = Problem(tokens=tokens, entries=3001, student=widths[0], teacher=widths[1])
    params = dict(DIVERGENCES[name].parameters)
    leaves = problem.inputs(dtype)
    task = tiles.Task(
        *(tiles.Side(states, OutputHead(head)) for states, head in (leaves[:2], spoken_by(problem, dtype))),
        FORMS[name](**params), temperature=2.0, targets_N=None, store=False, block=64, lends=True,
    )  # fmt: skip
    if not tiles_native.fits(task):
        pytest.skip("the compiled engine is not built, or not for this dtype and processor")
    largest = max(size for size in range(64, 512, 64) if tiles_native.lends_to(task, size))
    monkeypatch.setattr(tiles_native, "room", lambda task, tokens: 700)
    assert tiles_native.low_block(task) == largest
    truth = [one.detach().double().requires_grad_() for one in leaves]
    problem.teacher_states, problem.teacher_head = (one.double() for one in spoken_by(problem, dtype))
    plain(problem, truth, name, params, temperature=2.0, hard=0.5).backward()
    computed = []
    real = tiles_native.NativeEngine._keep

    def watch(engine, *given):
        real(engine, *given)
        computed.append((engine._problem.teacher.kept, engine._problem.student.kept))

    monkeypatch.setattr(tiles_native.NativeEngine, "_keep", watch)
    fused(problem, leaves, name, params, temperature=2.0, hard=0.5, memory="low").backward()
    assert max(computed[0]) == 3001
    assert all(max(kept) < 3001 for kept in computed[1:])
    assert max(errors(leaves, truth)) < (1e-5 if dtype == torch.float32 else 0.010)


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
@pytest.mark.parametrize(
    "size",
    [(1, 5, 2, 2), (64, 57, 64, 64), (65, 193, 7, 130), (129, 8, 600, 3), (200, 1537, 640, 1152)],
    ids=lambda size: "x".join(map(str, size)),
)
@pytest.mark.parametrize("name", ["forward_kl", "jensen_shannon", "adaptive_kl"])
def test_any_shape(engine, size, name):
    problem, params = Problem(*size), dict(DIVERGENCES[name].parameters)
    truth, leaves = problem.inputs(), problem.inputs(torch.float32)
    plain(problem, truth, name, params, hard=0.3).backward()
    fused(problem, leaves, name, params, hard=0.3).backward()
    assert max(errors(leaves, truth)) < 1e-4


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_several_blocks_of_tokens_equal_one(engine, monkeypatch):
    problem = Problem(tokens=300)
    truth, leaves = problem.inputs(), problem.inputs(torch.float32)
    plain(problem, truth, "reverse_kl", {}, hard=0.5).backward()
    monkeypatch.setattr(chunked, "_block", lambda task, kind: 64)
    fused(problem, leaves, "reverse_kl", {}, hard=0.5).backward()
    assert max(errors(leaves, truth)) < 1e-5


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_is_zero_with_gradient_zero_at_equality(engine, name):
    problem = Problem()
    states, head = problem.states.float().requires_grad_(), problem.head.float().requires_grad_()
    loss = linear_divergence(states, head, states.detach(), head.detach(), name)
    loss.backward()
    assert abs(float(loss) - DIVERGENCES[name].at_equality) < 1e-6
    assert float(states.grad.abs().max()) < 1e-6


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_a_token_under_weight_zero_is_not_looked_at(engine):
    problem = Problem()
    problem.weights[3] = 0.0
    truth, leaves = problem.inputs(), problem.inputs(torch.float32)
    plain(problem, truth, "forward_kl", {}, hard=0.5).backward()
    with torch.no_grad():
        leaves[0][3] = torch.nan
    problem.teacher_states[3] = torch.nan
    fused(problem, leaves, "forward_kl", {}, hard=0.5).backward()
    assert float(leaves[0].grad[3].abs().max()) == 0.0
    assert max(errors(leaves, truth)) < 1e-5


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_not_finite_states_are_never_hidden(engine):
    problem = Problem()
    leaves = problem.inputs(torch.float32)
    with torch.no_grad():
        leaves[0][5, 7] = torch.nan
    loss = fused(problem, leaves, "jensen_shannon", {})
    loss.backward()
    assert torch.isnan(loss)
    assert bool(torch.isnan(leaves[1].grad).any())


def test_without_any_weight_the_loss_is_zero_and_so_are_its_gradients():
    problem = Problem()
    problem.weights[:] = 0.0
    leaves = problem.inputs(torch.float32)
    loss = fused(problem, leaves, "forward_kl", {})
    loss.backward()
    assert float(loss) == 0.0
    assert float(leaves[0].grad.abs().sum()) == float(leaves[1].grad.abs().sum()) == 0.0


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_micro_batches_with_a_common_total_add_up(engine):
    problem = Problem(tokens=96)
    whole, split = problem.inputs(torch.float32), problem.inputs(torch.float32)
    fused(problem, whole, "skew_kl", {}, hard=0.5).backward()
    total = float(problem.weights.sum())
    for rows in (slice(0, 40), slice(40, 96)):
        part = Problem(tokens=96)
        for field in ("teacher_states", "weights", "targets"):
            setattr(part, field, getattr(part, field)[rows])
        leaves = [split[0][rows], *split[1:]]
        fused(part, leaves, "skew_kl", {}, hard=0.5, total=total, hard_total=total).backward()
    assert max(errors(split, whole)) < 1e-5


def test_labels_have_weights_and_a_denominator_of_their_own():
    problem = Problem()
    known = torch.zeros(problem.tokens, dtype=torch.float64)
    known[::3] = 1.0
    leaves, truth = problem.inputs(), problem.inputs()
    loss = fused(problem, leaves, "forward_kl", {}, hard=0.5, soft_weight=0.25, hard_weights_N=known)
    z = truth[0] @ truth[1].T + truth[2]
    hard = F.cross_entropy(z[::3], problem.targets[::3])
    (0.25 * plain(problem, truth, "forward_kl", {}) + 0.5 * hard).backward()
    loss.backward()
    assert max(errors(leaves, truth)) < 1e-10


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_only_wanted_gradients_are_made_and_a_factor_reaches_them(engine):
    problem = Problem()
    truth, leaves = problem.inputs(), problem.inputs(torch.float32)
    leaves[1].requires_grad_(False)
    (3.0 * fused(problem, leaves, "total_variation", {})).backward()
    (3.0 * plain(problem, truth, "total_variation", {})).backward()
    assert leaves[1].grad is None
    assert max(errors(leaves[::2], truth[::2])) < 1e-4
    with torch.no_grad():
        assert float(fused(problem, leaves, "total_variation", {})) > 0


def test_the_teacher_gets_no_gradient():
    problem = Problem()
    spoken = problem.teacher_states.float().requires_grad_()
    linear_divergence(
        *[one.detach() for one in problem.inputs(torch.float32)[:2]], spoken, problem.teacher_head.float()
    )
    loss = linear_divergence(
        problem.states.float().requires_grad_(), problem.head.float(), spoken, problem.teacher_head.float()
    )
    loss.backward()
    assert spoken.grad is None


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_threads_or_on_the_run(engine, dtype):
    threads, seen = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            problem = Problem(entries=4000)
            leaves = problem.inputs(dtype)
            loss = fused(problem, leaves, "jensen_shannon", {}, hard=0.1)
            loss.backward()
            seen.append([loss.detach(), *(one.grad for one in leaves)])
    finally:
        torch.set_num_threads(threads)
    pairs = seen if engine == "native" else seen[1:]
    assert all(torch.equal(one, other) for later in pairs[1:] for one, other in zip(pairs[0], later, strict=True))


def test_a_teacher_in_bf16_beside_a_student_in_fp32():
    problem = Problem()
    leaves, truth = problem.inputs(torch.float32), problem.inputs()
    states, head = problem.teacher_states.bfloat16(), problem.teacher_head.bfloat16()
    loss = linear_divergence(leaves[0], OutputHead(leaves[1], leaves[2]), states, head, weights_N=problem.weights)
    loss.backward()
    problem.teacher_states, problem.teacher_head = states.double(), head.double()
    plain(problem, truth, "forward_kl", {}).backward()
    assert max(errors(leaves, truth)) < 1e-5


def test_the_compiled_engine_is_built_where_it_can_be():
    cpu = Path("/proc/cpuinfo")
    if shutil.which("g++") is None or not cpu.exists() or "avx512dq" not in cpu.read_text():
        pytest.skip("no compiler, or no AVX-512")
    assert tiles_native.library() is not None, "run `make install`: nearly every other test here would be skipped"


def test_a_library_of_other_sources_is_not_used(monkeypatch):
    if tiles_native.library() is None:
        pytest.skip("the compiled engine is not built, or this processor lacks AVX-512")

    class Shorter(ctypes.Structure):
        _fields_ = tiles_native._Problem._fields_[:-1]

    monkeypatch.setattr(tiles_native, "_Problem", Shorter)
    assert tiles_native.library.__wrapped__() is None


def test_every_divergence_has_a_form():
    assert set(FORMS) == set(DIVERGENCES)
    for name, row in DIVERGENCES.items():
        FORMS[name](**row.parameters)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"divergence": "forwards_kl"}, "choose one of forward_kl"),
        ({"params": {"beta": 0.5}}, "no parameter 'beta'"),
        ({"teacher_head_VT": torch.randn(1000, 66)}, "1001 entries and the teacher's 1000"),
        ({"teacher_hidden_NT": torch.randn(69, 66)}, "70 states of the student, 69 of the teacher"),
        ({"student_hidden_NS": torch.randn(70, 51)}, "51 wide, its head 50"),
        ({"temperature": 0.0}, "must be above 0"),
        ({"hard_weight": 0.5}, "no targets"),
        ({"hard_weight": 0.5, "targets_N": torch.full((70,), 1001)}, "outside the 1001 entries"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(change, words):
    problem = Problem()
    given = {
        "student_hidden_NS": problem.states.float(),
        "student_head_VS": problem.head.float(),
        "teacher_hidden_NT": problem.teacher_states.float(),
        "teacher_head_VT": problem.teacher_head.float(),
    }
    with pytest.raises(ValueError, match=words):
        linear_divergence(**{**given, **change})


PEAK = """
import sys, torch
from potstill.divergences.chunked import linear_divergence
torch.set_num_threads(1)
tokens, entries, width = int(sys.argv[1]), int(sys.argv[2]), 576
dtype, memory = getattr(torch, sys.argv[3]), sys.argv[4]
states, spoken = torch.randn(tokens, width).to(dtype).requires_grad_(), torch.randn(tokens, 960).to(dtype)
head, teacher = torch.empty(entries, width, dtype=dtype), torch.empty(entries, 960, dtype=dtype)
for one in (head, teacher):
    for rows in one.split(512):
        rows.copy_(torch.randn(rows.shape))
head.requires_grad_()
small = [one[:64].detach().clone().requires_grad_() for one in (states, head)]
linear_divergence(*small, spoken[:64], teacher[:64]).backward()
def memory_of(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from here
before = memory_of("VmRSS:")
linear_divergence(states, head, spoken, teacher, "jensen_shannon", memory=memory).backward()
print(memory_of("VmHWM:") - before, states.grad.nbytes + head.grad.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("memory", ["balanced", "low"])
def test_peak_memory_is_bounded_by_the_gradients(dtype, memory):
    done = subprocess.run(
        [sys.executable, "-c", PEAK, "512", "49152", dtype, memory], capture_output=True, text=True, check=True
    )
    peak, gradients = map(int, done.stdout.split())
    assert peak > 0.9 * gradients, "the gradients themselves are part of the peak"
    if memory == "low":
        assert peak < gradients + 32 * 2**20
    elif tiles_native.library() is not None:
        assert peak < 2 * gradients
