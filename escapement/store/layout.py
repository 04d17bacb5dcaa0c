"""Where things are in a span store, and the format it is written in.

.escapement/            0700, files 0600
  store.json            the format version
  .gitignore            `*`: recordings do not belong in a repository by accident
  journal/              one append-only JSONL file a writer
  intake/               what `escapement collect` has accepted and not made traces of yet
  spans/  parts/        the Delta tables that journals are sealed into
  otlp/                 what could not be sent to a collector yet
  views.sql             the views, for a plain DuckDB shell
  damaged/              what was found damaged and moved out of the way
  lock                  held by who seals, compacts, deletes

A store whose `storage_dir` is a URL has its tables there, and the rest in a directory of this machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from escapement.words.errors import StoreError

FORMAT = 2
MIGRATIONS: Mapping[int, str] = {1: "tables"}
"""What makes a store of the next format out of one of this. `tables`: journals may be sealed. Nothing is rewritten."""

_URL = re.compile(r"s3a?://([^/]+)/?(.*)")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one store."""

    root: Path
    remote: str | None = None
    """URL under which the tables are, where that is not `root`."""

    @classmethod
    def of(cls, storage_dir: Path | str) -> Layout:
        """The layout of a `storage_dir`: a directory, or `s3://bucket/prefix`."""
        match = _URL.fullmatch(str(storage_dir)) if isinstance(storage_dir, str) else None
        if match is None:
            return cls(Path(storage_dir))
        bucket, prefix = match.groups()
        inside = [part for part in prefix.split("/") if part not in ("", ".", "..")]
        return cls(Path(".escapement", "s3", bucket, *inside), "/".join([f"s3://{bucket}", *inside]))

    def table(self, name: str) -> str:
        """The directory or URL of a table."""
        return f"{self.remote}/{name}" if self.remote is not None else str(self.root.absolute() / name)

    @property
    def place(self) -> str:
        """What to call the store in messages."""
        return self.remote or str(self.root)

    @property
    def journals(self) -> Path:
        return self.root / "journal"

    @property
    def damaged(self) -> Path:
        return self.root / "damaged"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def views(self) -> Path:
        return self.root / "views.sql"

    @property
    def marker(self) -> Path:
        return self.root / "store.json"


def create(storage_dir: Path | str) -> Layout:
    """Make a store, or open the one that is there, for writing. Raises StoreError."""
    layout = open_existing(storage_dir)
    root = layout.root
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        layout.journals.mkdir(mode=0o700, exist_ok=True)
        if not (root / ".gitignore").exists():
            write_private(root / ".gitignore", b"*\n")
        if _format(layout) != FORMAT:
            write_private(layout.marker, orjson.dumps({"format": FORMAT}) + b"\n")
        if not layout.views.exists():
            from escapement.store import shell  # it knows the columns, which most runs have no use for

            shell.write(layout)
    except OSError as error:
        raise StoreError(
            f"the span store at {root} cannot be written: {_reason(error)}. "
            "Make the directory writable, or set storage_dir (ESCAPEMENT_STORAGE_DIR) to one that is."
        ) from error
    return layout


def open_existing(storage_dir: Path | str) -> Layout:
    """A store for reading; one that does not exist reads as empty.

    Raises StoreError when it is unreadable, not a store, or of a newer format.
    """
    layout = Layout.of(storage_dir)
    _format(layout)
    return layout


def _format(layout: Layout) -> int:
    """The format of a store, 0 where there is none. Raises StoreError."""
    root = layout.root
    try:
        if root.exists() and not root.is_dir():
            raise StoreError(
                f"{root} is a file, not a span store. Set storage_dir (ESCAPEMENT_STORAGE_DIR) to a directory."
            )
        text = layout.marker.read_bytes()
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise StoreError(
            f"the span store at {root} cannot be read: {_reason(error)}. "
            "Check its permissions, or set storage_dir (ESCAPEMENT_STORAGE_DIR) to another directory."
        ) from error
    try:
        found = orjson.loads(text)["format"]
        if not isinstance(found, int):
            raise TypeError(found)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise StoreError(
            f'{layout.marker} is damaged: it should hold {{"format": {FORMAT}}}. '
            "If the directory is a span store of this version, write that into it; nothing else is lost."
        ) from None
    if found > FORMAT:
        raise StoreError(
            f"the span store at {root} has format {found}; this Escapement knows formats up to {FORMAT}. "
            "Use a newer Escapement, or another storage_dir (ESCAPEMENT_STORAGE_DIR). Nothing was changed."
        )
    return found


def write_private(path: Path, text: bytes) -> None:
    """Write a small file whole or not at all (another process may be making the same store)."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
    os.replace(draft, path)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
