"""A gateway in a process of its own that believes who calls: `python bound_gateway.py PORT DATABASE_URL`."""

import sys

from app.cli.running import run
from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.serving.process import serve
from app.settings import Settings
from tests.fixtures.postgres import settings_for
from tests.guard.bound import bound

if __name__ == "__main__":
    port, url = sys.argv[1:]
    settings = Settings(port=int(port))
    application = bound(create_app([DatabaseMCPServer], settings, [settings_for(url)]), None)
    run(lambda: serve(application, settings))
