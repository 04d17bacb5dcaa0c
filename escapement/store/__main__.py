"""`python -m escapement.store STORAGE_DIR`: what runs in the background when enough has been recorded."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from escapement.store import layout, sealing, upkeep
from escapement.words.config import resolve
from escapement.words.errors import EscapementError


def main() -> None:
    os.umask(0o077)
    with suppress(OSError):
        os.nice(10)
    storage_dir = sys.argv[1]
    try:
        store = layout.create(storage_dir)
        with sealing.upkeep(store, wait=0):
            sealing.seal(store)
            upkeep.tidy(store, resolve())
        time.sleep(sealing.GRACE)
        with sealing.upkeep(store, wait=0):
            sealing.seal(store)  # what was sealed above, and has not been touched since, goes
    except EscapementError:
        return  # somebody else is at it, or will be


if __name__ == "__main__":
    main()
