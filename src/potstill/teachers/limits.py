"""What a teacher service takes, and how it says no. No torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from potstill.core.settings import Settings

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class Limits(Settings):
    """Caps of one service. Whatever is beyond them is refused before memory is taken for it.

    max_body_bytes: of a question; a hundred thousand tokens are half a megabyte. max_rows, max_tokens: of one question.
    max_positions: of one row; the service lowers it to what the model reads. max_top_k: kept entries per position.
    max_new_tokens, max_completions: what a completion may generate, and prompts times `n` of one request.
    max_reply_bytes: whole logits of a large vocabulary are what this is for. max_concurrent: requests read and answered
    at once. max_queued, max_queued_tokens: questions and tokens waiting for the model. max_connections: open HTTP
    connections; beyond that the longest idle one is closed. max_streams: open streams. max_batch_tokens: padded tokens
    of one forward pass. deadline_s: from the first byte of a question to the last of its answer. idle_s: a connection
    that has not finished its request line and headers, or a stream that has not finished its handshake, is closed.
    """

    max_body_bytes: Positive = 4 * 2**20
    max_rows: Positive = 1024
    max_tokens: Positive = 131_072
    max_positions: Positive = 131_072
    max_top_k: Positive = 1024
    max_new_tokens: Positive = 256
    max_completions: Positive = 16
    max_reply_bytes: Positive = 2**30
    max_concurrent: Positive = 32
    max_queued: Positive = 64
    max_queued_tokens: Positive = 2**20
    max_connections: Positive = 512
    max_streams: Positive = 16
    max_batch_tokens: Positive = 4096
    deadline_s: Seconds = 120.0
    idle_s: Seconds = 10.0


class Refused(Exception):
    """A no that is said to whoever asked. status: as in HTTP. reason: says what to change, and repeats nothing of the
    question. retry_after: seconds, where asking again can help."""

    def __init__(self, status: int, reason: str, *, retry_after: float | None = None):
        self.status, self.reason, self.retry_after = status, reason, retry_after
        super().__init__(reason)
