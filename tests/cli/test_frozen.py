"""The verbs and flags are a promise to scripts: adding, renaming or removing one is done here first, on purpose."""

import typer

from potstill.cli.main import command

FROZEN = {
    "ls": ["--json"],
    "cp": ["NAME", "FILE", "--force", "--json"],
    "validate": ["FILE", "KEY.SUB=VALUE", "--resolved", "--json"],
    "schema": [],
    "doctor": ["--json"],
    "plan": [
        *("FILE", "KEY.SUB=VALUE", "--batch", "--length", "--vocabulary", "--hidden"),
        *("--bytes", "--top-k", "--teachers", "--bandwidth", "--efficiency", "--json"),
    ],
    "run": ["FILE", "KEY.SUB=VALUE", "--output-dir", "--trust-remote-code", "--rank-timeout", "--json"],
    "resume": ["RUN", "--trust-remote-code", "--rank-timeout", "--json"],
    "evaluate": [
        *("MODEL_OR_RUN", "KEY.SUB=VALUE", "--recipe", "--format", "--cost", "--trust-remote-code", "--json"),
    ],
    "export": ["RUN", "--format", "--trust-remote-code", "--json"],
    "gate": ["RUN", "--accept", "--override", "--by", "--date", "--reason", "--verify", "--bom", "--json"],
    "report": ["RUN", "--json"],
    "write": ["FILE", "KEY.SUB=VALUE", "--output", "--json"],
    "curate": ["FILE", "KEY.SUB=VALUE", "--output", "--allow-unisolated-code", "--json"],
    "serve": [
        *("MODEL", "--task", "--name", "--host", "--port", "--socket", "--stream-port", "--key-file", "--key-env"),
        *("--tls-cert", "--tls-key", "--calibrate", "--bf16", "--limit", "--guard", "--trust-remote-code", "--json"),
    ],
    "cluster": ["FILE", "--json"],
    "compress": [
        *("MODEL_OR_RUN", "KEY.SUB=VALUE", "--recipe", "--keep", "--remove", "--rows", "--plan", "--output-dir"),
        *("--trust-remote-code", "--json"),
    ],
    "tune": [
        *("FILE", "KEY.SUB=[A,B]", "--format", "--megabytes", "--milliseconds", "--trials", "--seed"),
        *("--output-dir", "--json"),
    ],
    "compare": ["ARM", "--seeds", "--output-dir", "--any-budget", "--json"],
    "guard": ["LOG", "--format", "--since", "--json"],
}
GLOBAL = ["--traceback", "--version"]


def words(parameters):
    return [p.metavar if p.param_type_name == "argument" else p.opts[0] for p in parameters]


def test_verbs_and_flags_are_these_and_no_others():
    group = typer.main.get_command(command())
    assert words(group.params) == GLOBAL
    assert {name: words(verb.params) for name, verb in group.commands.items()} == FROZEN


def test_every_verb_and_flag_says_what_it_does():
    for verb in typer.main.get_command(command()).commands.values():
        assert verb.help
        assert all(parameter.help for parameter in verb.params)
