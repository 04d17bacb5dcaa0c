"""The wheel: built, installed into an empty environment, imported, and nothing in it that does not belong."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "escapement",
        "escapement_instrumentation",
        "escapement_exporters",
        "escapement_dashboards",
        f"{wheel.name.rsplit('-', 3)[0]}.dist-info",
        f"{wheel.name.rsplit('-', 3)[0]}.data",
    }
    for package in ("escapement", "escapement_instrumentation", "escapement_exporters", "escapement_dashboards"):
        assert f"{package}/py.typed" in names
    assert not [name for name in names if "test" in name or "__pycache__" in name]

    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    subprocess.run([*pip, str(wheel)], check=True)
    program = """
import escapement, escapement_instrumentation, escapement_exporters, escapement_dashboards
with escapement.init("clean") as trace: pass
print(trace.status)
"""
    done = subprocess.run(
        [python, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "completed\n"), done.stderr
    listed = subprocess.run(
        [environment / "bin" / "escapement", "list", "-q"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert listed.stdout.startswith("tr_")
    for folder in ("grafana", "sql"):
        made = {path.name: path.read_bytes() for path in (ROOT / "dashboards" / folder).iterdir()}
        shared = environment / "share" / "escapement" / folder
        assert {path.name: path.read_bytes() for path in shared.iterdir()} == made != {}
