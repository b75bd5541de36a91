"""The acceptance role has made the engine load the very model, answer, and deliver under load, which is on record."""

import json
import re


def test_engine_has_loaded_the_model(host):
    loaded = host.check_output("/opt/llmfleet/ollama/0.5.11/bin/ollama ps")
    assert "deepseek-r1" in loaded


def test_figures_are_on_the_hosts_record(host):
    file = host.file("/var/lib/llmfleet/acceptance.json")
    assert (file.user, file.group, file.mode) == ("root", "root", 0o644)
    service = json.loads(file.content_string)["services"]["deepseek-r1"]
    accepted = service["accepted"]
    assert service["current"] == accepted
    assert (accepted["client"], accepted["engine_version"]) == ("own", "0.5.11")
    assert re.fullmatch("[0-9a-f]{64}", accepted["model_sha256"])
    for row, streams in zip(accepted["results"], (1, 2), strict=True):
        assert (row["concurrency"], row["requests"], row["failures"]) == (streams, streams, 0)
        assert row["tokens_from"] == "usage"
        assert 0 < row["output_tokens"] <= 16 * row["requests"]
        assert 0 < row["ttft_seconds"]["p50"] <= row["latency_seconds"]["p99"] <= row["seconds"]
