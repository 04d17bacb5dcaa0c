"""How calls are seen: OpenTelemetry instrumentors for the HTTP clients and the SDKs that the model APIs are used with.

    httpx, httpx2        every request passes `Client.send`; there it is recorded, or answered from a trace (`clients`)
    openai, anthropic, groq, together
                         `request` of their base clients says which attempts are one call (`sdks`)
    cohere               the same, for the client that it has (`cohere`)
    google-genai         in a run its async client takes httpx2, not aiohttp (`gemini`)

All are inert while no run is open. Their entry points are named `escapement-…`, because the plain names are taken.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # untyped

from escapement.engine.hooks import ModuleHooks
from escapement_instrumentation.clients import client_hooks
from escapement_instrumentation.cohere import cohere_hooks
from escapement_instrumentation.gemini import gemini_hooks
from escapement_instrumentation.sdks import sdk_hooks

__all__ = [
    "AnthropicInstrumentor",
    "CohereInstrumentor",
    "GeminiInstrumentor",
    "GroqInstrumentor",
    "Httpx2Instrumentor",
    "HttpxInstrumentor",
    "OpenAIInstrumentor",
    "TogetherInstrumentor",
]


class _Instrumentor(BaseInstrumentor):  # type: ignore[misc]  # untyped
    """Puts hooks on modules, now or when they are imported, and takes them off again."""

    hooks: ModuleHooks
    requires: str

    def instrumentation_dependencies(self) -> Collection[str]:
        return (self.requires,)

    def _instrument(self, **kwargs: Any) -> None:
        self.hooks.apply()

    def _uninstrument(self, **kwargs: Any) -> None:
        self.hooks.remove()


class HttpxInstrumentor(_Instrumentor):
    """`httpx`: openai 2.x, anthropic before 1.0, groq, together, cohere, ollama.

    And whatever else speaks to a model API through it.
    """

    hooks = client_hooks("httpx")
    requires = "httpx >= 0.27"


class Httpx2Instrumentor(_Instrumentor):
    """`httpx2`: openai from 3.0, anthropic from 1.0, google-genai, mistralai."""

    hooks = client_hooks("httpx2")
    requires = "httpx2 >= 2.0"


class OpenAIInstrumentor(_Instrumentor):
    """The OpenAI SDK."""

    hooks = sdk_hooks("openai")
    requires = "openai >= 2.0"


class AnthropicInstrumentor(_Instrumentor):
    """The Anthropic SDK."""

    hooks = sdk_hooks("anthropic")
    requires = "anthropic >= 0.100"


class GroqInstrumentor(_Instrumentor):
    """The Groq SDK."""

    hooks = sdk_hooks("groq")
    requires = "groq >= 1.0"


class TogetherInstrumentor(_Instrumentor):
    """The Together SDK."""

    hooks = sdk_hooks("together")
    requires = "together >= 2.0"


class CohereInstrumentor(_Instrumentor):
    """The Cohere SDK."""

    hooks = cohere_hooks()
    requires = "cohere >= 5.0"


class GeminiInstrumentor(_Instrumentor):
    """The Google GenAI SDK."""

    hooks = gemini_hooks()
    requires = "google-genai >= 2.0"
