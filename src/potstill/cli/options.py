"""Arguments and flags that more than one verb has, so that they mean the same everywhere."""

from typing import Annotated

import typer

RecipeFile = Annotated[str, typer.Argument(metavar="FILE", help="A recipe file, or a name that `potstill ls` shows.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY.SUB=VALUE", help="Settings that replace those of the file.", show_default=False),
]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run.")]
ModelOrRun = Annotated[str, typer.Argument(metavar="MODEL_OR_RUN", help="A run folder, or a model folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result, or the error, as JSON.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let a model folder run its own Python code. Never set by a recipe.")
]
RankTimeout = Annotated[
    float,
    typer.Option("--rank-timeout", min=1.0, help="With several ranks: seconds until one that is silent is given up."),
]
