"""The model server's own process: `python -P server_process.py MODEL NAME`. It imports nothing of Escapement.

llama.cpp's server answers on a free port of 127.0.0.1 (one line on stdout says which) until the other end of
its stdin is closed. That happens however its parent ends, so no server is ever left behind.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import threading
from urllib.parse import urlsplit

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def serve(model: str, name: str) -> str:
    """Start the server in this process; returns its address."""
    xllamacpp = importlib.import_module("xllamacpp")  # has no types
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {name}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.cors_origins = "http://127.0.0.1"  # no web page has business here
    params.cors_credentials = False
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = 2  # warnings and errors, on stderr
    params.n_ctx = 2048
    params.n_parallel = 2
    params.n_gpu_layers = 0
    params.fit_params = False
    params.warmup = False
    params.cpuparams.n_threads = 1  # for a model this small more threads only wait for each other
    params.cpuparams_batch.n_threads = 1
    params.sampling.min_p = 0.1  # keeps a small model on its subject
    params.sampling.temp = 1.0  # for requests that do not say: newer Anthropic SDKs have no argument for it
    _alive.append(server := xllamacpp.Server(params))
    return str(server.listening_address)


_alive: list[object] = []
"""The server stops when it is garbage."""


def _end_with_parent() -> None:
    """Exit when stdin ends; on Linux the kernel sees to it too, as loading the model blocks threads."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _end_with_parent()
    answer = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed is log
    sys.tracebacklimit = 0  # llama.cpp has said what is wrong
    address = serve(sys.argv[1], sys.argv[2])
    os.write(answer, f"{urlsplit(address).port}\n".encode())
    threading.Event().wait()


if __name__ == "__main__":
    main()
