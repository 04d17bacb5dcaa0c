"""Kinds of divergence: what a difference of two requests is, in a word, in a phrase, and what helps against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from escapement.engine.differences import ABSENT, ALIKE, Difference, likeness
from escapement.engine.looks import look_of
from escapement.words.normalisers import any_entry

PHRASES: Mapping[str, str] = {
    "timestamp": "looks like a timestamp",
    "uuid": "looks like a uuid",
    "path": "looks like a path",
    "random_id": "looks like a random id",
    "number": "looks like a counter",
    "reordered": "the same in another order",
    "changed_prompt": "a changed prompt",
    "changed_history": "a changed history",
    "changed_tool_result": "another result of a tool",
    "removed_tool": "a tool that is gone",
    "added_tool": "a tool that is new",
    "changed_tool": "a changed tool",
    "changed_model": "another model",
    "changed_parameter": "another {name}",
    "operation": "the same body, sent to another operation",
    "dropped_call": "a dropped call",
    "extra_call": "an extra call",
    "swapped_order": "calls in another order",
}
"""Every kind, and how a text says it."""

_UNSTABLE = ("timestamp", "uuid", "path", "random_id", "number")
_TOOLS = ("tools", "functions")
SPOKEN = frozenset(
    {
        "messages", "input", "contents", "system", "instructions", "prompt", "message", "chat_history", "documents",
        "query", "system_instruction", "systemInstruction", "preamble",
    }
)  # fmt: skip
"""The fields of a request that are said to the model; the others say how it is to answer."""
_ASKING = ("messages", "input", "contents", "prompt", "message", "query")
_TOOL_TYPES = ("function_call_output", "tool_result", "functionResponse", "function_response")
_OWN_SAYING = ("assistant", "model")


def kind_of(difference: Difference, requested: Any) -> str:
    """The kind of a difference, by where it is and what it looks like; `requested` is the document that was asked."""
    top = _top(difference.path)
    look = look_of(difference.recorded, difference.requested)
    if difference.change == "reordered":
        return "reordered"
    if top == "model":
        return "changed_model"
    if look and (look != "number" or top in SPOKEN):
        return look
    if top in _TOOLS:
        whole = difference.path.count("[") <= 1 and "." not in difference.path
        return {"removed": "removed_tool", "added": "added_tool"}.get(
            difference.change if whole else "", "changed_tool"
        )
    return _of_message(difference, requested) if is_spoken(difference) or not top else "changed_parameter"


def is_spoken(difference: Difference) -> bool:
    """Whether it is in what is said, and not in a setting of the request."""
    return _top(difference.path) in SPOKEN


def is_new_question(recorded: Any, requested: Any) -> bool:
    """Whether the last that is said has nothing in common with what was said last."""
    return likeness(_last_said(recorded), _last_said(requested)) < ALIKE


def _last_said(document: Any) -> Any:
    if not isinstance(document, dict):
        return document
    said = next((document[key] for key in _ASKING if document.get(key)), None)
    last = said[-1] if isinstance(said, list) else said
    return last.get("content", last.get("parts", last)) if isinstance(last, dict) else last


def phrase(kind: str, path: str) -> str:
    return PHRASES[kind].format(name=path.rpartition(".")[2]) if kind else ""


def fixes(kind: str, path: str, step: int, at: int, strict: bool) -> list[str]:
    """What can be done about it, the likeliest first; `step` is the recorded one that the kind speaks of, `at` where
    the replay is, and `strict` says whether the call was refused."""
    first: list[str] = []
    if kind in _UNSTABLE:
        first = [f'normalize=["{any_entry(path)}: {kind}"]', "the same value each time"]
    elif kind == "reordered":
        first = ["put it in an order of its own (sorted)"]
    elif kind == "changed_parameter":
        first = [f'take the change back, or ignore=["{any_entry(path)}"]']
    elif kind == "changed_tool_result":
        first = ["let the tool return the same each time"]
    elif kind in ("removed_tool", "added_tool", "changed_tool", "changed_model", "changed_prompt", "changed_history"):
        first = ["take the change back"]
    elif kind == "dropped_call":
        first = [f"make the call of step {step} again"]
    elif kind == "extra_call":
        first = ["leave this call out"]
    elif kind == "swapped_order":
        first = ["make the calls in the recorded order"]
    live = ["strict_replay=False lets it go live"] if strict else []
    return [*first, *live, f"fork() or until={at} goes live here", "record again"]


def _top(path: str) -> str:
    return path.partition(".")[0].partition("[")[0]


def _of_message(difference: Difference, requested: Any) -> str:
    """Whose message it is in."""
    element = difference.recorded if difference.requested is ABSENT else difference.requested
    if not (isinstance(element, dict) and difference.path.endswith("]")):
        element = _element(requested, difference.path)
    if not isinstance(element, dict):
        return "changed_prompt"
    parts = [part for key in ("content", "parts") if isinstance(element.get(key), list) for part in element[key]]
    if element.get("role") == "tool" or any(map(_is_result, [element, *parts])):
        return "changed_tool_result"
    if element.get("role") in _OWN_SAYING or element.get("type") in ("function_call", "reasoning"):
        return "changed_history"
    return "changed_prompt"


def _element(document: Any, path: str) -> Any:
    """The entry of the outermost list that a path is in."""
    top, _, rest = path.partition("[")
    index = rest.partition("]")[0]
    entries = document.get(top) if isinstance(document, dict) else None
    if isinstance(entries, list) and index.isdigit() and int(index) < len(entries):
        return entries[int(index)]
    return None


def _is_result(part: Any) -> bool:
    return isinstance(part, dict) and (part.get("type") in _TOOL_TYPES or not part.keys().isdisjoint(_TOOL_TYPES))
