"""Looks at AWS as an operator would who asks why something does not work."""

from collections.abc import Sequence

from app.findings import Finding, checked, counted
from app.services.aws.service import AwsService
from app.services.aws.settings import AwsSettings


async def examine(aws: AwsService, settings: AwsSettings) -> Sequence[Finding]:
    """Return what is found of the login and of the buckets, functions and parameters that callers may use.

    Nothing is written, invoked or decrypted, so rights to do so are not tried.
    """

    async def login() -> str:
        await aws.ping()
        where = settings.endpoint("s3") or f"AWS in {settings.region or 'the region of the shared configuration'}"
        return f"{where} answers and knows the credentials"

    async def buckets() -> str:
        found = await aws.buckets.list_buckets(None, 50)
        listed = counted(len(found.buckets), "bucket")
        return f"{listed} can be listed; all may be used, since AWS_ALLOWED_BUCKETS names none"

    async def bucket(entry: str) -> str:
        name, _, prefix = entry.partition("/")
        await aws.buckets.list_objects(name, prefix=prefix, max_keys=1)
        return "objects can be listed"

    async def functions() -> str:
        found = await aws.functions.list(None, 50)
        return f"{counted(len(found.functions), 'function')} can be listed"

    async def function(name: str) -> str:
        await aws.functions.describe(name, None, 1)
        return "it can be described"

    async def parameters() -> str:
        found = await aws.parameters.list(None, 50)
        return f"{counted(len(found.parameters), 'parameter')} can be listed"

    async def path(name: str) -> str:
        page = await aws.parameters.get_by_path(
            name, recursive=True, with_decryption=False, max_results=1, next_token=None
        )
        return "there are parameters" if page.parameters else "there is no parameter below it, unless it is one itself"

    findings = [await checked(login())]
    if findings[0].state != "ok":
        return findings
    # What the operator has named has to be there; whether all of a kind may be listed is a matter of taste.
    findings += [await checked(bucket(entry), subject=f"bucket {entry}") for entry in settings.allowed_buckets]
    findings += [await checked(function(name), subject=f"function {name}") for name in settings.allowed_functions]
    findings += [
        await checked(path(f"/{name.strip('/')}"), subject=f"parameters {name}")
        for name in settings.allowed_parameter_paths
        if not name.startswith("arn:")
    ]
    if not settings.allowed_buckets:
        findings.append(await checked(buckets()))
    if not settings.allowed_functions:
        findings.append(await checked(functions()))
    if not settings.allowed_parameter_paths:
        findings.append(await checked(parameters()))
    untried = "rights to write objects, invoke functions and decrypt parameters are not tried: that would leave traces"
    findings.append(Finding("off", untried))
    return findings
