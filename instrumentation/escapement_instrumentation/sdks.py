"""SDKs made as OpenAI's is, one level above HTTP: which attempts are one call, and what a served answer skips.

They are generated with the same base client, whose `request` holds the retry loop. Around it a call begins and ends.
Inside it, an answer served from a trace is the last one that the call got: it is not retried, and says how many
attempts there were. Exceptions of ours leave the loop as they are, whatever the SDK would make of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from escapement.engine import lanes
from escapement.engine.calls import Call, current_call
from escapement.engine.hooks import ModuleHooks
from escapement.engine.patching import Patch, Wrapper

_log = logging.getLogger("escapement")

sdk_here: ContextVar[str] = ContextVar("escapement_sdk", default="")
"""The SDK that sends what is sent here, where each request is a call of its own."""


class Unwind(BaseException):
    """Carries an exception out of an SDK's retry loop, which would retry or wrap anything it can catch."""

    def __init__(self, error: BaseException, cause: BaseException | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.cause = cause


def sdk_hooks(sdk: str) -> ModuleHooks:
    """Hooks on the base client of `sdk` ("openai", "anthropic", "groq" or "together")."""

    def patches(module: ModuleType) -> Sequence[Patch]:
        sync, asynchronous = module.SyncAPIClient, module.AsyncAPIClient
        return (
            Patch(sync, "request", around(sdk)),
            Patch(asynchronous, "request", around_async(sdk)),
            Patch(module.BaseClient, "_should_retry", _should_retry),
            Patch(sync, "_process_response", _process_response),
            Patch(asynchronous, "_process_response", _process_response),
        )

    return ModuleHooks(f"{sdk}._base_client", patches)


class _Around(AbstractContextManager[None]):
    """A call, around the retry loop of its SDK."""

    __slots__ = ("_call", "_token")

    def __init__(self, sdk: str) -> None:
        self._call = Call(sdk)

    def __enter__(self) -> None:
        self._token = current_call.set(self._call)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        with suppress(ValueError):  # thrown away with its event loop, in another context
            current_call.reset(self._token)
        if isinstance(error, Unwind):
            raise error.error from error.cause
        try:
            self._call.leave(error)
        except Exception:
            _log.exception("Escapement could not record the end of a call")


@contextmanager
def _sending(sdk: str) -> Iterator[None]:
    """Requests of `sdk`, each a call of its own."""
    token = sdk_here.set(sdk)
    try:
        yield
    finally:
        with suppress(ValueError):  # thrown away with its event loop, in another context
            sdk_here.reset(token)


def around(sdk: str) -> Wrapper:
    """A hook on the method of `sdk` that makes a call with all its attempts."""
    return _within(lambda: _Around(sdk))


def around_async(sdk: str) -> Wrapper:
    """`around` for a coroutine function."""
    return _within_async(lambda: _Around(sdk))


def each(sdk: str) -> Wrapper:
    """A hook on a method of `sdk` that makes several requests (an upload in parts): each is a call of its own."""
    return _within(lambda: _sending(sdk))


def each_async(sdk: str) -> Wrapper:
    """`each` for a coroutine function."""
    return _within_async(lambda: _sending(sdk))


def _within(surroundings: Callable[[], AbstractContextManager[None]]) -> Wrapper:
    """A hook that has a method run in these, while a run is open."""

    def hook(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if lanes.current() is None:
            return wrapped(*args, **kwargs)
        with surroundings():
            return wrapped(*args, **kwargs)

    return hook


def _within_async(surroundings: Callable[[], AbstractContextManager[None]]) -> Wrapper:
    async def hook(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if lanes.current() is None:
            return await wrapped(*args, **kwargs)
        with surroundings():
            return await wrapped(*args, **kwargs)

    return hook


def _should_retry(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    response = args[0] if args else kwargs.get("response")
    if retries_of(response) is not None:
        return False
    return wrapped(*args, **kwargs)


def _process_response(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    retries = retries_of(kwargs.get("response"))
    if retries:
        kwargs = {**kwargs, "retries_taken": retries}
    return wrapped(*args, **kwargs)


def mark_served(response: Any, retries: int) -> None:
    """Note on a response that it comes from a trace, and how often its call had been retried."""
    response._escapement_retries = retries


def retries_of(response: Any) -> int | None:
    """How often the call of a served response had been retried; None for a live response."""
    return getattr(response, "_escapement_retries", None)
