"""Every failure of AWS, in the gateway's words. No other place knows botocore's exceptions."""

import asyncio
import logging
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from app.errors import (
    BackendNotConfigured,
    BackendTimeout,
    BackendUnavailable,
    Conflict,
    Forbidden,
    GatewayError,
    InvalidArguments,
    NotFound,
    RangeNotSatisfiable,
    TooManyRequests,
)
from app.services.aws.names import those_that_are

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import HeadObjectOutputTypeDef

log = logging.getLogger(__name__)

_NAMES_WITHIN = 2.0
"""Seconds that a failure may take longer for the sake of naming what there is."""

LOGIN_MISSING = (
    "AWS is not configured: no credentials were found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
    "AWS_PROFILE, or give the machine a role."
)
REGION_MISSING = "AWS is not configured: no region is set. Set AWS_REGION, for example to eu-central-1."

_MISSING = frozenset(
    {
        "404",
        "NoSuchKey",
        "NoSuchVersion",
        "MethodNotAllowed",  # what S3 answers to a read of a delete marker by its version
        "NotFound",
        "ParameterNotFound",
        "ParameterVersionNotFound",
        "ResourceNotFoundException",
    }
)
_WITHOUT_A_REASON = frozenset({"400", "403"})
_LOGIN_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
_LOGIN_REFUSED = frozenset(
    {
        "AuthFailure",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "InvalidToken",
        "MissingAuthenticationToken",
        "NotSignedUp",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_DENIED = frozenset(
    {
        "403",
        "AccessDenied",
        "AccessDeniedException",
        "AllAccessDisabled",
        "KMSAccessDeniedException",
        "UnauthorizedOperation",
    }
)
_THROTTLED = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_ELSEWHERE = frozenset(
    {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect", "301", "307"}
)
_REFUSED_ARGUMENTS = {
    "InvalidNextToken": ("next_token", "AWS does not know it; leave it out to begin with the first page"),
    "InvalidRequestContentException": ("payload", "AWS can't read it"),
    "KeyTooLongError": ("key", "longer than 1,024 bytes of UTF-8"),
    "MetadataTooLarge": ("metadata", "larger than 2 KB in all"),
    "RequestEntityTooLargeException": ("payload", "larger than Lambda takes"),
    "RequestTooLargeException": ("payload", "larger than Lambda takes (6 MB, or 1 MB for an Event)"),
}
_CONFLICTS = {
    "ConditionalRequestConflict": "Another write to the same key happened at the same moment. Look and repeat.",
    "InvalidObjectState": "The object is archived. Restore it before it is read.",
    "NoSuchUpload": "The upload was ended by somebody else while it ran. Begin again.",
    "ResourceConflictException": "The function is being changed. Repeat in a moment.",
    "PreconditionFailed": "An object exists already at this key, or was changed meanwhile.",
}


class MissingBucket(NotFound):
    """It is the bucket that does not exist, and not something in it."""


@contextmanager
def aws_failures(action: str, *, missing: str = "", bucket: str = "") -> Generator[None]:
    """Translate whatever botocore raises inside into a `GatewayError`.

    The answer is read inside, too: what is not there, or is of another kind than AWS says, is no AWS's.

    Args:
        action: IAM's name of the call, such as `s3:GetObject`; said where AWS denies it.
        missing: the sentence for a thing that does not exist; it names the thing.
        bucket: the bucket of the call, named where that itself does not exist.
    """
    try:
        yield
    except boto.ClientError as error:
        raise _of_answer(error, action, missing, bucket) from None
    except (boto.NoCredentialsError, boto.PartialCredentialsError):
        raise BackendNotConfigured(LOGIN_MISSING, missing="AWS_ACCESS_KEY_ID") from None
    except boto.NoRegionError:
        raise BackendNotConfigured(REGION_MISSING, missing="AWS_REGION") from None
    except boto.ProfileNotFound:
        raise BackendNotConfigured("AWS is not configured: AWS_PROFILE names no profile of this machine.") from None
    except (boto.ConfigNotFound, boto.ConfigParseError, boto.InvalidConfigError):
        raise BackendNotConfigured("AWS is not configured: its shared configuration file can't be read.") from None
    except (
        boto.CredentialRetrievalError,
        boto.MetadataRetrievalError,
        boto.SSOError,
        boto.TokenRetrievalError,
        boto.RefreshWithMFAUnsupportedError,
    ):
        raise BackendUnavailable("The gateway's AWS credentials could not be fetched or renewed.") from None
    except (boto.ReadTimeoutError, boto.ConnectTimeoutError, TimeoutError):
        raise BackendTimeout(f"AWS did not answer {action} in time. A write may have happened.") from None
    except (boto.ParamValidationError, boto.UnsupportedS3ArnError):
        raise InvalidArguments(f"{action}: AWS does not take these arguments.") from None
    except boto.InvalidRegionError:
        raise BackendNotConfigured(
            "AWS is not configured: AWS_REGION is no region's name, as eu-central-1 is."
        ) from None
    except boto.FlexibleChecksumError:
        raise BackendUnavailable("What AWS sent does not match its checksum. Repeat the call.") from None
    except (boto.ResponseStreamingError, boto.IncompleteReadError, aiohttp.ClientError) as error:
        log.info("%s broke off: %s", action, type(error).__name__)
        raise BackendUnavailable("The connection to AWS broke off in the middle of an answer.") from None
    except (boto.HTTPClientError, boto.BotoCoreError) as error:
        # The kind alone: the text may hold addresses, and whatever else a driver writes. An outage is told by whoever
        # opens connections, once; this is every call's.
        log.info("%s failed: %s", action, type(error).__name__)
        if isinstance(inner := getattr(error, "kwargs", {}).get("error"), UnicodeDecodeError):
            raise _unreadable(action, inner) from None
        raise BackendUnavailable("AWS, or the AWS_ENDPOINT_URL in its place, can't be reached.") from None
    except (ResponseParserError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(action, error) from None


def _unreadable(action: str, error: Exception) -> BackendUnavailable:
    # Where, and not what: the text may hold what was answered.
    place = traceback.extract_tb(error.__traceback__)[-1]
    log.warning("%s: the answer can't be read: %s at %s:%s", action, type(error).__name__, place.filename, place.lineno)
    return BackendUnavailable(
        f"What answered {action} does not speak as AWS does. The gateway's operator must check AWS_ENDPOINT_URL, and "
        "proxies on the way."
    )


async def head_object(s3: "S3Client", **where: Any) -> "HeadObjectOutputTypeDef":
    """Return the answer to HeadObject. A refusal of it has no body, so the reason is asked for by GetObject."""
    try:
        return await s3.head_object(**where)
    except boto.ClientError as error:
        answer: Any = error.response
        if answer["Error"]["Code"] not in _WITHOUT_A_REASON:
            raise
        found: Any = await s3.get_object(**where)
        found["Body"].close()
        raise


@asynccontextmanager
async def naming_others(
    asked: str, names: Callable[[], Awaitable[Iterable[str]]], *, kind: type[NotFound] = NotFound
) -> AsyncGenerator[None]:
    """Say, where something does not exist, what there is in its place: a model then need not guess again.

    Args:
        asked: the name that may lead nowhere.
        names: looks up what may be used. If AWS does not tell it, in time or at all, nothing is named.
        kind: of the failures that are completed.
    """
    try:
        yield
    except kind as error:
        found: Iterable[str] = ()
        with suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(_NAMES_WITHIN):
                found = await names()
        raise NotFound(error.detail + those_that_are(found, asked)) from None


def _of_answer(error: boto.ClientError, action: str, missing: str, bucket: str) -> GatewayError:
    """Return what an error that AWS has answered means to the caller."""
    answer: Any = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    about = answer.get("ResponseMetadata", {})
    status = int(about.get("HTTPStatusCode", 0))
    pause = _retry_after(about.get("HTTPHeaders", {}))
    if code == "NoSuchBucket":
        return MissingBucket(f"There is no bucket {bucket!r}.")
    if code in _MISSING:
        return NotFound(missing or "AWS knows no such thing.")
    if code in _LOGIN_EXPIRED:
        return BackendUnavailable("The gateway's AWS credentials have expired. Its operator must renew them.")
    if code in _LOGIN_REFUSED:
        return BackendUnavailable("AWS refuses the gateway's credentials. Its operator must check the AWS_… variables.")
    if code in _DENIED:
        return Forbidden(
            f"AWS denies the gateway {action} here. Its operator can allow it (docs/aws.md lists policies)."
        )
    if code in _THROTTLED or status == 429:
        return TooManyRequests("AWS asks for fewer calls. Repeat in a moment.", retry_after=pause or 1.0)
    if code in _CONFLICTS:
        return Conflict(_CONFLICTS[code])
    if code == "InvalidRange":
        return RangeNotSatisfiable.of("range", "begins after the object's end")
    if code in _REFUSED_ARGUMENTS:
        return InvalidArguments.of(*_REFUSED_ARGUMENTS[code])
    if code in _ELSEWHERE:
        return BackendUnavailable(f"The bucket {bucket!r} is in another region than AWS_REGION says.")
    if code == "RequestTimeout":
        return BackendTimeout("AWS waited too long for the data. Send it again.")
    if status >= 500:
        return BackendUnavailable(f"AWS failed at {action}. Repeat in a moment.", retry_after=pause or 1.0)
    return InvalidArguments(f"AWS refuses {action} with these arguments ({code[:80] or status}).")


def _retry_after(headers: Any) -> float | None:
    value = str(headers.get("retry-after", ""))
    return float(value) if value.isdecimal() else None
