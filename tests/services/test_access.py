"""API keys without I/O: their form, what is kept of them, and how they come and go."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.access import (
    ApiKey,
    KeyState,
    MalformedKey,
    Record,
    Scope,
    Verdict,
    created,
    dead,
    judge,
    mint,
    parse,
    revoked,
    rotated,
)
from services.access.changes import LIFETIME_MS_MAX
from services.access.key import KEY_CHARS, is_id
from services.access.record import decode, encode
from services.access.scopes import DEFAULT, allows
from services.errors import InvalidField

NOW = 1_700_000_000_000
HOUR = 3_600_000


def seeded(seed: int) -> Callable[[int], bytes]:
    """Random bytes that are the same again."""
    return random.Random(seed).randbytes


keys = st.integers(0, 2**32).map(lambda seed: mint(seeded(seed)))
records = st.builds(
    Record,
    id=st.just("a" * 12),
    tenant=st.sampled_from(["acme", "local"]),
    digest=st.binary(min_size=32, max_size=32),
    scopes=st.lists(st.sampled_from(Scope), unique=True).map(tuple),
    display_name=st.text(max_size=8),
    create_ms=st.integers(0, NOW),
    expire_ms=st.integers(0, 2 * NOW),
    revoke_ms=st.integers(0, 2 * NOW),
)


@given(keys)
def test_a_key_is_read_back_from_its_text(key: ApiKey) -> None:
    assert parse(key.text) == key
    assert len(key.text) == KEY_CHARS
    assert is_id(key.id)


@given(keys, st.data())
def test_any_one_wrong_character_is_told_without_asking_anybody(key: ApiKey, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, KEY_CHARS - 1))
    other = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz234567-0A é"))
    assume(other != key.text[place])
    with pytest.raises(MalformedKey):
        parse(key.text[:place] + other + key.text[place + 1 :])


@given(keys, st.integers(0, KEY_CHARS - 2))
def test_two_characters_in_each_others_place_are_told(key: ApiKey, place: int) -> None:
    text = key.text
    assume(text[place] != text[place + 1])
    with pytest.raises(MalformedKey):
        parse(text[:place] + text[place + 1] + text[place] + text[place + 2 :])


@given(st.text(max_size=80))
def test_what_is_no_key_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(MalformedKey) as caught:
        parse(text)
    assert len(text) < 6 or text not in str(caught.value)


@given(keys)
def test_a_key_that_is_printed_by_mistake_does_not_tell_its_secret(key: ApiKey) -> None:
    assert key.secret not in f"{key} {key!r}"


def test_keys_differ_in_each_part() -> None:
    made = [mint(os.urandom) for _ in range(100)]
    assert len({each.id for each in made}) == len({each.secret for each in made}) == 100


@given(keys, keys)
def test_a_digest_belongs_to_one_id_and_one_secret(one: ApiKey, other: ApiKey) -> None:
    assume(one != other)
    assert ApiKey(other.id, one.secret).digest != one.digest or other.id == one.id
    assert ApiKey(one.id, other.secret).digest != one.digest or other.secret == one.secret


@given(records)
def test_a_record_is_stored_and_read_back(record: Record) -> None:
    assert decode(encode(record)) == record


@given(keys, keys)
def test_only_the_key_itself_is_valid(key: ApiKey, other: ApiKey) -> None:
    assume(key.secret != other.secret)
    record = Record(id=key.id, tenant="acme", digest=key.digest, scopes=DEFAULT, create_ms=NOW)
    assert judge(record, key, NOW) is Verdict.VALID
    assert judge(record, ApiKey(key.id, other.secret), NOW) is Verdict.UNKNOWN
    assert judge(None, key, NOW) is Verdict.UNKNOWN


def test_an_unknown_id_costs_what_a_wrong_secret_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    digest_of = ApiKey.digest.fget  # type: ignore[attr-defined]

    def noted_digest(key: ApiKey) -> bytes:
        done.append("hash")
        return bytes(digest_of(key))

    def noted_compare(one: bytes, other: bytes) -> bool:
        done.append(f"compare {len(one)} and {len(other)}")
        return one == other

    monkeypatch.setattr(ApiKey, "digest", property(noted_digest))
    monkeypatch.setattr("hmac.compare_digest", noted_compare)
    key = mint(seeded(1))
    record = Record(id=key.id, tenant="acme", digest=bytes(32), scopes=DEFAULT, create_ms=NOW)
    judge(record, key, NOW)
    wrong, done[:] = list(done), []
    judge(None, key, NOW)
    assert wrong == done == ["hash", "compare 32 and 32"]


def test_who_has_the_secret_learns_what_became_of_the_key() -> None:
    made = created("acme", DEFAULT, now_ms=NOW, random_bytes=seeded(1), lifetime_ms=HOUR)
    assert judge(made.record, made.key, NOW + HOUR - 1) is Verdict.VALID
    assert judge(made.record, made.key, NOW + HOUR) is Verdict.EXPIRED
    ended = revoked(made.record, NOW + 1)
    assert judge(ended, made.key, NOW + 2) is Verdict.REVOKED
    assert judge(ended, ApiKey(made.key.id, "a" * 32), NOW + 2) is Verdict.UNKNOWN


@given(st.lists(st.sampled_from(Scope)), st.sampled_from([None, *Scope]))
def test_a_scope_allows_its_own_calls_and_admin_all(scopes: list[Scope], needed: Scope | None) -> None:
    assert allows(scopes, needed) == (needed is None or needed in scopes or Scope.ADMIN in scopes)


@given(records, st.integers(0, 2 * NOW))
def test_a_revocation_is_kept_as_it_was_first_made(record: Record, now_ms: int) -> None:
    once = revoked(record, now_ms or 1)
    assert once.state(0) is KeyState.REVOKED
    assert revoked(once, now_ms + 1) == once


@given(st.integers(0, LIFETIME_MS_MAX), st.integers(0, LIFETIME_MS_MAX), st.integers(0, LIFETIME_MS_MAX))
def test_a_rotation_makes_the_same_key_anew_and_ends_the_old_one(life: int, age: int, grace: int) -> None:
    old = created("acme", [Scope.TURNS], now_ms=NOW, random_bytes=seeded(1), display_name="ci", lifetime_ms=life).record
    now = NOW + age
    assume(old.state(now) is KeyState.ACTIVE)
    made = rotated(old, now_ms=now, grace_ms=grace, random_bytes=seeded(2))
    new = made.record
    assert (new.tenant, new.scopes, new.display_name) == (old.tenant, old.scopes, old.display_name)
    assert new.id != old.id
    assert new.expire_ms == (now + life if life else 0)
    (added, changed) = made.changes
    assert (added.before, added.after) == (None, new)
    assert changed.before == old
    assert changed.after is not None
    assert changed.after.digest == old.digest
    assert changed.after.expire_ms == (min(now + grace, old.expire_ms) if life else now + grace)


def test_a_key_that_has_ended_is_not_rotated() -> None:
    record = created("acme", DEFAULT, now_ms=NOW, random_bytes=seeded(1), lifetime_ms=HOUR).record
    for ended, now in ((record, NOW + HOUR), (revoked(record, NOW), NOW)):
        with pytest.raises(InvalidField, match="expected an active one"):
            rotated(ended, now_ms=now, grace_ms=0, random_bytes=seeded(2))


@given(records, st.integers(0, 2 * NOW), st.integers(0, NOW))
def test_only_what_has_ended_long_ago_is_dropped(record: Record, now_ms: int, kept_ms: int) -> None:
    gone = dead([record], now_ms=now_ms, kept_ms=kept_ms)
    assert not gone or record.state(now_ms) is not KeyState.ACTIVE
    if not record.revoke_ms:
        assert bool(gone) == (record.expire_ms > 0 and record.expire_ms + kept_ms <= now_ms)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tenant": "Acme"}, "tenant: is 'Acme', expected 1 to 63"),
        ({"tenant": ""}, "tenant: is ''"),
        ({"scopes": []}, "scopes: are none, expected some of turns"),
        ({"display_name": "x" * 129}, "name: expected at most 128"),
        ({"display_name": "\n"}, "name: expected at most 128 characters that can be printed"),
        ({"lifetime_ms": -1}, "expires-in: is -1 ms"),
    ],
)
def test_what_cannot_be_is_named(wrong: dict[str, object], said: str) -> None:
    asked = {"tenant": "acme", "scopes": DEFAULT, "now_ms": NOW, "random_bytes": seeded(1), **wrong}
    with pytest.raises(InvalidField, match=said):
        created(**asked)  # type: ignore[arg-type]
