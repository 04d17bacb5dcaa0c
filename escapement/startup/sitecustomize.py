"""Run at the start of every Python that `escapement run`, `replay` or `fork` starts: this folder leads PYTHONPATH.

It makes room for a `sitecustomize` that would have run without it, and then takes part in the run. It may be started
by a Python in which Escapement is not installed, so it stands on the standard library alone until it is tried.
"""

from __future__ import annotations

import importlib
import os
import sys


def _give_way() -> None:
    """Run the `sitecustomize` that this one hides, and leave `sys.path` as it would have been."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    ours = sys.modules.pop("sitecustomize")
    try:
        importlib.import_module("sitecustomize")
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        sys.modules.setdefault("sitecustomize", ours)  # `site` is still importing it


def _take_part() -> None:
    if not os.environ.get("ESCAPEMENT_RUN"):
        return
    try:
        from escapement.engine import joining
    except ImportError as error:
        replays = '"replays":""' not in os.environ["ESCAPEMENT_RUN"]
        print(
            f"escapement: {sys.executable} does not have Escapement ({error}); "
            f"{'it is ended before it goes live' if replays else 'it is not recorded'}. "
            "Install it there, or run the command with a Python that has it.",
            file=sys.stderr,
            flush=True,
        )
        if replays:
            os._exit(1)
        return
    try:
        joining.at_start()
    except Exception as error:
        joining.failed(error)


try:
    _give_way()
finally:
    _take_part()
