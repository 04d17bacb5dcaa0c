"""How others write down calls of models: a module for each, which reads their spans into what they tell."""

from __future__ import annotations

from escapement_exporters.foreign.decoding import Span
from escapement_exporters.foreign.dialects import conventions, openinference, traceloop
from escapement_exporters.foreign.dialects.told import Told

_TRACELOOP = ("gen_ai.is_streaming", "llm.request.type", "gen_ai.prompt.0.role", "gen_ai.prompt.0.content")


def read(span: Span) -> Told | None:
    """What a span tells of a call; None where it is of none. What is of an unexpected shape tells less."""
    attributes = span.attributes
    if openinference.KIND in attributes:
        return openinference.read(span)
    if any(name in attributes for name in _TRACELOOP):
        return traceloop.read(span)
    return conventions.read(span)
