"""How MCP clients are told of this gateway, each in the form that it really takes."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ClientConfig:
    """What a person copies for one client."""

    client: str
    """The client's name, as `switchboard config` takes it."""
    title: str
    """Its name for people."""
    place: str
    """Where it goes: a shell, or a file."""
    text: str


@dataclass(frozen=True)
class LaunchedByClients:
    """How clients on this machine launch a process of their own, which starts in a directory of their choice.

    Args:
        command: the program, by an absolute path, and its arguments.
        env_file: variables that name the backends.
        policy: the policy's file, where one is in effect.
        asks_for_key: whether whoever launches it shows a key.
    """

    command: Sequence[str] = ("/path/to/switchboard",)
    env_file: Path | None = None
    policy: Path | None = None
    asks_for_key: bool = False


KEY_PLACEHOLDER = "YOUR_KEY"
"""Stands for a key in what is shown: which one it is nobody but its owner knows."""
_BEARER = f"Bearer {KEY_PLACEHOLDER}"


def client_configs(url: str, launched: LaunchedByClients, *, asks_for_key: bool = False) -> list[ClientConfig]:
    """Return the configuration of each client that we know.

    Args:
        url: the gateway's address, without a path.
        launched: what clients start that launch a process of their own.
        asks_for_key: whether callers of the gateway show a key; where it goes, then, with a placeholder in its place.
    """
    endpoint = f"{url}/mcp"
    headers = {"headers": {"Authorization": _BEARER}} if asks_for_key else {}
    by_option = f' --header "Authorization: {_BEARER}"' if asks_for_key else ""
    return [
        ClientConfig(
            "claude-code",
            "Claude Code",
            "a shell",
            f"claude mcp add --transport http switchboard {endpoint}{by_option}",
        ),
        ClientConfig(
            "claude-desktop",
            "Claude Desktop",
            "claude_desktop_config.json (Settings → Developer → Edit Config); it launches a process of its own",
            _json({"mcpServers": {"switchboard": _launching(launched)}}),
        ),
        ClientConfig(
            "cursor",
            "Cursor",
            ".cursor/mcp.json in the project, or ~/.cursor/mcp.json",
            _json({"mcpServers": {"switchboard": {"url": endpoint, **headers}}}),
        ),
        ClientConfig(
            "vscode",
            "VS Code",
            ".vscode/mcp.json in the project",
            _json({"servers": {"switchboard": {"type": "http", "url": endpoint, **headers}}}),
        ),
    ]


def call_by_curl(
    url: str, server: str, tool: str, arguments: Mapping[str, object], *, asks_for_key: bool = False
) -> str:
    """Return a call of a tool as a person types it."""
    body = shlex.quote(json.dumps(arguments, ensure_ascii=False))
    key = f"  -H 'authorization: {_BEARER}' \\\n" if asks_for_key else ""
    return f"curl -s {url}/mcp/{server}/tools/{tool} \\\n{key}  -H 'content-type: application/json' -d {body}"


def own_command() -> list[str]:
    """Return how this installation is started, by absolute paths: other programs start elsewhere."""
    script = Path(sys.executable).with_name("switchboard")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "app.cli"]


def _launching(launched: LaunchedByClients) -> dict[str, object]:
    program, *arguments = launched.command
    env_file = ["--env-file", str(launched.env_file.resolve())] if launched.env_file is not None else []
    variables: dict[str, str] = {}
    if launched.policy is not None:
        variables["SWITCHBOARD_CONFIG"] = str(launched.policy.resolve())
    if launched.asks_for_key:
        variables["SWITCHBOARD_TOKEN"] = KEY_PLACEHOLDER
    return {
        "command": program,
        "args": [*arguments, "stdio", *env_file],
        **({"env": variables} if variables else {}),
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=2)
