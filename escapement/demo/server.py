"""The model server, seen from outside: a child process that is up inside a `with` block and gone after it."""

from __future__ import annotations

import http.client
import importlib.util
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Self

from escapement.demo.errors import INSTALL, DemoError

_PROGRAM = Path(__file__).with_name("server_process.py")
_HOST = "127.0.0.1"


class ModelServer:
    """llama.cpp's server with one model, on a free port of 127.0.0.1.

    It speaks OpenAI's and Anthropic's protocols and calls its model `name`. `base_url` is known once it is
    started, and stays known after it is stopped.
    """

    def __init__(self, model: Path, name: str, *, patience: float = 60.0) -> None:
        self._model = model
        self._name = name
        self._patience = patience
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"http://{_HOST}:{self._port}"

    def start(self) -> None:
        """Start it and wait until it answers. Raises DemoError if it does not within `patience` seconds."""
        if importlib.util.find_spec("xllamacpp") is None:
            raise DemoError(f"The demo's model server, xllamacpp, is not installed. {INSTALL}")
        deadline = time.monotonic() + self._patience
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by stop)
        try:
            # By its path and not by -m: no file in the current directory takes the place of a library.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_PROGRAM), str(self._model), self._name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
            )
            self._port = self._read_port(self._process, deadline)
            while (trouble := self.trouble()) is not None:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise self._failure(f"does not answer ({trouble})")
                time.sleep(0.05)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop it, politely at first. Does nothing if it is not running."""
        process, self._process = self._process, None
        if process is not None:
            try:
                process.terminate()
                process.wait(3)
            except subprocess.TimeoutExpired:
                pass
            finally:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()
        if self._log is not None:
            self._log.close()
            self._log = None

    def trouble(self) -> str | None:
        """Send it a request: None if it answers, else what happened instead."""
        connection = http.client.HTTPConnection(_HOST, self._port, timeout=2)
        try:
            connection.request("GET", "/health")
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
        finally:
            connection.close()
        return None if status == 200 else f"HTTP status {status}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read_port(self, process: subprocess.Popen[bytes], deadline: float) -> int:
        stdout = process.stdout
        assert stdout is not None
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise self._failure(f"was not ready within {self._patience:.0f} seconds") from None
        if not line.strip().isdigit():
            process.wait()  # its stdout has ended
            raise self._failure(f"ended with code {process.returncode}")
        return int(line)

    def _failure(self, what: str) -> DemoError:
        said = ""
        if self._log is not None:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()
            said = "".join(f"\n  {line}" for line in lines[-6:])
        return DemoError(
            f"The demo's model server {what}. {'It said:' + said if said else 'It said nothing.'}\n"
            "Run the demo again; if it fails the same way, install xllamacpp anew."
        )
