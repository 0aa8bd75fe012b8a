"""`potstill serve MODEL`: a teacher as a service, until it is stopped."""

from pathlib import Path
from typing import Annotated

import typer

from potstill.cli.options import AsJson, TrustRemoteCode
from potstill.cli.output import emit, working
from potstill.core.errors import InputError


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, hub id, .gguf file or package.")],
    task: Annotated[str, typer.Option("--task", help="causal-lm, masked-lm or classify.")] = "causal-lm",
    name: Annotated[str | None, typer.Option("--name", help="What the model is called in replies.")] = None,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The HTTP port; 0 takes any free one.")] = 8791,
    socket: Annotated[Path | None, typer.Option("--socket", help="A socket file, the fast way on one host.")] = None,
    stream_port: Annotated[
        int | None, typer.Option("--stream-port", help="A port for frames over TCP, the fast way between hosts.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option("--key-file", help="A file with a key on each line.")] = None,
    key_env: Annotated[
        str | None,
        typer.Option("--key-env", help="The variable with the key.", show_default="POTSTILL_KEY"),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="A certificate file, for TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="The file of its private key.")] = None,
    calibrate: Annotated[
        Path | None, typer.Option("--calibrate", help="A text file that sets the scales of 8-bit states.")
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Run the model under bf16 autocast.")] = False,
    limit: Annotated[
        list[str] | None, typer.Option("--limit", metavar="NAME=VALUE", help="Change a limit.", show_default=False)
    ] = None,
    guard: Annotated[
        Path | None,
        typer.Option("--guard", metavar="FILE", help="Write findings about keys that seem to harvest the model here."),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Serve a teacher. Answers only to a key, and on this machine alone unless told otherwise."""
    from potstill.teachers.keys import read_keys

    keys = read_keys(file=key_file, variable=key_env)  # before torch is imported: a fault is told in a second
    if task not in ("causal-lm", "masked-lm", "classify"):
        raise InputError(f"--task {task} is not one of causal-lm, masked-lm, classify")
    pairs = dict(one.partition("=")[::2] for one in limit or ())
    with working():
        from potstill.serving import Listening, Serving, is_loopback, limits_from
        from potstill.serving import serve as serve_model
        from potstill.students.settings import ModelSettings

        serving = Serving(
            ModelSettings(model_name_or_path=model),
            task,  # type: ignore[arg-type]
            name=name,
            calibration=calibrate,
            bf16=bf16,
            trust_remote_code=trust_remote_code,
            limits=limits_from(pairs),
            guard=guard,
        )
        listening = Listening(host, port, socket, stream_port, tls_cert, tls_key)
        if not is_loopback(host) and tls_cert is None:
            typer.echo(f"{host} is open to other machines without TLS: keys and texts can be read on the way", err=True)
    serve_model(
        serving, listening, keys, say=lambda address: emit(f"serving at {address}", {"url": address}, as_json=as_json)
    )
