"""Receivers that people use, each a server in a process (and an environment) of its own, and what they say arrived."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Self

import httpx

from tests.frameworks import environments
from tests.frameworks.environments import RECEIVERS

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A span as a receiver tells of it; times in microseconds, which is what all of them keep."""

    trace_id: str
    span_id: str
    parent: str
    name: str
    status: str
    start: int
    end: int
    attributes: dict[str, Any]
    shown: str = ""
    """What the receiver takes the span for."""


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


class Server:
    """A process with a port, and all that it starts. It may be killed and started again on its port."""

    name: ClassVar[str]

    def __init__(self, place: Path) -> None:
        self.place = place
        self.port, self.grpc_port = free_port(), free_port()
        self.python = environments.python(self.name, RECEIVERS[self.name])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def grpc_url(self) -> str:
        return f"http://127.0.0.1:{self.grpc_port}"

    def command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def is_up(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def start(self) -> None:
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "OTEL_", "ESCAPEMENT_"))
        }
        with (self.place / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.place,
                env=kept | RECEIVERS[self.name].environment | self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 180
        while not self.is_up():
            said = (self.place / f"{self.name}.log").read_text(errors="replace")[-2000:]
            assert self._process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)

    def kill(self) -> None:
        """At once, with all its processes, as a machine would that has run out of memory."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Phoenix(Server):
    name = "phoenix"

    def command(self) -> Sequence[str | Path]:
        return [self.python.parent / "phoenix", "serve"]

    def environment(self) -> dict[str, str]:
        return {
            "PHOENIX_WORKING_DIR": str(self.place),
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": str(self.port),
            "PHOENIX_GRPC_PORT": str(self.grpc_port),
        }

    def is_up(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/healthz").is_success
        return False

    def spans(self, project: str) -> list[Seen]:
        """What its REST API has of a project."""
        found: list[Seen] = []
        cursor: dict[str, str] | None = {}
        while cursor is not None:
            answer = httpx.get(
                f"{self.url}/v1/projects/{project}/spans", params={"limit": "1000", **cursor}, timeout=60
            )
            if answer.status_code == 404:
                return []  # it makes a project when spans for it come
            document = answer.raise_for_status().json()
            found += map(self._seen, document["data"])
            cursor = {"cursor": document["next_cursor"]} if document["next_cursor"] else None
        return found

    def _seen(self, span: dict[str, Any]) -> Seen:
        return Seen(
            trace_id=span["context"]["trace_id"],
            span_id=span["context"]["span_id"],
            parent=span["parent_id"] or "",
            name=span["name"],
            status=span["status_code"],
            start=_microseconds(span["start_time"]),
            end=_microseconds(span["end_time"]),
            attributes=span["attributes"],
            shown=span["span_kind"],
        )

    def totals(self, project: str) -> dict[str, Any]:
        """Tokens and dollars, as its pages show them."""
        query = """{ projects { edges { node { name tokenCountPrompt tokenCountCompletion
            costSummary { total { cost } } } } } }"""
        answer = httpx.post(f"{self.url}/graphql", json={"query": query}, timeout=60).raise_for_status().json()
        nodes = [edge["node"] for edge in answer["data"]["projects"]["edges"]]
        (node,) = (node for node in nodes if node["name"] == project)
        return {
            "input": node["tokenCountPrompt"],
            "output": node["tokenCountCompletion"],
            "cost": node["costSummary"]["total"]["cost"],
        }


class MLflow(Server):
    name = "mlflow"

    def command(self) -> Sequence[str | Path]:
        at = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        return [
            self.python.parent / "mlflow",
            "server",
            *at,
            "--backend-store-uri",
            f"sqlite:///{self.place}/mlflow.db",
        ]

    def is_up(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health").is_success
        return False

    def experiment(self, name: str) -> str:
        """The id of a new one."""
        answer = httpx.post(f"{self.url}/api/2.0/mlflow/experiments/create", json={"name": name}, timeout=60)
        made: str = answer.raise_for_status().json()["experiment_id"]
        return made

    def traces(self, experiment: str) -> tuple[list[Seen], dict[str, Any]]:
        """What its client finds in an experiment: spans, and the totals of its traces."""
        done = subprocess.run(
            [self.python, HERE / "mlflow_traces.py", self.url, experiment],
            env={"PATH": os.environ["PATH"], "HOME": str(self.place)} | RECEIVERS["mlflow"].environment,
            stdout=subprocess.PIPE,
            check=True,
            timeout=120,
        )
        document = json.loads(done.stdout)
        return [Seen(**span) for span in document["spans"]], document["totals"]


class Rotel(Server):
    """A collector in between: what it takes goes to another receiver."""

    name = "rotel"

    def __init__(self, place: Path, to: str, protocol: str) -> None:
        super().__init__(place)
        self._to = ["--otlp-exporter-endpoint", to, "--otlp-exporter-protocol", protocol]

    def command(self) -> Sequence[str | Path]:
        (agent,) = self.python.parent.parent.glob("lib/*/site-packages/rotel/rotel-agent")
        at = ["--otlp-http-endpoint", f"127.0.0.1:{self.port}", "--otlp-grpc-endpoint", f"127.0.0.1:{self.grpc_port}"]
        files = ["--pid-file", self.place / "rotel.pid", "--log-file", self.place / "rotel-agent.log"]
        return [agent, "start", *files, *at, "--exporter", "otlp", *self._to]


def _microseconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond
