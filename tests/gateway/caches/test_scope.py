"""Nothing crosses from one scope into another: a tenant, a model, parameters, a system prompt, a library's version."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from isthmus.context.v1 import window_pb2
from isthmus.session.v1 import message_pb2

from gateway.caches.scope import Scope, asked, pair, scope_of
from services.digest import EMPTY, chain, item_digest

NAMES = st.text(max_size=6)
SCOPES = st.builds(
    Scope,
    tenant=NAMES,
    model=NAMES,
    params=st.binary(max_size=3),
    context=st.binary(max_size=3),
    libraries=st.dictionaries(NAMES, NAMES, max_size=3).map(lambda each: tuple(sorted(each.items()))),
)
SYSTEM, USER, ASSISTANT = message_pb2.ROLE_SYSTEM, message_pb2.ROLE_USER, message_pb2.ROLE_ASSISTANT


def window(*said: tuple[message_pb2.Role.ValueType, str], earlier: int = 0) -> window_pb2.Manifest:
    """A manifest of so many items that are not in it, and these, which are."""
    items = []
    for role, text in said:
        item = window_pb2.WindowItem(kind=window_pb2.WINDOW_ITEM_KIND_MESSAGE, role=role, text=text)
        item.digest = item_digest(item)
        items.append(item)
    digest = EMPTY
    for item in items:
        digest = chain(digest, item.digest)
    return window_pb2.Manifest(
        end=window_pb2.Checkpoint(item_count=earlier + len(items), digest=digest), new_items=items
    )


@given(SCOPES, SCOPES)
def test_scopes_share_a_name_only_if_they_are_the_same(one: Scope, other: Scope) -> None:
    assert (one.digest == other.digest) == (one == other)


@given(SCOPES, NAMES, NAMES)
def test_a_part_that_moves_into_its_neighbour_makes_another_scope(scope: Scope, name: str, version: str) -> None:
    moved = replace(scope, tenant=scope.tenant + scope.model, model="")
    assert (moved.digest == scope.digest) == (moved == scope)
    attached = replace(scope, libraries=(*scope.libraries, (name, version)))
    assert attached.digest != scope.digest


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_system_prompt_is_part_of_the_scope(one: str, other: str) -> None:
    contexts = []
    for prompt in (one, other):
        found = asked(window((SYSTEM, prompt), (USER, "Where does it lead?")), 1_000)
        assert found is not None
        contexts.append(scope_of("acme", "m", message_pb2.SamplingParams(), found.context).digest)
    assert (contexts[0] == contexts[1]) == (one == other)


def test_a_question_stands_alone_behind_system_messages_and_nowhere_else() -> None:
    alone = asked(window((SYSTEM, "Be brief."), (USER, "Where?")), 1_000)
    assert alone is not None
    assert alone.question == "Where?"
    assert asked(window((USER, "Who?"), (USER, "Where?")), 1_000) is None
    assert asked(window((USER, "Who?"), (ASSISTANT, "I."), (USER, "Where?")), 1_000) is None
    assert asked(window((USER, "Where?"), (SYSTEM, "Be brief.")), 1_000) is None
    assert asked(window((USER, "Where?"), earlier=1), 1_000) is None
    assert asked(window((USER, "Where? " * 100)), 100) is None


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_pair_is_the_same_either_way_round(one: str, other: str) -> None:
    assert pair(one, other) == pair(other, one) == pair(f"  {one} ", other)
