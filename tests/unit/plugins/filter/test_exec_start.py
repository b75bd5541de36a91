"""What systemd makes of a command line are the words that went in."""

from __future__ import annotations

import pytest

from ansible_collections.llmfleet.serving.plugins.filter.exec_start import exec_start


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("--max-model-len=64k", "--max-model-len=64k"),
        ("/models/r1", "/models/r1"),
        ("", '""'),
        ("two words", '"two words"'),
        ('{"a":[1,"b"]}', '"{\\"a\\":[1,\\"b\\"]}"'),
        ("50%", "50%%"),
        ("$HOME", "$$HOME"),
        ("${HOME} %h", '"$${HOME} %%h"'),
        ("a\\b\nc", '"a\\\\b\\nc"'),
        ("'quoted'", "\"'quoted'\""),
        (";", '";"'),
        ("你好", '"你好"'),
        (8000, "8000"),
    ],
)
def test_a_word_is_quoted_where_systemd_would_read_more_into_it(word, written):
    assert exec_start(["/usr/bin/printf", word]) == f"/usr/bin/printf {written}"
