"""What the official conformance suites call: `test_*` tools, resources and prompts, served through our own faces.

The names, texts and schemas are the suites'. What a scenario checks beyond them is the gateway's doing.
"""

import base64
import hashlib
import hmac
import json
import secrets
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import mcp_types as types
from mcp import MCPDeprecationWarning, MCPError
from mcp.shared.message import ServerMessageMetadata

from app.errors import UnknownResource
from app.results import ProtocolResult
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext, JsonObject
from app.servers.dynamic import DynamicTool
from app.servers.resources import Resource, Update
from app.servers.tools import Tool

IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
AUDIO = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="

SCHEMA_2020_12: JsonObject = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}

Answer = types.CallToolResult | types.InputRequiredResult | types.ErrorData
_HANDLERS: dict[str, Callable[[JsonObject, CallContext], Awaitable[Answer]]] = {}
_INPUTS: dict[str, JsonObject] = {"json_schema_2020_12_tool": SCHEMA_2020_12}
_STATE_KEY = secrets.token_bytes(32)


def _fixture(
    name: str,
) -> Callable[[Callable[[JsonObject, CallContext], Awaitable[Answer]]], Callable[..., Awaitable[Answer]]]:
    def register(handler: Callable[[JsonObject, CallContext], Awaitable[Answer]]) -> Callable[..., Awaitable[Answer]]:
        _HANDLERS[name] = handler
        return handler

    return register


def _text(text: str, *, failed: bool = False) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=failed)


def _embedded(uri: str, media_type: str, text: str) -> types.EmbeddedResource:
    return types.EmbeddedResource(resource=types.TextResourceContents(uri=uri, mime_type=media_type, text=text))


_CONTENTS: dict[str, list[Any]] = {
    "test_simple_text": [types.TextContent(text="This is a simple text response for testing.")],
    "test_image_content": [types.ImageContent(data=IMAGE, mime_type="image/png")],
    "test_audio_content": [types.AudioContent(data=AUDIO, mime_type="audio/wav")],
    "test_embedded_resource": [
        _embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")
    ],
    "test_multiple_content_types": [
        types.TextContent(text="Multiple content types test:"),
        types.ImageContent(data=IMAGE, mime_type="image/png"),
        _embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ],
    "json_schema_2020_12_tool": [types.TextContent(text="Called.")],
}


# Tools that talk while they run


@_fixture("test_error_handling")
async def _fail(arguments: JsonObject, context: CallContext) -> Answer:
    return _text("This tool intentionally returns an error for testing", failed=True)


@_fixture("test_tool_with_progress")
async def _report_progress(arguments: JsonObject, context: CallContext) -> Answer:
    for done in (0, 50, 100):
        await context.report_progress(done, 100, f"Completed step {done} of 100")
    return _text("Progress reported")


@_fixture("test_tool_with_logging")
@_fixture("test_logging_tool")
async def _log(arguments: JsonObject, context: CallContext) -> Answer:
    for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        with warnings.catch_warnings():
            # Deprecated by 2026-07-28, but 2025's clients are still served.
            warnings.simplefilter("ignore", MCPDeprecationWarning)
            sending = context.session.session.send_log_message(
                "info", line, related_request_id=context.session.request_id
            )
        await sending
    return _text("Tool with logging executed successfully")


async def _ask_client(context: CallContext, request: types.ServerRequest, answer: type[Any]) -> Any:
    metadata = ServerMessageMetadata(related_request_id=context.session.request_id)
    return await context.session.session.send_request(request, answer, metadata=metadata)


@_fixture("test_sampling")
async def _sample(arguments: JsonObject, context: CallContext) -> Answer:
    request = _sampling(str(arguments["prompt"]), 100)
    try:
        answer = await _ask_client(context, request, types.CreateMessageResult)
    except MCPError as error:
        return _text(f"Sampling is not supported: {error}", failed=True)
    return _text(f"LLM response: {answer.content.text}")


async def _elicit(context: CallContext, message: str, schema: JsonObject) -> Answer:
    try:
        answer = await _ask_client(context, _elicitation(message, schema), types.ElicitResult)
    except MCPError as error:
        return _text(f"Elicitation is not supported: {error}", failed=True)
    return _text(f"User response: action={answer.action}, content={json.dumps(answer.content or {})}")


@_fixture("test_elicitation")
async def _elicit_response(arguments: JsonObject, context: CallContext) -> Answer:
    properties: JsonObject = {"username": {"type": "string"}, "email": {"type": "string"}}
    schema: JsonObject = {"type": "object", "properties": properties, "required": ["username", "email"]}
    return await _elicit(context, str(arguments["message"]), schema)


@_fixture("test_elicitation_sep1034_defaults")
async def _elicit_defaults(arguments: JsonObject, context: CallContext) -> Answer:
    properties: JsonObject = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return await _elicit(context, "Please review the defaults", {"type": "object", "properties": properties})


