"""A gateway in a process of its own, for the test that kills it: `python kafka_gateway.py PORT BOOTSTRAP_SERVERS`."""

import sys

import uvicorn

from app.main import create_app
from app.routers.kafka import KafkaMCPServer
from app.services.kafka.settings import KafkaSettings
from app.settings import Settings

if __name__ == "__main__":
    port, servers = sys.argv[1:]
    application = create_app([KafkaMCPServer], Settings(), [KafkaSettings(bootstrap_servers=servers)])
    uvicorn.run(application, host="127.0.0.1", port=int(port), log_config=None)
