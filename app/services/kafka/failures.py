"""aiokafka's errors, as the gateway's callers see them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiokafka import errors

from app.errors import (
    BackendTimeout,
    BackendUnavailable,
    Conflict,
    Forbidden,
    GatewayError,
    InvalidArguments,
    NotFound,
)

UNREACHABLE: tuple[type[Exception], ...] = (
    errors.KafkaConnectionError,
    errors.NodeNotReadyError,
    errors.NoBrokersAvailable,
    errors.CorrelationIdError,
    OSError,
)
"""The connection is at fault: another one may work."""

MOVED: tuple[type[Exception], ...] = (
    errors.LeaderNotAvailableError,
    errors.NotLeaderForPartitionError,
    errors.ReplicaNotAvailableError,
    errors.StaleLeaderEpochCodeError,
    errors.KafkaStorageError,
    errors.GroupCoordinatorNotAvailableError,
    errors.NotCoordinatorForGroupError,
    errors.GroupLoadInProgressError,
    errors.NotControllerError,
    errors.BrokerNotAvailableError,
)
"""The cluster is rearranging itself: asking again in a moment helps."""

_REFUSED_LOGIN: tuple[type[Exception], ...] = (
    errors.AuthenticationFailedError,
    errors.AuthenticationMethodNotSupported,
    errors.SaslAuthenticationFailed,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
)


def raise_for(code: int) -> None:
    """Raise the error that a code in a broker's answer stands for; 0 stands for none."""
    if code:
        raise errors.for_code(code)()


@asynccontextmanager
async def answers(within: float, *, topic: str | None = None, group_id: str | None = None) -> AsyncGenerator[None]:
    """Bound some work with Kafka and translate its failures.

    Args:
        within: seconds.
        topic: the topic that it is about, for messages.
        group_id: the consumer group that it is about, for messages.

    Raises:
        GatewayError: whatever went wrong, for the caller to read.
    """
    try:
        async with asyncio.timeout(within):
            yield
    except TimeoutError as error:
        raise BackendTimeout(f"Kafka did not answer within {within:g} s; try again later") from error
    except (errors.KafkaError, OSError) as error:
        raise translated(error, topic=topic, group_id=group_id) from error


def translated(error: Exception, *, topic: str | None = None, group_id: str | None = None) -> GatewayError:
    """Return the failure that a caller should see for an error of aiokafka or of the network."""
    match error:
        case errors.UnknownTopicOrPartitionError():
            return NotFound(f"there is no topic {topic!r}; list_topics tells which there are, create_topic makes one")
        case errors.InvalidTopicError():
            return InvalidArguments.of("topic", "Kafka refuses this name for a topic, or an internal topic")
        case errors.InvalidTimestampError():
            return InvalidArguments.of("timestamp", "outside of what the topic accepts (message.timestamp.*.max.ms)")
        case errors.TopicAuthorizationFailedError():
            return Forbidden(f"Kafka does not permit the gateway this on topic {topic!r}")
        case errors.GroupAuthorizationFailedError():
            return Forbidden(f"Kafka does not permit the gateway this on group {group_id!r}")
        case errors.ClusterAuthorizationFailedError():
            return Forbidden("Kafka does not permit the gateway this on the cluster")
        case errors.PolicyViolationError():
            return Forbidden("a policy of the Kafka cluster refuses this")
        case errors.InvalidGroupIdError():
            return InvalidArguments.of("group_id", "Kafka refuses this group id")
        case errors.InconsistentGroupProtocolError():
            return Conflict(f"group {group_id!r} is used by consumers that divide partitions in another way")
        case errors.InvalidSessionTimeoutError():
            return BackendUnavailable("the broker refuses KAFKA_SESSION_TIMEOUT_MS; see its group.*.session.timeout.ms")
        case errors.NotEnoughReplicasError() | errors.NotEnoughReplicasAfterAppendError():
            return BackendUnavailable("too few in-sync replicas are up to store the message; try again later")
        case errors.UnsupportedCodecError():
            return BackendUnavailable("the messages are compressed with a codec that this gateway has no library for")
        case errors.RequestTimedOutError() | errors.KafkaTimeoutError():
            return BackendTimeout("Kafka did not answer in time; try again later")
        case _ if isinstance(error, _REFUSED_LOGIN):
            return BackendUnavailable("Kafka refuses the gateway's login; check KAFKA_SASL_* and KAFKA_SSL_*")
        case _ if isinstance(error, MOVED):
            return BackendUnavailable("the Kafka cluster is electing leaders; try again in a moment", retry_after=1)
        case _ if isinstance(error, UNREACHABLE):
            return BackendUnavailable("no Kafka broker can be reached; check KAFKA_BOOTSTRAP_SERVERS and the cluster")
        case _:
            return BackendUnavailable(f"Kafka refused the request ({type(error).__name__})")
