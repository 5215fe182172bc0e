"""What the demo has in Kafka: the topics and the group that the agents of `agents/` speak through."""

from app.services.kafka.cluster import Cluster
from app.services.kafka.connections import Connections
from app.services.kafka.failures import answers
from app.services.kafka.service import KafkaService
from app.services.kafka.settings import KafkaSettings

DEMO_TOPICS = ("customer-queries", "agent-responses")
DEMO_GROUP = "response-processors"

_ANY_GENERATION = -1
"""Of a group that nobody is a member of."""


async def seed(settings: KafkaSettings) -> None:
    """Create what is missing: topics of one partition, and the group, which stands at the beginning of its topic.

    Raises:
        GatewayError: Kafka can't be reached, or refuses.
    """
    async with KafkaService.open(settings) as kafka:
        for topic in DEMO_TOPICS:
            await kafka.topics.create(topic, num_partitions=1, if_not_exists=True)
    connections = Connections(settings)
    cluster = Cluster(settings, connections)
    try:
        async with answers(settings.request_timeout_ms / 1000):
            work = DEMO_TOPICS[1]
            if not await cluster.committed(DEMO_GROUP, {work: [0]}):
                await cluster.commit(DEMO_GROUP, _ANY_GENERATION, "", work, {0: 0})
    finally:
        await connections.close()
