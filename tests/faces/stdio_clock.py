"""The clock over standard input and output, launched as `python -m tests.faces.stdio_clock`."""

import asyncio

from app.faces.stdio import serve_stdio
from app.gateway import Gateway
from app.logs import set_up_logging
from app.results import RawResult
from app.servers.declaring import tool
from app.settings import Settings
from tests.clock import ClockMCPServer, ClockTime


class StdioClock(ClockMCPServer):
    """Tells the time."""

    server_id, name = "clock", "Clock MCP Server"

    @tool()
    async def change_zones(self) -> ClockTime:
        """Tell everybody who watches a zone that it changed; answer how many watch."""
        for watcher in self.watchers:
            watcher.put_nowait({"cursor": "9"})
        return ClockTime(zone="all", ticks=len(self.watchers))

    @tool()
    async def await_cancellation_of_another_call(self) -> ClockTime:
        """Answer once a call of `wait_for_cancellation` was cancelled."""
        await self.cancelled.wait()
        return ClockTime(zone="cancelled")

    @tool()
    async def await_start_of_another_call(self) -> ClockTime:
        """Answer once a call of `wait_for_cancellation` runs."""
        await self.started.wait()
        return ClockTime(zone="started")

    @tool()
    async def take_a_while(self) -> ClockTime:
        """Answer after everything else that was asked with it."""
        await asyncio.sleep(0.5)
        return ClockTime(zone="late")

    @tool(read_only=True)
    async def get_lines(self, size: int) -> RawResult[ClockTime]:
        """Answer JSON as a backend may have written it: in lines."""
        return RawResult(b'{\r\n"success":true,\n"zone":\r"%b",\n"ticks":7\n}' % (b"x" * size))

    @tool()
    async def print_something(self) -> ClockTime:
        """Print, as careless libraries do, and let a child read and print."""
        print("from the process")
        child = await asyncio.create_subprocess_exec("sh", "-c", "cat; echo from a child")
        await child.wait()
        return ClockTime(zone="printed")


async def main() -> None:
    set_up_logging("INFO", "text")
    gateway = Gateway([StdioClock()], Settings())
    async with gateway.open():
        await serve_stdio(gateway, "clock")


if __name__ == "__main__":
    asyncio.run(main())
