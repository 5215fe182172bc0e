"""What a run has found, as it is printed and as `docs/speed.md` keeps it."""

import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.load import Sample

PAGE = Path(__file__).parent.parent / "docs" / "speed.md"
_BEGIN, _END = "<!-- the last run, written by `make bench` -->", "<!-- end of the last run -->"


class Report:
    """Lines that are printed at once and kept for the page."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str = "") -> None:
        """Print lines, and keep them."""
        print(text, flush=True)
        self.lines += text.split("\n")

    def table(self, title: str, samples: Mapping[str, Sequence[Sample]], beside: str) -> None:
        """Say the medians of each case's rounds, its rate also as the ratio to one of them in the same round."""
        self.say(
            f"\n{title:<42}{'calls/s':>9}{'ratio':>7}{'p50 ms':>8}{'p99 ms':>8}{'CPU us':>8}{'failed':>8}",
        )
        for name, rounds in samples.items():
            rate, p50, p99, cpu = (
                statistics.median(getattr(each, field) for each in rounds) for field in ("rate", "p50", "p99", "cpu")
            )
            ratio = statistics.median(each.rate / base.rate for each, base in zip(rounds, samples[beside], strict=True))
            failures = sum(sample.failures for sample in rounds)
            spent = f"{cpu:8.1f}" if cpu else f"{'':8}"
            self.say(f"  {name:<40}{rate:9.0f}{ratio:7.2f}{p50:8.2f}{p99:8.2f}{spent}{failures:8}")

    def costs(self, title: str, pairs: Mapping[str, Sequence[tuple[Sample, Sample]]]) -> None:
        """Say what is left of the rate, and what is added to the processor time, where something is on and then off."""
        self.say(f"\n{title:<42}{'rate':>9}{'CPU':>7}{'failed':>8}")
        for name, kept in pairs.items():
            rate = statistics.median(on.rate / off.rate for on, off in kept)
            cpu = statistics.median(on.cpu / off.cpu for on, off in kept)
            failures = sum(on.failures + off.failures for on, off in kept)
            self.say(f"  {name:<40}{rate:9.2f}{cpu:7.2f}{failures:8}")

    def keep(self, machine: str) -> None:
        """Write what was said into the page, in the place of the run before."""
        before, begin, rest = PAGE.read_text().partition(_BEGIN)
        _, end, after = rest.partition(_END)
        if not (begin and end):
            raise ValueError(f"{PAGE.name} has no place for a run: {_BEGIN} … {_END}")
        told = "\n".join(self.lines).strip("\n")
        why = "<!-- not run: it takes six minutes, and the figures are one machine's -->"
        block = f"{why}\n```console\n$ make bench\n{told}\n```"
        PAGE.write_text(f"{before}{begin}\n{machine}\n\n{block}\n{end}{after}")


def described_machine(postgres: str) -> str:
    """Return on what a run was made, and when.

    Args:
        postgres: the version of PostgreSQL.
    """
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    cores, memory = os.cpu_count(), psutil.virtual_memory().total / 2**30
    commit = subprocess.run(
        ("git", "rev-parse", "--short", "HEAD"), cwd=PAGE.parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    return ", ".join(
        (
            f"On {datetime.now(UTC):%Y-%m-%d} at {commit or 'no commit'}: {cores} cores",
            names[0] if names else platform.machine(),
            f"{memory:.0f} GiB of memory",
            f"{platform.system()} {platform.release().partition('-')[0]}",
            f"Python {platform.python_version()}",
            f"PostgreSQL {postgres}; a load of {os.getloadavg()[0]:.1f} at the start.",
        )
    )


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
