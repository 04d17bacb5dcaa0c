"""How calls are seen: OpenTelemetry instrumentors for the HTTP clients and the SDKs that the model APIs are used with.

    httpx, httpx2        every request passes `Client.send`; there it is recorded, or answered from a trace (`clients`)
    aiohttp              a middleware in every request (`aiohttp_client`)
    lm15                 the transports of DSPy's own way to the models (`lm15`)
    http.client          the connections under urllib.request, urllib3, requests and botocore (`http_client`)
    openai, anthropic, groq, together
                         `request` of their base clients says which attempts are one call (`sdks`)
    cohere, mistralai, google-genai
                         the same, for the clients that they have (`cohere`, `speakeasy`, `gemini`)

What calls a model past all of these (websockets, other programs) is said aloud (`unreachable`). All are inert while no
run is open. Their entry points are named `escapement-…`, because the plain names are taken.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from types import ModuleType
from typing import Any, ClassVar

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # untyped

from escapement.engine.hooks import ModuleHooks
from escapement.engine.patching import Patch
from escapement_instrumentation import http_client, lm15, unreachable
from escapement_instrumentation.clients import client_hooks
from escapement_instrumentation.cohere import cohere_hooks
from escapement_instrumentation.gemini import gemini_hooks
from escapement_instrumentation.sdks import sdk_hooks
from escapement_instrumentation.speakeasy import google_hooks, mistral_hooks

__all__ = [
    "AiohttpInstrumentor",
    "AnthropicInstrumentor",
    "CohereInstrumentor",
    "GeminiInstrumentor",
    "GroqInstrumentor",
    "HttpClientInstrumentor",
    "Httpx2Instrumentor",
    "HttpxInstrumentor",
    "Lm15Instrumentor",
    "MistralInstrumentor",
    "OpenAIInstrumentor",
    "TogetherInstrumentor",
    "UnreachableInstrumentor",
]

_log = logging.getLogger("escapement")


class _Instrumentor(BaseInstrumentor):  # type: ignore[misc]  # untyped
    """Puts hooks on modules, now or when they are imported, and takes them off again."""

    hooks: ClassVar[Sequence[ModuleHooks]]
    requires: ClassVar[Sequence[str]] = ()

    def instrumentation_dependencies(self) -> Collection[str]:
        return tuple(self.requires)

    def _instrument(self, **kwargs: Any) -> None:
        for hooks in self.hooks:
            hooks.apply()

    def _uninstrument(self, **kwargs: Any) -> None:
        for hooks in self.hooks:
            hooks.remove()


class HttpxInstrumentor(_Instrumentor):
    """`httpx`: openai 2.x, anthropic before 1.0, groq, together, cohere, ollama.

    And whatever else speaks to a model API through it.
    """

    hooks = (client_hooks("httpx"),)
    requires = ("httpx >= 0.27",)


class Httpx2Instrumentor(_Instrumentor):
    """`httpx2`: openai from 3.0, anthropic from 1.0, google-genai, mistralai."""

    hooks = (client_hooks("httpx2"),)
    requires = ("httpx2 >= 2.0",)


class OpenAIInstrumentor(_Instrumentor):
    """The OpenAI SDK."""

    hooks = (sdk_hooks("openai"),)
    requires = ("openai >= 2.0",)


class AnthropicInstrumentor(_Instrumentor):
    """The Anthropic SDK."""

    hooks = (sdk_hooks("anthropic"),)
    requires = ("anthropic >= 0.100",)


class GroqInstrumentor(_Instrumentor):
    """The Groq SDK."""

    hooks = (sdk_hooks("groq"),)
    requires = ("groq >= 1.0",)


class TogetherInstrumentor(_Instrumentor):
    """The Together SDK."""

    hooks = (sdk_hooks("together"),)
    requires = ("together >= 2.0",)


class CohereInstrumentor(_Instrumentor):
    """The Cohere SDK."""

    hooks = (cohere_hooks(),)
    requires = ("cohere >= 5.0",)


class GeminiInstrumentor(_Instrumentor):
    """The Google GenAI SDK."""

    hooks = (gemini_hooks(), *google_hooks())
    requires = ("google-genai >= 2.0",)


class MistralInstrumentor(_Instrumentor):
    """The Mistral SDK."""

    hooks = mistral_hooks()
    requires = ("mistralai >= 2.0",)


def _aiohttp_patches(module: ModuleType) -> Sequence[Patch]:
    if not hasattr(module, "ClientMiddlewareType"):
        _log.warning("Escapement cannot see the calls of aiohttp before 3.12: they are neither recorded nor replayed")
        return ()
    from escapement_instrumentation import aiohttp_client  # which imports aiohttp

    return (Patch(module.ClientSession, "_request", aiohttp_client.request),)


class AiohttpInstrumentor(_Instrumentor):
    """aiohttp: litellm's asynchronous calls, and whatever else speaks to a model API through it."""

    hooks = (ModuleHooks("aiohttp", _aiohttp_patches),)
    requires = ("aiohttp >= 3.12",)


class HttpClientInstrumentor(_Instrumentor):
    """`http.client`: `urllib.request`, urllib3, requests (DSPy), botocore (Bedrock)."""

    hooks = http_client.hooks()


class Lm15Instrumentor(_Instrumentor):
    """`lm15`, and the copy of it that DSPy carries."""

    hooks = lm15.hooks()


class UnreachableInstrumentor(_Instrumentor):
    """Websockets and other programs: what cannot be recorded, and is said aloud."""

    hooks = unreachable.hooks()
