"""Which variables of this process came from a file: `--env-file`, or `.env` (apart, since `--help` imports it)."""

from pathlib import Path

from_file: dict[str, Path] = {}
"""The variables, with the file of each."""
