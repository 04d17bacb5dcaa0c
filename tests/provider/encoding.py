"""Answers compressed as the client takes them, whole ones and streams: a model with the name of a coding in it asks."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

from .exchange import Answer, Question


def _zlib(width: int) -> Callable[[], Any]:
    return lambda: zlib.compressobj(wbits=width)


def _zstandard() -> Any:
    return import_module("zstandard").ZstdCompressor().compressobj()


class _Brotli:
    def __init__(self) -> None:
        self._compressor = import_module("brotli").Compressor()
        self.compress = self._compressor.process

    def flush(self, *so_far: bool) -> bytes:
        flushed: bytes = self._compressor.flush() if so_far else self._compressor.finish()
        return flushed


_CODINGS: dict[str, tuple[Callable[[], Any], tuple[Any, ...]]] = {
    "gzip": (_zlib(31), (zlib.Z_SYNC_FLUSH,)),
    "deflate": (_zlib(15), (zlib.Z_SYNC_FLUSH,)),
    "br": (_Brotli, (True,)),
    "zstd": (_zstandard, (1,)),  # COMPRESSOBJ_FLUSH_BLOCK
}
"""What compresses, and how it is told to hand out all that it has got so far."""


def chosen(question: Question) -> str:
    """The coding that the model's name asks for, if the client takes it."""
    taken = question.request.headers.get("accept-encoding", "")
    return next((coding for coding in _CODINGS if coding in question.model and coding in taken), "")


def encoded(answer: Answer, coding: str) -> Answer:
    """The answer compressed; as it is where there is no coding."""
    if not coding:
        return answer
    make, flush = _CODINGS[coding]
    compressor = make()

    def pieces(events: list[bytes]) -> Iterator[bytes]:
        for event in events:
            yield compressor.compress(event) + compressor.flush(*flush)
        yield compressor.flush()

    headers = {**answer.headers, "content-encoding": coding}
    if answer.events is not None:
        return replace(answer, headers=headers, events=list(pieces(answer.events)))
    return replace(answer, headers=headers, body=b"".join(pieces([answer.body])))
