"""The Google GenAI SDK, whose async client goes past httpx2 where aiohttp is installed, though it has both at hand.

In a run it takes httpx2, where its requests are seen. An aiohttp session that the program gave it is left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from escapement.engine import lanes
from escapement.engine.hooks import ModuleHooks
from escapement.engine.patching import Patch


def gemini_hooks() -> ModuleHooks:
    """Hooks on the SDK's base client."""

    def patches(module: ModuleType) -> Sequence[Patch]:
        return (Patch(module.BaseApiClient, "_use_aiohttp", _use_aiohttp),)

    return ModuleHooks("google.genai._api_client", patches)


def _use_aiohttp(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    uses = wrapped(*args, **kwargs)
    if not uses or lanes.current() is None or getattr(client, "_async_httpx_client", None) is None:
        return uses
    # Not while the client is being made: it may be used after the run, too.
    if not hasattr(client, "_async_retry"):
        return uses
    return getattr(client._http_options, "aiohttp_client", None) is not None
