"""Content codings are undone however they arrive."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escapement_instrumentation import codings
from tests.elsewhere.server import CODINGS, compressed


@given(st.sampled_from(CODINGS), st.lists(st.binary(max_size=300), max_size=5), st.lists(st.integers(0, 2000)))
def test_pieces_cut_anywhere(coding: str, pieces: list[bytes], cuts: list[int]) -> None:
    body = b"".join(compressed(pieces, coding))
    at = [0, *sorted(cuts), len(body)]
    cut = [body[begin:end] for begin, end in pairwise(at)]
    decode = codings.decoder(coding)
    assert decode is not None
    decoded = decode(cut)
    assert b"".join(decoded) == b"".join(pieces)
    assert len(decoded) == len(cut)
    assert decode(cut) == decoded


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_each_piece_when_it_comes(coding: str) -> None:
    pieces = [b"data: one\n\n", b"data: two\n\n"]
    decode = codings.decoder(coding)
    assert decode is not None
    assert decode(compressed(pieces, coding)) == [*pieces, b""]


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_frames_behind_one_another(coding: str) -> None:
    decode = codings.decoder(coding.upper())
    assert decode is not None
    assert b"".join(decode([b"".join(compressed([b"one"], coding) + compressed([b"two"], coding))])) == b"onetwo"


@pytest.mark.parametrize("coding", ["compress", "gzip, unheard-of", ""])
def test_what_is_not_known(coding: str) -> None:
    assert codings.decoder(coding) is None


@pytest.mark.parametrize(
    ("coding", "modules"), [("br", "brotli brotlicffi"), ("zstd", "compression.zstd backports.zstd")]
)
def test_what_is_not_installed(coding: str, modules: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in modules.split():
        monkeypatch.setitem(sys.modules, module, None)
    assert codings.decoder(coding) is None
