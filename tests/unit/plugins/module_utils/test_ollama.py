"""Parameters of a Modelfile, as users and templates write them."""

from __future__ import annotations

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._ollama import typed_parameters


def test_values_get_the_types_that_the_server_wants():
    given = {"num_ctx": "8192", "num_gpu": -1, "temperature": "0.6", "top_p": 1.0, "use_mmap": "False", "stop": ["a"]}
    typed = typed_parameters(given)
    assert typed == {"num_ctx": 8192, "num_gpu": -1, "temperature": 0.6, "top_p": 1, "use_mmap": False, "stop": ["a"]}
    assert [type(value) for value in typed.values()] == [int, int, float, int, bool, list]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_ctx", "8k", "an integer"),
        ("num_ctx", 8192.5, "an integer"),
        ("num_ctx", True, "an integer"),
        ("num_ctx", None, "an integer"),
        ("num_ctx", [8192], "an integer"),
        ("temperature", "warm", "a number"),
        ("temperature", True, "a number"),
        ("temperature", "nan", "a number"),
        ("temperature", None, "a number"),
        ("use_mmap", 1, "true or false"),
        ("use_mmap", "no", "true or false"),
        ("stop", "END", "a list of texts"),
        ("stop", [], "a list of texts"),
        ("stop", ["a", ""], "a list of texts"),
        ("stop", [1], "a list of texts"),
    ],
)
def test_wrong_types_are_refused(name, value, expected):
    with pytest.raises(LlmError) as refused:
        typed_parameters({name: value})
    assert str(refused.value).startswith(f"The parameter {name} is {value!r}; expected {expected}")


def test_unknown_parameter_is_refused_with_those_that_exist():
    with pytest.raises(LlmError, match=r"'num_context' is unknown to Ollama\. It knows: .*num_ctx"):
        typed_parameters({"num_context": 8192})
