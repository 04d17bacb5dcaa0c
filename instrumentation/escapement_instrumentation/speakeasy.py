"""SDKs that are generated as Mistral's is, one level above HTTP: which attempts are one call.

An answer served from a trace is the last one that the call got, so it is not tried again. Mistral's SDK has three
copies of its client (its own, those for Azure and Google Cloud); Google's has one for what is newer than its own
(interactions).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from escapement.engine.hooks import ModuleHooks
from escapement.engine.patching import Patch
from escapement_instrumentation.sdks import around, around_async, retries_of


def mistral_hooks() -> Sequence[ModuleHooks]:
    """Hooks on the clients of `mistralai`."""
    clients = ("mistralai.client", "mistralai.azure.client", "mistralai.gcp.client")
    return [hooks for client in clients for hooks in _hooks(client, "mistralai")]


def google_hooks() -> Sequence[ModuleHooks]:
    """Hooks on the newer client within `google-genai`."""
    return _hooks("google.genai._gaos", "google.genai")


def _hooks(client: str, sdk: str) -> Sequence[ModuleHooks]:
    """Hooks on a base client and its retry loops."""
    return (
        ModuleHooks(
            f"{client}.basesdk",
            lambda module: [
                Patch(kind, method, begin(sdk))
                for kind in {module.BaseSDK, getattr(module, "AsyncBaseSDK", module.BaseSDK)}
                for method, begin in (("do_request", around), ("do_request_async", around_async))
                if method in vars(kind)
            ],
        ),
        ModuleHooks(
            f"{client}.utils.retries",
            lambda module: [
                Patch(module, name, _retry_async if name.endswith("_async") else _retry)
                for name in vars(module)
                if name.startswith("retry_with_")
            ],
        ),
    )


def _retry(wrapped: Callable[..., Any], module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    attempt, *rest = args

    def once(*given: Any) -> Any:
        try:
            return attempt(*given)
        except Exception as error:
            return _last(error)

    return wrapped(once, *rest, **kwargs)


def _retry_async(wrapped: Callable[..., Any], module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    attempt, *rest = args

    async def once(*given: Any) -> Any:
        try:
            return await attempt(*given)
        except Exception as error:
            return _last(error)

    return wrapped(once, *rest, **kwargs)


def _last(error: Exception) -> Any:
    """The response that an attempt is tried again for, where it was served; the loop gives it back when it gives up."""
    response = getattr(error, "response", None)
    if retries_of(response) is None:
        raise error
    return response
