"""The command `potstill`: its verbs, and how errors end it.

Exit codes: 0 fine, 1 the run failed, 2 wrong input, 128 + n stopped by signal n. stderr gets one message and no
traceback, unless `--traceback` or POTSTILL_TRACEBACK=1 asks for it. Nothing here imports torch: verbs do, when called.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from potstill.cli.cluster import cluster
from potstill.cli.compare import compare
from potstill.cli.compress import compress
from potstill.cli.cp import cp
from potstill.cli.curate import curate
from potstill.cli.doctor import doctor
from potstill.cli.evaluate import evaluate
from potstill.cli.export import export
from potstill.cli.gate import gate
from potstill.cli.guard import guard
from potstill.cli.ls import ls
from potstill.cli.output import OutputClosed
from potstill.cli.plan import plan
from potstill.cli.report import report
from potstill.cli.resume import resume
from potstill.cli.run import run
from potstill.cli.schema import schema
from potstill.cli.serve import serve
from potstill.cli.tune import tune
from potstill.cli.validate import validate
from potstill.cli.write import write
from potstill.core.errors import PotstillError, RecipeError
from potstill.redaction import redact

VERBS: dict[str, Callable[..., None]] = {
    "ls": ls,
    "cp": cp,
    "validate": validate,
    "schema": schema,
    "doctor": doctor,
    "plan": plan,
    "run": run,
    "resume": resume,
    "evaluate": evaluate,
    "export": export,
    "gate": gate,
    "report": report,
    "write": write,
    "curate": curate,
    "serve": serve,
    "cluster": cluster,
    "compare": compare,
    "compress": compress,
    "tune": tune,
    "guard": guard,
}
# typer keeps a copy of click, or depends on it, by version; its public BadParameter leads to the common class of both.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


def command() -> typer.Typer:
    """The verbs as one typer application, without completion or rich help: both cost start-up time."""
    app = typer.Typer(
        name="potstill",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_globals)
    for name, verb in VERBS.items():
        app.command(name)(verb)
    return app


def _print_version(wanted: bool | None) -> None:
    if wanted:
        from potstill.environment import version_of

        print(version_of("potstill") or "not installed: this is a source folder")
        raise typer.Exit


def _globals(
    show_traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
    version: Annotated[
        bool | None, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = None,
) -> None:
    """Distil a large model into a small one that can be deployed, and prove what was kept."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = command()(args=words or ["--help"], prog_name="potstill", standalone_mode=False)
        if code == 130:  # typer catches the interrupt itself, and leaves only its exit code
            raise KeyboardInterrupt
        return (code or 0) if words else 2
    except OutputClosed:
        # What Python still holds for stdout would raise once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C", 130, words)
    except typer.Abort as error:  # typer's name for an EOFError
        return _fail(_unforeseen(error.__cause__ or error), 1, words)
    except RecipeError as error:
        faults = [{**_fields(fault), "message": str(fault)} for fault in error.faults]
        return _fail(str(error), error.exit_code, words, faults=faults)
    except PotstillError as error:
        return error.exit_code if error.told else _fail(str(error), error.exit_code, words)
    except _USAGE_ERROR as error:
        return _fail(f"{error.format_message()} Try `potstill --help`.", 2, words)  # type: ignore[attr-defined]
    except Exception as error:
        return _fail(_unforeseen(error), 1, words)


def entry() -> int:
    """What the installed command runs. A rank leaves at once: its communication threads may still be closing, and the
    interpreter's own way out has been seen to trip over them, after all was done."""
    code = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _unforeseen(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"
    return f"{text}\nThis was not foreseen; `potstill --traceback …` shows where it came from."


def _fields(fault: Any) -> dict[str, Any]:
    return {name: getattr(fault, name) for name in fault.__slots__}


def _fail(message: str, exit_code: int, words: Sequence[str], **more: Any) -> int:
    if "--traceback" in words or os.environ.get("POTSTILL_TRACEBACK") == "1":
        print(redact(traceback.format_exc()), file=sys.stderr)
    message = redact(message)
    if "--json" in words:
        values = {"error": message, "exit_code": exit_code, **more}
        print(redact(json.dumps(values)), flush=True)
    else:
        print(f"potstill: {message}" if "\n" not in message else message, file=sys.stderr, flush=True)
    return exit_code
