"""`potstill serve` and `potstill run` as users start them: two processes, one key, a student that learns the same."""

import json
import os
import signal
import subprocess
import sys
import threading

import httpx
import pytest

import potstill
from potstill.core.errors import RecipeError, SignalError, TeacherError
from tests.run.certificates import make_certificate
from tests.run.tiny_recipe import classifier, language_model, set_value, write_recipe
from tests.students import tiny

KEY = "canary-key-canary-key-canary"
PATIENCE = 120


class Serve:
    """The command, its addresses, and what it said."""

    def __init__(self, model, folder, *words, key=KEY, addresses=1):
        (folder / "key").write_text(key + "\n")
        command = [
            sys.executable,
            "-m",
            "potstill",
            "serve",
            str(model),
            "--port",
            "0",
            "--key-file",
            str(folder / "key"),
        ]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.child = subprocess.Popen([*command, *map(str, words)], **pipes)
        watchdog = threading.Timer(PATIENCE, self.child.kill)
        watchdog.start()
        lines = [self.child.stdout.readline() for _ in range(addresses)]
        watchdog.cancel()
        self.urls = [line.split()[-1] for line in lines if line]

    def stop(self, number=signal.SIGTERM):
        self.child.send_signal(number)
        out, err = self.child.communicate(timeout=PATIENCE)
        return self.child.returncode, out + err

    def __enter__(self):
        assert self.urls, self.child.communicate(timeout=PATIENCE)[1]
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.kill()
            self.child.communicate()


@pytest.fixture
def keyed(monkeypatch):
    monkeypatch.setenv("POTSTILL_KEY", KEY)


def elsewhere(recipe, *urls, **more):
    recipe["teacher"] = {"urls": list(urls), **more}
    return recipe


def losses(record, part="part.soft"):
    return [row[part] for row in record.metrics if row["event"] == "step" and row["arm"] == "student"]


