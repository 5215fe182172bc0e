"""What pages show that takes more than typing it: `docs/query-database.md` and `docs/proxies.md`."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

import asyncpg
import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from app.local.postgres import run_postgres
from app.local.process import accepts_connections, child_process, free_port
from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.services.postgres.migrations import migrate
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.documents.blocks import ROOT, blocks_of, prints
from tests.fixtures.debian import PROGRAMS
from tests.fixtures.gateway import Served, serve
from tests.fixtures.postgres import TestDatabase, settings_for

QUERY = ROOT / "docs" / "query-database.md"
PROXIES = ROOT / "docs" / "proxies.md"
REFUSALS = re.findall(r"^\| `(.+?)`(?: with `(.+?)`)? \| (\d{3}) `(.+?)` \|$", QUERY.read_text(), re.MULTILINE)


@pytest.fixture
async def gateway(demo_database: TestDatabase) -> AsyncGenerator[Served]:
    async with serve(create_app([DatabaseMCPServer], Settings(), [demo_database.settings])) as served:
        yield served


async def test_each_statement_is_refused_in_the_words_of_the_page(gateway: Served) -> None:
    assert len(REFUSALS) >= 8
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        for query, params, status, said in REFUSALS:
            arguments = {"query": query, "params": json.loads(params or "[]")}
            answer = await http.post("/mcp/database/tools/query_database", json=arguments)
            assert answer.status_code == int(status), query
            assert prints(said, answer.json()["detail"]), f"{query}: {answer.json()['detail']}"


async def test_the_login_that_is_made_by_hand_reads(postgres_directory: Path) -> None:
    [by_hand] = [block for block in blocks_of(QUERY) if block.language == "sql"]
    async with run_postgres(postgres_directory, durable=False) as server:
        connection = await asyncpg.connect(server.url())
        await connection.execute("CREATE DATABASE customer_support")
        await connection.close()
        url = server.url("customer_support")
        await migrate(url)
        connection = await asyncpg.connect(url)
        await connection.execute(by_hand.text)
        await connection.close()
        reader = f"postgresql://switchboard_reader_login:…@127.0.0.1:{server.port}/customer_support"
        app = create_app([DatabaseMCPServer], Settings(), [settings_for(url, reader)])
        async with serve(app) as served, httpx.AsyncClient(base_url=served.url, timeout=30) as http:
            query = {"query": "SELECT count(*) FROM customers"}
            answer = (await http.post("/mcp/database/tools/query_database", json=query)).json()
            assert answer["rows"] == [{"count": 0}], answer
            assert (await http.get("/ready")).status_code == 200


NGINX = """
pid {directory}/pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {map}
    server {{
        listen 127.0.0.1:{port};
        server_name support.example;
        {location}
    }}
}}
"""


@pytest.mark.debian("nginx")
async def test_nginx_as_the_page_sets_it_up_serves_pages_calls_and_websockets(tmp_path: Path) -> None:
    [location, *_] = [block.text for block in blocks_of(PROXIES) if block.language == "nginx"]
    [variable] = re.findall(r"`(map \$http_upgrade .+?)`", PROXIES.read_text())
    port = free_port()
    settings = Settings(trusted_proxies=["127.0.0.1"], allowed_hosts=["support.example"])
    async with serve(create_app([ClockMCPServer], settings)) as served:
        directory = tmp_path / "nginx"
        await asyncio.to_thread(directory.mkdir)
        config = directory / "nginx.conf"
        location = location.replace("127.0.0.1:8000", f"127.0.0.1:{served.port}")
        text = NGINX.format(directory=directory, map=variable, port=port, location=location)
        await asyncio.to_thread(config.write_text, text)

        command = [PROGRAMS["nginx"], "-e", str(directory / "error.log"), "-c", str(config), "-g", "daemon off;"]
        async with (
            child_process(command, log=directory / "log", is_ready=partial(accepts_connections, port)),
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", headers={"host": "support.example"}, timeout=30
            ) as http,
        ):
            page = (await http.get("/gw/", headers={"accept": "text/html"})).text
            assert 'src="/gw/console/main.js"' in page
            assert (await http.get("/gw/console/main.js")).status_code == 200
            assert (await http.get("/gw/console/connect")).json()["url"] == "http://support.example/gw"
            assert (await http.post("/gw/mcp/clock/tools/get_time", json={})).json()["success"] is True
            assert (await http.get("/gw/gw/mcp")).status_code == 404
            large = await http.post("/gw/mcp/clock/tools/get_time", content=b"{" + b" " * 3_000_000 + b"}")
            assert large.json()["success"] is True
            larger = await http.post("/gw/mcp/clock/tools/get_time", content=b" " * 5_000_000)
            assert larger.json()["code"] == "request_too_large"
            address = {"host": "127.0.0.1", "port": port}
            async with connect(
                "ws://support.example/gw/mcp/ws", subprotocols=[Subprotocol("mcp")], **address
            ) as socket:
                await socket.send('{"jsonrpc": "2.0", "id": 1, "method": "ping"}')
                assert json.loads(await socket.recv())["id"] == 1
