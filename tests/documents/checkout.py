"""A directory like a fresh checkout, in which commands are typed as a newcomer types them."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.documents.blocks import ROOT

PORTS = ("8000", "8001", "8002", "8003", "9000", "9001", "9002")
"""What the documents listen on."""
OWN_PORTS = {"database": "8001", "kafka": "8002", "aws": "8003"}
"""Of a server that has a process to itself."""
_OURS = ("DATABASE_", "DB_MCP_", "KAFKA_", "AWS_", "ALLOWED_", "HOST", "LOG_", "MAKE", "MFLAGS")
"""What would configure a gateway, or the `make` that may run the tests."""
_SOURCE = ("app", "agents", "alembic", "alembic.ini", "benchmarks", "docs", "pyproject.toml", "tests", "Makefile")


class Checkout:
    """A directory like a fresh checkout, with what runs in it.

    Args:
        directory: links to the source are made in it.
        ports: what is listened on in place of the documents' ports.
    """

    def __init__(self, directory: Path, ports: Mapping[str, str]) -> None:
        self.directory = directory
        self.ports = dict(ports)
        self.log = directory / "gateway.log"
        for name in (*_SOURCE, "README.md", "setup", *(path.name for path in ROOT.glob("requirements*.lock"))):
            (directory / name).symlink_to(ROOT / name)
        # The environment is the tests' own; it is as new as the lock, so that make leaves it alone.
        (directory / ".venv").mkdir()
        for entry in Path(sys.prefix).iterdir():
            if not entry.name.startswith(".ready"):
                (directory / ".venv" / entry.name).symlink_to(entry)
        for mark in (".ready", ".ready-to-run"):
            (directory / ".venv" / mark).touch()

    def own(self, folder: str) -> None:
        """Have a folder of the source as a copy that may be changed."""
        if (self.directory / folder).is_symlink():
            (self.directory / folder).unlink()
            shutil.copytree(ROOT / folder, self.directory / folder, ignore=shutil.ignore_patterns("__pycache__"))

    @property
    def environment(self) -> dict[str, str]:
        """The variables of `make shell`, and the port of the gateway."""
        found = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        found |= {
            f"{name}_MCP_PORT": self.ports[port]
            for name, port in zip(("DB", "KAFKA", "AWS"), OWN_PORTS.values(), strict=True)
        }
        found |= {"PORT": self.ports["8000"], "PYTHONPATH": str(self.directory), "NO_COLOR": "1"}
        # What the pages show must not depend on how far a model has read the articles.
        found["EMBEDDINGS"] = "none"
        found["PATH"] = f"{self.directory / '.venv' / 'bin'}:{os.environ['PATH']}"
        addresses = self.directory / ".switchboard" / "env"
        lines = addresses.read_text().splitlines() if addresses.is_file() else []
        return found | dict(line.split("=", 1) for line in lines)
