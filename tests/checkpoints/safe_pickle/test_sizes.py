"""What a file may make us read and unpack."""

from __future__ import annotations

import io

import pytest

from sae_guard.checkpoints.safe_pickle.sizes import MIB, Stream, unpacked_limit


def test_a_stream_hands_out_what_is_there() -> None:
    stream = Stream(io.BytesIO(b"ab\ncdefgh"), 9)
    assert stream.readline() == b"ab\n"
    assert stream.read(2) == b"cd"
    buffer = bytearray(2)
    stream.readinto(buffer)
    assert (bytes(buffer), stream.left) == (b"ef", 2)
    for count in (3, 2**62, -1):
        with pytest.raises(ValueError, match="has 2 left"):
            stream.read(count)
    with pytest.raises(ValueError, match="3 bytes, but the file has 2 left"):
        stream.readinto(bytearray(3))
    with pytest.raises(ValueError, match="longer than the limit of 10 bytes"):
        Stream(io.BytesIO(bytes(20)), 20).readline(10)
    shorter = Stream(io.BytesIO(b"a"), 4)  # than it was when it was opened
    with pytest.raises(ValueError, match="ends 3 bytes early"):
        shorter.read(4)
    shorter = Stream(io.BytesIO(b"a"), 4)
    with pytest.raises(ValueError, match="ends 3 bytes early"):
        shorter.readinto(bytearray(4))


def test_how_much_may_be_unpacked() -> None:
    assert unpacked_limit(1) == 64 * MIB
    assert unpacked_limit(5 * MIB) == 80 * MIB
