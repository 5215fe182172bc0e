"""JSON-RPC 2.0 as it comes in: what every transport takes for a message, and what it answers to all else."""

import json
from typing import Any, Never, cast

import mcp_types as types
import msgspec
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from app.errors import INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR
from app.exact_json import BYTES_AS_BASE64, NotExact, NotJson, read, refuse_what_takes_long, why_not_json

RequestId = int | str

_request: TypeAdapter[types.JSONRPCRequest] = TypeAdapter(types.JSONRPCRequest)
_other_message: TypeAdapter[types.JSONRPCNotification | types.JSONRPCResponse | types.JSONRPCError] = TypeAdapter(
    types.JSONRPCNotification | types.JSONRPCResponse | types.JSONRPCError
)
_LONGEST_INTEGER = 4300
"""Digits that Python, and the parser before it, read into an integer."""


_ARGUMENTS = ("params", "arguments")


class _CallParams(msgspec.Struct):
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class _Call(msgspec.Struct):
    params: _CallParams


class _UnreadRequest(msgspec.Struct):
    method: str
    id: RequestId


_call = msgspec.json.Decoder(_Call)
_unread = msgspec.json.Decoder(_UnreadRequest)


class NotAMessage(Exception):
    """What came is not one JSON-RPC message that we take.

    Args:
        code: of JSON-RPC.
        reason: what is wrong and what to do; it repeats nothing of the message.
        request_id: of the request, where it could be told.
        data: what a program may want to know beside the code.
    """

    def __init__(self, code: int, reason: str, request_id: RequestId | None = None, data: Any = None) -> None:
        super().__init__(reason)
        error = {"code": code, "message": reason} | ({} if data is None else {"data": data})
        self.answer = to_json({"jsonrpc": "2.0", "id": request_id, "error": error})
        """What the sender is told, as one message."""


def read_message(raw: bytes | str) -> types.JSONRPCMessage:
    """Return the one message that a body, a frame or a line is.

    Raises:
        NotAMessage: it is none; whoever sent it gets its `answer`. That has the request's id wherever a request can be
            told, so that nobody waits for an answer that is there: what JSON allows and no text or number can hold
            (half a surrogate pair, say) spoils a request but not its id. Arguments of a tool that are JSON, but would
            come out as something else, are the gateway's to refuse.
    """
    _refuse_what_takes_long(raw)
    try:
        request = _request.validate_json(raw, by_name=False)
        _refuse_altered(raw, request.id)
        return request
    except ValidationError as error:
        # Nearly everything is a request; all else is looked at again, which costs only those who send it.
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            _refuse_unreadable(raw, str(first.get("ctx", {}).get("error")))
    message = from_json(raw)
    if isinstance(message, list):
        raise NotAMessage(
            INVALID_REQUEST,
            "Arrays of messages are not taken: send one message at a time. "
            "POST /mcp/batch runs many calls for one round trip.",
        )
    if _is_request(message):
        _refuse_request(message)
    _refuse_altered(raw, None)
    try:
        return _other_message.validate_python(message, by_name=False)
    except ValidationError:
        raise NotAMessage(INVALID_REQUEST, "Not one JSON-RPC 2.0 message") from None


def arguments_of(call: bytes | str) -> bytes:
    """Return the arguments object of a `tools/call` that `read_message` has taken, as the caller wrote it.

    The SDK's own reading has lost what no double and no dict can hold.
    """
    arguments = bytes(_call.decode(call).params.arguments)
    return b"{}" if arguments == b"null" else arguments


def _refuse_what_takes_long(raw: bytes | str) -> None:
    try:
        refuse_what_takes_long(raw.encode() if isinstance(raw, str) else raw)
    except NotExact as error:
        raise NotAMessage(INVALID_REQUEST, str(error), _unread_id(raw)) from None


def _unread_id(raw: bytes | str) -> RequestId | None:
    """Return the id of a request that is not read."""
    try:
        return _unread.decode(raw).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _refuse_altered(raw: bytes | str, request_id: RequestId | None) -> None:
    try:
        read(raw.encode() if isinstance(raw, str) else raw)
    except NotJson as error:
        _refuse_unreadable(raw, str(error))
    except NotExact as error:
        outside = [(place, why) for place, why in error.defects if place[:2] != _ARGUMENTS or len(place) == 2]
        if outside:
            raise NotAMessage(INVALID_REQUEST, str(NotExact(outside)), request_id) from None


def _is_request(message: Any) -> bool:
    return isinstance(message, dict) and {"method", "id"} <= cast("dict[str, Any]", message).keys()


def _request_id(message: Any) -> RequestId | None:
    """Return the id of a request, or None if it is none that could be repeated."""
    if not _is_request(message):
        return None
    found = message["id"]
    if isinstance(found, str):
        # Half a surrogate pair is no character, so no encoding can write it.
        return found if found.isascii() or not any("\ud800" <= c <= "\udfff" for c in found) else None
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _refuse_request(message: dict[str, Any]) -> Never:
    if message.get("jsonrpc") != "2.0" or not isinstance(message["method"], str):
        raise NotAMessage(INVALID_REQUEST, "Not one JSON-RPC 2.0 message")
    request_id = _request_id(message)
    if request_id is None:
        raise NotAMessage(INVALID_REQUEST, "id: expected a string or an integer; a notification has no id at all")
    raise NotAMessage(INVALID_PARAMS, "params: expected an object", request_id)


def _refuse_unreadable(raw: bytes | str, reason: str) -> Never:
    """Refuse what the parser did not take, under the id that the standard library, which takes more, may find."""
    try:
        text = raw if isinstance(raw, str) else raw.decode()
        message = json.loads(text, parse_int=_integer, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise NotAMessage(PARSE_ERROR, f"Not JSON: {why_not_json(raw, reason)}") from None
    if "hex escape" in reason:
        reason = (
            r"a text holds half of a surrogate pair (\ud800 to \udfff alone), which is no character; "
            f"{BYTES_AS_BASE64}"
        )
    raise NotAMessage(INVALID_REQUEST, f"Can't be read: {reason}", _request_id(message))


def _integer(digits: str) -> int:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else 0


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")
