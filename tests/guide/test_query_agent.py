"""The agents as the guide constructs them."""

from typing import Any

import pytest

from agents.coordinator import CoordinatorAgent
from agents.knowledge import KnowledgeAgent
from agents.query import QueryAgent
from agents.response import ResponseAgent
from app.local.process import free_port


@pytest.fixture
def mcp_config() -> dict[str, Any]:
    """The guide's, on an address where nobody answers: to construct and to start needs no gateway."""
    uri = f"ws://localhost:{free_port()}"
    return {"servers": {"mcp_database": {"uri": uri}, "mcp_kafka": {"uri": uri}, "mcp_aws": {"uri": uri}}}


@pytest.mark.parametrize(
    ("kind", "agent_type"), [(QueryAgent, "query"), (KnowledgeAgent, "knowledge"), (ResponseAgent, "response")]
)
async def test_an_agent_is_made_of_an_id_a_type_and_a_configuration(
    kind: Any, agent_type: str, mcp_config: dict[str, Any]
) -> None:
    agent = kind(f"{agent_type}-agent-1", agent_type, mcp_config=mcp_config)
    await agent.start()
    try:
        assert (agent.agent_id, agent.agent_type) == (f"{agent_type}-agent-1", agent_type)
        assert (await agent.health()).running
    finally:
        await agent.stop()


async def test_the_type_may_be_left_out_or_be_another_word(mcp_config: dict[str, Any]) -> None:
    made = [
        QueryAgent("q", mcp_config),
        QueryAgent("q", mcp_config=mcp_config),
        QueryAgent("q", "http://127.0.0.1:8000"),
        QueryAgent("q", "billing", mcp_config),
        CoordinatorAgent("c", "coordinator", mcp_config=mcp_config, peers={}),
    ]
    assert [agent.agent_type for agent in made] == ["query", "query", "query", "billing", "coordinator"]
    for agent in made:
        await agent.stop()


def test_a_configuration_that_is_missing_is_said() -> None:
    with pytest.raises(TypeError, match="mcp_config is missing"):
        QueryAgent("q", "query")
