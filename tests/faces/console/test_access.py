"""Roles, keys and settings on the console: what is shown, what is made, and what nobody gets by it."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.catalogue import load_servers
from app.env_files import from_file
from app.faces.console import access
from app.guard.keys import mint
from app.main import create_app
from app.settings import Settings
from app.variables import is_secret, told
from tests.clock import ClockMCPServer
from tests.faces.console.desk import MARK, Desk, cookie, opened
from tests.faces.raw import client_of
from tests.fixtures.gateway import serve


async def post(desk: Desk, http: httpx.AsyncClient, path: str, body: object, role: str = "keeper") -> httpx.Response:
    return await http.post(path, json=body, headers={**MARK, **desk.bearer(role)})


async def test_roles_and_keys_are_shown_without_secrets(desk: Desk, http: httpx.AsyncClient) -> None:
    answer = await http.get("/console/access", headers=desk.bearer("auditor"))
    shown = answer.json()
    assert shown["asked"] is True
    roles = {role["name"]: role for role in shown["roles"]}
    assert roles["watcher"]["allow"] == ["console:read", "clock:write"]
    assert "switchboard.toml:" in roles["watcher"]["place"]
    assert (roles["bot"]["bound"], roles["keeper"]["limits"]) == ("customer", {"clock": "100/s"})
    assert roles["ruled"]["rules"] == {"clock:get_time": {"zone": {"in": ["UTC"]}}}
    keys = {key["id"]: key for key in shown["keys"]}
    assert keys.keys() == {key.id for key in desk.keys.values()}
    assert (keys[desk.keys["bot"].id]["customer"], keys[desk.keys["bot"].id]["state"]) == ("anna", "good")
    for key in desk.keys.values():
        assert key.hash not in answer.text
        assert desk.tokens["bot"].split("_", 2)[2] not in answer.text


async def test_a_key_is_made_shown_once_works_and_is_revoked(
    desk: Desk, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await post(desk, http, "/console/keys", {"roles": ["watcher"], "tenant": "acme", "days": 2})
    made = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert 1.9 < (made["key"]["ends"] - time.time()) / 86_400 < 2.1
    token, key_id = made["token"], made["key"]["id"]
    fields = {"authorization": f"Bearer {token}"}
    assert (await http.post("/mcp/clock/tools/get_time", json={}, headers=fields)).status_code == 200
    listed = (await http.get("/console/access", headers=desk.bearer("keeper"))).text
    assert key_id in listed
    assert token not in listed
    said = [record.getMessage() for record in caplog.records]
    assert any(
        f"key made: id={key_id} roles=watcher customer=- tenant=acme by={desk.keys['keeper'].id}" in each
        for each in said
    )
    assert not any(token.split("_", 2)[2] in each for each in said)
    answer = await post(desk, http, f"/console/keys/{key_id}/revoke", {})
    assert answer.status_code == 204
    while (refused := await http.post("/mcp/clock/tools/get_time", json={}, headers=fields)).status_code == 200:
        pass  # for the two seconds in which every process hears of it
    assert refused.json()["code"] == "unauthenticated"
    states = {
        key["id"]: key["state"]
        for key in (await http.get("/console/access", headers=desk.bearer("keeper"))).json()["keys"]
    }
    assert states[key_id] == "revoked"
    assert any(f"key revoked: id={key_id}" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "roles", [["operator"], ["stranger"], ["developer"], ["watcher", "operator"], ["keeper", "developer"]]
)
async def test_nobody_makes_or_revokes_a_key_that_may_more_than_itself(
    desk: Desk, http: httpx.AsyncClient, roles: list[str]
) -> None:
    answer = await post(desk, http, "/console/keys", {"roles": roles})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    _, key = mint(frozenset(roles))
    await desk.store.add(key)
    answer = await post(desk, http, f"/console/keys/{key.id}/revoke", {})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert (await desk.store.find([key.id]))[key.id].revoked_at is None


async def test_who_is_held_to_rules_makes_keys_that_are_held_to_the_same(desk: Desk, http: httpx.AsyncClient) -> None:
    for role, status in (("ruled", 200), ("timekeeper", 403), ("watcher", 403), ("auditor", 200)):
        answer = await post(desk, http, "/console/keys", {"roles": [role]}, "ruled")
        assert answer.status_code == status, role


async def test_who_is_of_a_tenant_makes_keys_of_it(desk: Desk, http: httpx.AsyncClient) -> None:
    desk.tokens["tenant"], key = mint(frozenset({"keeper"}), tenant="acme")
    await desk.store.add(key)
    for tenant, status in (("acme", 200), ("other", 403), (None, 403)):
        body = {"roles": ["watcher"], "tenant": tenant}
        assert (await post(desk, http, "/console/keys", body, "tenant")).status_code == status


async def test_who_is_of_a_tenant_is_told_of_its_keys_alone(desk: Desk, http: httpx.AsyncClient) -> None:
    for name, tenant in (("tenant", "acme"), ("own", "acme"), ("other", "others")):
        desk.tokens[name], desk.keys[name] = mint(frozenset({"keeper"}), tenant=tenant)
        await desk.store.add(desk.keys[name])
    session = cookie(await desk.sign_in(http, "tenant"))
    told = (await http.get("/console/access", headers=session)).json()
    assert {key["id"] for key in told["keys"]} == {desk.keys[name].id for name in ("tenant", "own")}
    assert told["total"] == 2
    for name, status in (("own", 200), ("other", 404), ("watcher", 404)):
        asked = {"what": "clock:get_time", "key": desk.keys[name].id}
        assert (await post(desk, http, "/console/explain", asked, "tenant")).status_code == status, name
    for name, status in (("other", 404), ("watcher", 404), ("own", 204)):
        path = f"/console/keys/{desk.keys[name].id}/revoke"
        assert (await post(desk, http, path, None, "tenant")).status_code == status, name
    told = (await http.get("/console/access", headers=desk.bearer("auditor"))).json()
    assert told["total"] == len(desk.keys)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "roles"),
        ({"roles": []}, "roles"),
        ({"roles": "watcher"}, "roles"),
        ({"roles": ["nobody"]}, "there is no such role"),
        ({"roles": ["bot"]}, "customer"),
        ({"roles": ["watcher"], "customer": "a b"}, "customer"),
        ({"roles": ["watcher"], "customer": "../b"}, "customer"),
        ({"roles": ["watcher"], "tenant": ""}, "tenant"),
        ({"roles": ["watcher"], "days": 0}, "days"),
        ({"roles": ["watcher"], "days": 1e9}, "days"),
        ({"roles": ["watcher"], "days": -1}, "days"),
        ({"roles": ["watcher"], "secret": "mine"}, "secret"),
        ([], "object"),
    ],
)
async def test_what_is_no_key_is_told_why(desk: Desk, http: httpx.AsyncClient, body: object, said: str) -> None:
    answer = await post(desk, http, "/console/keys", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_arguments"), answer.text
    assert said in answer.text
    assert len(await desk.store.all()) == len(desk.keys)


@pytest.mark.parametrize(
    ("question", "expected", "line"),
    [
        ({"roles": ["watcher"], "what": "clock:get_time"}, None, "the role watcher allows clock:write"),
        ({"roles": ["watcher"], "what": "vault:open_vault"}, "insufficient_scope", ""),
        ({"roles": ["ruled"], "what": "clock:get_time", "arguments": {"zone": "CET"}}, "argument_refused", "but zone"),
        ({"roles": ["ruled"], "what": "clock:get_time", "arguments": {"zone": "UTC"}}, None, "where zone is one of"),
        ({"roles": ["watcher"], "what": "clock:get_time", "arguments": {"zone": 5}}, "invalid_arguments", ""),
        ({"roles": ["watcher"], "what": "clock://zones/UTC"}, None, "clock:write"),
        ({"roles": ["auditor"], "what": "console:keys"}, None, "the role auditor allows console:keys"),
        ({"roles": ["bot"], "customer": "anna", "what": "console:read"}, "not_confined", ""),
        ({"roles": ["nobody"], "what": "clock:get_time"}, "insufficient_scope", "there is no role nobody"),
    ],
)
async def test_the_policy_is_explained_for_a_caller_and_a_call(
    desk: Desk, http: httpx.AsyncClient, question: dict[str, Any], expected: str | None, line: str
) -> None:
    answer = await post(desk, http, "/console/explain", question, "auditor")
    told = answer.json()
    assert told["allowed"] is (expected is None), told
    assert (told["refusal"] or {}).get("code") == expected
    assert line in " ".join(told["lines"])


async def test_the_policy_is_explained_for_a_key(desk: Desk, http: httpx.AsyncClient) -> None:
    question = {"key": desk.keys["bot"].id, "what": "clock:get_time"}
    told = (await post(desk, http, "/console/explain", question)).json()
    assert (told["roles"], told["customer"]) == (["bot", "operator"], "anna")
    await desk.revoke("bot")
    told = (await post(desk, http, "/console/explain", question)).json()
    assert told["refusal"]["code"] == "unauthenticated"
    for wrong, status in (
        ({"what": "clock:get_time"}, 422),
        ({**question, "roles": ["bot"]}, 422),
        ({**question, "key": "nobody"}, 404),
        ({"roles": ["bot"], "what": "clock:nothing"}, 404),
        ({"roles": ["bot"], "what": "nothing"}, 404),
    ):
        assert (await post(desk, http, "/console/explain", wrong)).status_code == status, wrong


async def test_where_no_keys_are_kept_that_is_said() -> None:
    async with serve(create_app([ClockMCPServer], Settings())) as served, client_of(served) as http:
        shown = (await http.get("/console/access")).json()
        assert shown["keys"] is None
        assert "SWITCHBOARD_KEY_FILE" in shown["reason"]
        answer = await http.post("/console/keys", json={"roles": ["x"]}, headers=MARK)
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


async def test_settings_are_shown_with_their_source_and_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWITCHBOARD_SECRET", "one secret of the whole installation")
    monkeypatch.setenv("TOOL_TIMEOUT", "12")
    monkeypatch.setenv("LOG_FORMAT", "json")
    monkeypatch.setitem(from_file, "LOG_FORMAT", Path(".env"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://me:hunter2@collector.example/v1?key=hunter2")
    settings = Settings.model_validate({"port": 1234})
    async with opened(tmp_path, settings=settings) as desk, client_of(desk.served) as http:
        answer = await http.get("/console/settings", headers=cookie(await desk.sign_in(http, "keeper")))
        shown = {each["name"]: each for group in answer.json()["groups"] for each in group["settings"]}
    for name, value, source in (
        ("TOOL_TIMEOUT", 12, "environment"),
        ("LOG_FORMAT", "json", ".env"),
        ("PORT", 1234, "at start"),
        ("HOST", "127.0.0.1", "default"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://…@collector.example/v1?…", "environment"),
    ):
        assert (shown[name]["value"], shown[name]["source"]) == (value, source), name
    assert (shown["SWITCHBOARD_SECRET"]["value"], shown["SWITCHBOARD_SECRET"]["hidden"]) == (None, True)
    assert shown["MAX_REQUEST_BYTES"]["about"]
    assert "hunter2" not in answer.text
    assert "one secret" not in answer.text


def test_no_secret_of_any_setting_is_told() -> None:
    canary = "canary-of-this-test"
    for name in ("A_PASSWORD", "TOKEN", "SWITCHBOARD_FIRST_KEY", "API_KEY", "AWS_SECRET_ACCESS_KEY", "X_CREDENTIAL"):
        assert is_secret(name, canary), name
    for name in ("SWITCHBOARD_KEY_FILE", "SSL_KEY_LOCATION", "HOST"):
        assert not is_secret(name, canary), name
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KAFKA_SASL_PASSWORD", canary)
        patched.setenv("DATABASE_URL", f"postgresql://me:{canary}@localhost/db")
        patched.setenv("AWS_SECRET_ACCESS_KEY", canary)
        patched.setenv("AWS_ACCESS_KEY_ID", canary)
        from_environment = [kind.settings_class for kind in load_servers() if kind.settings_class is not None]
        assert canary not in json.dumps([list(told(kind())) for kind in from_environment])


async def test_the_limit_of_a_role_holds_for_what_it_does_with_keys(desk: Desk, http: httpx.AsyncClient) -> None:
    fields = {**desk.bearer("hasty"), **MARK}
    made = [await http.post("/console/keys", json={"roles": ["hasty"]}, headers=fields) for _ in range(2)]
    assert [answer.status_code for answer in made] == [200, 200]
    assert (await http.get("/console/access", headers=fields)).status_code == 200
    kept = len(await desk.store.all())
    for ask in (
        http.post("/console/keys", json={"roles": ["hasty"]}, headers=fields),
        http.post(f"/console/keys/{made[0].json()['key']['id']}/revoke", headers=fields),
        http.post("/console/explain", json={"what": "clock:get_time", "roles": ["hasty"]}, headers=fields),
        http.get("/console/access", headers=fields),
        http.get("/console/settings", headers=fields),
    ):
        answer = await ask
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
        assert int(answer.headers["retry-after"]) > 0
    assert len(await desk.store.all()) == kept


async def test_nobody_fills_the_store_with_keys(desk: Desk, http: httpx.AsyncClient) -> None:
    fields = {**desk.bearer("keeper"), **MARK}
    answers = [
        await http.post("/console/keys", json={"roles": ["timekeeper"]}, headers=fields)
        for _ in range(access.MOST_MADE + 3)
    ]
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) in (access.MOST_MADE, access.MOST_MADE + 1, access.MOST_MADE + 2)
    assert answers[-1].json()["code"] == "rate_limited"
