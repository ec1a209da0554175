"""An object's bytes: what goes in comes out, in pieces of any size, and harm is never taken for content."""

from __future__ import annotations

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from context_store.tiering.frozen import CorruptObjectError, Packer, Page, Unpacker

pages = st.lists(
    st.builds(
        Page,
        key=st.sampled_from(["meta", "log", "turns", "void"]),
        kind=st.sampled_from(["hash", "set", "stream"]),
        flat=st.lists(st.binary(max_size=200), max_size=20),
    ),
    max_size=12,
)


def packed(some: list[Page]) -> bytes:
    packer = Packer("acme", "s1", b"incarnat")
    return packer.begin() + b"".join(packer.page(page) for page in some) + packer.end({"log": len(some)})


def unpacked(data: bytes, size: int) -> tuple[list[Page], Unpacker]:
    unpacker = Unpacker()
    found = [page for start in range(0, len(data), size) for page in unpacker.feed(data[start : start + size])]
    return found, unpacker


@given(pages, st.integers(1, 5_000))
def test_pages_come_out_as_they_went_in(some: list[Page], size: int) -> None:
    found, unpacker = unpacked(packed(some), size)
    assert found == some
    assert unpacker.trailer().counts == {"log": len(some)}
    assert unpacker.belongs_to("acme", "s1", b"incarnat")
    assert not unpacker.belongs_to("acme", "s2", b"incarnat")


@given(pages, st.data())
def test_a_changed_or_missing_byte_is_noticed(some: list[Page], data: st.DataObject) -> None:
    whole = packed(some)
    at = data.draw(st.integers(0, len(whole) - 1))
    # Bits that zstd does not use change nothing: then the pages are those that went in.
    harmed = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    try:
        found, unpacker = unpacked(harmed, 1_000)
        unpacker.trailer()
    except CorruptObjectError:
        pass
    else:
        assert found == some
    with pytest.raises(CorruptObjectError):
        unpacked(whole[:at], 1_000)[1].trailer()


def test_what_follows_the_trailer_is_no_object() -> None:

    plain = zstandard.ZstdDecompressor().decompressobj().decompress(packed([]))
    with pytest.raises(CorruptObjectError, match="behind the trailer"):
        unpacked(zstandard.compress(plain + plain), 1_000)
