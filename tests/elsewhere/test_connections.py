"""What connections there are in a replay: none. TLS, proxies, and programs that connect by hand."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
import urllib.request
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import boto3
import botocore.config
import pytest
import requests
import trustme
import urllib3
import urllib3.connection

import escapement
from escapement.words.errors import EscapementWarning
from tests.elsewhere.conftest import Check, outcome
from tests.elsewhere.proxy import Proxy
from tests.elsewhere.server import Server

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
STREAM = {**CHAT, "stream": True}
PATH = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
CLAUDE = "anthropic.claude-3-5-sonnet-20240620-v1:0"
ASKED: Any = [{"role": "user", "content": [{"text": "Hello"}]}]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """The server's side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> str:
    """The file of whom the client trusts."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


class Clients:
    """Programs that ask for an answer and a stream, by each client. `trusted`: a file, or empty for nobody's."""

    def __init__(self, trusted: str, proxy: str = "") -> None:
        self._trusted = trusted
        self._proxy = proxy
        self._context = ssl.create_default_context(cafile=trusted or None)

    def requests(self, url: str) -> Any:
        proxies = {"http": self._proxy, "https": self._proxy} if self._proxy else None
        with requests.Session() as session:
            found: list[Any] = []
            for body in (CHAT, STREAM):
                answer = session.post(url + PATH, json=body, proxies=proxies, verify=self._trusted or True)
                found.append((answer.status_code, dict(answer.headers), answer.content, answer.url))
            return found

    def urllib3(self, url: str) -> Any:
        options: Any = {"ca_certs": self._trusted or None, "retries": False}
        with urllib3.ProxyManager(self._proxy, **options) if self._proxy else urllib3.PoolManager(**options) as pool:
            answers = [pool.request("POST", url + PATH, json=body) for body in (CHAT, STREAM)]
            return [(answer.status, dict(answer.headers), answer.data) for answer in answers]

    def urllib(self, url: str) -> Any:
        proxies = {"http": self._proxy, "https": self._proxy} if self._proxy else {}
        handlers = (urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=self._context))
        opener = urllib.request.build_opener(*handlers)
        found = []
        for body in (CHAT, STREAM):
            asked = urllib.request.Request(url + PATH, json.dumps(body).encode(), JSON)
            with opener.open(asked) as answer:
                found.append((answer.status, answer.getheaders(), answer.read()))
        return found

    def http_client(self, url: str) -> Any:
        """By hand: connected before anything is asked, and through a tunnel where there is a proxy."""
        secure = url.startswith("https:")
        at = urlsplit(self._proxy or url)
        assert at.hostname
        connection = (
            http.client.HTTPSConnection(at.hostname, at.port, context=self._context)
            if secure
            else http.client.HTTPConnection(at.hostname, at.port)
        )
        if self._proxy:
            connection.set_tunnel(urlsplit(url).netloc)
        found = []
        for body in (CHAT, STREAM):
            connection.connect()
            connection.request("POST", PATH, json.dumps(body), JSON)
            answer = connection.getresponse()
            found.append((answer.status, answer.getheaders(), answer.read()))
            connection.close()
        return found

    def aiohttp(self, url: str) -> Any:
        async def program() -> Any:
            found = []
            async with aiohttp.ClientSession() as session:
                for body in (CHAT, STREAM):
                    options: Any = {"proxy": self._proxy or None, "ssl": self._context}
                    async with session.post(url + PATH, json=body, **options) as answer:
                        found.append((answer.status, answer.raw_headers, await answer.read(), str(answer.url)))
            return found

        return asyncio.run(program())

    def boto3(self, url: str) -> Any:
        proxies = {"http": self._proxy, "https": self._proxy} if self._proxy else {}
        config = botocore.config.Config(proxies=proxies, retries={"total_max_attempts": 1})
        client = boto3.client("bedrock-runtime", endpoint_url=url, config=config, verify=self._trusted or None)
        found = [client.converse(modelId=CLAUDE, messages=ASKED)]
        found.append(list(client.converse_stream(modelId=CLAUDE, messages=ASKED)["stream"]))
        client.close()
        return found


NAMES = ("requests", "urllib3", "urllib", "http_client", "aiohttp", "boto3")


@pytest.mark.parametrize("name", NAMES)
def test_tls(same: Check, name: str, tls: ssl.SSLContext, trusted: str) -> None:
    same(getattr(Clients(trusted), name), 2, tls=tls)


