"""`docs/kafka.md` is true: its commands run and answer what it says, its settings exist with their defaults."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.local.kafka import LocalKafka
from app.main import create_app
from app.routers.kafka import KafkaMCPServer
from app.services.kafka.settings import KafkaSettings
from app.settings import Settings
from tests.fixtures.gateway import serve
from tests.fixtures.kafka import RunBroker, settings_for_kafka

PAGE = (Path(__file__).parents[2] / "docs" / "kafka.md").read_text()
_BLOCK = re.compile(r"^```(sh|json|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_DIFFERS = {"timestamp", "next_cursor", "ack", "cluster_id", "port", "controller_id", "id", "leader", "host"}
"""What another run, or another broker, answers otherwise: only its type is compared."""
_DIFFERS_IN_LISTS = {"replicas", "in_sync_replicas"}


def blocks() -> list[tuple[str, str]]:
    return [(kind, text.strip()) for kind, text in _BLOCK.findall(PAGE)]


def commands() -> list[tuple[str, str]]:
    """Return each curl command with the block of its answer."""
    found = blocks()
    return [(text, found[i + 1][1]) for i, (kind, text) in enumerate(found) if kind == "sh" and text.startswith("curl")]


def check(said: Any, answered: Any, place: str) -> None:
    """Compare an answer with that of the page."""
    if isinstance(said, dict):
        assert said.keys() == answered.keys(), place
        for name, value in said.items():
            if name in _DIFFERS_IN_LISTS:
                assert len(value) == len(answered[name]), f"{place}.{name}"
            elif name in _DIFFERS:
                assert type(value) is type(answered[name]), f"{place}.{name}"
            else:
                check(value, answered[name], f"{place}.{name}")
    elif isinstance(said, list):
        assert len(said) == len(answered), place
        for position, value in enumerate(said):
            check(value, answered[position], f"{place}[{position}]")
    else:
        assert said == answered, place


class Reader:
    """Does what a reader of the page does."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def run(self, command: str) -> Any:
        """Run a curl command and return the answer, of a stream its first event."""
        words = shlex.split(command.replace("\\\n", " "))
        url = next(word for word in words if word.startswith("localhost:8000")).removeprefix("localhost:8000")
        if "-N" in words:
            async with self.http.stream("GET", url) as response:
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        return json.loads(line.removeprefix("data: "))
        if "-d" not in words:
            return (await self.http.get(url)).json()
        body = words[words.index("-d") + 1]
        headers = {"content-type": "application/json"}
        return (await self.http.post(url, content=body, headers=headers)).json()

    async def call(self, tool: str, **arguments: Any) -> Any:
        answer = (await self.http.post(f"/mcp/kafka/tools/{tool}", json=arguments)).json()
        assert answer["success"] is True, answer
        return answer


@pytest.fixture
async def broker_of_its_own(run_broker: RunBroker, tmp_path: Path) -> Any:
    """The page's topics have names of their own."""
    async with run_broker(tmp_path) as broker:
        yield broker


async def test_the_commands_of_the_page_answer_what_it_says(broker_of_its_own: LocalKafka) -> None:
    app = create_app([KafkaMCPServer], Settings(), [settings_for_kafka(broker_of_its_own)])
    async with serve(app) as served, httpx.AsyncClient(base_url=served.url, timeout=30) as http:
        reader = Reader(http)
        # A reader makes the topic first, wherever the page tells how.
        found = sorted(commands(), key=lambda block: "create_topic" not in block[0])
        for command, said in found:
            answered = await reader.run(command)
            check(json.loads(said.rpartition("data: ")[2]), answered, command)
            if "publish_message" in command:
                again = {"topic": "support-events", "message": "plain text", "key": "customer-7"}
                await reader.call("publish_message", **again, idempotency_key="mail-981")
                repeated = await reader.call("publish_message", **again, idempotency_key="mail-981")
                [of_the_page] = [text for kind, text in blocks() if kind == "json" and '"duplicate":true' in text]
                check(json.loads(of_the_page), repeated, "the repeat")
            if "triage" in command and "consume_messages" in command:
                done = {"topic": "support-events", "group_id": "triage", "max_messages": 0}
                await reader.call("consume_messages", **done, ack=answered["ack"])
        assert len(found) == 9


def test_the_settings_of_the_page_exist_with_their_defaults() -> None:
    rows = re.findall(r"^\| `KAFKA_(\w+)` \| (\S+) \|", PAGE, re.MULTILINE)
    fields = {name.upper(): field for name, field in KafkaSettings.model_fields.items()}
    for name, said in rows:
        default = fields[name].default
        shown = {None: "random", True: "true", False: "false"}.get(default, str(default))
        assert said.strip("`") == shown, name
    shown_elsewhere = set(re.findall(r"^KAFKA_(\w+)=", PAGE, re.MULTILINE)) | {"BOOTSTRAP_SERVERS"}
    assert {name for name, _ in rows} | shown_elsewhere == fields.keys()
