"""One secret, a key a use."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.errors import InvalidArguments
from app.guard.secret import Secret, SecretSettings, hkdf
from app.local.dev import kept_secret
from app.services.kafka.acks import Ack, AckSigner
from app.services.kafka.settings import KafkaSettings

FIRST, SECOND = "a first secret that is long enough", "a second secret that is long enough"
ACK = Ack(g="workers", t="queries", m="member", n=3, i="lease", x=2e9, o={0: 7})


def signer(monkeypatch: pytest.MonkeyPatch, current: str | None, previous: str | None = None) -> AckSigner:
    """Return what a process signs with that has these secrets in its environment."""
    for name, value in {"SWITCHBOARD_SECRET": current, "SWITCHBOARD_SECRET_PREVIOUS": previous}.items():
        monkeypatch.setenv(name, value or "")
    return AckSigner(KafkaSettings.model_validate({}).ack_keys)


def accepted(signer: AckSigner, token: str) -> bool:
    try:
        return signer.read(token, group_id="workers", topic="queries") == ACK
    except InvalidArguments:
        return False


def test_keys_follow_from_the_secret_as_rfc_5869_has_it() -> None:
    secret, salt, info = b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    assert hkdf(secret, info, salt).hex() == expected


def test_each_use_has_a_key_of_its_own() -> None:
    keys = {Secret(FIRST).keys(use)[0] for use in ("acknowledgements", "cursors", "audit")}
    assert len(keys) == 3
    assert all(len(key) == 32 for key in keys)
    assert Secret(FIRST).keys("cursors") == Secret(FIRST).keys("cursors") != Secret(SECOND).keys("cursors")


def test_processes_with_one_secret_accept_each_others_acknowledgements(monkeypatch: pytest.MonkeyPatch) -> None:
    token = signer(monkeypatch, FIRST).write(ACK)
    assert accepted(signer(monkeypatch, FIRST), token)
    assert not accepted(signer(monkeypatch, SECOND), token)
    assert not accepted(signer(monkeypatch, None), token)


def test_a_secret_is_replaced_without_refusing_what_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = signer(monkeypatch, FIRST), signer(monkeypatch, SECOND, FIRST)
    assert accepted(new, old.write(ACK))
    assert accepted(new, new.write(ACK))
    assert not accepted(old, new.write(ACK))


def test_a_short_secret_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHBOARD_SECRET", "hunter2")
    with pytest.raises(ValidationError, match="at least 32") as refused:
        SecretSettings()
    assert "hunter2" not in str(refused.value)


def test_dev_keeps_its_secret_where_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "data" / "secret"
    made = kept_secret(path)
    assert len(made) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert kept_secret(path) == made
