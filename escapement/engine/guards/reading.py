"""What is new in a request: the tools that were used since the last one, and what else was said.

Agents send the whole conversation again at every step. Only what follows the end of a request that was seen before is
parsed, so a step costs what is new in it, however long the conversation is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import orjson

from escapement.engine.guards import masking
from escapement.engine.guards.steps import Use
from escapement.providers import Operation
from escapement.providers.operation import Message, ToolCall
from escapement.store.pieces import Body
from escapement.words import semconv

CHATS = frozenset({"chat", "generate_content", "text_completion"})
"""Operations whose answers are what a model says."""

REMEMBERED = 128
"""How many requests, tools and branches are remembered: what lies further back is as good as new."""

_MESSAGES = frozenset({"messages", "contents", "input"})
_LOOK = 64  # messages from the end in which the end of an earlier request is looked for
_CANONICAL = 8192  # characters of arguments that are brought into canonical form

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def remember(things: OrderedDict[Key, Value], key: Key, value: Value, most: int = REMEMBERED) -> None:
    """Keep the newest `most` things."""
    things[key] = value
    things.move_to_end(key)
    if len(things) > most:
        things.popitem(last=False)


class Reader:
    """Reads the requests and answers of one run."""

    def __init__(self) -> None:
        self._ends: OrderedDict[bytes, tuple[int, bytes, int]] = OrderedDict()
        """By the digest of the last message of a request: its position, the digest of the first one, and the step."""
        self._answers: OrderedDict[str, int] = OrderedDict()
        """By the id of an answer, for protocols that go on from one: the step."""
        self._loose: OrderedDict[str, int] = OrderedDict()
        """By lane, of protocols whose bodies are not cut into messages: the last step."""
        self._calls: OrderedDict[int, tuple[ToolCall, ...]] = OrderedDict()

    def request(
        self, step: int, lane: str, operation: Operation, path: str, body: Body
    ) -> tuple[int, tuple[Use, ...], str]:
        """The step that a request goes on from (0: none), the tools used since, and what others than the model said.

        Raises what comes of a body of an unexpected shape.
        """
        if body.elements:
            after, messages = self._elements(step, operation, body)
        else:
            after, messages = self._fields(step, lane, operation, body)
        if answer := body.fields.get("previous_response_id") or body.fields.get("previous_interaction_id"):
            after = self._answers.get(str(answer[1]), after)
        elif not after and self._answers:
            after = self._answers.get(path.rpartition("/")[2], 0)
        news = [message.text for message in messages if message.role not in ("assistant", "tool")]
        return after, tuple(self._uses(after, messages)), "\n".join(news)

    def answer(self, step: int, attributes: Mapping[str, Any], said: Sequence[Message]) -> None:
        """Take note of what may come back in a later request."""
        if answer := attributes.get(semconv.RESPONSE_ID):
            remember(self._answers, str(answer), step)
        calls = tuple(call for message in said for call in message.tool_calls)
        if calls:
            remember(self._calls, step, calls)

    def _elements(self, step: int, operation: Operation, body: Body) -> tuple[int, list[Message]]:
        places: list[int] = []  # of what is new, from the end
        first = b""
        for key, digest in body.elements:
            if digest and key in _MESSAGES:
                first = digest
                break
        after = near = cut = 0
        for place in range(len(body.elements) - 1, -1, -1):
            key, digest = body.elements[place]
            if not digest or key not in _MESSAGES:
                continue
            known = self._ends.get(digest)
            if known is not None and known[:2] == (place, first):
                after = known[2]
                break
            if known is not None and places and not near:  # a window that slides, a history that was cut
                near, cut = known[2], len(places)
            places.append(place)
            if len(places) == _LOOK:
                break
        if not after and near:
            after = near
            del places[cut:]
        end = places[0] if places else place
        if places or after:
            remember(self._ends, body.elements[end].digest, (end, first, step))
        if not places:
            return after, []
        key = body.elements[end].key
        if after:
            return after, operation.asked({key: list(_parsed(body, reversed(places), key))})
        return 0, _turn(operation, key, body, places)

    def _fields(self, step: int, lane: str, operation: Operation, body: Body) -> tuple[int, list[Message]]:
        """Of a body that is not cut into messages: the last turn, read from the ends of its lists."""
        document = {
            name: value[-_LOOK:] if isinstance(value, list) else value for name, (_, value) in body.fields.items()
        }
        messages = operation.asked(document)
        after = 0
        if any(message.role in ("assistant", "tool") for message in messages):
            after = self._loose.get(lane, 0)
            remember(self._loose, lane, step)
        return after, _last_turn(messages)

    def _uses(self, after: int, messages: Sequence[Message]) -> Iterator[Use]:
        results = [message for message in messages if message.role == "tool"]
        if not results:
            return
        # Of protocols that go on from an answer the calls are not sent again.
        calls = [call for message in messages for call in message.tool_calls] or list(self._calls.get(after, ()))
        for message in results:
            call = _answered(calls, message.answers)
            name, given = (call.name, call.arguments) if call is not None else (message.answers, "")
            given = masking.arguments(given) if len(given) <= _CANONICAL else given
            yield Use(name, given, message.text, message.failed or masking.failed(message.text))


def _answered(calls: list[ToolCall], answers: str) -> ToolCall | None:
    """The call that a result answers, by id or name, else the first; each is answered once."""
    named = (call for call in calls if answers and answers in (call.id, call.name))
    call = next(named, calls[0] if calls else None)
    if call is not None:
        calls.remove(call)
    return call


def _parsed(body: Body, places: Iterator[int], key: str) -> Iterator[Any]:
    """The elements at these places; of a short body, which is one piece, out of the whole of it."""
    if body.document is not None:
        elements = body.document[key]
        first = next(place for place, element in enumerate(body.elements) if element.key == key)
        for place in places:
            yield elements[place - first]
        return
    for place in places:
        yield orjson.loads(body.raw[body.ends[place - 1] : body.ends[place]].lstrip(b", \t\r\n"))


def _turn(operation: Operation, key: str, body: Body, places: Sequence[int]) -> list[Message]:
    """The end of a conversation that was not seen before: what the model asked for last, and what came of it."""
    messages: list[Message] = []
    for element in _parsed(body, iter(places), key):
        read = operation.asked({key: [element]})
        if _is_before_turn(read, messages):
            break
        messages[:0] = read
    return messages


def _last_turn(messages: Sequence[Message]) -> list[Message]:
    turn: list[Message] = []
    for message in reversed(messages):
        if _is_before_turn([message], turn):
            break
        turn.insert(0, message)
    return turn


def _is_before_turn(read: Sequence[Message], turn: Sequence[Message]) -> bool:
    """Whether messages come before a turn that begins with what the model said."""
    return bool(turn) and turn[0].role == "assistant" and any(message.role != "assistant" for message in read)
