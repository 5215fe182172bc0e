"""Makes `.venv` from a lock file: `python setup/environment.py LOCK`, for `make`. Needs the standard library alone.

uv installs in seconds what takes pip minutes. It is itself installed by pip, by its own hashed lines of the lock, so
that nothing comes unpinned. Where it can't be had, or fails for any reason, pip does the whole.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OLDEST = (3, 11)
_VENV = Path(".venv")
_BIN = _VENV / ("Scripts" if os.name == "nt" else "bin")
_QUIET = ("--quiet", "--disable-pip-version-check")
_AS_UV_CALLS_IT = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
"""uv reads no configuration of pip: where packages come from has to be told."""


def main(lock: Path) -> None:
    """Make the environment anew."""
    if sys.version_info < _OLDEST:
        sys.exit(
            f"Switchboard needs Python 3.11 or newer, this is {sys.version.split()[0]}. Try: make PYTHON=python3.12"
        )
    packages = len(re.findall(r"^[A-Za-z0-9]\S*==", lock.read_text(), re.MULTILINE))
    print(f"Setting up {_VENV}, once:", flush=True)
    with _step("a virtual environment"):
        shutil.rmtree(_VENV, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(_VENV))
    try:
        with _step("uv, which installs the rest"):
            _install_uv(lock)
        with _step(f"{packages} pinned packages"):
            _uv("--require-hashes", "-r", str(lock))
        with _step("Switchboard itself"):
            _uv("--no-deps", "--no-build-isolation", "-e", ".")
    except (OSError, subprocess.CalledProcessError) as failure:
        print(f"  uv can't do it here ({failure}); pip takes a minute or two.", flush=True)
        with _step(f"{packages} pinned packages, by pip"):
            _pip("--require-hashes", "-r", str(lock))
        with _step("Switchboard itself, by pip"):
            _pip("--no-deps", "--no-build-isolation", "-e", ".")


def _install_uv(lock: Path) -> None:
    found = re.search(r"^uv==.*?(?=^\S|\Z)", lock.read_text(), re.MULTILINE | re.DOTALL)
    if found is None:
        raise FileNotFoundError(f"{lock} does not pin uv")
    with tempfile.TemporaryDirectory() as directory:
        lines = Path(directory, "uv.lock")
        lines.write_text(found[0])
        _pip("--require-hashes", "-r", str(lines))


def _uv(*arguments: str) -> None:
    python = str(_BIN / "python")
    listed = subprocess.run((python, "-m", "pip", "config", "list"), check=True, capture_output=True, text=True).stdout
    _run(str(_BIN / "uv"), "pip", "install", "--quiet", "--python", python, *arguments, **for_uv(listed))


def _pip(*arguments: str) -> None:
    _run(str(_BIN / "python"), "-m", "pip", "install", *_QUIET, *arguments)


def for_uv(listed: str) -> dict[str, str]:
    """Return what `pip config list` told, as variables of uv; those that are set already stay as they are."""
    told: dict[str, str] = {"UV_SYSTEM_CERTS": "true"}
    # What is said for `install` goes before what is said for all of pip, and the environment before both.
    for origin in ("global", "install", ":env:"):
        for option, value in re.findall(rf"^{origin}\.([a-z-]+)=(.*)$", listed, re.MULTILINE):
            if variable := _AS_UV_CALLS_IT.get(option):
                told[variable] = _spelled(variable, str(ast.literal_eval(value)))
    return {variable: value for variable, value in told.items() if variable not in os.environ}


def _spelled(variable: str, value: str) -> str:
    """pip separates several values by white space, uv most of them by commas."""
    return ",".join(value.split()) if variable == "UV_FIND_LINKS" else " ".join(value.split())


def _run(*command: str, **variables: str) -> None:
    subprocess.run(command, check=True, env={**os.environ, **variables})


@contextmanager
def _step(what: str) -> Iterator[None]:
    started = time.perf_counter()
    print(f"  {what} … ", end="", flush=True)
    yield
    print(f"{time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
