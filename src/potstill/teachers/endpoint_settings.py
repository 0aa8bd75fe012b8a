"""Somebody else's server: where it is, how patiently it is asked, and how it is to write. No torch."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from potstill.core.settings import Settings
from potstill.teachers.addresses import refuse_bad_url

ASKED_BY_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"


class EndpointSettings(Settings):
    """An OpenAI-compatible endpoint.

    url: up to and with `/v1`, without user or password; model: the id to ask for, the endpoint's only one when absent.
    key_env: the environment variable that holds the key; key_file: the file that holds it. A key is never written into
    a recipe. timeout: seconds for one whole reply; attempts: how often one question is asked while the endpoint is
    away or busy; longest_wait: the longest Retry-After that is honoured, in seconds. concurrency: questions at a time.
    max_reply_bytes: a longer reply is refused unread; max_bad_replies: more replies that are not what was asked for end
    the run. licence: what the endpoint's owner allows of its output, `unknown` when nobody says.
    """

    # What is wrong with an address is told without the address, which may hold a password.
    model_config = ConfigDict(hide_input_in_errors=True)

    url: str
    model: Annotated[str, Field(min_length=1)] | None = None
    key_env: Annotated[str, Field(pattern=ASKED_BY_NAME, description="a variable's name")] | None = None
    key_file: str | None = None
    timeout: Annotated[float, Field(gt=0)] = 120.0
    attempts: Annotated[int, Field(ge=1)] = 8
    longest_wait: Annotated[float, Field(gt=0)] = 120.0
    concurrency: Annotated[int, Field(ge=1, le=256)] = 4
    max_reply_bytes: Annotated[int, Field(ge=1024)] = 32 * 2**20
    max_bad_replies: Annotated[int, Field(ge=0)] = 10
    licence: str | None = None

    @model_validator(mode="after")
    def is_an_address_without_secrets(self) -> "EndpointSettings":
        """A URL is written into records and logs, so nothing secret may be in it; its text is not repeated here."""
        if (wrong := refuse_bad_url(self.url, ("http", "https"))) is not None:
            raise ValueError(f"url {wrong}; it looks like http://127.0.0.1:8000/v1")
        if self.key_env is not None and self.key_file is not None:
            raise ValueError("key_env and key_file contradict each other: keep one of them")
        return self


class TopKSettings(EndpointSettings):
    """An endpoint as a teacher: log-probabilities of its likeliest tokens, by a model with the student's tokenizer.

    way: how the endpoint is asked. `prompt_logprobs` sends token ids and gets ids back (vLLM); `echo` sends text and
    gets its tokens back (OpenAI's older completions, llama-cpp-python with logits_all); `next_token` asks once per
    position, the only way where a server speaks of generated tokens alone (llama-server); `auto` takes the first of the
    first two that works. spare: entries asked for beyond objective.top_k, because a token that is part of a character
    has no text of its own, and its mass goes to the tail.
    """

    way: Literal["auto", "prompt_logprobs", "echo", "next_token"] = "auto"
    spare: Annotated[int, Field(ge=0)] = 4


class ShotSettings(Settings):
    """A worked example that the teacher sees before each prompt: prompt, and the completion that is a model of its own
    answers, reasoning first where reasoning is wanted."""

    prompt: Annotated[str, Field(min_length=1)]
    completion: Annotated[str, Field(min_length=1)]


class PriceSettings(Settings):
    """What tokens cost, in whatever currency its owner counts. prompt, completion: of a million tokens each."""

    prompt: Annotated[float, Field(ge=0)]
    completion: Annotated[float, Field(ge=0)]


class SamplingSettings(Settings):
    """How the teacher writes.

    route: `chat` (`/chat/completions`, rendered by the teacher's own template) or `completion` (`/completions`, plain
    text). samples: answers per prompt, each with a seed of its own. max_tokens: the longest answer; stop: texts that
    end one. system: the system message (chat). template: what is asked, with the prompt in the place of `{prompt}`.
    shots: worked examples before each prompt, earlier turns of the conversation (chat), or texts with an empty line
    after each (completion); the template is around theirs, too. cut_answers: what becomes of an answer that ran into
    max_tokens.
    """

    route: Literal["chat", "completion"] = "chat"
    samples: Annotated[int, Field(ge=1)] = 1
    temperature: Annotated[float, Field(ge=0)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: Annotated[int, Field(ge=1)] = 512
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    system: str | None = None
    template: str = "{prompt}"
    shots: tuple[ShotSettings, ...] = ()
    cut_answers: Literal["reject", "keep"] = "reject"

    @model_validator(mode="after")
    def asks_the_prompt(self) -> "SamplingSettings":
        """A template without the prompt asks everybody the same, and greedy samples are copies of one another."""
        if self.template.count("{prompt}") != 1:
            raise ValueError("template must hold {prompt} exactly once: the prompt is put in its place")
        if self.system is not None and self.route != "chat":
            raise ValueError("system has no use in route completion; put its text into template, or take route: chat")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("samples are all the same at temperature 0: raise temperature, or set samples to 1")
        return self
