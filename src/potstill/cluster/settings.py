"""What a cluster job is: programs as one would start them by hand, and what each needs of a machine. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from potstill.core.settings import Settings

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
HOST = re.compile(r"\{([a-z][a-z0-9-]*)\.host\}")


class ProgramSettings(Settings):
    """One program.

    command: its words. `potstill` is the one of this environment; started on several nodes, or with several
    ranks_per_node, it runs under torchrun, as ranks of one job. environment: variables it gets on top. `{NAME.host}` in
    a word or a variable is the address of the machine that program NAME runs on. service: runs for the sake of the
    others, and is stopped when they are done. cpus, gpus, resources: what it needs of each of its nodes, in Ray's
    words. restarts: how often it may fail and be started again, here or on another machine; but not when its first
    life ended with exit code 2, wrong input.
    """

    command: Annotated[tuple[str, ...], Field(min_length=1)]
    service: bool = False
    nodes: Positive = 1
    ranks_per_node: Positive = 1
    cpus: Positive = 1
    gpus: Count = 0
    resources: Mapping[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    restarts: Count = 3
    environment: Mapping[str, str] = Field(default_factory=dict)

    @property
    def ranks(self) -> int:
        """Processes that train together."""
        return self.nodes * self.ranks_per_node

    @property
    def leans_on(self) -> frozenset[str]:
        """The programs whose address its command or its variables hold."""
        return frozenset(name for word in (*self.command, *self.environment.values()) for name in HOST.findall(word))

    @model_validator(mode="after")
    def ranks_of_ours(self) -> ProgramSettings:
        """Other programs do not know what a rank is."""
        if self.ranks > 1 and self.command[0] != "potstill":
            raise ValueError(
                f"nodes and ranks_per_node are for `potstill`, and the command is {self.command[0]}: leave both at 1"
            )
        return self


class ClusterSettings(Settings):
    """A job. address: of a Ray cluster that runs ("auto" finds the one of this machine); without one, a cluster of this
    machine alone is started, and ends with the job. directory: where the programs start, on every machine; by default
    where the job is started. grace_seconds: from asking a program to stop, which it does with its state saved, to
    killing it."""

    programs: Annotated[Mapping[Name, ProgramSettings], Field(min_length=1)]
    address: str | None = None
    directory: str | None = None
    grace_seconds: Annotated[float, Field(gt=0)] = 60.0

    @model_validator(mode="after")
    def somebody_ends(self) -> ClusterSettings:
        """Services alone would run for ever; and an address must be somebody's."""
        if all(program.service for program in self.programs.values()):
            raise ValueError("every program is a service, so the job would never end: set service: false for one")
        for name, program in self.programs.items():
            if unknown := sorted(program.leans_on - self.programs.keys()):
                raise ValueError(f"{name} names the host of {', '.join(unknown)}, which is no program of this job")
            if any(not self.programs[other].service for other in program.leans_on):
                raise ValueError(f"{name} names the host of a program that is no service: set service: true for it")
        return self
