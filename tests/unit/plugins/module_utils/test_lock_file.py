"""A lock file brings what somebody has looked at, or is refused."""

from __future__ import annotations

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._lock_file import parse

HASH = "--hash=sha256:" + "0f" * 32
GOOD = f"""\
# Made by a command.
Some_Lib==1.2 ; python_full_version < '3.13' \\
    {HASH} \\
    {HASH}
    # via vllm
vllm==0.32.0+cu128 {HASH}
"""


def test_tells_what_it_pins():
    lock = parse(GOOD, "ours.txt", "vllm", "0.32.0")
    assert lock.packages == {"some-lib": "1.2", "vllm": "0.32.0+cu128"}
    assert len(lock.digest) == 8


def test_the_digest_changes_with_the_file_and_not_with_its_end():
    digest = parse(GOOD, "ours.txt", "vllm", "0.32.0").digest
    assert parse(GOOD.rstrip(), "ours.txt", "vllm", "0.32.0").digest == digest
    assert parse(f"{GOOD}other==1 {HASH}", "ours.txt", "vllm", "0.32.0").digest != digest


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("other==1.0", "line 8: other has no --hash=sha256:"),
        (f"other==1.0 --hash=md5:{'0f' * 16}", "line 8: other has no --hash=sha256:"),
        (f"other==1.0 {HASH} --global-option=x", "line 8: other has no --hash=sha256:"),
        (f"other>=1.0 {HASH}", "line 8: expected NAME==VERSION"),
        (f"other @ https://example.com/other.whl {HASH}", "line 8: expected NAME==VERSION"),
        ("--index-url https://example.com/simple", "line 8: expected NAME==VERSION"),
        ("--extra-index-url=https://example.com/simple", "line 8: expected NAME==VERSION"),
        ("-r more.txt", "line 8: expected NAME==VERSION"),
        ("other==1.0 \\", "line 8: other has no --hash=sha256:"),
    ],
)
def test_a_line_that_could_bring_something_else_is_refused(line, said):
    with pytest.raises(LlmError, match=r"The lock file ours.txt is refused: ") as refused:
        parse(f"{GOOD}\n{line}\n", "ours.txt", "vllm", "0.32.0")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("package", "version", "said"),
    [
        ("vllm", "0.33.0", "expected vllm==0.33.0, found 0.32.0"),
        ("sglang", "0.5.23", "expected sglang==0.5.23, found none of that name"),
    ],
)
def test_one_of_another_version_is_refused(package, version, said):
    with pytest.raises(LlmError, match=said):
        parse(GOOD, "ours.txt", package, version)


def test_many_faults_are_counted():
    with pytest.raises(LlmError, match=r"line 3: .*, and 2 more"):
        parse("a\nb\nc\nd\ne\n", "ours.txt", "vllm", "0.32.0")
