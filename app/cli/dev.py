"""`switchboard dev`: for people who develop or try the gateway."""

from pathlib import Path

import click

from app.cli.commands import has_local_stack
from app.cli.running import (
    CONFIG,
    chosen_servers,
    open_tracing,
    policy_file,
    read_guard,
    read_settings,
    run,
    start_log,
)
from app.services.embeddings.settings import EmbeddingSettings
from app.serving.process import PortInUse
from app.settings import Settings

try:
    from app.local.dev import serve_local_stack
    from app.local.process import StartFailed
except ModuleNotFoundError:  # an installation for production has no local stack
    _local_stack = None
else:
    _local_stack = serve_local_stack, StartFailed


@click.command
@click.option("--port", type=int, default=None, help="Port on 127.0.0.1; 8000 unless PORT says otherwise.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".switchboard"),
    show_default=True,
    help="Where the local backends keep their data.",
)
@CONFIG
def dev(port: int | None, data_dir: Path, config: Path | None) -> None:
    """Serve on a local stack: starts the backends, migrates, loads demo data if there is none."""
    if _local_stack is None or not has_local_stack():
        raise click.ClickException(
            "The local stack is not part of this installation: it is for development and tests, and comes with a "
            "checkout's `make run`, or with the extra `local` of the package switchboard-gateway."
        )
    serve, failure = _local_stack
    settings = read_settings(Settings, port=port, host="127.0.0.1", switchboard_config=config)
    kinds = chosen_servers([], settings)
    guard = read_guard(settings, kinds)
    start_log(settings, kinds, guard.policy)
    embeddings = read_settings(EmbeddingSettings)
    policy = policy_file(settings)
    with open_tracing(settings) as tracing:
        run(lambda: serve(settings, data_dir, guard, tracing, embeddings, policy), PortInUse, failure, serves=True)
