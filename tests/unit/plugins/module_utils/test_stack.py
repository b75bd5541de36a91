"""A stack's format, and how versions compare."""

from __future__ import annotations

import copy

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._stack import parse, version

ROW = {
    "driver": {
        "branch": "550",
        "version": "550.163.01",
        "version_min": "550.54.14",
        "module": "open",
        "fabric_manager": "nvidia-fabricmanager-550",
    },
    "cuda": {"version": "12.4", "version_min": "12.4"},
    "engines": {"ollama": {"version": "0.5.11"}, "sglang": {"version": "0.4.3.post2", "packages": {"numpy": "2.2.5"}}},
    "accepts": [{"advisories": ["CVE-2026-7482", "CVE-2026-5530"], "reason": "Nobody can reach it."}],
}


def changed(path, value):
    """The row with another value at a path; None takes it away."""
    row = copy.deepcopy(ROW)
    inner = row
    *folders, name = path.split(".")
    for folder in folders:
        inner = inner[folder]
    if value is None:
        del inner[name]
    else:
        inner[name] = value
    return row


@pytest.mark.parametrize(
    "rising",
    [
        ("550.54.14", "550.90.12", "550.163.01", "570", "570.26", "580.65.06"),
        ("0.8.5", "0.8.5.post1", "0.8.6.dev3", "0.8.6a1", "0.8.6b1", "0.8.6rc1", "0.8.6rc2", "0.8.6", "0.10.0"),
        ("v0.34.0-rc1", "v0.34.0", "v0.34.1"),
        ("b4741", "b8146", "b11669"),
        ("0.21.0", "0.21.1"),
    ],
)
def test_versions_are_ordered(rising):
    assert all(version(older) < version(newer) for older, newer in zip(rising, rising[1:]))


@pytest.mark.parametrize(("one", "other"), [("v0.5.11", "0.5.11"), ("12.4", "12.4.0"), ("0.21.0+rhai.8", "0.21.0")])
def test_spellings_of_one_version_are_equal(one, other):
    assert version(one) == version(other)


def test_an_engine_names_its_lock_file():
    parse(changed("engines.sglang.lock", "locks/ours.txt"), "mine")


@pytest.mark.parametrize("text", ["", "latest", "0.5.x", "1..2", "0.5.11\n", "9" * 5000, "1.0rc"])
def test_what_is_no_version_is_refused(text):
    with pytest.raises(LlmError, match="is not a version: expected one like"):
        version(text)


def test_a_row_is_taken_apart():
    stack = parse(ROW, "mine")
    assert (stack.driver, stack.toolkit) == ("550.163.01", "12.4")
    assert stack.engines["sglang"].packages == {"numpy": "2.2.5"}
    assert stack.engines["ollama"].version == "0.5.11"
    assert stack.accepts["CVE-2026-5530"] == "Nobody can reach it."


def test_hosts_may_go_without_a_toolkit_and_a_stack_without_accepting_anything():
    row = changed("accepts", None)
    del row["cuda"]["version"]
    stack = parse(row, "mine")
    assert (stack.toolkit, stack.accepts) == (None, {})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (None, "the whole: expected a dictionary, found None"),
        (["driver"], "the whole: expected a dictionary, found ['driver']"),
        (changed("driver", None), "driver: missing"),
        (changed("driver", "550"), "driver: expected a dictionary, found '550'"),
        (changed("driver.branch", 550), 'driver.branch: expected a driver branch in quotes, like "550", found 550'),
        (changed("driver.version", 550.163), 'driver.version: expected a version in quotes, like "550.163.01", found'),
        (changed("driver.version", "latest"), "driver.version: expected a version in quotes"),
        (changed("driver.version", "1" + "." * 99), "found '1" + "." * 55 + "..."),
        (changed("driver.module", "nouveau"), "driver.module: expected open or proprietary, found 'nouveau'"),
        (changed("driver.fabric_manager", "a b"), "driver.fabric_manager: expected the name of a package, found 'a b'"),
        (changed("driver.fabricmanager", "x"), "driver.fabricmanager: unknown, expected fabric_manager"),
        (changed("zzz", 1), "zzz: unknown, expected driver or cuda or engines or accepts"),
        (changed("cuda.version_min", None), "cuda.version_min: missing"),
        (changed("engines.vlm", {"version": "0.8.0"}), "engines.vlm: unknown, expected vllm"),
        (changed("engines.ollama", "0.5.11"), "engines.ollama: expected a dictionary, found '0.5.11'"),
        (changed("engines.sglang.packages", ["numpy"]), "engines.sglang.packages: expected a dictionary"),
        (changed("engines.sglang.packages", {"a b": "1"}), "packages.a b: expected the name of a package, found 'a b'"),
        (changed("engines.ollama.lock", "ours.txt"), "engines.ollama.lock: unknown, expected"),
        (changed("engines.sglang.lock", "ours.yml"), "engines.sglang.lock: expected the path of a lock file"),
        (changed("engines.sglang.packages", {"numpy": 2}), "engines.sglang.packages.numpy: expected a version"),
        (changed("accepts", "CVE-2026-7482"), "accepts: expected a list, found 'CVE-2026-7482'"),
        (changed("accepts", []), "accepts: expected a list, found []"),
        (changed("accepts", [{"advisories": ["a cve"], "reason": "x"}]), "accepts[0].advisories[0]: expected the id"),
        (changed("accepts", [{"advisories": ["CVE-1"], "reason": " "}]), "accepts[0].reason: expected a sentence"),
        (changed("driver.branch", "580"), "driver.version: expected a release of the branch 580, found 550.163.01"),
        (changed("driver.version_min", "550.200"), "expected version_min, 550.200, or newer, found 550.163.01"),
    ],
)
def test_a_malformed_row_is_one_clear_error(row, said):
    with pytest.raises(LlmError) as caught:
        parse(row, "mine")
    assert str(caught.value).startswith("The stack mine is malformed: ")
    assert said in str(caught.value)
    assert str(caught.value).endswith("docs/stacks.md has the format.")


def test_everything_that_is_wrong_is_said_at_once():
    row = changed("driver.module", "nouveau")
    row["engines"]["ollama"] = {}
    with pytest.raises(LlmError, match=r"driver\.module: .*; engines\.ollama\.version: missing"):
        parse(row, "mine")
