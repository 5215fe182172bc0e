"""What is measured beside the product: the product with trivial tools, and an app that always says the same."""

import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any

import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import Field
from starlette.types import Receive, Scope, Send

from app.catalogue import Catalogue
from app.faces.identity import Identity
from app.guard.credentials import Keyring
from app.guard.guard import Guard
from app.guard.keys import KnownKeys, StoredKey, hash_of, token_of
from app.guard.limits import Rate
from app.guard.policy import Policy
from app.guard.vocabulary import vocabulary_of
from app.logs import set_up_logging
from app.main import create_app
from app.results import Result
from app.servers.base import BaseMCPServer
from app.servers.declaring import tool
from app.serving.process import serve
from app.settings import Settings
from app.telemetry.recorder import EndedCall, Sink


class Echo(Result):
    """A small answer."""

    customer_id: str
    limit: int


_CONSTANT = Echo(customer_id="1", limit=10).model_dump_json().encode()
_CONSTANT_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(_CONSTANT)).encode())]


class TrivialMCPServer(BaseMCPServer):
    """One tool that needs no backend: what remains is the gateway's own cost."""

    @tool(read_only=True)
    async def echo(
        self, customer_id: Annotated[str, Field(min_length=1)], limit: Annotated[int, Field(ge=1, le=100)] = 10
    ) -> Echo:
        """Answer at once."""
        return Echo(customer_id=customer_id, limit=limit)


def crowd(tools: int) -> type[BaseMCPServer]:
    """Return a server with many tools, to see whether their number costs anything."""

    def echo(number: int) -> Any:
        async def method(self: BaseMCPServer, customer_id: Annotated[str, Field(min_length=1)]) -> Echo:
            return Echo(customer_id=customer_id, limit=number)

        method.__name__ = f"echo_{number}"
        method.__doc__ = "Answer at once."
        return tool(read_only=True)(method)

    return type("CrowdMCPServer", (BaseMCPServer,), {f"echo_{n}": echo(n) for n in range(tools)})


async def _constant(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": _CONSTANT_HEADERS})
    await send({"type": "http.response.body", "body": _CONSTANT})


def constant_app() -> FastAPI:
    """Return an application that reads nothing and answers a constant."""

    class Constant(FastAPI):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            handler = super().__call__ if scope["type"] == "lifespan" else _constant
            await handler(scope, receive, send)

    app = Constant()
    app.state.gateway = create_app([TrivialMCPServer]).state.gateway
    return app


_POLICY = """
[auth]
[role.caller]
allow = ["trivial:read"]
limit = "999999999/s burst 999999999"
"""
_KEY_ID = "benchmarkkey"
KEY = token_of(_KEY_ID, bytes(32))
"""Of whoever calls the guarded app."""


def guarded_app() -> FastAPI:
    """Return the trivial tool behind a guard that has to look at everything: a key, its role and the role's limit."""
    with NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(_POLICY)
        file.flush()
        policy = Policy.load(Path(file.name), vocabulary_of(Catalogue([TrivialMCPServer])))
    keys = KnownKeys([StoredKey(_KEY_ID, hash_of(KEY.encode()), frozenset({"caller"}))])
    identity = Identity(Keyring(lambda: nullcontext(keys), Rate.read("60/min")))
    return create_app([TrivialMCPServer], guard=Guard(policy), identity=identity)


BARE = "bare"
"""The constant application under uvicorn as it comes."""
APPS = {
    "constant": constant_app,
    "trivial": lambda: create_app([TrivialMCPServer]),
    "guarded": guarded_app,
    "crowd of 20": lambda: create_app([TrivialMCPServer, crowd(20)]),
    "crowd of 500": lambda: create_app([TrivialMCPServer, crowd(500)]),
    "product": create_app,
}


TURN_ACCOUNT = signal.SIGUSR1
"""Turns the account of calls off, and on again, that metrics and the console are made of; the log stays. Two processes
that run the same differ by more than it costs."""


class _Account:
    """The sinks of a gateway, which can be turned off."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks, self._others = sinks, ()

    def turn(self) -> None:
        self._sinks, self._others = self._others, self._sinks

    def calls_ended(self, calls: Sequence[EndedCall]) -> None:
        for sink in self._sinks:
            sink.calls_ended(calls)


async def _serve_bare(settings: Settings) -> None:
    """Serve the constant application by uvicorn alone, as anybody would: with nothing of ours around it."""
    bare = uvicorn.Config(
        _constant, port=settings.port, loop="none", http="httptools", ws="none", lifespan="off", access_log=False
    )
    await uvicorn.Server(bare).serve()


async def _serve(app: FastAPI, settings: Settings) -> None:
    gateway = app.state.gateway
    account = _Account(gateway._sinks)
    gateway._sinks = (account,)
    asyncio.get_running_loop().add_signal_handler(TURN_ACCOUNT, account.turn)
    await serve(app, settings)


def main(arguments: Sequence[str]) -> None:
    """Serve one of the apps on a port of loopback, logging as in production."""
    name, port = arguments
    settings = Settings(port=int(port))
    set_up_logging(settings.log_level, settings.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve_bare(settings) if name == BARE else _serve(APPS[name](), settings))


if __name__ == "__main__":
    main(sys.argv[1:])
