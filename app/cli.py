"""`switchboard dev | serve | stdio | migrate | seed`."""

import click


@click.group()
def main() -> None:
    """One gateway between AI support agents and PostgreSQL, Kafka and AWS."""
