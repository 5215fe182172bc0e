"""A2A tasks: one a message, however often the message comes; the last ones are kept."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from a2a.helpers import get_data_parts
from a2a.server.agent_execution import AgentExecutor, RequestContext, SimpleRequestContextBuilder
from a2a.server.agent_execution.active_task import INTERRUPTED_TASK_STATES, TERMINAL_TASK_STATES
from a2a.server.context import ServerCallContext
from a2a.server.events import Event
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import AgentCard, Message, SendMessageRequest, SubscribeToTaskRequest, Task, TaskStatusUpdateEvent
from a2a.utils.errors import A2AError, InternalError, InvalidParamsError, UnsupportedOperationError
from a2a.utils.task import apply_history_length

_AT_REST = TERMINAL_TASK_STATES | INTERRUPTED_TASK_STATES
"""States in which nothing happens until another message comes, if ever."""
_MOST_TASKS = 1000
"""That are kept, and messages that are known again."""
_MOST_BYTES = 64 * 1024 * 1024
"""Of the tasks that are kept."""
_LONGEST_ID = 256
"""Characters of a messageId."""
_MADE_WITHIN = 10.0
"""Seconds between a message and the task that it makes, at most."""


class RecentTasks(InMemoryTaskStore):
    """Keeps the tasks that changed last, so that an agent that runs for months does not grow.

    Args:
        limit: how many. Fewer are kept of large ones: 64 MiB together, and the newest in any case.
        on_drop: is told the id of each that is not kept any longer.
    """

    def __init__(self, limit: int = _MOST_TASKS, on_drop: Callable[[str], None] = lambda task_id: None) -> None:
        super().__init__()
        self._limit = limit
        self._on_drop = on_drop
        self._kept: dict[str, ServerCallContext] = {}
        self._sizes: dict[str, int] = {}
        self._saved = asyncio.Condition()

    async def save(self, task: Task, context: ServerCallContext) -> None:
        await super().save(task, context)
        self._kept.pop(task.id, None)
        self._kept[task.id] = context
        self._sizes[task.id] = task.ByteSize()
        while len(self._kept) > self._limit or (len(self._kept) > 1 and sum(self._sizes.values()) > _MOST_BYTES):
            oldest = next(iter(self._kept))
            del self._sizes[oldest]
            await self.delete(oldest, self._kept.pop(oldest))
            self._on_drop(oldest)
        async with self._saved:
            self._saved.notify_all()

    async def once_saved(self, task_id: str, context: ServerCallContext) -> Task:
        """Return a task, or wait for one that is being made.

        Raises:
            InternalError: it did not come to be.
        """
        try:
            async with asyncio.timeout(_MADE_WITHIN), self._saved:
                while (task := await self.get(task_id, context)) is None:
                    await self._saved.wait()
        except TimeoutError:
            raise InternalError(message="The task that this message belongs to was not made. Send it anew.") from None
        return task


class OneTaskAMessage(DefaultRequestHandler):
    """Answers a message that comes again by the task that it made, and refuses one that says nothing.

    Clients repeat a message whose answer they lost, and an agent that worked on it twice would write everything twice.

    Args:
        executor: runs the tasks.
        card: of the agent.
        limit: how many tasks, and messages, are remembered.
    """

    def __init__(self, executor: AgentExecutor, card: AgentCard, *, limit: int = _MOST_TASKS) -> None:
        self._messages = _Messages(limit)
        self._tasks = RecentTasks(limit, self._messages.forget_task)
        super().__init__(executor, self._tasks, card, request_context_builder=self._messages)
        self._sdk: Any = super()  # whose decorators hide the types

    async def on_message_send(self, params: SendMessageRequest, context: ServerCallContext) -> Message | Task:
        """Return the task of a message, at its end unless the caller would not wait."""
        task_id = self._task_of(params.message, context)
        if task_id is None:
            try:
                return await self._sdk.on_message_send(params, context)
            except A2AError:
                self._messages.forget(params.message, context)
                raise
        async with aclosing(self._follow(task_id, context)) as events:
            async for _ in events:
                if params.configuration.return_immediately:
                    break
        return apply_history_length(await self._tasks.once_saved(task_id, context), params.configuration)

    async def on_message_send_stream(
        self, params: SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event]:
        """Yield the task of a message and what becomes of it."""
        task_id = self._task_of(params.message, context)
        events: AsyncGenerator[Event] = (
            self._sdk.on_message_send_stream(params, context) if task_id is None else self._follow(task_id, context)
        )
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        except A2AError:
            if task_id is None:
                self._messages.forget(params.message, context)
            raise

    def _task_of(self, message: Message, context: ServerCallContext) -> str | None:
        """Return the task that a message has made, or was sent to, already.

        Raises:
            InvalidParamsError: it says nothing, or its id is that of a message to another task.
        """
        texts = [part.text for part in message.parts if part.HasField("text")]
        if not any(text.strip() for text in texts) and (texts or not get_data_parts(message.parts)):
            raise InvalidParamsError(message="The message says nothing: send a text part that says what you want.")
        if not 0 < len(message.message_id) <= _LONGEST_ID:
            # It is remembered; and messages without one would all be the same.
            raise InvalidParamsError(
                message=f"Give each message a messageId of its own, of 1 to {_LONGEST_ID} letters."
            )
        task_id = self._messages.task_of(message, context)
        if task_id and message.task_id and message.task_id != task_id:
            raise InvalidParamsError(message="Another task has got a message of this messageId. Give each its own.")
        return task_id

    async def _follow(self, task_id: str, context: ServerCallContext) -> AsyncGenerator[Event]:
        """Yield a task as it is, and on until nothing more happens."""
        task = await self._tasks.once_saved(task_id, context)
        if task.status.state in _AT_REST:
            yield task
            return
        subscription: AsyncGenerator[Event] = self._sdk.on_subscribe_to_task(
            SubscribeToTaskRequest(id=task_id), context
        )
        try:
            async with aclosing(subscription):
                async for event in subscription:
                    yield event
                    if isinstance(event, Task | TaskStatusUpdateEvent) and event.status.state in _AT_REST:
                        return
        except UnsupportedOperationError:  # it has come to its end meanwhile
            yield await self._tasks.once_saved(task_id, context)


class _Messages(SimpleRequestContextBuilder):
    """Remembers which message belongs to which task, from the moment that the task has its id.

    Args:
        limit: how many messages.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._tasks: dict[tuple[str, str], str] = {}

    async def build(
        self,
        context: ServerCallContext,
        params: SendMessageRequest | None = None,
        task_id: str | None = None,
        context_id: str | None = None,
        task: Task | None = None,
    ) -> RequestContext:
        built = await super().build(context, params, task_id, context_id, task)
        if params is not None and built.task_id:
            self._tasks[_key(params.message, context)] = built.task_id
            while len(self._tasks) > self._limit:
                del self._tasks[next(iter(self._tasks))]
        return built

    def task_of(self, message: Message, context: ServerCallContext) -> str | None:
        """Return the task of a message that came before."""
        return self._tasks.get(_key(message, context))

    def forget_task(self, task_id: str) -> None:
        """Let the messages of a task that is not kept any longer count as new."""
        for key in [key for key, found in self._tasks.items() if found == task_id]:
            del self._tasks[key]

    def forget(self, message: Message, context: ServerCallContext) -> None:
        """Let a message that was refused come again as if it were new."""
        self._tasks.pop(_key(message, context), None)


def _key(message: Message, context: ServerCallContext) -> tuple[str, str]:
    return context.user.user_name, message.message_id
