"""How one server is reached at one address: REST over HTTP, or MCP over a WebSocket.

A transport makes one attempt and translates what goes wrong into `agents.errors`. It never repeats
anything: which failures are worth another attempt, and where, is decided in `agents.client`.
"""

import asyncio
import base64
import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, cast
from urllib.parse import quote

import httpx
from pydantic_core import from_json, to_json
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.protocol import State
from websockets.typing import Subprotocol

from agents.errors import (
    CallFailed,
    CallTimeout,
    ConnectionFailed,
    ConnectionLost,
    InvalidArguments,
    MalformedAnswer,
    failure_of_problem,
    failure_of_status,
    seconds_to_wait,
)

JsonObject = dict[str, Any]

_REVISION = "2026-07-28"
"""MCP without sessions: each request stands for itself, so that a new connection needs no introduction."""
_LARGEST_MESSAGE = 64 * 1024 * 1024
_MOST_FRAGMENTS = 10_000
_UNANSWERED = 48
"""Requests of one WebSocket that are under way; further ones wait. A gateway refuses more than 64, and may still count
those that were just given up."""


class Transport(Protocol):
    """One attempt at one address. Every method raises `CallFailed` and nothing else, beside cancellation."""

    async def call_tool(self, tool: str, arguments: Mapping[str, Any]) -> JsonObject:
        """Return the tool's result object."""
        ...

    async def list_tools(self) -> list[JsonObject]:
        """Return the server's tools as MCP describes them."""
        ...

    async def read_resource(self, uri: str) -> Any:
        """Return a resource: parsed if it is JSON, else as text or bytes."""
        ...

    async def close(self) -> None:
        """Release the connection."""
        ...


class HttpTransport:
    """A server's REST routes.

    Args:
        http: the connections, shared by all servers of a client.
        url: where the server stands, such as `http://127.0.0.1:8000/mcp/database`.
        headers: sent with every request.
    """

    def __init__(self, http: httpx.AsyncClient, url: str, headers: Mapping[str, str]) -> None:
        self._http = http
        self._url = url
        self._headers = headers

    async def call_tool(self, tool: str, arguments: Mapping[str, Any]) -> JsonObject:
        _, content = await self._send("POST", f"/tools/{_quoted(tool)}", body=arguments)
        return _object(content, self._url)

    async def list_tools(self) -> list[JsonObject]:
        _, content = await self._send("GET", "/tools")
        return _objects(_object(content, self._url).get("tools"), self._url)

    async def read_resource(self, uri: str) -> Any:
        headers, content = await self._send("GET", f"/resources/read?uri={_quoted(uri)}")
        media_type = headers.get("content-type", "").partition(";")[0].strip()
        return _content(media_type, content, self._url)

    async def batch(self, request: Mapping[str, Any]) -> list[JsonObject]:
        """Run a batch, where the URL is that of a gateway's `/mcp`; return the entries of its answer."""
        _, content = await self._send("POST", "/batch", body=request)
        return _objects(_object(content, self._url).get("results"), self._url)

    async def close(self) -> None:
        """Do nothing: the connections belong to the client."""

    async def _send(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None
    ) -> tuple[httpx.Headers, bytes]:
        """Return the headers and the body of an answer that is a success."""
        headers = {**self._headers, "content-type": "application/json"} if body is not None else self._headers
        content = None if body is None else _json(body)
        try:
            async with self._http.stream(method, self._url + path, content=content, headers=headers) as response:
                answered = await self._read(response)
        except (httpx.ConnectError, httpx.ConnectTimeout, UnicodeError) as error:  # the last of what is no host's name
            raise ConnectionFailed(f"Nothing answers at {self._url}.") from error
        except httpx.TimeoutException as error:
            raise CallTimeout(f"{self._url} did not answer in time.") from error
        except httpx.TransportError as error:
            raise ConnectionLost(f"The connection to {self._url} broke before the answer was whole.") from error
        except httpx.DecodingError as error:
            raise MalformedAnswer(f"The answer of {self._url} is damaged.") from error
        if response.status_code == 200:
            return response.headers, answered
        raise _refusal(response.status_code, response.headers, answered, self._url)

    async def _read(self, response: httpx.Response) -> bytes:
        """Return a body, unless it is larger than anybody asked for, be it compressed or without an end."""
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > _LARGEST_MESSAGE:
                raise MalformedAnswer(f"The answer of {self._url} is larger than {_LARGEST_MESSAGE:,} bytes.")
        return bytes(body)