def written(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_student_learns_from_elsewhere_as_from_here(materials, tmp_path, keyed):
    """Last states in fp32 are the model's own: the losses are those of the run with the teacher in this process."""
    here = potstill.run(write_recipe(tmp_path / "a", language_model(materials)), output_dir=tmp_path / "here")
    with Serve(materials.decoder, tmp_path, "--socket", tmp_path / "s.sock", "--stream-port", 0, addresses=3) as serve:
        for place, url in enumerate(serve.urls):
            recipe = elsewhere(language_model(materials), url, form="hidden-fp32", timeout_s=60)
            root = tmp_path / f"run-{place}"
            record = potstill.run(write_recipe(tmp_path / "b", recipe, f"{place}.yaml"), output_dir=root)
            assert losses(record) == pytest.approx(losses(here), rel=1e-5)
            source = next(entry for entry in record.ledger["entries"] if entry["role"] == "teacher")
            assert source["source"] == str(materials.decoder)
            assert not [path for path, content in written(root).items() if KEY.encode() in content]
            heads = list((root / "heads").iterdir())
            assert len(heads) == 1
        recipe = elsewhere(language_model(materials), *serve.urls, timeout_s=60)
        record = potstill.run(write_recipe(tmp_path / "b", recipe), output_dir=tmp_path / "pool")
        assert losses(record) == pytest.approx(losses(here), rel=1e-2)  # bf16 states, from all three ways in turn
        code, said = serve.stop()
    assert code == 128 + signal.SIGTERM
    assert "Traceback" not in said
    assert KEY not in said
    assert not (tmp_path / "s.sock").exists()


def test_a_classifier_elsewhere_is_asked_once_and_remembered(materials, tmp_path, keyed):
    alone = classifier(materials)
    alone.update(teacher=None, controls=[], stages=[], objective={"soft_weight": 0, "hard_weight": 1})
    alone["student"] = {"model_name_or_path": str(materials.encoder), "head": "fresh"}
    made = potstill.run(write_recipe(tmp_path / "a", alone), output_dir=tmp_path / "teacher")
    folder = f"{made.folder}/model"
    with Serve(folder, tmp_path, "--task", "classify") as serve:
        recipe = classifier(materials)
        recipe.update(stages=[], controls=[], teacher={"urls": serve.urls, "cache": True})
        recipe["student"] = {"model_name_or_path": folder, "layers": [0], "head": "fresh"}
        record = potstill.run(write_recipe(tmp_path / "b", recipe), output_dir=tmp_path / "run")
        code, _ = serve.stop(signal.SIGINT)
    assert code == 130
    assert list((tmp_path / "run" / "stages" / "student").glob("answers-*"))
    assert losses(record)[-1] < losses(record)[0]


def test_another_tokenizer_is_refused_with_both_fingerprints(materials, tmp_path, keyed):
    other = tmp_path / "other"
    tiny.tiny("llama", "causal-lm").save_pretrained(other)
    tiny.word_level(59).save_pretrained(other)
    with Serve(other, tmp_path) as serve:
        recipe = elsewhere(language_model(materials), serve.urls[0])
        with pytest.raises(SignalError, match=r"has tokenizer [0-9a-f]{16} and the student has [0-9a-f]{16}"):
            potstill.run(write_recipe(tmp_path / "a", recipe), output_dir=tmp_path / "run")


def test_a_wrong_key_ends_the_run_before_it_begins(materials, tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_KEY", "some other canary key")
    with Serve(materials.decoder, tmp_path) as serve:
        recipe = elsewhere(language_model(materials), serve.urls[0])
        with pytest.raises(TeacherError, match="401"):
            potstill.run(write_recipe(tmp_path / "a", recipe), output_dir=tmp_path / "run")


def refused(*words, **environment):
    command = [sys.executable, "-m", "potstill", "serve", *map(str, words)]
    found = {name: value for name, value in os.environ.items() if name != "POTSTILL_KEY"} | environment
    done = subprocess.run(command, env=found, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_without_a_key_nothing_is_served(materials, tmp_path):
    for words in ((), ("--host", "0.0.0.0"), ("--key-env", "NO_SUCH_KEY"), ("--key-file", tmp_path / "none")):
        code, said = refused(materials.decoder, *words)
        assert code == 2
        assert "secrets.token_urlsafe" in said
    (tmp_path / "short").write_text("short\n")
    code, said = refused(materials.decoder, "--key-file", tmp_path / "short")
    assert code == 2
    assert "fewer than 16" in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("{0}/none",), "none"),
        (("{1}", "--task", "poetry"), "--task poetry"),
        (("{1}", "--tls-cert", "{0}/c.pem"), "--tls-key"),
        (("{1}", "--limit", "max_bodies=1"), "max_body_bytes"),
        (("{1}", "--limit", "deadline_s=-1"), "deadline_s"),
        (("{1}", "--calibrate", "{0}/none.txt"), "--calibrate"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(materials, tmp_path, words, reason):
    code, said = refused(*(word.format(tmp_path, materials.decoder) for word in words), POTSTILL_KEY=KEY)
    assert code == 2, said
    assert reason in said
    assert KEY not in said


def test_tls_by_files(materials, tmp_path, keyed):
    certificate, private = make_certificate(tmp_path)
    words = ("--tls-cert", certificate, "--tls-key", private, "--stream-port", 0)
    with Serve(materials.decoder, tmp_path, *words, addresses=2) as serve:
        assert [url.split(":")[0] for url in serve.urls] == ["https", "tls"]
        for place, url in enumerate(serve.urls):
            recipe = elsewhere(language_model(materials), url, ca=str(certificate), timeout_s=60)
            record = potstill.run(
                write_recipe(tmp_path / "a", recipe, f"{place}.yaml"), output_dir=tmp_path / f"r{place}"
            )
            assert len(losses(record)) == 4
            untrusted = elsewhere(language_model(materials), url)
            with pytest.raises(TeacherError, match="no teacher answers"):
                potstill.run(write_recipe(tmp_path / "b", untrusted), output_dir=tmp_path / f"u{place}")


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("teacher.urls", ["ftp://x"], "must begin with"),
        ("teacher.urls", ["http://user:pass@x:1"], "holds a user"),
        ("teacher.urls", ["tcp://x"], "no port"),
        ("teacher.urls", ["unix://relative"], "absolute"),
        ("teacher.urls", ["http://x:port"], "no address"),
        ("teacher.urls", ["http://x", "http://x"], "twice"),
        ("teacher.key_file", "/etc/passwd", "below the working directory"),
        ("teacher.key_file", "../key", "below the working directory"),
        ("teacher.key_env", "AWS_SECRET_ACCESS_KEY", "POTSTILL_"),
        ("teacher.url_weights", [1, 2, 3], "one for each"),
        ("teacher.drop_above", 2.0, "leave out urls"),
    ],
)
def test_a_recipe_names_no_place_it_should_not(materials, tmp_path, path, value, reason):
    recipe = elsewhere(language_model(materials), "http://127.0.0.1:1")
    set_value(recipe, path, value)
    with pytest.raises(RecipeError, match=reason) as caught:
        potstill.load_recipe(write_recipe(tmp_path, recipe))
    assert "pass@" not in str(caught.value)


def test_settings_of_elsewhere_without_urls_have_no_use(materials, tmp_path):
    recipe = language_model(materials)
    recipe["teacher"]["timeout_s"] = 3.0
    with pytest.raises(RecipeError, match="no use without urls"):
        potstill.load_recipe(write_recipe(tmp_path, recipe))


SMOLLM = "packaged:smollm2-135m-instruct"


@pytest.mark.slow
def test_a_real_model_served_to_a_real_run(tmp_path, keyed):
    """SmolLM2-135M-Instruct by its package teaches a student with half of its blocks, over HTTP and over the socket;
    tools that speak the OpenAI interface get log-probabilities of the prompt."""
    with Serve(SMOLLM, tmp_path, "--socket", tmp_path / "s.sock", addresses=2) as serve:
        text = {"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0, "prompt_logprobs": 3}
        reply = httpx.post(
            f"{serve.urls[0]}/v1/completions", json=text, headers={"Authorization": f"Bearer {KEY}"}, timeout=60
        ).json()
        assert "Paris" in reply["choices"][0]["text"]
        given = reply["choices"][0]["prompt_logprobs"]
        assert given[0] is None
        assert all(-30 < min(entry["logprob"] for entry in one.values()) <= 0 for one in given[1:])
        found = {}
        for kind in ("here", *serve.urls):
            recipe = json.loads(json.dumps(REAL))
            if kind != "here":
                recipe["teacher"] = {"urls": [kind], "timeout_s": 300}
            place = tmp_path / f"run-{len(found)}"
            found[kind] = losses(potstill.run(write_recipe(place, recipe), output_dir=place / "run"))
        assert len(found["here"]) == 3
        for url in serve.urls:
            assert found[url] == pytest.approx(found["here"], rel=5e-3)


REAL = {
    "name": "real",
    "task": "causal-lm",
    "data": {
        "train": [{"dataset_name": "packaged:english-prose", "rows": "text", "limit": 8}],
        "max_length": 64,
        "pack": True,
    },
    "teacher": {"models": [{"model_name_or_path": SMOLLM}]},
    "student": {"model_name_or_path": SMOLLM, "every": 2},
    "train": {"max_steps": 3, "per_device_train_batch_size": 2, "logging_steps": 1, "bf16": False},
    "evaluate": {"cost": None},
}
