"""Addresses of PostgreSQL as people write them."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.errors import BackendNotConfigured
from app.services.postgres.connections.address import Address
from app.services.postgres.connections.settings import PostgresSettings


@pytest.mark.parametrize(
    ("written", "understood"),
    [
        ("postgresql://user:password@host:5432/db", "postgresql://user:password@host:5432/db"),
        ("postgres://user:password@host/db", "postgresql://user:password@host/db"),
        ("postgresql+asyncpg://user@host/db", "postgresql://user@host/db"),
        ("  postgresql+psycopg://user@host/db\n", "postgresql://user@host/db"),
        ("postgresql:///db?host=/run/postgresql", "postgresql:///db?host=%2Frun%2Fpostgresql"),
        ("postgresql://%2Frun%2Fpostgresql/db", "postgresql://%2Frun%2Fpostgresql/db"),
        ("postgresql://user:p@ss:w[rd@host/db", "postgresql://user:p%40ss%3Aw%5Brd@host/db"),
        ("postgresql://user:p%40ss@host/db", "postgresql://user:p%40ss@host/db"),
        ("postgresql://[::1]:5432/db", "postgresql://[::1]:5432/db"),
        ("postgresql://one:1,two:2/db?target_session_attrs=any", "postgresql://one:1,two:2/db"),
        ("postgresql://h/db?sslmode=verify-full&sslrootcert=/a/b.pem", "postgresql://h/db?sslmode=verify-full&sslrootcert=%2Fa%2Fb.pem"),
        ("postgresql://h/db?ssl=true", "postgresql://h/db?sslmode=require"),
        ("postgresql://h/db?sslmode=require&channel_binding=require&connect_timeout=10", "postgresql://h/db?sslmode=require"),
        ("postgresql://h", "postgresql://h"),
        ("postgresql://h/", "postgresql://h"),
        ("postgresql://h?sslmode=disable", "postgresql://h?sslmode=disable"),
        ("postgresql://u:p@h/db?user=v&password=%40&dbname=other", "postgresql://v:%40@h/other"),
    ],
)  # fmt: skip
def test_an_address_is_understood_as_people_write_it(written: str, understood: str):
    assert Address.read(written).dsn == understood


@pytest.mark.parametrize(
    "written",
    [
        "mysql://user:hunter2@host/db",
        "hunter2",
        "postgresql:hunter2",
        "postgresql://user:hunter2@host:port/db",
        "postgresql://user:hunter2@host:99999/db",
        "postgresql://user:hunt/er2@host/db",
        "postgresql://user:hunter2#@host/db",
        "postgresql://user:hunter2@host/db?sslmode=hunter2",
        "postgresql://user:hunter2@host/db?hunter2",
        "'postgresql://user:hunter2@host/db'",
        '"postgresql://user:hunter2@host/db',
        "postgresql://user:hunter2@::1:5432/db",
        "postgresql://user:hunter2@[::1:5432/db",
        "postgresql://user:hunter2@[::1]hunter2/db",
        "postgresql://user:hunter2@[hunter2]:5432/db",
        "postgresql://user:hunter2@:5432/db",
        "postgresql://user:hunter2@host:1,/db",
        "postgresql://user:hunt%00er2@host/db",
        "postgresql://user:hunter2@host/db?application_name=%00",
        "postgresql://user:hunter2@host/db?hunter2=1&hunter2=2",
    ],
)
@pytest.mark.parametrize("variable", ["DATABASE_URL", "DATABASE_READER_URL"])
def test_a_malformed_address_names_its_variable_and_never_the_password(
    monkeypatch: pytest.MonkeyPatch, variable: str, written: str
):
    monkeypatch.setenv(variable, written)
    with pytest.raises(ValidationError) as refused:
        PostgresSettings()
    assert f"{variable}: " in str(refused.value)
    assert "hunt" not in str(refused.value)


@pytest.mark.parametrize(
    "option",
    [
        "channel_binding=hunter2",
        "connect_timeout=1.5",
        "gssencmode=hunter2",
        "load_balance_hosts=hunter2",
        "options=hunter2",
        "pgbouncer=hunter2",
        "port=0",
        "port=hunter2",
        "requiressl=hunter2",
        "ssl=hunter2",
        "ssl_max_protocol_version=TLSv1&ssl_min_protocol_version=TLSv1.2",
        "ssl_min_protocol_version=TLSv9",
        "sslmode=",
        "sslmode=require&sslmode=disable",
        "sslnegotiation=direct",
        "sslnegotiation=hunter2&sslmode=require",
        "target_session_attrs=",
        "target_session_attrs=hunter2",
    ],
)
def test_an_option_with_a_wrong_value_is_named(option: str):
    with pytest.raises(ValueError, match=option.partition("=")[0]) as refused:
        Address.read(f"postgresql://user:hunter2@host/db?{option}")
    assert "hunter2" not in str(refused.value)


def test_printing_settings_shows_no_password(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hunter2@host/db")
    settings = PostgresSettings()
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert settings.address.dsn == "postgresql://user:hunter2@host/db"


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_address_is_named_when_it_is_needed(monkeypatch: pytest.MonkeyPatch, value: Any):
    for variable in ("DATABASE_URL", "DATABASE_READER_URL"):
        monkeypatch.delenv(variable, raising=False)
        if value is not None:
            monkeypatch.setenv(variable, value)
    settings = PostgresSettings()
    with pytest.raises(BackendNotConfigured, match="DATABASE_URL"):
        assert settings.address
    with pytest.raises(BackendNotConfigured, match="DATABASE_READER_URL"):
        assert settings.reader_address