class WebSocketTransport:
    """A server's WebSocket: JSON-RPC 2.0, any number of requests under way on one connection.

    The connection is made by the first request, and again by the next one after it broke.

    Args:
        url: the WebSocket's address.
        headers: sent with the handshake.
        connect_timeout: seconds that the handshake may take, and the farewell.
    """

    def __init__(self, url: str, headers: Mapping[str, str], connect_timeout: float) -> None:
        self._url = url
        self._headers = {name: value for name, value in headers.items() if name != "user-agent"}
        self._user_agent = headers.get("user-agent", "client")
        self._connect_timeout = connect_timeout
        self._link: _Link | None = None
        self._is_closed = False
        self._connecting = asyncio.Lock()
        name, _, version = self._user_agent.partition("/")
        self._meta = {
            "io.modelcontextprotocol/protocolVersion": _REVISION,
            "io.modelcontextprotocol/clientInfo": {"name": name, "version": version or "0"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }

    async def call_tool(self, tool: str, arguments: Mapping[str, Any]) -> JsonObject:
        result = await self._request("tools/call", {"name": tool, "arguments": arguments})
        answer = result.get("structuredContent", _text(result))
        answered = _object(answer, self._url) if isinstance(answer, str) else answer
        if not isinstance(answered, dict):
            raise MalformedAnswer(f"The answer of {self._url} holds no result object.")
        if result.get("isError"):
            # A failure is its problem object as text: it would not satisfy the tool's output schema.
            raise failure_of_problem(cast("JsonObject", answered))
        return cast("JsonObject", answered)

    async def list_tools(self) -> list[JsonObject]:
        return _objects((await self._request("tools/list", {})).get("tools"), self._url)

    async def read_resource(self, uri: str) -> Any:
        contents = _objects((await self._request("resources/read", {"uri": uri})).get("contents"), self._url)
        if len(contents) != 1:
            raise MalformedAnswer(f"{self._url} answered {len(contents)} contents for one resource.")
        [content] = contents
        if "blob" in content:
            try:
                return base64.b64decode(str(content["blob"]))
            except ValueError as error:
                raise MalformedAnswer(
                    f"The resource that {self._url} answered is not the base64 that it says."
                ) from error
        try:
            text = str(content.get("text", "")).encode()
        except UnicodeEncodeError as error:
            raise MalformedAnswer(f"The resource that {self._url} answered holds half of a surrogate pair.") from error
        return _content(str(content.get("mimeType", "")), text, self._url)

    async def close(self) -> None:
        """Close the connection, for good; requests under way fail."""
        async with self._connecting:
            self._is_closed = True
            if self._link is not None:
                await self._link.close()

    async def _request(self, method: str, params: JsonObject) -> JsonObject:
        async with self._connecting:
            if self._is_closed:  # as httpx says it; nobody would close another connection
                raise RuntimeError("Cannot send a request, as the client has been closed.")
            if self._link is None or not self._link.is_open:
                self._link = _Link(await self._connect(), self._url)
            link = self._link
        return await link.request(method, {**params, "_meta": self._meta})

    async def _connect(self) -> ClientConnection:
        try:
            return await _Connect(
                self._url,
                subprotocols=[Subprotocol("mcp")],
                additional_headers=self._headers,
                user_agent_header=self._user_agent,
                open_timeout=self._connect_timeout,
                close_timeout=self._connect_timeout,
                max_size=_LARGEST_MESSAGE,
            )
        except InvalidStatus as error:
            answer = error.response
            raise _refusal(answer.status_code, answer.headers, bytes(answer.body or b""), self._url) from error
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI, ConnectionClosed, UnicodeError) as error:
            raise ConnectionFailed(f"No WebSocket answers at {self._url}.") from error


