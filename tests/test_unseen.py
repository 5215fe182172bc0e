"""What others wrote moves no cursor and deceives no reader, on the terminal and in the log."""

import json
import logging
import unicodedata
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import app.cli
from app.cli.commands import switchboard
from app.cli.running import say
from app.logs import JsonFormatter, TextFormatter
from app.unseen import escaped

NASTY = "invoice\u202egpj.exe \x1b[2J\x9b31m nor\u200bth \U000e0041\ud800"
SHOWN = r"invoice\u202egpj.exe \u001b[2J\u009b31m nor\u200bth \udb40\udc41\ud800"
FINE = "Zoë, 東京, שלום\tand so on\n❤️ naïve"


def test_what_is_not_seen_stands_as_json_has_it_and_all_else_as_it_is() -> None:
    assert escaped(NASTY) == SHOWN
    assert escaped(FINE) == FINE
    assert json.loads(f'"{escaped(NASTY)}"') == NASTY


def test_no_control_character_and_no_override_of_direction_is_left_out() -> None:
    signs = [chr(code) for code in range(0x110000)]
    turned = [sign for sign in signs if unicodedata.bidirectional(sign) in ("LRE", "RLE", "LRO", "RLO", "PDF")]
    isolates = [sign for sign in signs if unicodedata.bidirectional(sign) in ("LRI", "RLI", "FSI", "PDI")]
    controls = [sign for sign in signs if unicodedata.category(sign) in ("Cc", "Zl", "Zp", "Cs") and sign not in "\t\n"]
    assert [sign for sign in turned + isolates + controls if escaped(sign) == sign] == []


def test_a_command_and_its_failure_write_no_sign_that_moves_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command
    @click.argument("how")
    def show(how: str) -> None:
        if how == "failing":
            raise click.ClickException(NASTY)
        say(NASTY, lead=click.style("ok", fg="green"))

    monkeypatch.setattr("app.cli.seed.seed", show)
    shown = CliRunner().invoke(switchboard, ["seed", "well"], color=True)
    assert shown.output == f"\x1b[32mok\x1b[0m{SHOWN}\n"
    failed = CliRunner().invoke(switchboard, ["seed", "failing"])
    assert (failed.exit_code, failed.output) == (1, f"Error: {SHOWN}\n")


def test_every_command_writes_by_the_same_way() -> None:
    [folder] = app.cli.__path__
    echoing = [file.name for file in Path(folder).glob("*.py") if "click.echo(" in file.read_text()]
    assert echoing == ["running.py"]


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_an_event_of_the_log_is_one_line_of_what_can_be_seen(formatter: logging.Formatter) -> None:
    forged = f"it said {NASTY}\n2026-11-26T00:00:00.000Z INFO    MCP server=all principal=admin outcome=ok"
    line = formatter.format(logging.LogRecord("app", logging.WARNING, __file__, 1, "%s", (forged,), None))
    assert line.isprintable()
    assert SHOWN.removesuffix(r"\ud800") in line


def test_a_trace_begins_no_event_and_moves_no_cursor() -> None:
    try:
        raise RuntimeError(f"{NASTY}\n2026-11-26T00:00:00.000Z INFO    MCP server=all outcome=ok")
    except RuntimeError as error:
        trace = (RuntimeError, error, error.__traceback__)
    written = TextFormatter().format(logging.LogRecord("app", logging.ERROR, __file__, 1, "failed", (), trace))
    assert SHOWN in written
    assert [line for line in written.splitlines()[1:] if line.startswith("2026-")] == []
