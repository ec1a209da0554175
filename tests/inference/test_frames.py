"""What stands between two contents, put together again, is what the chat template renders as a whole."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.frames import ASSISTANT, ROLES, START, SYSTEM, USER, Frames, TemplateError, renderer

# The four shapes that models' templates have: any order of roles; a header of its own for each; roles that must take
# turns, with no header for the reply; and no system role.
ANY_ORDER = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADED = (
    "{{ bos_token }}{% for m in messages %}<|head|>{{ m['role'] }}<|/head|>\n\n{{ m['content'] | trim }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
TAKING_TURNS = """
{%- if messages[0].role == 'system' %}{% set opening = messages[0].content ~ '\n\n' %}{% set said = messages[1:] %}
{%- else %}{% set opening = '' %}{% set said = messages %}{% endif %}
{{- bos_token }}
{%- for m in said %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must take turns') }}{% endif %}
    {%- if m.role == 'user' %}[INST] {{ opening if loop.first }}{{ m.content }} [/INST]
    {%- else %} {{ m.content }}{{ eos_token }}{% endif %}
{%- endfor %}"""
NO_SYSTEM = """
{{- bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{%- for m in messages %}{% set name = 'model' if m.role == 'assistant' else m.role %}
{{- '<start>' ~ name ~ '\n' ~ m.content ~ '<end>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start>model\n' }}{% endif %}"""
TEMPLATES = {"any order": ANY_ORDER, "headed": HEADED, "taking turns": TAKING_TURNS, "no system": NO_SYSTEM}
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}
CONTENTS = st.text("abc 12\u00e4", min_size=1, max_size=8).map(str.strip).filter(bool)


def put_together(frames: Frames, conversation: list[tuple[str, str]]) -> str:
    befores = [START, *(role for role, _ in conversation)]
    text = "".join(
        frames.between[before, role] + content for before, (role, content) in zip(befores, conversation, strict=False)
    )
    return text + frames.header[conversation[-1][0]]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@given(st.lists(CONTENTS, min_size=1, max_size=7).filter(lambda texts: len(texts) % 2 == 1))
def test_a_conversation_in_turns_is_what_the_template_renders(template: str, contents: list[str]) -> None:
    render = renderer(template, VARIABLES)
    conversation = list(zip(itertools.cycle((USER, ASSISTANT)), contents, strict=False))
    assert put_together(Frames(render), conversation) == render(conversation, True)


@pytest.mark.parametrize("name", ["any order", "headed", "taking turns"])
def test_a_system_prompt_stands_where_the_template_puts_it(name: str) -> None:
    render = renderer(TEMPLATES[name], VARIABLES)
    conversation = [(SYSTEM, "be brief"), (USER, "hi"), (ASSISTANT, "hello"), (USER, "well")]
    assert put_together(Frames(render), conversation) == render(conversation, True)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_every_order_of_roles_has_a_frame(template: str) -> None:
    frames = Frames(renderer(template, VARIABLES))
    for before, role in itertools.product((START, *ROLES), ROLES):
        assert frames.between[before, role]
    assert all(frames.header.values()) or template is TAKING_TURNS


def test_what_a_template_refuses_is_said_in_the_nearest_way_that_it_takes() -> None:
    frames = Frames(renderer(TAKING_TURNS, VARIABLES))
    assert frames.between[USER, USER] == "\n\n"
    assert frames.between[ASSISTANT, SYSTEM] == frames.between[ASSISTANT, USER] == "</s>[INST] "
    assert frames.between[START, ASSISTANT] == "<s>[INST]  [/INST] "
    assert Frames(renderer(NO_SYSTEM, VARIABLES)).between[START, SYSTEM] == "<s><start>user\n"


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for m in messages %}", "is not one"),
        ("hello", "renders no conversation"),
        ("{{ raise_exception('never') }}", "renders no conversation"),
        ("{% for m in messages %}{{ m.content.__class__.__mro__ }}{% endfor %}", "renders no conversation"),
        ("{% for m in messages | reverse %}{{ m.content }},{% endfor %}", "renders no conversation"),
    ],
)
def test_a_template_that_is_none_is_refused(template: str, problem: str) -> None:
    with pytest.raises(TemplateError, match=problem):
        Frames(renderer(template, VARIABLES))
