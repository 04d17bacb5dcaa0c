"""The Cohere SDK, one level above HTTP. Its `request` calls itself to try again: the outermost one is the call.

An answer served from a trace is the last one that the call got, so it is not tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from escapement.engine.hooks import ModuleHooks
from escapement.engine.patching import Patch, Wrapper
from escapement_instrumentation.asking import sdk_call
from escapement_instrumentation.sdks import around, around_async, retries_of


def cohere_hooks() -> ModuleHooks:
    """Hooks on the SDK's HTTP client."""

    def patches(module: ModuleType) -> Sequence[Patch]:
        return (
            Patch(module.HttpClient, "request", _outermost(around("cohere"))),
            Patch(module.AsyncHttpClient, "request", _outermost(around_async("cohere"))),
            Patch(module, "_should_retry", _should_retry),
        )

    return ModuleHooks("cohere.core.http_client", patches)


def _outermost(begin: Wrapper) -> Wrapper:
    """A hook that begins a call, and lets requests within one through."""

    def request(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = sdk_call()
        if call is not None and call.sdk == "cohere":
            return wrapped(*args, **kwargs)
        return begin(wrapped, client, args, kwargs)

    return request


def _should_retry(wrapped: Callable[..., Any], module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    response = args[0] if args else kwargs.get("response")
    if retries_of(response) is not None:
        return False
    return wrapped(*args, **kwargs)
