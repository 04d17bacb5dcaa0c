"""`escapement demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from escapement.cli import output


def demo(
    storage_dir: Annotated[
        Path | None, typer.Option(help="Where to keep the demo's traces.", show_default="the span store that is set")
    ] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Where to keep the model (98 MB).", show_default="~/.cache/escapement")
    ] = None,
) -> None:
    """Record a small agent on a real model on this machine, replay it with the model gone, and compare."""
    from escapement.demo import run_demo

    same = run_demo(storage_dir=storage_dir, cache_dir=cache_dir, console=output.console())
    if not same:
        raise typer.Exit(3)
