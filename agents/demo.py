"""The film of the product: one customer's question, step by step, through a running gateway."""

import os
import sys
import textwrap
import time
from typing import TextIO

from agents.base import A2AAgent, McpConfig, Step
from agents.errors import CallFailed, ConnectionFailed
from agents.query import QueryAgent, QueryResult

QUESTION = "how do i reset my pasword"
CUSTOMER = "12345"

_WIDTH = 78
_BOLD, _DIM, _GREEN, _RED, _CYAN, _YELLOW = "1", "2", "32", "31", "36", "33"


class Screen:
    """Writes the steps of agents as they happen.

    Args:
        out: where to; colours are used only on a terminal, and not if `NO_COLOR` is set.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._colours = out.isatty() and "NO_COLOR" not in os.environ
        self._started = time.perf_counter()

    def line(self, text: str = "", *styles: str) -> None:
        """Write a line; what came from outside can't move the cursor with it."""
        print(self._styled(text.rstrip(), *styles), file=self._out, flush=True)

    def paragraphs(self, text: str) -> None:
        """Write a Markdown text in lines that fit, its **strong** words in bold."""
        strong = False
        for line in text.splitlines():
            for part in textwrap.wrap(line, _WIDTH, subsequent_indent=" " * _hanging(line)) or [""]:
                shown = ""
                for number, piece in enumerate(part.split("**")):
                    strong = strong != (number > 0)
                    shown += self._styled(piece, _BOLD) if strong else self._styled(piece)
                print(f"  {shown}".rstrip(), file=self._out, flush=True)

    def _styled(self, text: str, *styles: str) -> str:
        shown = "".join(c for c in text if c.isprintable())
        return f"\x1b[{';'.join(styles)}m{shown}\x1b[0m" if styles and self._colours and shown else shown

    async def step(self, step: Step) -> None:
        """Write one step; agents report to this."""
        clock = f"{time.perf_counter() - self._started:6.2f} s"
        if step.state == "started":
            self.line(f"{clock}  ▸ {step.name:<9} {step.text} …", _DIM)
            return
        mark, colour = ("✓", _GREEN) if step.state == "done" else ("✗", _RED)
        self.line(f"{clock}  {mark} {step.name:<9} {step.text}  ({step.seconds * 1000:.0f} ms)", colour)
        for article in step.data.get("articles", ()):
            self.line(f"{'':24}fits {article['fit']:4.0%}  {article['title']}", _CYAN)


async def run_demo(gateway: McpConfig, question: str, customer_id: str, out: TextIO = sys.stdout) -> int:
    """Answer one question before the viewer's eyes; return 0 if every step succeeded.

    Args:
        gateway: where the gateway is, as `MCPClient` takes it.
        question: the customer's.
        customer_id: who asks.
        out: where to show it.
    """
    screen = Screen(out)
    screen.line()
    screen.line("  Switchboard: a customer asks, an agent answers", _BOLD)
    screen.line()
    screen.line(f"  Customer {customer_id}: “{question}”", _YELLOW)
    screen.line()
    async with QueryAgent("demo-query-agent", gateway) as agent:
        try:
            result = await agent.process_query(question, customer_id, report=screen.step)
        except CallFailed as failure:
            screen.line()
            screen.line(f"  {failure.message} ({failure.code})", _RED)
            return 1
        await _read_back(agent, result, screen)
    _show(result, screen)
    return 1 if result.degraded else 0


async def _read_back(agent: A2AAgent, result: QueryResult, screen: Screen) -> None:
    """Show that what was answered is really there."""
    try:
        if result.published is not None:
            async with agent.step(screen.step, "read back", "Reading the message from Kafka") as outcome:
                place = {"topic": result.published.topic, "partition": result.published.partition}
                start = {"offset": result.published.offset}
                arguments = {**place, "start": start, "max_messages": 1}
                consumed = await agent.call_mcp_tool("kafka", "consume_messages", arguments)
                [message] = consumed["messages"]
                outcome.text = f"Kafka has it: “{message['value']['query']}” at offset {message['offset']}"
        if result.interaction_id is not None:
            async with agent.step(screen.step, "read back", "Reading the interaction from PostgreSQL") as outcome:
                uri = f"db://interactions/{result.interaction_id}"
                row = await agent.client.get_resource("database", uri)
                outcome.text = f"PostgreSQL has it: {uri}, {row['interaction']['created_at']}"
    except CallFailed:
        # The step has shown it in red; the answer stands without it.
        return


def _show(result: QueryResult, screen: Screen) -> None:
    screen.line()
    screen.line(f"  ── Answer {'─' * (_WIDTH - 12)}", _BOLD)
    screen.line()
    screen.paragraphs(result.answer)
    screen.line()
    if result.handed_over:
        screen.line("  Handed over to a person: what is on record says so", _YELLOW)
        screen.line()
    elif result.needs_person:
        screen.line("  Not handed over: nothing could be put on record", _RED)
        screen.line()
    for heading, sources in (("Sources", result.sources), ("Also found", result.related)):
        if sources:
            screen.line(f"  {heading}", _BOLD)
            for source in sources:
                screen.line(f"  {source.title} (db://knowledge_articles/{source.id})", _CYAN)
            screen.line()
    if result.degraded:
        screen.line("  Answered without", _RED)
        for entry in result.degraded:
            screen.paragraphs(f"- {entry.step}: {entry.message} ({entry.code})")
        if all(entry.code == ConnectionFailed.code for entry in result.degraded):
            screen.line("  Is the gateway running? `make run` starts it.", _YELLOW)
        screen.line()


def _hanging(line: str) -> int:
    """Return how far the second line of a list's item is indented."""
    marker, space, _ = line.partition(" ")
    return len(marker) + 1 if space and (marker == "-" or marker.rstrip(".").isdigit()) else 0
