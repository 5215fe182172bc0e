"""Every block of README.md, CONTRIBUTING.md and docs/ runs on a fresh stack and prints what the page shows.

`tests/documents/blocks.py` says how a block tells that it is not run, and what may differ from what is shown.
"""

import json
import re
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import pytest

from app.local.process import free_port
from tests.documents.blocks import PAGES, ROOT, Block, blocks_of, commands_of, logs, prints
from tests.documents.checkout import OWN_PORTS, Checkout
from tests.documents.reader import Session, python, serving, shell, with_ports
from tests.documents.test_env_example import kinds, variables
from tests.fixtures.postgres import cluster_directory


class Page:
    """A page that somebody reads from its beginning to its end, typing what it shows.

    Args:
        stack: what `make run` serves.
        opened: holds what the page's commands start.
        blocks: the page's.
    """

    def __init__(self, stack: Checkout, opened: AsyncExitStack, blocks: list[Block]) -> None:
        self._opened = opened
        self._blocks = blocks
        self._checkout = stack
        self._source_is_its_own = any(block.note.startswith("in ") for block in blocks)
        if self._source_is_its_own:
            directory = opened.enter_context(cluster_directory())
            self._checkout = Checkout(directory, {**stack.ports, "8000": str(free_port())})
        self._environment = self._checkout.environment
        self._ports = dict(self._checkout.ports)
        if any(block.note == "runs on" and block.text.endswith("switchboard serve\n") for block in blocks):
            self._ports["8000"] = self._environment["PORT"] = str(free_port())
        self._shell: Session | None = None
        self._python: Session | None = None
        self._served = AsyncExitStack()
        self._printed = ""
        """By the block before."""

    async def read(self) -> None:
        """Run each block."""
        self._opened.push_async_callback(self._stop)
        for block in self._blocks:
            if block.language and not block.noted("not run:") and not _is_run_elsewhere(block):
                self._printed = await self._run(block)

    async def _run(self, block: Block) -> str:
        """Run a block; return what it printed."""
        if (file := block.noted("in ")) is not None:
            _put(block, self._checkout, file)
        elif block.note == "logged":
            assert logs(block.text, self._as_printed(self._checkout.log.read_text())), block
        elif block.note == "runs on":
            await self._serve(block)
        elif block.language in ("sh", "console"):
            return await self._type(block)
        elif block.language == "python":
            self._python = self._python or await self._open(python(self._checkout.directory, self._environment))
            return self._as_printed(await self._python.type(with_ports(block.text, self._ports)))
        elif block.language in ("json", "text") and self._printed:
            assert prints(block.text, self._printed), f"{block}\n--- printed\n{self._printed}"
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "env":
            _read_settings(block)
        else:
            pytest.fail(f"{block}: nobody runs this block, and nothing says why")
        return ""

    async def _type(self, block: Block) -> str:
        if self._shell is None:
            if self._source_is_its_own:
                await self._start("exec python -m app.cli serve", self._environment["PORT"], self._checkout.log)
            self._shell = await self._open(shell(self._checkout.directory, self._environment))
        printed = ""
        for command in commands_of(block):
            printed = self._as_printed(await self._shell.type(with_ports(command.text, self._ports)))
            same = not command.shown or prints(command.expected, printed)
            assert same, f"{block}: {command.text}\n--- printed\n{printed}\n--- shown\n{command.expected}"
        return printed

    async def _serve(self, block: Block) -> None:
        if block.text == "$ make run\n":
            return  # it runs already
        script = "\n".join(command.text for command in commands_of(block))
        servers = re.findall(r"--server (\w+)", script)
        named = ["8000", *(OWN_PORTS[name] for name in servers), *re.findall(r"--port (\d+)", script)]
        log = self._checkout.directory / f"served-{block.line}.log"
        await self._start(with_ports(script, self._ports), self._ports[named[-1]], log)

    async def _start(self, script: str, port: str, log: Path) -> None:
        """Run a script in place of the one that runs on."""
        await self._stop()
        process = serving(script, self._checkout.directory, self._environment, int(port), log)
        await self._served.enter_async_context(process)

    async def _stop(self) -> None:
        """Stop what runs on."""
        await self._served.aclose()
        self._served = AsyncExitStack()

    async def _open(self, session: AbstractAsyncContextManager[Session]) -> Session:
        return await self._opened.enter_async_context(session)

    def _as_printed(self, text: str) -> str:
        """Return a text with the ports of the documents."""
        return with_ports(text, {other: printed for printed, other in self._ports.items()})


def _is_run_elsewhere(block: Block) -> bool:
    if (test := block.noted("run by ")) is None:
        return False
    assert block.page.name in (ROOT / test).read_text(), f"{block}: {test} does not read this page"
    return True


def _put(block: Block, place: Checkout, file: str) -> None:
    """Put a block into the file that it belongs into: at its end, or behind the last line of its kind."""
    place.own(Path(file).parts[0])
    path = place.directory / file
    text = path.read_text() if path.exists() else ""
    alike = re.escape(block.text.partition('"')[0]) + r'"\w+": .*\n'
    found = list(re.finditer(alike, text)) if text and block.language == "text" else []
    where = found[-1].end() if found else len(text)
    path.write_text(f"{text[:where]}{block.text}{text[where:]}")


def _read_settings(block: Block) -> None:
    """Read variables as `serve` does; each has to be one that it knows."""
    lines = [line.partition(" #")[0].strip() for line in block.text.splitlines()]
    given = dict(line.split("=", 1) for line in lines)
    assert given.keys() <= variables().keys(), block
    with pytest.MonkeyPatch.context() as environment:
        for name, value in given.items():
            environment.setenv(name, value)
        for kind in kinds():
            kind()


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ('{"a": 1,\n "b": 2}', '{"a":1,"b":2}', True),
        ("a … c", "a b c", True),
        ("a …", "b a", False),
        ("at 2026-01-01T00:00:00Z in (12 ms)", "at 2027-02-03T04:05:06.789Z in (3 ms)", True),
        ("at 2026-01-01T00:00:00Z", "at noon", False),
        ('{"offset": 1}', '{"offset": 2}', False),
    ],
)
def test_what_is_shown_must_be_what_is_printed(shown: str, printed: str, same: bool) -> None:
    assert prints(shown, printed) is same


@pytest.mark.parametrize(
    ("note", "language", "text"),
    [
        ("", "ruby", "puts 1\n"),
        ("", "text", "what no command printed\n"),
        ("", "sh", "false\n"),
        ("", "console", "$ echo yes\nno\n"),
        ("", "python", "1 / 0\n"),
        ("", "python", "class A:\n    a = 1\n\n    b = 2\n"),
        ("", "env", "KAFKA_SECURITY_PROTOCOL=FOO\n"),
        ("", "env", "KAFKA_NO_SUCH=1\n"),
        ("", "json", "{,}\n"),
        ("run by tests/clock.py", "sql", "SELECT 1\n"),
        ("logged", "text", "what nobody logged\n"),
    ],
)
async def test_a_block_that_is_not_true_is_a_failure(stack: Checkout, note: str, language: str, text: str) -> None:
    block = Block(ROOT / "README.md", 1, language, text, note)
    async with AsyncExitStack() as opened:
        with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
            await Page(stack, opened, [block]).read()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
async def test_every_block_of_a_page_runs_as_it_stands(stack: Checkout, page: Path) -> None:
    async with AsyncExitStack() as opened:
        await Page(stack, opened, blocks_of(page)).read()
