"""Spans and metrics held against the published GenAI conventions.

Names, types, well-known values and requirement levels are those of open-telemetry/semantic-conventions-genai
(`model/gen-ai/registry.yaml`, `spans.yaml` and the refinements for OpenAI), as of `semconv.VERSION`. No package publishes
requirement levels; the names that the packages `opentelemetry-semantic-conventions` and `opentelemetry-util-genai` have
are compared with these in `test_conventions.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from escapement.providers import recognise

TYPES: Mapping[str, str] = {
    "error.type": "string",
    "server.address": "string",
    "server.port": "int",
    "gen_ai.operation.name": "string",
    "gen_ai.provider.name": "string",
    "gen_ai.output.type": "string",
    "gen_ai.conversation.id": "string",
    "gen_ai.request.model": "string",
    "gen_ai.request.choice.count": "int",
    "gen_ai.request.encoding_formats": "string[]",
    "gen_ai.request.frequency_penalty": "double",
    "gen_ai.request.max_tokens": "int",
    "gen_ai.request.presence_penalty": "double",
    "gen_ai.request.previous_response.id": "string",
    "gen_ai.request.reasoning.level": "string",
    "gen_ai.request.seed": "int",
    "gen_ai.request.stop_sequences": "string[]",
    "gen_ai.request.stream": "boolean",
    "gen_ai.request.temperature": "double",
    "gen_ai.request.top_k": "int",
    "gen_ai.request.top_p": "double",
    "gen_ai.response.finish_reasons": "string[]",
    "gen_ai.response.id": "string",
    "gen_ai.response.model": "string",
    "gen_ai.response.time_to_first_chunk": "double",
    "gen_ai.usage.input_tokens": "int",
    "gen_ai.usage.output_tokens": "int",
    "gen_ai.usage.cache_read.input_tokens": "int",
    "gen_ai.usage.cache_write.input_tokens": "int",
    "gen_ai.usage.reasoning.output_tokens": "int",
    "gen_ai.input.messages": "any",
    "gen_ai.output.messages": "any",
    "gen_ai.token.type": "string",
    "gen_ai.agent.name": "string",
    "gen_ai.workflow.name": "string",
    "gen_ai.tool.name": "string",
    "gen_ai.tool.type": "string",
    "gen_ai.tool.description": "string",
    "gen_ai.tool.call.id": "string",
    "gen_ai.tool.call.arguments": "any",
    "gen_ai.tool.call.result": "any",
    "gen_ai.retrieval.query.text": "string",
    "gen_ai.embeddings.dimension.count": "int",
    "openai.api.type": "string",
    "openai.request.service_tier": "string",
    "openai.response.service_tier": "string",
    "openai.response.system_fingerprint": "string",
}
"""Of what Escapement writes of them; a name that is not here is a mistake or has to be looked up."""

WELL_KNOWN: Mapping[str, frozenset[str]] = {
    "gen_ai.operation.name": frozenset(
        {
            "chat", "text_completion", "generate_content", "embeddings", "retrieval", "create_agent", "invoke_agent",
            "invoke_workflow", "execute_tool", "plan", "fetch_response",
        }
    ),
    "gen_ai.provider.name": frozenset(
        {
            "openai", "anthropic", "cohere", "gcp.gemini", "gcp.vertex_ai", "gcp.gen_ai", "azure.ai.openai",
            "azure.ai.inference", "aws.bedrock", "groq", "mistral_ai", "deepseek", "perplexity", "x_ai", "moonshot_ai",
            "ibm.watsonx.ai",
        }
    ),
    "gen_ai.output.type": frozenset({"text", "json", "image", "speech"}),
    "gen_ai.token.type": frozenset({"input", "output"}),
    "openai.api.type": frozenset({"chat_completions", "responses"}),
}  # fmt: skip

OURS: Mapping[str, frozenset[str]] = {
    # Where no well-known value applies, the conventions allow others; docs/conventions.md lists these.
    "gen_ai.provider.name": frozenset({"openrouter", "together_ai", "ollama"}),
    "gen_ai.operation.name": frozenset(
        {
            "batches", "conversations", "count_tokens", "files", "generation", "image_edit", "image_generation",
            "image_variation", "models", "moderation", "ocr", "rerank", "responses", "search", "show", "speech",
            "tokenize", "transcription", "translation", "uploads", "vector_stores",
        }
    ),
}  # fmt: skip

_OF_MODELS = ("gen_ai.operation.name", "gen_ai.provider.name")
REQUIRED: Mapping[str, tuple[str, Sequence[str]]] = {
    "chat": ("CLIENT", (*_OF_MODELS, "gen_ai.request.model")),
    "text_completion": ("CLIENT", (*_OF_MODELS, "gen_ai.request.model")),
    "generate_content": ("CLIENT", (*_OF_MODELS, "gen_ai.request.model")),
    "embeddings": ("CLIENT", (*_OF_MODELS, "gen_ai.request.model")),
    "execute_tool": ("INTERNAL", ("gen_ai.operation.name", "gen_ai.tool.name")),
    "invoke_agent": ("INTERNAL", ("gen_ai.operation.name",)),
    "invoke_workflow": ("INTERNAL", ("gen_ai.operation.name",)),
    "fetch_response": ("CLIENT", (*_OF_MODELS, "gen_ai.response.id")),
}
"""Kind of a span and what it must have, by operation. The model is required of OpenAI, and elsewhere where it is known:
a call to any of these has one."""
_CALLS = ("CLIENT", _OF_MODELS)
"""Of operations that the conventions have no value for, and of searches at a provider: they are calls."""
_RETRIEVER = ("INTERNAL", ("gen_ai.operation.name",))
"""Of `retrieval` by a retriever in the program, which has a name of its own."""
_NAMED_AFTER = {
    "execute_tool": "gen_ai.tool.name",
    "invoke_agent": "gen_ai.agent.name",
    "invoke_workflow": "gen_ai.workflow.name",
    "fetch_response": "",
}


def complaints(
    name: str, kind: str, attributes: Mapping[str, Any], *, model_may_miss: bool = False, answered: bool = True
) -> list[str]:
    """What is wrong with a span by the conventions. Attributes of other namespaces are not looked at.

    `model_may_miss` where a request was nonsense; `answered` is False where there was no good answer to tell of.
    """
    found = []
    for key, value in attributes.items():
        if not key.startswith(("gen_ai.", "openai.", "server.", "error.", "llm.")):
            continue
        wanted = TYPES.get(key)
        if wanted is None:
            found.append(f"{key} is not in the conventions")
        elif not _is(value, wanted):
            found.append(f"{key} should be a {wanted}, not {value!r}")
        elif key in WELL_KNOWN and value not in WELL_KNOWN[key] | OURS.get(key, frozenset()):
            found.append(f"{key} has no value {value!r}")
        if key.startswith("openai.") and attributes.get("gen_ai.provider.name") != "openai":
            found.append(f"{key} is of OpenAI only")
    operation = attributes.get("gen_ai.operation.name")
    if operation is None:
        return [*found, "gen_ai.operation.name is missing"]
    is_retriever = operation == "retrieval" and kind == "INTERNAL"
    wanted_kind, required = _RETRIEVER if is_retriever else REQUIRED.get(operation, _CALLS)
    if kind != wanted_kind:
        found.append(f"a span of {operation} is {wanted_kind}, not {kind}")
    # Mistral's agents know their models by themselves.
    modelless = model_may_miss or attributes.get("gen_ai.provider.name") == "mistral_ai"
    found += [
        f"{operation} requires {key}"
        for key in required
        if key not in attributes
        and not (modelless and key == "gen_ai.request.model")
        and not (key == "gen_ai.response.id" and not answered)
    ]
    if "server.address" in attributes and "server.port" not in attributes:
        found.append("server.address requires server.port")
    after = attributes.get(_NAMED_AFTER.get(operation, "gen_ai.request.model"), "")
    if name != f"{operation} {after}".strip() and not is_retriever:
        found.append(f"it is called {name!r}, and not {f'{operation} {after}'.strip()!r}")
    return found


def of_call(name: str, attributes: Mapping[str, Any]) -> list[str]:
    """What is wrong with the span of a call, as `NAME: complaint`.

    A program may send what no model can be asked for, and an SDK what nobody knows: that is called by its path.
    """
    status, failed = attributes.get("escapement.response.status", 0), "escapement.failure.type" in attributes
    broken, answered = status >= 400 or failed, 0 < status < 400
    known = recognise("POST", attributes["escapement.request.path"], "") is not None
    found = [
        complaint
        for complaint in complaints(name, "CLIENT", attributes, model_may_miss=broken, answered=answered and not failed)
        if known or not complaint.startswith("gen_ai.operation.name has no value")
    ]
    if broken and "error.type" not in attributes:
        found.append("it failed, and error.type is missing")
    return [f"{name}: {complaint}" for complaint in found]


def _is(value: Any, wanted: str) -> bool:
    if wanted == "any":
        return True
    if wanted.endswith("[]"):
        return isinstance(value, list | tuple) and all(_is(item, wanted[:-2]) for item in value)
    return type(value) is {"string": str, "int": int, "double": float, "boolean": bool}[wanted]
