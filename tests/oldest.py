"""The fidelity matrix with other SDK versions than the newest: `python -m tests.oldest`.

Each pair gets an environment of its own, `.venv-openai-X-anthropic-Y`, which is kept for the next time.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent

PAIRS = (
    ("openai==2.0.0", "anthropic==0.125.0"),  # the oldest openai; the last anthropic on httpx
    ("openai==2.54.0", "anthropic==1.17.0"),  # the last openai on httpx
)
SUITES = ("tests/fidelity", "tests/test_replay.py", "tests/test_loops.py", "tests/test_provider.py")


def main() -> int:
    failed = 0
    for pair in PAIRS:
        name = "-".join(requirement.replace("==", "-") for requirement in pair)
        folder = ROOT / f".venv-{name}"
        python = folder / "bin" / "python"
        if not (folder / "ready").exists():
            print(f"making {folder.name}", file=sys.stderr)
            venv.create(folder, with_pip=True, clear=True)
            pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
            subprocess.run([*pip, "-e", str(ROOT), *pair, "pytest", "httpx2", "httpx", "pydantic"], check=True)
            (folder / "ready").touch()
        print(f"== {' '.join(pair)}", flush=True)
        failed |= subprocess.run([str(python), "-m", "pytest", *SUITES], cwd=ROOT, check=False).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
