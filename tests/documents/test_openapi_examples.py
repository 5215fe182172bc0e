"""What `/docs` offers to try works on a fresh stack, for every operation."""

from collections.abc import Iterator
from typing import Any

import httpx

from tests.documents.checkout import Checkout

Operation = tuple[str, str, dict[str, Any]]


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def example_of(schema: dict[str, Any], document: dict[str, Any]) -> Any:
    """Return what Swagger UI fills in for a schema."""
    if "$ref" in schema:
        return example_of(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    if "examples" in schema:
        return schema["examples"][0]
    if "properties" in schema:
        return {name: example_of(part, document) for name, part in schema["properties"].items()}
    assert "default" in schema, schema
    return schema["default"]


async def answer_to(http: httpx.AsyncClient, operation: Operation, document: dict[str, Any]) -> tuple[int, str]:
    """Try an operation as it is offered; of an endless answer only its beginning is waited for."""
    method, path, described = operation
    query: dict[str, str] = {}
    for parameter in described.get("parameters", ()):
        if parameter.get("required"):
            value = example_of(parameter["schema"], document)
            path = path.replace(f"{{{parameter['name']}}}", value)
            if parameter["in"] == "query":
                query[parameter["name"]] = value
    sent: dict[str, Any] = {}
    for media_type, content in described.get("requestBody", {}).get("content", {}).items():
        if media_type == "application/json":
            sent = {"json": content["example"] if "example" in content else example_of(content["schema"], document)}
        else:
            sent = {"content": b"a file", "headers": {"content-type": media_type}}
    async with http.stream(method, path, params=query, **sent) as answer:
        endless = answer.headers["content-type"].startswith("text/event-stream")
        return answer.status_code, "" if endless else (await answer.aread()).decode()


async def test_every_example_works(stack: Checkout) -> None:
    url = f"http://127.0.0.1:{stack.ports['8000']}"
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        document = (await http.get("/openapi.json")).json()
        tried = list(operations(document))
        answers = [(*operation[:2], *await answer_to(http, operation, document)) for operation in tried]
    assert len(answers) > 25
    assert [answer for answer in answers if not 200 <= answer[2] < 300 or '"success":false' in answer[3]] == []
