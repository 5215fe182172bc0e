"""What stands between backticks in a sentence or a table is as true as the blocks: commands, settings, paths, names.

Each span that is one of these is held against what it names. What can't be, or is somebody else's, stands in `NOT_RUN`
or `NOT_OURS` with its reason, and both lists hold nothing that no page says.
"""

import importlib
import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from starlette.routing import Match

from agents.command_line import command_line
from app.catalogue import SERVERS, load_servers
from app.cli.commands import switchboard
from app.main import create_app
from tests.documents.blocks import PAGES, ROOT
from tests.documents.test_env_example import OF_AGENTS, kinds, variables

NOT_RUN: Mapping[str, str] = {
    "docker compose up --build": "no Docker engine; test_installed.py does what the Dockerfile does",
    "python -m hatchling build -t wheel": "test_installed.py runs it",
    "python -m asyncio": "test_documents.py types the pages' Python blocks into it",
    "curl --path-as-is": "an option of curl's; tests/mcp_servers/test_aws_mcp.py sends such paths",
    "alembic upgrade head && alembic check": "`make check` runs it",
    "make": "the program itself",
    "pip install 'switchboard-gateway[semantic]'": "the lock of the tests has what it brings",
    "docker build --build-arg LOCK=requirements-semantic.lock .": "as `docker compose up --build`",
    "switchboard keys create | list | revoke | rotate": "four commands; tests/test_keys.py runs each",
    "KAFKA_BROKER=apache pytest tests/services/kafka tests/mcp_servers/test_kafka_*.py": "`make test-kafka` runs it",
}
NOT_OURS: Mapping[str, str] = {
    # Paths and addresses.
    "/*": "a sign of SQL",
    **dict.fromkeys(
        ("OTEL_SERVICE_NAME", "OTEL_TRACES_SAMPLER", "OTEL_EXPORTER_OTLP_HEADERS"), "of OpenTelemetry's SDK"
    ),
    **dict.fromkeys(("OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.05"), "as above"),
    "switchboard <trace id>": "what `application_name` says; tests/telemetry/test_tracing.py reads it",
    "//": "of an object's key",
    "/app": "a parameter's path, in an example",
    "/app/plan": "as above",
    "/apple": "as above",
    "/gw/gw/mcp/kafka/": "behind the proxy of docs/proxies.md",
    "/gw/mcp/kafka/": "as above",
    **dict.fromkeys(("/s", "/min", "/h"), "units of a limit"),
    "/query": "of the agents: tests/agents/test_a2a.py",
    "/knowledge": "as above",
    "/response": "as above",
    "/.well-known/agent-card.json": "as above",
    "app/routers/parcel.py": "the reader writes it",
    "switchboard.toml": "the operator writes it",
    "mcp_parcel": "as above",
    "admit_stream": "what it was called before that decision",
    # Settings and words of others.
    "hash_mem_multiplier": "PostgreSQL's",
    **dict.fromkeys(("server_lifetime", "auth_file"), "PgBouncer's"),
    **dict.fromkeys(
        ("EXPLAIN", "ANALYZE", "DISTINCT", "SELECT", "TABLE", "VALUES", "WITH", "XMLTABLE", "PUBLIC"), "SQL"
    ),
    **dict.fromkeys(("HEAD", "GET"), "HTTP"),
    **dict.fromkeys(("GSSAPI", "OAUTHBEARER"), "logins that are not supported"),
    "TMPDIR": "the system's",
}

_FENCED = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_PROGRAMS = ("switchboard", "make", "curl", "python", "python3", "docker", "npx", "pip", "pytest", "alembic", "claude")
_SETTING = re.compile(r"([A-Z][A-Z0-9_]{3,}|PORT|HOST)(?:=(.*))?")
_FILE = re.compile(
    r"[\w.<>/-]+\.(?:py|md|toml|yaml|lock|json|sql|env)|(?:app|agents|alembic|tests|docs|benchmarks)/[\w<>./-]*"
)
_ROUTE = re.compile(r"(?:(GET|POST|HEAD) )?(/[^ `]*|/)")
_RESOURCE = re.compile(r"(?:db|kafka|aws)://[^ `]+")
_OPTION = re.compile(r"(--[a-z][a-z-]+)(?:[ =].*)?")
_DOTTED = re.compile(r"(?:app|agents|tests|benchmarks)(?:\.\w+)+")
_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?:\(\))?")


