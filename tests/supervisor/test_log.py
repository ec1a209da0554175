from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.supervisor.logline import LineSplitter, LogLine, parse
from services.supervisor.logmux import LogMux, RotatingFile


@pytest.mark.parametrize(
    ("printed", "line"),
    [
        ("plain words", LogLine("info", "plain words")),
        ("{not json", LogLine("info", "{not json")),
        (
            json.dumps({"event": "turn done", "level": "info", "timestamp": "t", "member": "m", "ms": 3, "why": "a b"}),
            LogLine("info", 'turn done ms=3 why="a b"'),
        ),
        (
            json.dumps({"event": "room failed", "level": "error", "exception": "Traceback\nValueError"}),
            LogLine("error", "room failed\nTraceback\nValueError"),
        ),
        ("7950:M 21 Nov 2026 08:35:30.954 * Ready to accept", LogLine("info", "Ready to accept")),
        ("7950:M 21 Nov 2026 08:35:30.954 # Out of disk", LogLine("warning", "Out of disk")),
    ],
)
def test_a_line_is_read_whatever_its_format(printed: str, line: LogLine) -> None:
    assert parse(printed) == line


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=1, max_size=20)), st.data())
def test_lines_do_not_depend_on_how_their_bytes_arrive(lines: list[str], data: st.DataObject) -> None:
    whole = "".join(f"{line}\n" for line in lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    splitter = LineSplitter(256)
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert [line for piece in pieces for line in splitter.feed(piece)] + splitter.finish() == lines


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_no_line_is_longer_than_the_bound(pieces: list[bytes]) -> None:
    splitter = LineSplitter(16)
    lines = [line for piece in pieces for line in splitter.feed(piece)] + splitter.finish()
    assert all(len(line) <= 16 for line in lines)


def test_the_log_never_outgrows_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "isthmus.log"
    file = RotatingFile(path, bytes_max=1_000, older_count_max=2)
    for number in range(500):
        file.write(f"line {number}\n".encode())
    file.close()

    assert sorted(each.name for each in tmp_path.iterdir()) == ["isthmus.log", "isthmus.log.1", "isthmus.log.2"]
    assert all(each.stat().st_size <= 1_000 for each in tmp_path.iterdir())
    kept = "".join((tmp_path / f"isthmus.log{older}").read_text() for older in (".2", ".1", ""))
    assert kept.endswith("line 499\n")
    numbers = [int(line.split()[1]) for line in kept.splitlines()]
    assert numbers == list(range(numbers[0], 500))


def test_without_older_files_the_log_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "isthmus.log"
    file = RotatingFile(path, bytes_max=10, older_count_max=0)
    file.write(b"12345678\n")
    file.write(b"abc\n")
    file.close()
    assert path.read_text() == "abc\n"


def test_the_log_says_who_and_remembers_the_last_words(tmp_path: Path) -> None:
    shown: list[tuple[str, LogLine]] = []
    mux = LogMux(RotatingFile(tmp_path / "log", 1 << 20, 1), lambda name, line: shown.append((name, line)))
    for number in range(50):
        mux.write("gateway-0", f"line {number}")
    mux.write("valkey", "   ")
    mux.close()

    assert len(shown) == 50
    assert mux.tail("gateway-0")[-1] == "line 49"
    assert len(mux.tail("gateway-0")) < 50
    assert mux.tail("valkey") == []
    assert "gateway-0        info    line 49" in (tmp_path / "log").read_text()
