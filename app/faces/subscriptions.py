"""Subscriptions to resources, each in a task of its own, whatever the protocol calls them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager, contextmanager

from app.errors import BackendUnavailable, GatewayError, NotFound
from app.servers.resources import Update

Watch = AbstractAsyncContextManager[AsyncIterator[Update]]


class Subscription:
    """One watch. One task enters it, forwards what it tells and leaves it, as cancel scopes within it want.

    A failure ends the subscription and nothing else; a last notice tells it, with the problem in `failure`.

    Args:
        tasks: of the connection or the request, which ends with its subscriptions.
        watching: the watch, not yet entered.
        notify: sends one notice.
        request_id: of the request, for the failure.
    """

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        watching: Watch,
        notify: Callable[[Update], Awaitable[None]],
        request_id: str,
    ) -> None:
        self._watching = watching
        self._notify = notify
        self._request_id = request_id
        self._entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting = 0
        self.task = tasks.create_task(self._run())

    async def begun(self) -> None:
        """Return once every later change is sure to be told; the last who gives up waiting takes the watch along.

        Raises:
            GatewayError: it can't be watched.
        """
        self._waiting += 1
        try:
            await asyncio.shield(self._entered)
        except asyncio.CancelledError:
            if self._waiting == 1 and not self._entered.done():
                self.task.cancel()
            raise
        finally:
            self._waiting -= 1

    async def _run(self) -> None:
        try:
            async with self._watching as updates:
                self._entered.set_result(None)
                async for update in updates:
                    await self._notify(update)
                raise NotFound("It is gone: nothing more will be told of it.")
        except GatewayError as error:
            if self._entered.done():
                problem = error.problem(self._request_id).model_dump(mode="json", exclude_none=True)
                await self._notify({"failure": problem})
            else:
                self._entered.set_exception(error)
                self._entered.exception()  # nobody may be left to hear of it
        finally:
            if not self._entered.done():
                self._entered.set_result(None)  # ended before it began, as its client wished


class Subscriptions:
    """What one connection watches: one `Subscription` a URI by `resources/subscribe`, and `subscriptions/listen`."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._by_uri: dict[str, Subscription] = {}
        self.streams = 0
        """Requests that end only with their subscriptions."""
        self.closing = asyncio.Event()
        """Set when the connection ends: streams end then."""

    async def add(
        self, uri: str, watching: Watch, notify: Callable[[Update], Awaitable[None]], request_id: str
    ) -> None:
        """Subscribe to a URI; who is subscribed already stays so.

        Args:
            uri: of the resource.
            watching: as for `Subscription`, and what follows.
            notify: as there.
            request_id: as there.

        Raises:
            GatewayError: it can't be watched.
        """
        if self.closing.is_set():
            raise BackendUnavailable("The connection is about to end. Connect again.")
        subscription = self._by_uri.get(uri)
        if subscription is None:
            subscription = self._by_uri[uri] = Subscription(self._tasks, watching, notify, request_id)
            subscription.task.add_done_callback(lambda _: self._forget(uri, subscription))
        await subscription.begun()

    async def remove(self, uri: str) -> None:
        """End a subscription, if there is one."""
        if subscription := self._by_uri.pop(uri, None):
            await end([subscription])

    @contextmanager
    def stream(self) -> Generator[None]:
        """Count a request that ends only with its subscriptions."""
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    async def close(self) -> None:
        """End all of them."""
        self.closing.set()
        ending = list(self._by_uri.values())
        self._by_uri.clear()
        await end(ending)

    def _forget(self, uri: str, subscription: Subscription) -> None:
        if self._by_uri.get(uri) is subscription:
            del self._by_uri[uri]


async def end(subscriptions: Iterable[Subscription]) -> None:
    """Cancel subscriptions and return once they have ended."""
    tasks = [subscription.task for subscription in subscriptions]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