class _Connect(connect):
    """Opens a WebSocket where it was said to be, and nowhere else: a redirect is an answer that is no gateway's.

    Following one, the library fails in ways of its own at addresses that are none, and goes to hosts that nobody named.
    """

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class _Link:
    """One WebSocket connection and the requests that wait on it."""

    def __init__(self, connection: ClientConnection, url: str) -> None:
        self._connection = connection
        self._url = url
        self._numbers = itertools.count(1)
        self._places = asyncio.Semaphore(_UNANSWERED)
        self._waiting: dict[int, asyncio.Future[JsonObject]] = {}
        self._cancellations: set[asyncio.Task[None]] = set()
        self._reader = asyncio.create_task(self._read())

    @property
    def is_open(self) -> bool:
        """Whether a request sent now could be answered: without a reader nobody would ever hear of it."""
        return self._connection.state is State.OPEN and not self._reader.done()

    async def request(self, method: str, params: JsonObject) -> JsonObject:
        async with self._places:
            return await self._ask(method, params)

    async def _ask(self, method: str, params: JsonObject) -> JsonObject:
        number = next(self._numbers)
        answer: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            await self._send({"id": number, "method": method, "params": params})
            return await answer
        except ConnectionClosed as error:
            raise self._lost() from error
        except asyncio.CancelledError:
            # Nobody waits any more: the gateway can stop the tool. Our own cancellation must not wait for that.
            task = asyncio.create_task(self._cancel(number, params["_meta"]))
            self._cancellations.add(task)
            task.add_done_callback(self._cancellations.discard)
            raise
        finally:
            del self._waiting[number]
            if answer.done() and not answer.cancelled():
                answer.exception()

    async def close(self) -> None:
        await self._connection.close()
        await asyncio.wait([self._reader, *self._cancellations])

    async def _cancel(self, number: int, meta: JsonObject) -> None:
        params = {"requestId": number, "reason": "the caller gave up", "_meta": meta}
        with suppress(ConnectionClosed):
            await self._send({"method": "notifications/cancelled", "params": params})

    async def _send(self, message: JsonObject) -> None:
        await self._connection.send(_json({"jsonrpc": "2.0", **message}).decode())

    async def _read(self) -> None:
        failure: CallFailed = self._lost()
        try:
            while True:
                self._take(await self._message())
        except ConnectionClosed:
            pass
        except MalformedAnswer as error:
            failure = error
        finally:
            # However the reader ends, nobody waits for what it would have read.
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(failure)
        await self._connection.close()

    async def _message(self) -> bytes:
        """Return the next message, whose fragments are bounded in number, too: empty ones have no size."""
        fragments: list[bytes] = []
        async for fragment in self._connection.recv_streaming(decode=False):
            fragments.append(fragment)
            if len(fragments) > _MOST_FRAGMENTS:
                raise MalformedAnswer(f"{self._url} sent a message in more than {_MOST_FRAGMENTS:,} fragments.")
        return b"".join(fragments)

    def _take(self, text: bytes) -> None:
        """Hand an answer to who waits for it.

        Raises:
            MalformedAnswer: it is no message, or an answer that does not say to which request. Whoever it was meant for
                can't be told, so the whole link has failed.
        """
        message = _object(text, self._url)
        if "method" in message and not message.keys() & {"result", "error"}:
            # A notice, or a question of the server: nothing here subscribes to anything or answers questions.
            return
        number = message.get("id")
        # Not isinstance: True is 1 to Python, and would answer the first request.
        if type(number) is not int:
            raise MalformedAnswer(f"{self._url} answered without the number of a request.")
        answer = self._waiting.get(number)
        if answer is None or answer.done():
            # Nobody waits for it any more.
            return
        result = message.get("result")
        if isinstance(result, dict):
            answer.set_result(cast("JsonObject", result))
        else:
            answer.set_exception(_failure_of_rpc_error(message.get("error"), self._url))

    def _lost(self) -> ConnectionLost:
        return ConnectionLost(f"The WebSocket to {self._url} broke before the answer.")


def _text(result: JsonObject) -> str:
    """Return the text of a tool's result."""
    blocks = _objects(result.get("content", []), "The tool")
    return "".join(str(block.get("text", "")) for block in blocks)


def _failure_of_rpc_error(error: Any, where: str) -> CallFailed:
    data: Any = cast("JsonObject", error).get("data") if isinstance(error, dict) else None
    if isinstance(data, dict) and "code" in data:
        return failure_of_problem(cast("JsonObject", data))
    message = cast("JsonObject", error).get("message") if isinstance(error, dict) else None
    said = message if isinstance(message, str) and message else "no message"
    return MalformedAnswer(f"{where} answered with a failure that it does not explain: {said}.")


def _quoted(text: str) -> str:
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as error:
        raise InvalidArguments("A name holds half of a surrogate pair, which UTF-8 can't write.") from error


def _json(value: Mapping[str, Any]) -> bytes:
    # NaN goes out as it is: the gateway refuses it by name, where null in its place would pass for a value.
    try:
        return to_json(value, inf_nan_mode="constants")
    except ValueError as error:
        raise InvalidArguments(f"The arguments can't be written as JSON: {error}.") from error


def _refusal(status: int, headers: Mapping[str, str], body: bytes, where: str) -> CallFailed:
    """Return the exception for an HTTP answer that is no success, a refused handshake's included."""
    retry_after = seconds_to_wait(headers.get("retry-after"))
    try:
        problem = _parsed(body)
    except ValueError:
        problem = None
    if isinstance(problem, dict) and "code" in problem:
        return failure_of_problem(cast("JsonObject", problem), retry_after)
    return failure_of_status(status, where, retry_after)


def _parsed(content: bytes | str) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: it is none, or nested deeper than anybody reads.
    """
    try:
        return from_json(content)
    except ValueError as error:
        if "recursion limit" not in str(error):
            raise
        # The fast parser reads 200 levels. What somebody stored that deep comes back with those of an answer around it.
        try:
            return json.loads(content)
        except RecursionError:
            raise ValueError("nested too deeply") from error


def _object(content: bytes | str, where: str) -> JsonObject:
    try:
        parsed = _parsed(content)
    except ValueError as error:
        raise MalformedAnswer(f"The answer of {where} is not JSON.") from error
    if not isinstance(parsed, dict):
        raise MalformedAnswer(f"The answer of {where} is not a JSON object.")
    return cast("JsonObject", parsed)


def _objects(value: Any, where: str) -> list[JsonObject]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in cast("Sequence[Any]", value)):
        raise MalformedAnswer(f"The answer of {where} lacks the list that was asked for.")
    return cast("list[JsonObject]", value)


def _content(media_type: str, content: bytes, where: str) -> Any:
    if media_type == "application/json" or media_type.endswith("+json"):
        try:
            return _parsed(content)
        except ValueError as error:
            raise MalformedAnswer(f"The resource that {where} answered is not the JSON that it says.") from error
    return content.decode(errors="replace") if media_type.startswith("text/") else content
