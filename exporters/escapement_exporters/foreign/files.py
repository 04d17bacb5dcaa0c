"""A file of OTLP as traces for the store."""

from __future__ import annotations

from escapement.store.rows import TraceRow
from escapement.store.vetting import Unfit
from escapement.words.errors import TraceImportError
from escapement_exporters.foreign import decoding, rebuilding
from escapement_exporters.foreign.decoding import is_otlp

__all__ = ["is_otlp", "traces"]


def traces(data: bytes | bytearray, name: str = "the document", *, together: bool = False) -> list[TraceRow]:
    """The traces that the spans of a file make up. Nothing in it is believed unseen.

    Raises TraceImportError that calls the file `name`, and says what is wrong with it and where.
    """
    try:
        found = rebuilding.traces(decoding.read(data), together=together)
    except Unfit as unfit:
        raise TraceImportError(f"{name} cannot be read as OTLP: {unfit}. Nothing was changed") from None
    except ImportError:
        raise TraceImportError(
            f"{name} is no JSON, and reading protobuf takes a package more: pip install 'escapement[otlp]'. "
            "Nothing was changed"
        ) from None
    if not found:
        raise TraceImportError(f"{name} holds no spans. Nothing was changed")
    return found
