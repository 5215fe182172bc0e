"""Looks at Kafka as an operator would who asks why something does not work."""

from collections.abc import Sequence

from app.findings import Finding, checked, counted
from app.services.kafka.service import KafkaService

_LOOKED_AT = 20
"""Topics that are looked at one by one."""


async def examine(kafka: KafkaService) -> Sequence[Finding]:
    """Return what is found of brokers, topics and groups. Nothing is written, so rights to write are not tried."""

    async def brokers() -> str:
        found = await kafka.brokers()
        hosts = ", ".join(f"{broker.host}:{broker.port}" for broker in found.brokers)
        return f"{counted(len(found.brokers), 'broker')} answered: {hosts}"

    async def topic(name: str) -> str:
        found = await kafka.topics.describe(name)
        leaderless = [part.partition for part in found.partitions if part.leader is None]
        return f"{counted(found.partition_count, 'partition')} can be read" + (
            f", but {leaderless} have no leader now" if leaderless else ""
        )

    async def groups() -> str:
        return f"{counted(len((await kafka.groups.find()).groups), 'consumer group')} can be described"

    findings = [await checked(brokers())]
    if findings[0].state != "ok":
        return findings
    names: list[str] = []

    async def topics() -> str:
        found = await kafka.topics.find()
        names.extend(summary.name for summary in found.topics[:_LOOKED_AT])
        return f"{counted(found.total, 'topic')} can be described" + ("" if found.total else "; create_topic makes one")

    findings.append(await checked(topics()))
    looked_at = [await checked(topic(name), subject=f"topic {name}", otherwise="warning") for name in names]
    findings += [finding for finding in looked_at if finding.state != "ok"]
    if readable := sum(finding.state == "ok" for finding in looked_at):
        findings.append(Finding("ok", f"{readable} of the {len(looked_at)} topics that were looked at can be read"))
    findings.append(await checked(groups(), otherwise="warning"))
    findings.append(Finding("off", "rights to publish and to create topics are not tried: nothing is written here"))
    return findings
