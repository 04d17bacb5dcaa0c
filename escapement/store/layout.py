"""Where things are in a span store, and the format it is written in.

.escapement/            0700, files 0600
  store.json            the format version
  .gitignore            `*`: recordings do not belong in a repository by accident
  journal/              one append-only JSONL file a writer
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import orjson

from escapement.words.errors import StoreError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one store."""

    root: Path

    @property
    def journals(self) -> Path:
        return self.root / "journal"

    @property
    def marker(self) -> Path:
        return self.root / "store.json"


def create(root: Path) -> Layout:
    """Make a store at `root`, or open the one that is there, for writing. Raises StoreError."""
    layout = open_existing(root)
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        layout.journals.mkdir(mode=0o700, exist_ok=True)
        if not (root / ".gitignore").exists():
            _write_private(root / ".gitignore", b"*\n")
        if not layout.marker.exists():
            _write_private(layout.marker, orjson.dumps({"format": FORMAT}) + b"\n")
    except OSError as error:
        raise StoreError(
            f"the span store at {root} cannot be written: {_reason(error)}. "
            "Make the directory writable, or set storage_dir (ESCAPEMENT_STORAGE_DIR) to one that is."
        ) from error
    return layout


def open_existing(root: Path) -> Layout:
    """The store at `root`, for reading; one that does not exist reads as empty.

    Raises StoreError when it is unreadable, not a store, or of a newer format.
    """
    layout = Layout(root)
    try:
        if root.exists() and not root.is_dir():
            raise StoreError(
                f"{root} is a file, not a span store. Set storage_dir (ESCAPEMENT_STORAGE_DIR) to a directory."
            )
        text = layout.marker.read_bytes()
    except FileNotFoundError:
        return layout
    except OSError as error:
        raise StoreError(
            f"the span store at {root} cannot be read: {_reason(error)}. "
            "Check its permissions, or set storage_dir (ESCAPEMENT_STORAGE_DIR) to another directory."
        ) from error
    try:
        format_version = orjson.loads(text)["format"]
        if not isinstance(format_version, int):
            raise TypeError(format_version)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise StoreError(
            f'{layout.marker} is damaged: it should hold {{"format": {FORMAT}}}. '
            "If the directory is a span store of this version, write that into it; nothing else is lost."
        ) from None
    if format_version > FORMAT:
        raise StoreError(
            f"the span store at {root} has format {format_version}; this Escapement knows formats up to {FORMAT}. "
            "Use a newer Escapement, or another storage_dir (ESCAPEMENT_STORAGE_DIR). Nothing was changed."
        )
    return layout


def _write_private(path: Path, text: bytes) -> None:
    """Write a small file whole or not at all (another process may be making the same store)."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
    os.replace(draft, path)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
