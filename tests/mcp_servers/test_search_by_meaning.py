"""Search by meaning through the gateway, with an endpoint of OpenAI's shape that is good, slow, wrong or gone."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.services.embeddings.settings import EmbeddingSettings
from app.services.postgres.knowledge.vectors import VectorStore
from app.settings import Settings
from tests.faces.raw import client_of
from tests.fixtures.embedding_endpoint import Answer, Endpoint, answer, run_endpoint
from tests.fixtures.gateway import Served, serve
from tests.fixtures.postgres import TestDatabase
from tests.services.postgres.knowledge.test_meaning import add_toys, connected, eventually
from tests.test_cli import invoke

pytestmark = pytest.mark.usefixtures("patience")
MODEL = "acme/Embed-1"


@pytest.fixture
async def endpoint() -> AsyncGenerator[Endpoint]:
    async with run_endpoint() as running:
        yield running


@asynccontextmanager
async def gateway(database: TestDatabase, url: str, within: float = 0.3) -> AsyncGenerator[Served]:
    """A gateway over articles of toys, whose questions an endpoint embeds."""
    await add_toys(database)
    embeddings = EmbeddingSettings.model_validate(
        {"embeddings": url, "embeddings_model": MODEL, "embeddings_timeout": within}
    )
    async with serve(create_app([DatabaseMCPServer], Settings(), [database.settings, embeddings])) as served:
        yield served


async def objection(http: httpx.AsyncClient) -> str:
    """Return what `/ready` says of the search; nothing where all is well."""
    database = (await http.get("/ready")).json()["servers"]["database"]
    assert "search_knowledge_base" not in (database.get("tools_off") or {}), "it works, in part"
    limited: Mapping[str, Any] = database.get("tools_limited") or {}
    return limited.get("search_knowledge_base", {}).get("detail", "")


async def until_said(http: httpx.AsyncClient, words: str) -> None:
    async def said() -> bool:
        found = await objection(http)
        return words in found if words else not found

    await eventually(said)


async def search(http: httpx.AsyncClient, question: str) -> Any:
    answered = await http.post("/mcp/database/tools/search_knowledge_base", json={"search_term": question})
    assert answered.status_code == 200, answered.text
    return answered.json()


async def test_articles_are_found_by_meaning_once_their_vectors_are_made(
    database: TestDatabase, endpoint: Endpoint
) -> None:
    async with gateway(database, endpoint.url, 30) as served, client_of(served) as http:
        await until_said(http, "")
        assert (await search(http, "Fly a kite"))["mode"] == "semantic"
        likest = (await http.post("/mcp/database/tools/get_similar_articles", json={"article_id": 1})).json()
        assert likest["mode"] == "semantic"
        assert len(likest["articles"]) == 3
        read = await http.get("/mcp/database/resources/read", params={"uri": "db://knowledge_articles/1"})
        assert "Hold the string" in read.text
        assert '\\"passages\\"' in read.text or '"passages"' in read.text
        missing = await http.post("/mcp/database/tools/get_similar_articles", json={"article_id": 99})
        assert missing.status_code == 404


def hang(_: Mapping[str, Any]) -> Answer | None:
    return None


def err(_: Mapping[str, Any]) -> Answer | None:
    return answer({"error": {"message": "overloaded"}}, 500)


def shrink(body: Mapping[str, Any]) -> Answer | None:
    return answer({"data": [{"index": place, "embedding": [0.6, 0.8]} for place, _ in enumerate(body["input"])]})


@pytest.mark.parametrize("behave", [hang, err, shrink])
async def test_a_question_that_gets_no_vector_is_answered_by_words_in_time_and_ready_says_so(
    database: TestDatabase, endpoint: Endpoint, behave: Any
) -> None:
    async with gateway(database, endpoint.url) as served, client_of(served) as http:
        await until_said(http, "")
        endpoint.behave = behave
        async with asyncio.timeout(10):
            answered = await search(http, "how do I fly my kite")
        assert answered["mode"] == "lexical"
        assert answered["articles"][0]["slug"] == "kites"
        assert answered["articles"][0]["matched_by"] == "words"
        await until_said(http, "answered by words alone")
        metrics = (await http.get("/metrics")).text
        assert 'switchboard_search_mode{configured="semantic",mode="lexical"} 1' in metrics


async def test_an_endpoint_that_is_down_from_the_start_leaves_the_search_by_words(database: TestDatabase) -> None:
    async with gateway(database, "http://127.0.0.1:1/v1") as served, client_of(served) as http:
        await until_said(http, "found by words alone: ")
        assert (await search(http, "kite"))["mode"] == "lexical"


async def test_the_command_makes_what_is_missing_and_says_how_far_it_is(
    database: TestDatabase, endpoint: Endpoint
) -> None:
    await add_toys(database)
    variables = {"DATABASE_URL": database.url, "EMBEDDINGS": endpoint.url, "EMBEDDINGS_MODEL": MODEL}
    status, said = await invoke("embed", **variables)
    assert (status, "complete: 4 articles." in said) == (0, True), said
    texts = [text for body in endpoint.asked for text in body["input"]]
    assert texts.count("Hold the string, and run against the wind.") == 1
    endpoint.asked.clear()
    status, said = await invoke("embed", **variables)
    assert (status, "complete: 4 articles." in said) == (0, True), said
    assert not {"Fly a kite", "Bake bread"} & {text for body in endpoint.asked for text in body["input"]}
    async with database.connect() as connection:
        model = await connection.fetchval("SELECT name FROM embedding_models")
    assert (await invoke("embed", "--forget", model, **variables))[1].startswith(f"The vectors of {model} are gone")
    assert (await invoke("embed", "--forget", "No such!", **variables))[0] == 2


async def test_a_local_model_is_forgotten_by_the_name_that_embeddings_has_for_it(database: TestDatabase) -> None:
    async with connected(database.url) as connection:
        await VectorStore("bge-small-en-v1-5", 384).prepare(connection)
    status, said = await invoke("embed", "--forget", "bge-small-en", DATABASE_URL=database.url)
    assert (status, said.startswith("The vectors of bge-small-en are gone")) == (0, True), said


async def test_the_command_says_what_is_missing(database: TestDatabase) -> None:
    status, said = await invoke("embed", DATABASE_URL=database.url, EMBEDDINGS="none")
    assert (status, "EMBEDDINGS is none" in said) == (2, True), said
    down = {"EMBEDDINGS": "http://127.0.0.1:1/v1", "EMBEDDINGS_MODEL": MODEL}
    status, said = await invoke("embed", DATABASE_URL=database.url, **down)
    assert (status, "Traceback" in said) == (2, False), said
    assert "127.0.0.1:1" in said
