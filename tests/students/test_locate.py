import huggingface_hub.constants
import pytest

from potstill.core.errors import ModelError
from potstill.students.locate import licence_of, locate
from potstill.students.settings import ModelSettings


def found(name, folder_of=None, **settings):
    return locate(ModelSettings(model_name_or_path=str(name), **settings), folder_of or {})


def test_a_folder(bert_folder):
    here = found(bert_folder, revision="abc")
    assert (here.folder, here.display_name, here.revision) == (bert_folder, "bert", "abc")


def test_a_run_folders_model_is_called_by_the_run(tmp_path):
    (tmp_path / "my-run" / "model").mkdir(parents=True)
    assert found(tmp_path / "my-run" / "model").display_name == "my-run"


def test_a_stage(bert_folder):
    here = found("stage:warm", {"warm": bert_folder})
    assert (here.folder, here.display_name) == (bert_folder, "stage:warm")
    with pytest.raises(ModelError, match=r"`worm`.*finished stages: warm"):
        found("stage:worm", {"warm": bert_folder})


def test_a_packaged_model():
    here = found("packaged:minilm-l6-v2")
    assert here.folder.is_dir()
    assert (here.revision, here.licence) == ("0.1.0", "Apache-2.0")


@pytest.mark.parametrize("name", ["/no/such/folder", "../nowhere", "a/b/c", "./x", "missing.gguf"])
def test_what_is_not_there(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError):
        found(name)


def test_a_file_is_no_folder(bert_folder):
    with pytest.raises(ModelError, match="is a file"):
        found(bert_folder / "config.json")


def test_a_hub_id_offline_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"someone/some-model: not in the local cache .*give its folder"):
        found("someone/some-model")


def test_remote_code_on_the_hub_is_refused_before_the_weights_are_fetched(bert_folder, tmp_path, monkeypatch):
    (bert_folder / "config.json").write_text('{"model_type": "bert", "auto_map": {"AutoModel": "x.Y"}}')
    fetched = []

    def download(repository, name, revision=None):
        fetched.append(name)
        return str(bert_folder / name)

    def snapshot(*_, **__):
        raise AssertionError("weights were fetched")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(ModelError, match="auto_map"):
        found("someone/some-model")
    assert fetched == ["config.json"]


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ('---\nbase: x\nlicense: "mit"\n---\ntext', "mit"),
        ("license: mit\n", "unknown"),
        ("---\ntags: []\n---\nlicense: mit", "unknown"),
    ],
)
def test_licences_are_read_and_not_guessed(tmp_path, card, licence):
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == licence


def test_a_stage_of_another_run_keeps_the_licence_of_its_record(tmp_path):
    """The product of a stage has no card; the run wrote down what it came from."""
    model = tmp_path / "run" / "stages" / "teacher" / "model"
    model.mkdir(parents=True)
    assert licence_of(model) == "unknown"
    record = model.parent / "stage.json"
    record.write_text('{"licence": "Apache-2.0"}')
    assert licence_of(model) == "Apache-2.0"
    assert found(model).licence == "Apache-2.0"
    assert licence_of(model.parent) == "unknown", "only the model is what the record is about"
    for damaged in ("{", "[]", '{"licence": null}'):
        record.write_text(damaged)
        assert licence_of(model) == "unknown"
