"""The fenced blocks of the documents, and what the documents' source says of running them.

An HTML comment before a block, which readers do not see, says what can't be seen from the block itself:

- `<!-- not run: why -->`
- `<!-- run by tests/… -->`: that test reads the page and runs the block.
- `<!-- runs on -->`: its commands serve until they are stopped, when the next such block of the page begins.
- `<!-- in app/… -->`: belongs into that file of the source; the page's commands then run with such a source.
- `<!-- logged -->`: lines of the gateway's log that the page's commands bring about.

A block without a language is a drawing. Any other is run as it stands. What is shown after a command must be what it
prints: white space is for readers, `…` stands for what is left out, and what differs from run to run (`_VARYING`) has
to have its form.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_VARYING = (
    r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)",
    r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])",  # a request's id
    r'(?<="port":)\d+',
    r"(?<=127\.0\.0\.1:)\d+",
    r'(?<="duration_ms":)[\d.]+',
    r"(?<=ms=)[\d.]+",
    r"(?<=\()\d+ms(?=\))",
    r"\d+\.\d\ds(?=[▸✓])",
    r"(?<=partition)\d+,offset\d+",
    r"(?<=atoffset)\d+",
    r"(?<=db://interactions/)\d+",
    r"(?<=Interaction)\d+(?=saved)",
    r'(?<=next_cursor":)"\w+"',
    r'(?<=next_token":)"[^"]+"',
    r'(?<=ack":)"[^"]+"',
    r'(?<=cluster_id":)"[^"]+"',
    r"(?<=id:)eyJ\w+",
    r"(?<=curl/)[\d.]+",
)
"""Forms of what another run prints otherwise."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    note: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def noted(self, what: str) -> str | None:
        """Return what the source says of a block after such a beginning; None if it says no such thing."""
        return self.note.removeprefix(what).strip() if self.note.startswith(what) else None


@dataclass
class Command:
    """What a reader types, and what the page shows of the outcome."""

    text: str
    shown: list[str] = field(default_factory=list[str])

    @property
    def expected(self) -> str:
        return "\n".join(self.shown).strip()


def blocks_of(page: Path) -> list[Block]:
    """Return every block of a page."""
    text = page.read_text()
    found = [
        Block(
            page,
            text.count("\n", 0, match.start("language")) + 1,
            match["language"],
            re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE),
            match["note"] or "",
        )
        for match in _FENCE.finditer(text)
    ]
    assert len(found) * 2 == len(re.findall(r"^ *```", text, re.MULTILINE)), f"a fence of {page} is not closed"
    return found


def commands_of(block: Block) -> list[Command]:
    """Return the commands of a block: each line after `$ ` with what is shown below it, or the whole script."""
    if block.language != "console":
        return [Command(block.text)]
    commands: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            commands.append(Command(line[2:]))
        elif commands[-1].text.endswith("\\") and not commands[-1].shown:
            commands[-1].text += f"\n{line}"
        else:
            commands[-1].shown.append(line)
    return commands


def prints(shown: str, printed: str) -> bool:
    """Tell whether what was printed is what a page shows."""
    pieces = [re.escape(piece) for piece in _even(shown).split("…")]
    return re.fullmatch(".*?".join(pieces), _even(printed), re.DOTALL) is not None


def logs(shown: str, log: str) -> bool:
    """Tell whether what a page shows is in a log."""
    return re.search(".*?".join(re.escape(piece) for piece in _even(shown).split("…")), _even(log)) is not None


def _even(text: str) -> str:
    """Return a text without white space and without what differs from run to run."""
    text = re.sub(r"\s+", "", text)
    for number, form in enumerate(_VARYING):
        text = re.sub(form, f"<{number}>", text)
    return text
