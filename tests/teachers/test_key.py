import pytest

from potstill.core.errors import InputError
from potstill.teachers.endpoint_settings import EndpointSettings
from potstill.teachers.key import read_key

URL = "http://127.0.0.1:1/v1"


def test_from_the_environment_and_from_a_file(tmp_path):
    place = tmp_path / "key"
    place.write_text("from-file\n")
    assert read_key(EndpointSettings(url=URL)) is None
    found = read_key(EndpointSettings(url=URL, key_env="A_KEY"), {"A_KEY": "from-environment"})
    assert found.get_secret_value() == "from-environment"
    assert read_key(EndpointSettings(url=URL, key_file=str(place))).get_secret_value() == "from-file"
    assert "from" not in f"{found!r} {found}"


@pytest.mark.parametrize("text", ["", "   \n", "two words", "clé", "a" * 5000, "x\x00y"], ids=repr)
def test_what_is_no_key_is_refused_without_showing_it(text, tmp_path):
    place = tmp_path / "key"
    place.write_text(text)
    for settings, environment in [
        (EndpointSettings(url=URL, key_file=str(place)), {}),
        (EndpointSettings(url=URL, key_env="A_KEY"), {"A_KEY": text}),
    ]:
        with pytest.raises(InputError) as caught:
            read_key(settings, environment)
        assert not text.strip() or text.strip() not in str(caught.value)


def test_missing_file_and_variable(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_key(EndpointSettings(url=URL, key_file=str(tmp_path / "none")))
    with pytest.raises(InputError, match="A_KEY is empty or not set"):
        read_key(EndpointSettings(url=URL, key_env="A_KEY"), {})


@pytest.mark.parametrize(
    "url",
    ["ftp://host/v1", "host:8000", "http://", "http://user:canary@host/v1", "http://h/v1?key=canary", "http://h:x/v1"],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url):
    with pytest.raises(ValueError, match="url") as caught:
        EndpointSettings(url=url)
    assert "canary" not in str(caught.value)
