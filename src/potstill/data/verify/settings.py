"""How answers are checked against their references. No torch."""

from typing import Annotated, Literal

from pydantic import Field

from potstill.core.settings import Settings


class VerifySettings(Settings):
    """A check of final answers.

    kind: `number`, `choice` (letters of multiple choice), `maths` (expressions, by math-verify in a child process),
    `code` (a Python program, by its tests in a sandbox) or `text` (the same words). find: where a final answer is
    looked for: after a mark only (`####`, `\\boxed{}`, "the answer is"), or, without one, the last there is; in a
    completion that was cut off, after a mark only. reference: the column with the right answer; tests: of code, the
    column with the tests, Python that raises where the program is wrong. tolerance: relative difference of numbers that
    are still equal. time_limit: seconds for one check; memory_limit: MiB of its process. keep: `right` answers, or
    `all` with their verdict.
    """

    kind: Literal["number", "choice", "maths", "code", "text"]
    find: Literal["marked", "last"] = "last"
    reference: str = "reference"
    tests: str = "tests"
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    time_limit: Annotated[float, Field(gt=0, le=600)] = 5.0
    memory_limit: Annotated[int, Field(ge=64)] = 512
    keep: Literal["right", "all"] = "right"
