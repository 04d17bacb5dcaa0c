"""The Google GenAI SDK, one level above HTTP: which attempts are one call, and that they go where they are seen.

Its async client goes past httpx2 where aiohttp is installed, though it has both at hand. In a run it takes httpx2. An
aiohttp session that the program gave it is left to it, and seen there (`aiohttp_client`), each attempt for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from escapement.engine import lanes
from escapement.engine.hooks import ModuleHooks
from escapement.engine.patching import Patch
from escapement_instrumentation.sdks import Unwind, around, around_async, each, each_async, retries_of

_SDK = "google.genai"


def gemini_hooks() -> ModuleHooks:
    """Hooks on the SDK's base client."""

    def patches(module: ModuleType) -> Sequence[Patch]:
        client = module.BaseApiClient
        return (
            Patch(client, "_use_aiohttp", _use_aiohttp),
            Patch(client, "_request", around(_SDK)),
            Patch(client, "_async_request", around_async(_SDK)),
            Patch(client, "_request_once", _once),
            Patch(client, "_async_request_once", _once_async),
            Patch(client, "_upload_fd", each(_SDK)),
            Patch(client, "_async_upload_fd", each_async(_SDK)),
            Patch(client, "download_file", each(_SDK)),
            Patch(client, "async_download_file", each_async(_SDK)),
        )

    return ModuleHooks("google.genai._api_client", patches)


def _use_aiohttp(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    uses = wrapped(*args, **kwargs)
    if not uses or lanes.current() is None or getattr(client, "_async_httpx_client", None) is None:
        return uses
    # Not while the client is being made: it may be used after the run, too.
    if not hasattr(client, "_async_retry"):
        return uses
    return getattr(client._http_options, "aiohttp_client", None) is not None


def _once(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return wrapped(*args, **kwargs)
    except Exception as error:
        _not_again(error)
        raise


async def _once_async(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return await wrapped(*args, **kwargs)
    except Exception as error:
        _not_again(error)
        raise


def _not_again(error: Exception) -> None:
    """A refusal that was served from a trace is the last one that the call got."""
    if retries_of(getattr(error, "response", None)) is not None:
        raise Unwind(error, error.__cause__) from None