@pytest.mark.parametrize("name", NAMES)
def test_a_certificate_that_is_not_trusted(name: str, tls: ssl.SSLContext, store: Path) -> None:
    """Nothing was sent, and a replay says so in the same way, without the server."""
    program = getattr(Clients(""), name)
    with Server(tls) as server:
        with escapement.init(storage_dir=store) as trace:
            live = outcome(program, server.url)
        assert server.bodies == []
    with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store) as replay:
        again = outcome(program, server.url)
    assert "CERTIFICATE_VERIFY_FAILED" in live[1]
    if name == "http_client":  # which connected before it asked for anything
        assert trace.steps == 0
    else:
        assert (again, trace.steps) == (live, 1)
    assert (replay.hits, replay.misses) == (trace.steps, 0)


@pytest.mark.parametrize("secure", [False, True], ids=["forwarded", "tunnel"])
@pytest.mark.parametrize("name", NAMES)
def test_proxy(same: Check, name: str, secure: bool, tls: ssl.SSLContext, trusted: str) -> None:
    proxy = Proxy()
    same(getattr(Clients(trusted, proxy.url), name), 2, tls=tls if secure else None, without=proxy)
    assert proxy.asked
    assert all((method == "CONNECT") is (secure or name == "http_client") for method, _ in proxy.asked)


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses that were connected to."""
    addresses: list[Any] = []
    connect = socket.create_connection

    def counted(address: Any, *args: Any, **kwargs: Any) -> Any:
        addresses.append(address)
        return connect(address, *args, **kwargs)

    monkeypatch.setattr(socket, "create_connection", counted)
    return addresses


@pytest.mark.parametrize("host", ["api.openai.com", "bedrock-runtime.eu-central-1.amazonaws.com"])
@pytest.mark.parametrize("module", [http.client, urllib3.connection])
def test_connecting_by_hand_to_a_model_api_is_put_off_in_a_replay(
    host: str, module: Any, store: Path, dialled: list[Any]
) -> None:
    with escapement.init(storage_dir=store) as trace:
        pass
    with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
        connection = module.HTTPSConnection(host)
        connection.connect()
        assert connection.sock is None
        with pytest.raises(escapement.ReplayDivergenceError):
            connection.request("POST", PATH, json.dumps(CHAT), JSON)
    assert dialled == []


def test_what_was_put_off_is_made_up_for(store: Path, dialled: list[Any]) -> None:
    """A request that goes live after all finds its connection."""
    with Server() as server:
        netloc = urlsplit(server.url).netloc
        with escapement.init(storage_dir=store) as trace:
            requests.post(server.url + PATH, json=CHAT)
        dialled.clear()
        with escapement.replay(trace.trace_id, storage_dir=store) as replay:
            connection = http.client.HTTPConnection(netloc)
            connection.connect()
            assert (connection.sock, dialled) == (None, [])
            connection.request("GET", "/file")  # nobody's business
            assert connection.getresponse().read().startswith(b'{"file"')
            assert connection.sock is not None
            with pytest.warns(EscapementWarning):
                connection.request("POST", PATH, json.dumps(STREAM), JSON)
            assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")
            connection.close()
        assert (replay.misses, len(dialled), len(server.bodies)) == (1, 1, 3)


def test_other_connections_are_made_at_once(store: Path) -> None:
    with Server() as asked, Server() as other:
        with escapement.init(storage_dir=store) as trace:
            requests.post(asked.url.replace("127.0.0.1", "localhost") + PATH, json=CHAT)
            connection = http.client.HTTPConnection(urlsplit(asked.url).netloc)
            connection.connect()
            assert connection.sock is not None
            connection.close()
        with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
            connection = http.client.HTTPConnection(urlsplit(other.url).netloc)
            connection.connect()
            assert type(connection.sock) is socket.socket
            connection.close()


@pytest.mark.parametrize("body", [CHAT, {"no": "such field"}], ids=["a model's", "nobody's"])
def test_urllib3_warns_of_what_is_not_verified_as_ever(body: Any, tls: ssl.SSLContext, store: Path) -> None:
    def program(url: str) -> list[type]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert requests.post(url + PATH, json=body, verify=False).status_code == 200
        return [warning.category for warning in caught if warning.category is not ResourceWarning]

    with Server(tls) as server:
        without = program(server.url)
        with escapement.init(storage_dir=store) as trace:
            live = program(server.url)
        with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
            again = program(server.url)
    assert without == live == again == [urllib3.exceptions.InsecureRequestWarning]