class Span(NamedTuple):
    """Code within a sentence or a table."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {self.text}"


def spans_of(page: Path) -> Iterator[Span]:
    """Yield every inline code span of a page, with its line."""

    def blank(found: re.Match[str]) -> str:
        return "\n" * found[0].count("\n")

    text = _COMMENT.sub(blank, _FENCED.sub(blank, page.read_text()))
    for found in _SPAN.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Span(str(page.relative_to(ROOT)), line, " ".join(found[2].split()))


def check(text: str) -> str | None:
    """Hold a span against what it names; return what kind of thing it is, or None if it names none.

    Raises:
        AssertionError: there is no such thing.
    """
    if text in NOT_RUN or text in NOT_OURS:
        return "listed"
    program, _, _ = text.removeprefix(".venv/bin/").partition(" ")
    if program in _PROGRAMS and (program != text or program == "switchboard"):
        _check_command(text.removeprefix(".venv/bin/"))
        return "command"
    for kind, form, verify in (
        ("setting", _SETTING, _check_setting),
        ("resource", _RESOURCE, _check_resource),
        ("route", _ROUTE, _check_route),
        ("file", _FILE, _check_file),
        ("option", _OPTION, _check_option),
        ("dotted name", _DOTTED, _check_dotted),
        ("name", _NAME, _check_name),
    ):
        if form.fullmatch(text):
            verify(text)
            return kind
    return None


def _check_command(text: str) -> None:
    words = shlex.split(text)
    match words:
        case ["switchboard", *arguments]:
            _check_switchboard(arguments)
        case ["make", *targets]:
            makefile = (ROOT / "Makefile").read_text()
            for target in targets:
                name, is_variable, _ = target.partition("=")
                known = rf"\$\({name}\)" if is_variable else rf"^{re.escape(name)}:"
                assert re.search(known, makefile, re.MULTILINE), f"make has no {target}"
        case ["python", "-m", "agents", *arguments] if arguments != ["…"]:
            command_line().parse_args(arguments)
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module), f"there is no module {module}"
        case _:
            pytest.fail(f"nobody runs `{text}`: add it to NOT_RUN with its reason")


def _check_switchboard(arguments: list[str]) -> None:
    """Hold a command line against the options of its commands; `…` and `[…]` stand for what a reader chooses."""
    context = click.Context(switchboard, resilient_parsing=True)
    command: click.Command = switchboard
    arguments = [word.strip("[]") for word in arguments]
    if arguments and not arguments[0].startswith("-"):
        found = switchboard.get_command(context, arguments.pop(0))
        assert found is not None, "there is no such command"
        command = found
    while isinstance(command, click.Group) and command is not switchboard and arguments and arguments[0][0] != "-":
        found = command.get_command(context, arguments.pop(0))
        assert found is not None, f"`switchboard {command.name}` has no such command"
        command = found
    options = {name: option for option in command.get_params(context) for name in option.opts}
    choices = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    while arguments:
        word = arguments.pop(0)
        if word.startswith("-"):
            name, gives, _ = word.partition("=")
            assert name in options, f"`switchboard {command.name}` has no option {name}"
            option = options[name]
            if isinstance(option, click.Option) and not option.is_flag and not option.count and not gives and arguments:
                value = arguments.pop(0)
                if name == "--server" and value != "…":
                    assert value in SERVERS
        elif word not in ("…", "server"):
            assert choices, f"`switchboard {command.name}` takes no {word}"
            if command.name == "stdio":
                assert word in SERVERS
            elif isinstance(kind := choices[0].type, click.Choice):
                assert word in kind.choices


def _below(group: click.Group, context: click.Context) -> Iterator[click.Command]:
    """Yield the commands of a group, and of the groups in it."""
    for name in group.list_commands(context):
        if (command := group.get_command(context, name)) is not None:
            yield command
            if isinstance(command, click.Group):
                yield from _below(command, context)


def _check_option(text: str) -> None:
    found = _OPTION.fullmatch(text)
    assert found is not None
    context = click.Context(switchboard, resilient_parsing=True)
    options = {name for command in _below(switchboard, context) for each in command.params for name in each.opts}
    options |= set(re.findall(r'"(--[a-z-]+)"', (ROOT / "agents" / "command_line.py").read_text()))
    assert found[1] in options, f"no command has an option {found[1]}"


def _check_setting(text: str) -> None:
    name, _, value = text.partition("=")
    known = variables().keys() | OF_AGENTS | _other_variables()
    assert name in known, f"there is no setting {name}"
    if value and "…" not in value and name in variables():
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv(name, value.strip('"'))
            for kind in kinds():
                kind()


@cache
def _other_variables() -> frozenset[str]:
    """Return the variables that are read in other ways than by the settings of `serve`."""
    context = click.Context(switchboard, resilient_parsing=True)
    found: set[str] = {"AWS_DEFAULT_REGION"}
    for name in switchboard.list_commands(context):
        command = switchboard.get_command(context, name)
        for parameter in command.params if command else ():
            names = parameter.envvar
            found |= {names} if isinstance(names, str) else set(names or ())
    source = "".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
    return frozenset(found | set(re.findall(r'(?:environ(?:\.get)?[\[(]|getenv\()"([A-Z0-9_]+)"', source)))


def _check_resource(text: str) -> None:
    asked = text.partition("?")[0]
    declared = {uri.partition("{?")[0].replace("{+", "{") for kind in load_servers() for uri in kind.resources}
    as_template = {re.sub(r"\{\w+\}", "{}", found) for found in declared}
    forms = [re.sub(r"\\\{\w*\\\}", "[^/]+", re.escape(found)) for found in declared]
    known = re.sub(r"\{\w+\}", "{}", asked) in as_template or any(re.fullmatch(form, asked) for form in forms)
    assert known, f"there is no resource {text}"


@cache
def _files() -> tuple[str, ...]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return tuple(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())


def _check_file(text: str) -> None:
    form = "[^/]+".join(re.escape(part) for part in re.split(r"<\w+>", text.rstrip("/")))
    known = re.compile(rf"(?:.*/)?{form}(?:/.*)?")
    assert any(known.fullmatch(path) for path in _files()), f"there is no file {text}"


@cache
def _routes() -> tuple[Any, ...]:
    app = create_app(load_servers())
    return tuple(route for route in app.routes if getattr(route, "path", "") != "/{path:path}")  # tells of a wrong path


def _check_route(text: str) -> None:
    found = _ROUTE.fullmatch(text)
    assert found is not None
    path = found[2].partition("?")[0]
    for name in SERVERS if "<server>" in path else [path.split("/")[2] if path.startswith("/mcp/") else ""]:
        tools = {kind: server.tools for kind, server in zip(SERVERS, load_servers(), strict=True)}.get(name, {})
        filled = path.replace("<server>", name).replace("<tool>", next(iter(tools), "")).replace("{key}", "a/b")
        filled = re.sub(r"\{\w+\}", "abc", filled)
        for kind in ("http", "websocket"):
            scope = {"type": kind, "path": filled, "method": found[1] or "GET", "headers": [], "root_path": ""}
            if any(route.matches(scope)[0] is not Match.NONE for route in _routes()):
                break
        else:
            pytest.fail(f"nothing is served at {filled}")


def _check_dotted(text: str) -> None:
    parts = text.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            assert hasattr(found, name), f"there is no {text}"
            found = getattr(found, name)
        return
    pytest.fail(f"there is no {text}")


@cache
def _words() -> frozenset[str]:
    """Return all words of the source, its locks and its migrations."""
    places = [
        path for name in ("app", "agents", "alembic", "benchmarks", "tests") for path in (ROOT / name).rglob("*.py")
    ]
    places += [*(ROOT / "app").rglob("*.sql"), ROOT / "pyproject.toml", ROOT / "Makefile"]
    ours = [path for path in places if path != Path(__file__)]
    return frozenset(word for path in ours for word in re.findall(r"\w+", path.read_text()))


def _check_name(text: str) -> None:
    assert text.removesuffix("()") in _words(), f"the source knows no {text}"


SPANS = [span for page in PAGES for span in spans_of(page)]


@pytest.mark.parametrize("page", sorted({span.page for span in SPANS}))
def test_each_span_that_names_something_names_what_there_is(page: str) -> None:
    wrong: list[str] = []
    for span in SPANS:
        if span.page == page:
            try:
                check(span.text)
            except (AssertionError, ValueError, SystemExit, pytest.fail.Exception) as error:
                wrong.append(f"{span}: {error}")
    assert wrong == []


def test_the_lists_hold_nothing_that_no_page_says() -> None:
    said = {span.text for span in SPANS}
    assert NOT_RUN.keys() - said == set()
    assert NOT_OURS.keys() - said == set()


def test_most_of_what_pages_say_in_code_is_held_against_something() -> None:
    kinds_found = [check(span.text) for span in SPANS if span.text not in NOT_RUN.keys() | NOT_OURS.keys()]
    for kind, least in (
        ("command", 25),
        ("setting", 120),
        ("resource", 10),
        ("file", 60),
        ("route", 10),
        ("option", 5),
        ("name", 150),
    ):
        assert kinds_found.count(kind) >= least, kind


@pytest.mark.parametrize(
    "text",
    [
        *("switchboard frobnicate", "switchboard serve --no-such-option", "switchboard stdio nothing", "make nothing"),
        *("switchboard config emacs", "switchboard serve --server nothing", "python -m no_such_module", "curl -x y"),
        *("python -m agents nobody", "MAX_NOTHING", "KAFKA_SECURITY_PROTOCOL=FOO", "DATABASE_READ_POOL_SIZE=0"),
        *("app/nothing.py", "nothing.py", "kafka://nothing", "db://tickets/1/2", "/nothing", "/mcp/<server>/nothing"),
        *(
            "GET /nothing",
            "app.gateway.NOTHING",
            "agents.nothing",
            "nothing_like_this",
            "--nothing",
            "docker run",
            "alembic downgrade",
        ),
    ],
)
def test_what_names_nothing_is_a_failure(text: str) -> None:
    with pytest.raises((AssertionError, ValueError, SystemExit, pytest.fail.Exception)):
        check(text)
