"""`sessions fork`, `export` and `import`, and the files that they read and write."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.session.v1 import fragment_pb2, record_pb2

from services.cli import records
from services.cli.errors import CliError
from services.cli.records import Format
from tests.cli.conftest import Isthmus

Record = record_pb2.SessionRecord


@given(st.lists(st.text(max_size=300), min_size=1, max_size=8), st.sampled_from(Format))
def test_what_is_written_is_read_again(texts: list[str], form: Format) -> None:
    every = [Record(header=Record.Header(format=1))]
    every += [
        Record(fragment=fragment_pb2.Fragment(sequence=1 << 40, text=text, digest=b"\xff" * 16)) for text in texts
    ]
    file = io.BytesIO()
    for record in every:
        records.write(file, record, form)
    file.seek(0)
    assert list(records.read(file, "file")) == every


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b'{"header": {}}\n{"fragment": 1}\n', "line 2"),
        (b'{"header": {}}\n\xff\n', "line 2"),
        (b"\x02\x0a\x00\x05\x0a", "records[1]"),
        (b"\x02\x0a\x00\x80", "records[1]"),
        (b"\x01\x0a", "records[0]"),
        (b"\xff" * 20, "records[0]"),
        (b"\xff\xff\xff\x7f", "records[0]"),
    ],
)
def test_what_cannot_be_read_is_named(data: bytes, where: str) -> None:
    with pytest.raises(CliError, match="file: ") as raised:
        list(records.read(io.BytesIO(data), "file"))
    assert where in str(raised.value)


@pytest.mark.parametrize("form", ["jsonl", "protobuf"])
def test_a_session_goes_through_a_file(isthmus: Isthmus, tmp_path: Path, form: str) -> None:
    isthmus("ask", "--session", f"origin-{form}", "hello there", "--json")
    file = tmp_path / "session"
    told = isthmus("sessions", "export", f"origin-{form}", "--format", form, "-o", str(file), "--json").json
    assert (told["fragments"], told["turns"]) == (2, 1)
    made = isthmus("sessions", "import", str(file), "--as", f"copy-{form}", "--json").json["session"]
    assert (made["name"], made["turn_count"], made["revision"]) == (f"sessions/copy-{form}", 1, 2)
    again = tmp_path / "again"
    isthmus("sessions", "export", f"copy-{form}", "-o", str(again))
    assert json.loads(again.read_text().splitlines()[-1])["end"]["fragment_count"] == "2"
    printed = isthmus("sessions", "export", f"origin-{form}").out
    assert [next(iter(json.loads(line))) for line in printed.splitlines()] == [
        "header", "turn", "fragment", "fragment", "end"
    ]  # fmt: skip
    assert isthmus("sessions", "import", str(file), "--json").error["reason"] == "ALREADY_EXISTS"


def test_a_file_that_is_cut_off_makes_no_session(isthmus: Isthmus, tmp_path: Path) -> None:
    isthmus("ask", "--session", "whole", "hello there", "--json")
    file = tmp_path / "session.jsonl"
    isthmus("sessions", "export", "whole", "-o", str(file))
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    assert isthmus("sessions", "import", str(file), "--as", "half", "--json").error["reason"] == "INVALID_FIELD"
    file.write_text("".join([*lines[:2], "rubbish\n"]))
    error = isthmus("sessions", "import", str(file), "--as", "half", "--json").error
    assert (error["reason"], "line 3" in error["message"]) == ("FILE", True)
    assert isthmus("sessions", "show", "half", "--json").error["reason"] == "NOT_FOUND"


def test_a_session_is_forked(isthmus: Isthmus) -> None:
    isthmus("ask", "--session", "trunk", "one", "--json")
    isthmus("ask", "--session", "trunk", "two", "--json")
    made = isthmus("sessions", "fork", "trunk", "--turn", "1", "--as", "branch", "--json").json["session"]
    assert (made["parent"], made["parent_turn"], made["turn_count"]) == ("sessions/trunk", 1, 1)
    found = isthmus("sessions", "list", "--filter", 'parent = "sessions/trunk"', "--json").json["sessions"]
    assert [each["name"] for each in found] == ["sessions/branch"]
    shown = isthmus("sessions", "delete", "trunk")
    assert "branch has lost the past" in shown.out
