"""`libraries`: made, filled, looked at, searched and erased."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Isthmus

CANAL = "The isthmus of Panama was cut by a canal in 1914. " * 200
HERON = "A heron stands in the reeds and waits for fish. " * 200


def test_a_library_from_its_making_to_its_end(isthmus: Isthmus, tmp_path: Path) -> None:
    canal = tmp_path / "canal.txt"
    canal.write_text(CANAL)
    made = isthmus("libraries", "create", "nature", "--name", "Nature", "--ttl", "30d", "--json").json["library"]
    assert made["name"] == "libraries/nature"
    assert made["ttl"]["seconds"] == 30 * 86_400

    first = isthmus("libraries", "add", "nature", str(canal), "-", "--wait", "--json", stdin=HERON).json["documents"]
    assert [each["document"]["committed_bytes"] for each in first] == [len(CANAL), len(HERON)]
    assert all(each["document"]["embedded_count"] == each["document"]["passage_count"] > 0 for each in first)
    again = isthmus("libraries", "add", "nature", str(canal), "--json").json["documents"]
    assert again[0]["resumed_from_bytes"] == len(CANAL)

    found = isthmus("libraries", "search", "nature", "where", "is", "the", "canal?", "--json").json
    assert found["words_only"] is False
    assert "Panama" in found["passages"][0]["text"]
    shown = isthmus("libraries", "search", "nature", "fish in the reeds", "--limit", "1").out
    assert "stdin, byte " in shown
    assert "heron" in shown
    by_words = isthmus("libraries", "search", "nature", "heron", "--words-only", "--json").json
    assert by_words["words_only"] is True

    assert "nature" in isthmus("libraries").out
    told = isthmus("libraries", "show", "nature").out
    assert 'nature "Nature", 2 documents' in told
    assert "canal.txt" in told
    erased = isthmus("libraries", "delete", "nature", "--json").json
    assert erased["deleted"] == ["nature"]
    gone = isthmus("libraries", "show", "nature", "--json").error
    assert (gone["reason"], "libraries/nature does not exist" in gone["message"]) == ("NOT_FOUND", True)


def test_what_is_wrong_is_told(isthmus: Isthmus) -> None:
    wrong = isthmus("libraries", "create", "--ttl", "soon", "--json")
    assert wrong.code == 2
    assert "--ttl 'soon': expected a number with s, m, h or d" in wrong.error["message"]
    assert isthmus("libraries", "add", "empty", "no-such-file", "--json").error["reason"] == "FILE"
