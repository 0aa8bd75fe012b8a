"""A real server that is not ours: llama.cpp's, from llama-cpp-python, with SmolLM2: what it truly offers."""

import asyncio
import json
import socket
import subprocess
import sys
import time

import httpx
import pytest
import torch
from pydantic import SecretStr

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
pytest.importorskip("fastapi", reason="llama-cpp-python is installed without its server")

from potstill.cli.main import main
from potstill.core.batch import Batch, next_token_targets
from potstill.core.errors import EndpointError
from potstill.core.signal import Want
from potstill.students.load import load_model, load_tokenizer
from potstill.students.packaged import find_packaged
from potstill.students.settings import ModelSettings
from potstill.teachers.client import Client
from potstill.teachers.endpoint import EndpointTeacher
from potstill.teachers.endpoint_settings import EndpointSettings, TopKSettings
from potstill.teachers.speaker import model_to_ask

MODEL = ModelSettings(model_name_or_path="packaged:smollm2-135m-instruct")
KEY = "key-of-the-llama-server"
CONTEXT = 256
K = 8
TEXT = "The capital of France is the city of"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(folder, *flags):
    """The server's process and URL once it answers."""
    _, file = find_packaged("smollm2-135m-instruct")
    port = free_port()
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(file), "--model_alias", "smollm2"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", str(CONTEXT), "--api_key", KEY]
    command += ["--n_threads", "2", "--n_threads_batch", "2", "--verbose", "false", *flags]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}/v1"
    for _ in range(300):
        try:
            if (
                httpx.get(f"{url}/models", headers={"Authorization": f"Bearer {KEY}"}, trust_env=False).status_code
                == 200
            ):
                return process, url
        except httpx.TransportError:
            time.sleep(0.2)
        assert process.poll() is None, (folder / "server.log").read_text()
    raise AssertionError("the server did not start within a minute")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    process, url = started(tmp_path_factory.mktemp("llama"), "--logits_all", "true")
    yield url
    process.terminate()
    process.wait(20)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(MODEL)


def connect(url, tokenizer, way, key=KEY):
    settings = TopKSettings(url=url, way=way)
    return EndpointTeacher.connect(settings, tokenizer, vocabulary_size=49_152, top_k=K, key=SecretStr(key))


def batch_of(tokenizer):
    tokens = torch.tensor([tokenizer(TEXT)["input_ids"]])
    attention = torch.ones_like(tokens, dtype=torch.bool)
    targets, weights = next_token_targets(tokens, attention)
    return Batch(("row",), tokens, attention, targets, {"soft": weights, "hard": weights})


def truth(batch):
    """Log-probabilities [1, T, V] of the same weights in transformers, dequantised."""
    module = load_model(MODEL, task="causal-lm", labels=None).module.eval()
    with torch.no_grad():
        return module(input_ids=batch.tokens_BL).logits.float().log_softmax(-1)


def check_against_the_same_weights(said, batch):
    """llama.cpp multiplies quantised weights with quantised activations, so its numbers are near, not equal."""
    logprobs = truth(batch)
    asked = batch.weights["soft"] != 0
    there = logprobs.gather(-1, said.indices_BTK)[asked]
    told = said.logprobs_BTK[asked]
    assert (told[:, 0] - there[:, 0]).abs().max() < 0.3
    assert (told - there).abs().mean() < 0.15
    assert (said.indices_BTK[asked][:, 0] == logprobs[asked].argmax(-1)).float().mean() >= 6 / 7
    mass = told.exp().sum(-1) + said.log_tail_BT[asked].exp()
    torch.testing.assert_close(mass, torch.ones_like(mass))


def test_it_teaches_position_by_position(server, tokenizer):
    batch = batch_of(tokenizer)
    teacher = connect(server, tokenizer, "next_token")
    check_against_the_same_weights(teacher.signal(batch, Want(top_k=K)).logits, batch)


@pytest.mark.slow
def test_it_teaches_by_echo_and_its_lists_are_one_place_late(server, tokenizer):
    batch = batch_of(tokenizer)
    teacher = connect(server, tokenizer, "auto")
    assert teacher.way_name == "echo"
    assert teacher._way.shift == 1
    check_against_the_same_weights(teacher.signal(batch, Want(top_k=K)).logits, batch)


def test_it_writes_answers_and_counts_a_prompt_beyond_its_context(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAMA_KEY", KEY)
    rows = [{"prompt": "What is the capital of France? Answer in one sentence."}, {"prompt": "again and " * CONTEXT}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = {
        "prompts": {"dataset_name": "p.jsonl", "rows": "text", "columns": {"text": "prompt"}},
        "endpoint": {"url": server, "key_env": "LLAMA_KEY", "licence": "Apache-2.0"},
        "sampling": {"temperature": 0, "max_tokens": 24},
        "output": "a.jsonl",
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job, indent=1))
    assert main(["write", "job.yaml", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["rejected"] == {"prompt longer than the context": 1}
    (row,) = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert "Paris" in row["completion"]
    assert (row["model"], row["finish_reason"], row["lineage"]["generation"]) == ("smollm2", "stop", 1)
    assert row["completion_tokens"] > 0


def test_a_wrong_key_is_told_as_one(server):
    async def run():
        async with Client(EndpointSettings(url=server), SecretStr("another")) as client:
            await model_to_ask(client)

    with pytest.raises(EndpointError, match="refuses the key"):
        asyncio.run(run())


def test_without_logits_all_it_cannot_teach_and_says_why(tmp_path, tokenizer, quick):
    process, url = started(tmp_path, "--logits_all", "false")
    try:
        with pytest.raises(EndpointError, match=r"cannot serve as a teacher .*logits_all=False"):
            connect(url, tokenizer, "auto")
    finally:
        process.terminate()
        process.wait(20)
