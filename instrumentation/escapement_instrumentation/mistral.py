"""The Mistral SDK, one level above HTTP: which attempts are one call.

An answer served from a trace is the last one that the call got, so it is not tried again. The SDK has three copies of
its client: its own, and those for Azure and Google Cloud.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from escapement.engine.hooks import ModuleHooks
from escapement.engine.patching import Patch
from escapement_instrumentation.sdks import around, around_async, retries_of

_SDK = "mistralai"


def mistral_hooks() -> Sequence[ModuleHooks]:
    """Hooks on the SDK's base clients and their retry loops. Of what it sends, only calls of models belong to a run."""
    clients = ("mistralai.client", "mistralai.azure.client", "mistralai.gcp.client")
    return (
        *(ModuleHooks(f"{client}.basesdk", _base) for client in clients),
        *(ModuleHooks(f"{client}.utils.retries", _retries) for client in clients),
    )


def _base(module: ModuleType) -> Sequence[Patch]:
    return (
        Patch(module.BaseSDK, "do_request", around(_SDK, everything=False)),
        Patch(module.BaseSDK, "do_request_async", around_async(_SDK, everything=False)),
    )


def _retries(module: ModuleType) -> Sequence[Patch]:
    return (
        Patch(module, "retry_with_backoff", _retry),
        Patch(module, "retry_with_backoff_async", _retry_async),
    )


def _retry(wrapped: Callable[..., Any], module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    attempt, *rest = args

    def once() -> Any:
        try:
            return attempt()
        except Exception as error:
            return _last(error)

    return wrapped(once, *rest, **kwargs)


def _retry_async(wrapped: Callable[..., Any], module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    attempt, *rest = args

    async def once() -> Any:
        try:
            return await attempt()
        except Exception as error:
            return _last(error)

    return wrapped(once, *rest, **kwargs)


def _last(error: Exception) -> Any:
    """The response that an attempt is tried again for, where it was served; the loop gives it back when it gives up."""
    response = getattr(error, "response", None)
    if retries_of(response) is None:
        raise error
    return response
