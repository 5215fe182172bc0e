"""`python -m agents`: run one agent or all of them, or watch one answer a question."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import uvicorn
from dotenv import dotenv_values
from pydantic import ValidationError
from starlette.applications import Starlette

from agents.a2a import RemoteAgent, serve_agents
from agents.base import A2AAgent, Answering
from agents.client import ServerConfig
from agents.confined import VICTIM, run_confined_demo
from agents.coordinator import CoordinatorAgent, Role
from agents.demo import CUSTOMER, QUESTION, run_demo
from agents.knowledge import KnowledgeAgent
from agents.query import QueryAgent
from agents.response import ResponseAgent

_GATEWAY = "http://127.0.0.1:8000"
_PROJECT = Path(__file__).parents[1]
_LOCAL_STACK = Path(".switchboard/env")
"""Where `make run` leaves its gateway's address."""
_ROLES: Mapping[Role, type[QueryAgent | KnowledgeAgent | ResponseAgent]] = {
    "query": QueryAgent,
    "knowledge": KnowledgeAgent,
    "response": ResponseAgent,
}
_STOPPING_SECONDS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line names; return the process's exit code."""
    parser = command_line()
    options = parser.parse_args(arguments)
    _load_variables(options.env_file)
    try:
        addresses = options.gateway or [
            _gateway(url.strip()) for url in os.environ.get("GATEWAY_URL", "").split(",") if url
        ]
    except argparse.ArgumentTypeError as error:
        parser.error(f"GATEWAY_URL: {error}")
    gateway = {"gateway": {"uri": addresses or [_GATEWAY], "token": os.environ.get("GATEWAY_TOKEN")}}
    if options.command == "demo":
        return _show(run_demo(gateway, " ".join(options.question) or QUESTION, options.customer))
    if options.command == "confined":
        return _show(run_confined_demo(gateway, options.other))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # One line for each request of the client would drown the agents' own.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    app = application(options, gateway)
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_STOPPING_SECONDS,
    )
    return 0


def _load_variables(given: Path | None) -> None:
    """Take variables from a file, and from `make run` where its gateway listens; those of the environment go first."""
    found = given or next((path for path in (Path(".env"), _PROJECT / ".env") if path.is_file()), None)
    variables = dict(dotenv_values(found)) if found else {}
    for name in ("GATEWAY_URL",) if _LOCAL_STACK.is_file() else ():
        variables.setdefault(name, dotenv_values(_LOCAL_STACK).get(name))
    for name, value in variables.items():
        if value is not None and not os.environ.get(name):
            os.environ[name] = value


def _show(film: Coroutine[Any, Any, int]) -> int:
    output: Any = sys.stdout
    # A terminal without Unicode sees question marks, not a traceback.
    output.reconfigure(errors="replace")
    try:
        return asyncio.run(film)
    except BrokenPipeError:
        # The viewer has left (`| head`). What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
        return 141


def application(options: argparse.Namespace, gateway: Mapping[str, Any]) -> Starlette:
    """Return the agents that the command line names, as an ASGI application."""
    command: str = options.command
    agents: dict[str, A2AAgent] = {}
    peers: dict[Role, Answering] = {}
    if command in _ROLES:
        role = cast("Role", command)
        agents[""] = _ROLES[role](f"{role}-agent", gateway)
    elif command == "all":
        for role, kind in _ROLES.items():
            agents[f"/{role}"] = peers[role] = kind(f"{role}-agent", gateway)
    else:
        peers.update((cast("Role", role), RemoteAgent(url)) for role, url in options.peer)
    if peers:
        agents[""] = CoordinatorAgent("coordinator", gateway, peers=peers)
    url = (options.public_url or f"http://{options.host}:{options.port}").rstrip("/")
    return serve_agents(agents, url, allowed_hosts=options.allowed_host)


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m agents", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="agent")
    descriptions = {
        "query": "answer customers' questions",
        "knowledge": "answer questions from the help articles",
        "response": "hand on the answers that wait in agent-responses",
        "coordinator": "route between agents that run elsewhere, as each --peer says",
        "all": "run the coordinator and all agents in one process",
    }
    for name, description in descriptions.items():
        command = commands.add_parser(name, help=description, description=description)
        _add_gateway(command)
        command.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
        command.add_argument("--port", type=int, default=9000, help="port to listen on (%(default)s)")
        command.add_argument("--public-url", help="the address that the agent card names, behind a proxy")
        command.add_argument(
            "--allowed-host", action="append", default=[], metavar="NAME", help="a further name to answer for"
        )
        if name == "coordinator":
            command.add_argument(
                "--peer",
                action="append",
                required=True,
                type=_peer,
                metavar="ROLE=URL",
                help="where an agent is, such as query=http://127.0.0.1:9001; once for each",
            )
    demo = commands.add_parser("demo", help="watch a question being answered", description="Watch one answer.")
    _add_gateway(demo)
    demo.add_argument("question", nargs="*", help=f"the customer's question ({QUESTION})")
    demo.add_argument("--customer", default=CUSTOMER, metavar="ID", help="who asks (%(default)s)")
    about = "Watch the session of GATEWAY_TOKEN, bound to one customer, being talked into reading another."
    confined = commands.add_parser("confined", help="watch a bound session fail to read another", description=about)
    _add_gateway(confined)
    confined.add_argument(
        "--other",
        default=VICTIM,
        metavar="ID",
        help="whom it is told to read: a customer that exists, or the refusals prove nothing (%(default)s)",
    )
    return parser


def _add_gateway(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--gateway",
        action="append",
        type=_gateway,
        metavar="URL",
        help=f"the gateway's base URL (GATEWAY_URL, or {_GATEWAY}); give it several times for several equally good "
        "gateways. The key for them is read from GATEWAY_TOKEN.",
    )
    command.add_argument(
        "--env-file",
        type=_file,
        metavar="FILE",
        help="a file of variables; without it .env, here or beside the source. The environment goes first.",
    )


def _file(text: str) -> Path:
    if not (path := Path(text)).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return path


def _gateway(text: str) -> str:
    try:
        ServerConfig.model_validate({"uri": text})
    except ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an http(s):// or ws(s):// address") from None
    return text


def _peer(text: str) -> tuple[str, str]:
    role, equals, url = text.partition("=")
    if not equals or role not in _ROLES:
        raise argparse.ArgumentTypeError(f"expected ROLE=URL with one of the roles {', '.join(_ROLES)}")
    return role, url
