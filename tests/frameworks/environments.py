"""The frameworks that are tested, each in an environment of its own, and the provider's program.

They are kept outside the checkout, in `$XDG_CACHE_HOME/escapement-frameworks` (`~/.cache/...`), and made again when
what they are made of changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
AIMOCK = "@copilotkit/aimock@1.43.0"


@dataclass(frozen=True)
class Framework:
    """What to install, the framework itself first; and what keeps it from calling home, which takes seconds offline."""

    requirements: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    ours: bool = True
    """Whether Escapement is installed beside it."""

    @property
    def version(self) -> str:
        return self.requirements[0].partition("==")[2]


LITELLM_PRICES = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
FRAMEWORKS = {
    "langchain": Framework(("langchain==1.5.2", "langchain-openai", "langchain-anthropic")),
    "langgraph": Framework(("langgraph==1.2.24", "langchain-openai")),
    "openai-agents": Framework(("openai-agents==0.24.0",), {"OPENAI_AGENTS_DISABLE_TRACING": "1"}),
    "pydantic-ai": Framework(("pydantic-ai-slim[openai,anthropic]==2.68.0",)),
    "smolagents": Framework(("smolagents[openai]==1.26.0",)),
    "litellm": Framework(("litellm==1.110.2",), LITELLM_PRICES),
    "instructor": Framework(("instructor==1.17.0", "anthropic")),
    "crewai": Framework(("crewai==1.15.30",), {"CREWAI_DISABLE_TELEMETRY": "true"}),
    "autogen": Framework(("autogen-agentchat==0.7.5", "autogen-ext[openai]==0.7.5")),
    "dspy": Framework(("dspy==3.4.1",), LITELLM_PRICES),
}
INSTRUMENTORS = Framework(
    (
        "opentelemetry-instrumentation-openai==0.62.4",
        "opentelemetry-instrumentation-anthropic==0.62.4",
        "opentelemetry-instrumentation-genai-openai==1.3b0",
        "opentelemetry-instrumentation-genai-anthropic==1.3b0",
        "openinference-instrumentation-openai==0.1.66",
        "openinference-instrumentation-anthropic==3.1.0",
        "opentelemetry-exporter-otlp-proto-common",
        "openai",
        "anthropic",
        "httpx",
    )
)
"""What others record with: one environment for all of them, because a process uses one."""


RECEIVERS = {
    "phoenix": Framework(
        ("arize-phoenix==20.26.1",),
        {"PHOENIX_TELEMETRY_ENABLED": "false", "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false"},
        ours=False,
    ),
    "mlflow": Framework(
        ("mlflow==3.17.2",),
        {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_MODEL_CATALOG_URI": "",  # of prices, for which it goes to the network when spans come
        },
        ours=False,
    ),
    "rotel": Framework(("rotel==0.0.1a15",), ours=False),
}
"""Who takes spans from us."""


def python(name: str, framework: Framework | None = None) -> Path:
    """The interpreter of a framework's environment (one of `FRAMEWORKS`, or another one), which is made where it is missing or not what it should be."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    framework = framework or FRAMEWORKS[name]
    wanted, requirements = [*framework.requirements, version], [*framework.requirements]
    if framework.ours:
        name += f"-{hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:8]}"  # it is installed from where it lies
        wanted.append((ROOT / "pyproject.toml").read_text())
        requirements += ["--editable", str(ROOT)]
    uv = [sys.executable, "-m", "uv", "--quiet"]
    with _kept(name, wanted) as (folder, missing):
        found = folder / "bin" / "python"
        if missing:
            subprocess.run([*uv, "venv", "--python", sys.executable, str(folder)], check=True)
            subprocess.run([*uv, "pip", "install", "--python", str(found), *requirements], check=True)
        return found


def aimock() -> Path:
    """A file beside which `@copilotkit/aimock` is installed."""
    if not (shutil.which("node") and shutil.which("npm")):
        raise RuntimeError("the provider of these tests runs on Node.js: install Node.js 20 or newer, with npm")
    with _kept("aimock", [AIMOCK]) as (folder, missing):
        if missing:
            folder.mkdir()
            subprocess.run(["npm", "install", "--silent", "--prefix", str(folder), AIMOCK], check=True)
        return folder / "package.json"


@contextmanager
def _kept(name: str, wanted: list[str]) -> Iterator[tuple[Path, bool]]:
    """A kept folder, and whether it is still to be made, from nothing; one process at a time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "escapement-frameworks"
    cache.mkdir(parents=True, exist_ok=True)
    folder, stamp, key = cache / name, cache / f"{name}.made-of", "\n".join(wanted)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = not stamp.exists() or stamp.read_text() != key
        if missing:
            stamp.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        yield folder, missing
        stamp.write_text(key)
