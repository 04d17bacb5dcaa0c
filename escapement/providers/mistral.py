"""What Mistral has beside OpenAI's protocol: code completion, agents, conversations, OCR, classification."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from escapement.providers import openai
from escapement.providers.operation import Attributes, Document, Event, Message, Operation, ToolCall, counted, named
from escapement.words import semconv

_CHAT = openai.OPERATIONS["chat/completions"]


def _fim_asked(document: Document) -> list[Message]:
    suffix = [Message("user", f"[suffix] {document['suffix']}")] if document.get("suffix") else []
    return [Message("user", str(document.get("prompt", ""))), *suffix]


def _conversation_request(fields: Document) -> Attributes:
    completion = fields.get("completion_args") or {}
    return named(fields, {"model": semconv.REQUEST_MODEL}) | _CHAT.request(completion)


def _conversation_answer(document: Document) -> Attributes:
    return {semconv.RESPONSE_ID: document.get("conversation_id"), **openai.usage(document.get("usage"))}


def _gather_conversation(events: Iterable[Event]) -> Document:
    """The events of a conversation put together: texts and calls in the order of their `output_index`."""
    whole: dict[str, Any] = {}
    outputs: dict[int, dict[str, Any]] = {}
    for _, event in events:
        kind = event.get("type")
        if kind == "conversation.response.started":
            whole["conversation_id"] = event.get("conversation_id")
        elif kind == "conversation.response.done":
            whole["usage"] = event.get("usage")
        elif kind == "message.output.delta":
            output = outputs.setdefault(event.get("output_index", 0), {"type": "message.output", "content": ""})
            output["content"] += openai.text(event.get("content"))
        elif kind == "function.call.delta":
            output = outputs.setdefault(event.get("output_index", 0), {"type": "function.call", "arguments": ""})
            output.update(name=event.get("name"), tool_call_id=event.get("tool_call_id"))
            output["arguments"] += event.get("arguments") or ""
    return {**whole, "outputs": [outputs[index] for index in sorted(outputs)]}


def _entry(entry: Any) -> Message:
    if isinstance(entry, str):
        return Message("user", entry)
    kind = entry.get("type", "message.input")
    if kind == "function.call":
        call = ToolCall(str(entry.get("name", "")), str(entry.get("arguments", "")), str(entry.get("tool_call_id", "")))
        return Message("assistant", "", (call,))
    if kind == "function.result":
        return Message("tool", str(entry.get("result", "")), answers=str(entry.get("tool_call_id", "")))
    if kind in ("message.input", "message.output"):
        role = entry.get("role") or ("user" if kind == "message.input" else "assistant")
        return Message(str(role), openai.text(entry.get("content")))
    return Message("assistant", f"[{kind}]")


def _conversation_asked(document: Document) -> list[Message]:
    asked = document.get("inputs") or ()
    system = [Message("system", document["instructions"])] if document.get("instructions") else []
    return system + [_entry(entry) for entry in ([asked] if isinstance(asked, str) else asked)]


def _conversation_said(document: Document) -> list[Message]:
    return [_entry(entry) for entry in document.get("outputs") or ()]


def _ocr_asked(document: Document) -> list[Message]:
    asked = document.get("document") or {}
    return [Message("user", str(asked.get("document_name") or f"[{asked.get('type', 'document')}]"))]


def _ocr_said(document: Document) -> list[Message]:
    return [Message("output", str(page.get("markdown", ""))) for page in document.get("pages") or ()]


def _ocr_answer(document: Document) -> Attributes:
    return {semconv.RESPONSE_MODEL: document.get("model")}


def _results_said(document: Document) -> list[Message]:
    return counted(len(document.get("results") or ()), "result")


_CLASSIFY = replace(openai.OPERATIONS["moderations"], name="classification", provider="mistral_ai", said=_results_said)
_CONVERSATION = Operation(
    "chat",
    "mistral_ai",
    _conversation_request,
    _conversation_answer,
    _gather_conversation,
    _conversation_asked,
    _conversation_said,
    marks=(b'"inputs"',),
    method="POST",
)

OPERATIONS = {
    "fim/completions": replace(_CHAT, name="text_completion", provider="mistral_ai", asked=_fim_asked),
    "agents/completions": replace(_CHAT, provider="mistral_ai", marks=(b'"agent_id"',)),
    "conversations": _CONVERSATION,
    "conversations/{id}": _CONVERSATION,
    "ocr": Operation("ocr", "mistral_ai", openai.request, _ocr_answer, asked=_ocr_asked, said=_ocr_said),
    "chat/moderations": replace(_CLASSIFY, name="moderation"),
    "classifications": _CLASSIFY,
    "chat/classifications": _CLASSIFY,
}
