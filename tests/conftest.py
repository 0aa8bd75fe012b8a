"""The test run: shapes in signatures are checked, one thread, no network."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
# No test needs a GPU: Triton interprets its kernels, which must be said before it is first imported.
os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

from jaxtyping import install_import_hook

import tests.typechecker  # noqa: F401  the hook finds it as an attribute of `tests`

install_import_hook("potstill", "tests.typechecker.checked")

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

torch.set_num_threads(1)
settings.register_profile("potstill", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("potstill")


@pytest.fixture
def quick(monkeypatch):
    """Waits of milliseconds, where an endpoint does not name one."""
    from potstill.teachers import patience

    monkeypatch.setattr(patience, "FIRST_WAIT", 0.002)
    monkeypatch.setattr(patience, "LONGEST_BACKOFF", 0.01)
    monkeypatch.setattr(patience, "NAMED_JITTER", 0.0)
