"""The provider's process: `provider.mjs` on aimock, with answers that are new every time."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.frameworks import environments


class Provider:
    """Listens from the beginning of a `with` block to its end."""

    def __enter__(self) -> Self:
        command = ["node", str(Path(__file__).with_name("provider.mjs")), str(environments.aimock())]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, f"{' '.join(command)} ended with {self._process.wait()}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    def requests(self) -> list[str]:
        """Method and path of each request so far."""
        with urllib.request.urlopen(f"{self.url}/__aimock/journal") as answer:
            return [f"{entry['method']} {entry['path']}" for entry in json.load(answer)]
