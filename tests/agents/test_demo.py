"""The film: what a viewer sees, and the exit code."""

import io
import re

from agents.demo import CUSTOMER, QUESTION, run_demo
from tests.fixtures.gateway import Served


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


async def test_the_viewer_sees_every_step_and_that_it_is_kept(support_gateway: Served) -> None:
    out = io.StringIO()
    assert await run_demo(support_gateway.url, QUESTION, CUSTOMER, out) == 0
    shown = out.getvalue()
    done = re.findall(r"✓ (read back|\w+)", shown)
    assert sorted(done[:2]) == ["articles", "context"]
    assert set(done[2:4]) == {"answer", "publish"}
    assert done[4:] == ["save", "read back", "read back"]
    assert re.search(r"✓ publish +customer-queries, partition \d+, offset \d+", shown)
    assert re.search(r"PostgreSQL has it: db://interactions/\d+", shown)
    assert f"Kafka has it: “{QUESTION}”" in shown
    assert "Reset or change your password" in shown
    assert "Forgot password?" in shown
    assert "\x1b" not in shown, "colours are for terminals"
    assert not [line for line in shown.splitlines() if len(line) > 120 or line != line.rstrip()]


async def test_a_terminal_gets_colours_but_no_cursor_movement_from_outside(support_gateway: Served) -> None:
    out = Terminal()
    assert await run_demo(support_gateway.url, "reset \x1b[2Jpassword", CUSTOMER, out) == 0
    shown = out.getvalue()
    assert "\x1b[32m" in shown
    assert "\x1b[2J" not in shown
    assert "\x1b[1mForgot password?\x1b[0m" in shown


async def test_what_is_missing_is_shown(gateway_without_kafka: Served) -> None:
    out = io.StringIO()
    assert await run_demo(gateway_without_kafka.url, QUESTION, CUSTOMER, out) == 1
    assert "✗ publish" in out.getvalue()
    assert "Answered without" in out.getvalue()
    assert "Forgot password?" in out.getvalue()


async def test_a_viewer_without_a_gateway_is_told_how_to_start_one(unused_port: int) -> None:
    out = io.StringIO()
    assert await run_demo(f"http://127.0.0.1:{unused_port}", QUESTION, CUSTOMER, out) == 1
    assert "make run" in out.getvalue()


async def test_an_unknown_customer_is_named(support_gateway: Served) -> None:
    out = io.StringIO()
    assert await run_demo(support_gateway.url, QUESTION, "99999999", out) == 1
    assert "99999999" in out.getvalue()
    assert "not_found" in out.getvalue()
