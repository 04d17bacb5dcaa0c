"""The fidelity matrix with other versions than the newest: `python -m tests.oldest`.

Each pair gets an environment of its own, `.venv-openai-X-anthropic-Y`, which is kept for the next time.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent

LOWEST = (  # the lower bounds of pyproject.toml
    "opentelemetry-sdk==1.43.0",
    "opentelemetry-instrumentation==0.64b0",
    "wrapt==1.17.0",
    "orjson==3.11.0",
    "typer==0.28.0",
    "rich==14.3.0",
    "genai-prices==0.1.0",
    "duckdb==1.4.0",
    "pyarrow==21.0.0",
    "deltalake==1.2.0",
)
PAIRS = (
    ("openai==2.0.0", "anthropic==0.125.0", *LOWEST),  # the oldest openai; the last anthropic on httpx
    ("openai==2.54.0", "anthropic==1.17.0"),  # the last openai on httpx
)
BESIDE = (
    *("pytest", "pytest-xdist", "hypothesis", "httpx2", "httpx", "pydantic", "boto3", "google-auth"),
    *("uvloop", "trio", "gevent"),
)
SUITES = (
    "tests/fidelity",
    "tests/test_cli.py",
    "tests/test_loops.py",
    "tests/test_peers.py",
    "tests/test_provider.py",
    "tests/test_replay.py",
    "tests/test_spans.py",
    "tests/test_store.py",
)


def main() -> int:
    failed = 0
    for pair in PAIRS:
        name = "-".join(requirement.replace("==", "-") for requirement in pair[:2])
        folder = ROOT / f".venv-{name}"
        python = folder / "bin" / "python"
        wanted = " ".join((*pair, *BESIDE))
        stamp = folder / "ready"
        if not stamp.exists() or stamp.read_text() != wanted:
            print(f"making {folder.name}", file=sys.stderr)
            venv.create(folder, with_pip=True, clear=True)
            pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
            subprocess.run([*pip, "-e", str(ROOT), *pair, *BESIDE], check=True)
            stamp.write_text(wanted)
        print(f"== {' '.join(pair)}", flush=True)
        failed |= subprocess.run([str(python), "-m", "pytest", "-n", "auto", *SUITES], cwd=ROOT, check=False).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