@_fixture("test_elicitation_sep1330_enums")
async def _elicit_enums(arguments: JsonObject, context: CallContext) -> Answer:
    titled: list[Any] = [{"const": f"value{n}", "title": f"Option {n}"} for n in (1, 2, 3)]
    plain: list[Any] = ["option1", "option2", "option3"]
    properties: JsonObject = {
        "untitledSingle": {"type": "string", "enum": plain},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {"type": "string", "enum": plain, "enumNames": ["Option One", "Option Two", "Option Three"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    return await _elicit(context, "Please select options", {"type": "object", "properties": properties})


# Tools that need the client's input in 2026-07-28: they end, and are called again with it


def _elicitation(message: str, schema: JsonObject) -> types.ElicitRequest:
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def _field(name: str, kind: str = "string", message: str = "Please answer") -> types.ElicitRequest:
    return _elicitation(message, {"type": "object", "properties": {name: {"type": kind}}, "required": [name]})


def _sampling(prompt: str, max_tokens: int) -> types.CreateMessageRequest:
    message = types.SamplingMessage(role="user", content=types.TextContent(text=prompt))
    return types.CreateMessageRequest(
        params=types.CreateMessageRequestParams(messages=[message], max_tokens=max_tokens)
    )


def _signed(state: str) -> str:
    return f"{state}.{hmac.new(_STATE_KEY, state.encode(), hashlib.sha256).hexdigest()}"


def _verified(signed: str) -> str | None:
    """Return the state that we signed, or None: a client may send whatever it likes."""
    state = signed.rpartition(".")[0]
    return state if hmac.compare_digest(_signed(state), signed) else None


def _needs(
    name: str, requests: Mapping[str, types.InputRequest], *, stateful: bool = False
) -> Callable[[JsonObject, CallContext], Awaitable[Answer]]:
    """Return a tool that asks until every request has its answer."""

    async def ask(arguments: JsonObject, context: CallContext) -> Answer:
        params: Mapping[str, Any] = context.session.params or {}
        state = params.get("requestState")
        if state is not None and (not isinstance(state, str) or _verified(state) != name):
            return types.ErrorData(code=types.INVALID_PARAMS, message="requestState: this server did not sign it")
        answers: Mapping[str, Any] = params.get("inputResponses") or {}
        if not all(key in answers for key in requests) or (stateful and state is None):
            return types.InputRequiredResult(
                input_requests=dict(requests), request_state=_signed(name) if stateful else None
            )
        return _text("state-ok" if stateful else f"Hello, {answers!s}!")

    return ask


for _name, _requests, _stateful in (
    ("elicitation", {"user_name": _field("name", message="What is your name?")}, False),
    ("sampling", {"capital_question": _sampling("What is the capital of France?", 100)}, False),
    ("list_roots", {"client_roots": types.ListRootsRequest()}, False),
    ("request_state", {"confirm": _field("ok", "boolean")}, True),
    ("tampered_state", {"confirm": _field("ok", "boolean")}, True),
    (
        "multiple_inputs",
        {
            "user_name": _field("name"),
            "greeting": _sampling("Generate a greeting", 50),
            "client_roots": types.ListRootsRequest(),
        },
        True,
    ),
):
    _HANDLERS[f"test_input_required_result_{_name}"] = _needs(_name, _requests, stateful=_stateful)
_HANDLERS["test_streaming_elicitation"] = _needs("streaming", {"user_name": _field("name")})


@_fixture("test_input_required_result_multi_round")
async def _ask_twice(arguments: JsonObject, context: CallContext) -> Answer:
    state = _verified((context.session.params or {}).get("requestState") or "")
    if state == "round-2":
        return _text("Both answers arrived")
    step, field, following = ("step2", "color", "round-2") if state == "round-1" else ("step1", "name", "round-1")
    return types.InputRequiredResult(input_requests={step: _field(field)}, request_state=_signed(following))


@_fixture("test_input_required_result_capabilities")
async def _ask_what_client_can(arguments: JsonObject, context: CallContext) -> Answer:
    able: types.ClientCapabilities | None = context.session.session.client_capabilities
    requests: dict[str, types.InputRequest] = {}
    if able is not None and able.sampling is not None:
        requests["sample"] = _sampling("Say hello", 50)
    if able is not None and able.elicitation is not None:
        requests["elicit"] = _field("name")
    return types.InputRequiredResult(input_requests=requests) if requests else _text("Nothing to ask with")


@_fixture("test_missing_capability")
async def _require_sampling(arguments: JsonObject, context: CallContext) -> Answer:
    able: types.ClientCapabilities | None = context.session.session.client_capabilities
    if able is not None and able.sampling is not None:
        return _text("The client can sample")
    return types.ErrorData(
        code=types.MISSING_REQUIRED_CLIENT_CAPABILITY,
        message="This tool needs the sampling capability",
        data={"requiredCapabilities": {"sampling": {}}},
    )


def _tools() -> list[Tool]:
    for name, argument in (("test_sampling", "prompt"), ("test_elicitation", "message")):
        _INPUTS[name] = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    nothing: JsonObject = {"type": "object", "properties": {}}
    return [DynamicTool.of(name, f"Fixture {name}.", _INPUTS.get(name, nothing)) for name in (*_CONTENTS, *_HANDLERS)]


# Resources


@asynccontextmanager
async def _never_changes(server: BaseMCPServer) -> AsyncGenerator[AsyncIterator[Update]]:
    async def no_updates() -> AsyncGenerator[Update]:
        for update in ():
            yield update

    yield no_updates()


_RESOURCES: dict[str, tuple[str, str | bytes]] = {
    "test://static-text": ("text/plain", "This is the content of the static text resource."),
    "test://static-binary": ("image/png", base64.b64decode(IMAGE)),
    "test://watched-resource": ("text/plain", "Watched resource content"),
}
_TEMPLATE = Resource("test://template/{id}/data", "template", "Template", "A resource template.")


def _resources() -> list[Resource]:
    return [
        *(
            Resource(
                uri,
                uri.partition("://")[2],
                uri.partition("://")[2],
                f"Fixture {uri}.",
                media_type,
                watcher=_never_changes if "watched" in uri else None,
            )
            for uri, (media_type, _) in _RESOURCES.items()
        ),
        _TEMPLATE,
    ]


# Prompts, completion, log levels: what the gateway does not offer itself


def _user(content: Any) -> types.PromptMessage:
    return types.PromptMessage(role="user", content=content)


_PROMPTS: dict[str, tuple[str, ...]] = {
    "test_simple_prompt": (),
    "test_prompt_with_arguments": ("arg1", "arg2"),
    "test_prompt_with_embedded_resource": ("resourceUri",),
    "test_prompt_with_image": (),
    "test_input_required_result_prompt": (),
}


async def _list_prompts(context: Any, params: Any) -> types.ListPromptsResult:
    return types.ListPromptsResult(
        prompts=[
            types.Prompt(
                name=name,
                description=f"Fixture {name}.",
                arguments=[types.PromptArgument(name=argument, required=True) for argument in arguments],
            )
            for name, arguments in _PROMPTS.items()
        ],
        ttl_ms=60_000,
        cache_scope="public",
    )


async def _get_prompt(
    context: Any, params: types.GetPromptRequestParams
) -> types.GetPromptResult | types.InputRequiredResult:
    given = params.arguments or {}
    match params.name:
        case "test_simple_prompt":
            contents: list[Any] = [types.TextContent(text="This is a simple prompt for testing.")]
        case "test_prompt_with_arguments":
            text = f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'"
            contents = [types.TextContent(text=text)]
        case "test_prompt_with_embedded_resource":
            resource = _embedded(given["resourceUri"], "text/plain", "Embedded resource content for testing.")
            contents = [resource, types.TextContent(text="Please process the embedded resource above.")]
        case "test_prompt_with_image":
            image = types.ImageContent(data=IMAGE, mime_type="image/png")
            contents = [image, types.TextContent(text="Please analyze the image above.")]
        case "test_input_required_result_prompt":
            if "user_context" not in (params.input_responses or {}):
                return types.InputRequiredResult(input_requests={"user_context": _field("context")})
            contents = [types.TextContent(text="The context arrived.")]
        case unknown:
            raise MCPError(types.INVALID_PARAMS, f"There is no prompt {unknown!r}")
    return types.GetPromptResult(messages=[_user(content) for content in contents])


async def _complete(context: Any, params: Any) -> types.CompleteResult:
    return types.CompleteResult(completion=types.Completion(values=["paris", "park"], total=2, has_more=False))


async def _set_level(context: Any, params: Any) -> types.EmptyResult:
    return types.EmptyResult()


class ConformanceMCPServer(BaseMCPServer):
    """The fixture of the official conformance suites."""

    mcp_handlers: ClassVar[Mapping[str, Any]] = {
        "on_list_prompts": _list_prompts,
        "on_get_prompt": _get_prompt,
        "on_completion": _complete,
        "on_set_logging_level": _set_level,
    }

    def __init__(self) -> None:
        super().__init__(tools=_tools(), resources=_resources())

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> Any:
        if name in _CONTENTS:
            return ProtocolResult(types.CallToolResult(content=_CONTENTS[name]))
        return ProtocolResult(await _HANDLERS[name](arguments, context))

    async def get_resource(self, uri: str, context: CallContext) -> str | bytes:
        if uri in _RESOURCES:
            return _RESOURCES[uri][1]
        variables = _TEMPLATE.match(uri)
        if variables is None:
            raise UnknownResource(f"There is no resource {uri}.")
        return json.dumps({"id": variables["id"], "templateTest": True, "data": f"Data for ID: {variables['id']}"})
