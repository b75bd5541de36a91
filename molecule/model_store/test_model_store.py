"""The model is one whole file, readable by the engines, and nothing is left beside it but what was recorded of it."""

import json

import pytest

MODEL = "/data/models/deepseek-r1-q4.gguf"


@pytest.fixture
def record(host):
    return json.loads(host.file("/data/models/.deepseek-r1-q4.gguf.llmfleet.json").content_string)


def test_is_what_the_record_says(host, record):
    assert host.check_output(f"sha256sum {MODEL}").split()[0] == record["sha256"]
    assert len(record["source"]["commit"]) == 40


def test_is_readable_by_every_engine(host):
    assert host.file(MODEL).mode == 0o644
    assert host.file(MODEL).user == "root"


def test_leaves_no_shard_and_no_stage(host):
    assert host.check_output("ls -A /data/models").split() == [
        ".deepseek-r1-q4.gguf.llmfleet.json",
        "deepseek-r1-q4.gguf",
    ]
