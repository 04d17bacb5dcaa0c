"""Declared normalisers at work: what of a request's body counts.

With any declared, the body that is hashed is the one they leave; nothing that is kept or sent is touched. Fingerprints
made so carry a mark of their own, and a replay makes those of its trace anew under its own declaration: what was
declared when the trace was recorded does not bind it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from escapement.engine.conversation import reduced
from escapement.engine.differences import embedded
from escapement.engine.looks import mask
from escapement.words.normalisers import Field, Normaliser

_log = logging.getLogger("escapement")
_GONE: Any = object()


class Normalising:
    """What a declaration leaves of bodies; of those of a trace that was rebuilt, only the parts of the `conversation`
    that it holds. False where nothing is declared, and the trace is an original."""

    def __init__(
        self,
        normalize: Sequence[Normaliser] = (),
        ignore: Sequence[Field] = (),
        conversation: frozenset[str] = frozenset(),
    ) -> None:
        self._normalize = normalize
        self._ignore = ignore
        self._conversation = conversation

    def __bool__(self) -> bool:
        return bool(self._normalize or self._ignore or self._conversation)

    def document(self, document: Any) -> Any:
        """A body as it is compared, a new one where something does not count. A function of the user's that fails is
        logged, and leaves it as it was."""
        for field in self._ignore:
            document = _at(document, field, lambda value: _GONE)
        for normaliser in self._normalize:
            document = _normalised(document, normaliser)
        return reduced(document, self._conversation) if self._conversation else document

    def canonical(self, body: bytes) -> bytes | None:
        """A JSON body in canonical form, of what counts; None for any other body, which counts as it is."""
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        return orjson.dumps(self.document(document), option=orjson.OPT_SORT_KEYS)


def _normalised(document: Any, normaliser: Normaliser) -> Any:
    what = normaliser.what
    if isinstance(what, tuple):
        return _at(document, normaliser.field, lambda value: _texts(value, lambda text: _masked(text, what)))
    if isinstance(what, re.Pattern):
        return _at(document, normaliser.field, lambda value: _texts(value, lambda text: what.sub("<normalized>", text)))
    try:
        found = what(orjson.loads(orjson.dumps(document)))  # a copy, which it may change
        orjson.dumps(found)
    except Exception:  # whatever the user's function does, the program is not to end by it
        _log.exception(
            "Escapement: the normaliser %s failed on a request, which counts as if it were not there", normaliser
        )
        return document
    return found


def _masked(text: str, looks: Sequence[str]) -> str:
    for look in looks:
        text = mask(text, look)
    return text


def _texts(value: Any, change: Callable[[str], str]) -> Any:
    """A value with every text in it changed; a number is changed as its text is."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _texts(below, change) for key, below in value.items()}
    if isinstance(value, list):
        return [_texts(below, change) for below in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = str(value)
        changed = change(text)
        return value if changed == text else changed
    return value


def _at(value: Any, field: Field, change: Callable[[Any], Any]) -> Any:
    """A value with what is at a path changed; what becomes `_GONE` is left out."""
    if not field:
        return change(value)
    key, rest = field[0], field[1:]
    if isinstance(value, str) and (inner := embedded(value)) is not None:
        return orjson.dumps(_at(inner, field, change), option=orjson.OPT_SORT_KEYS).decode()
    if isinstance(value, dict):
        changed = {name: _at(below, rest, change) if key in ("*", name) else below for name, below in value.items()}
        return {name: below for name, below in changed.items() if below is not _GONE}
    if isinstance(value, list):
        entries = [_at(below, rest, change) if key in ("*", index) else below for index, below in enumerate(value)]
        return [below for below in entries if below is not _GONE]
    return value
