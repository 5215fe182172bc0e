"""A gateway in a process of its own, for the test that kills it: `python kafka_gateway.py PORT BOOTSTRAP_SERVERS`."""

import sys

from app.cli.running import run
from app.main import create_app
from app.routers.kafka import KafkaMCPServer
from app.services.kafka.settings import KafkaSettings
from app.serving.process import serve
from app.settings import Settings

if __name__ == "__main__":
    port, servers = sys.argv[1:]
    settings = Settings(port=int(port))
    application = create_app([KafkaMCPServer], settings, [KafkaSettings.model_validate({"bootstrap_servers": servers})])
    run(lambda: serve(application, settings))
