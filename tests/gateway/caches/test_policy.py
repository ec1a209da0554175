"""What a turn may be given: by the request first, then by the settings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.session.v1 import message_pb2, session_service_pb2

from gateway.caches.policy import NONE, Policy, use_of
from services.config import CacheSettings

Params = message_pb2.SamplingParams
OFF = CacheSettings()
ON = CacheSettings(exact="on", semantic={"m": "intent"}, serve_when_down=True)
MODES = st.sampled_from(list(Policy.Mode.values()))
PARAMS = st.sampled_from([Params(), Params(temperature=0), Params(temperature=1), Params(logprobs=0)])


def request(mode: Policy.Mode.ValueType, params: Params) -> session_service_pb2.RunTurnRequest:
    """A turn with these."""
    return session_service_pb2.RunTurnRequest(cache=Policy(mode=mode), params=params)


@given(MODES, PARAMS, st.sampled_from([OFF, ON]))
def test_what_is_given_was_asked_for_by_somebody(
    mode: Policy.Mode.ValueType, params: Params, settings: CacheSettings
) -> None:
    use = use_of(request(mode, params), "m", settings)
    asks = mode in (Policy.MODE_EXACT, Policy.MODE_SEMANTIC)
    fixed = params.HasField("temperature") and params.temperature == 0
    assert not use.exact or asks or (settings is ON and fixed)
    assert use.score_min is None or mode == Policy.MODE_SEMANTIC or (settings is ON and not asks)
    # Questions are compared only where the same one would be given its answer.
    assert use.score_min is None or use.exact
    if mode == Policy.MODE_OFF or params.HasField("logprobs"):
        assert use == NONE


@pytest.mark.parametrize(("model", "score_min"), [("m", ON.intent_score_min), ("other", None)])
def test_a_model_has_the_strictness_of_its_own(model: str, score_min: float | None) -> None:
    assert use_of(request(Policy.MODE_UNSPECIFIED, Params(temperature=0)), model, ON).score_min == score_min
    everybody = CacheSettings(semantic={"*": "strict", "m": "intent"})
    own = everybody.intent_score_min if model == "m" else everybody.strict_score_min
    assert use_of(request(Policy.MODE_UNSPECIFIED, Params(temperature=0)), model, everybody).score_min == own


def test_a_request_may_ask_for_more_than_the_settings_do_and_for_less() -> None:
    sampled = Params(temperature=1)
    assert use_of(request(Policy.MODE_UNSPECIFIED, sampled), "m", OFF) == NONE
    assert use_of(request(Policy.MODE_SEMANTIC, sampled), "m", OFF).score_min == OFF.strict_score_min
    assert use_of(request(Policy.MODE_EXACT, sampled), "m", ON).score_min is None
    assert use_of(request(Policy.MODE_UNSPECIFIED, sampled), "m", CacheSettings(exact="on", sampled=True)).exact
    stale = use_of(request(Policy.MODE_UNSPECIFIED, sampled), "m", ON)
    assert (stale.exact, stale.stale, stale.keeps) == (False, True, True)
