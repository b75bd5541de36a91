"""The program behind services waits for their requests before they are told to stop."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._metrics import Metrics

PROGRAM = Path(__file__).parents[3] / "roles/_service/files/service.py"


@pytest.fixture
def drain(tmp_path, monkeypatch, capsys):
    """`drain(seconds, *requests)` is what is said, and how often was looked, where requests are counted so."""
    spec = importlib.util.spec_from_file_location("service_program", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "service_program", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_ETC", tmp_path)
    monkeypatch.setattr(module, "_DRAIN_LOOK_S", 0.01)
    looks = []

    def run(seconds, *requests):
        config = {"drain": seconds, "key": True, "watchdog": {"metrics_url": "http://127.0.0.1:9/metrics"}}
        (tmp_path / "x.json").write_text(json.dumps(config))
        answers = iter(requests)

        def metrics(_service, _url):
            looks.append(1)
            count = next(answers, requests[-1])
            return None if count is None else Metrics("state", count)

        monkeypatch.setattr(module.Service, "_metrics", metrics)
        assert module.main(["drain", "x"]) == 0
        return capsys.readouterr().out, len(looks)

    return run


def test_it_waits_until_the_last_request_has_ended(drain):
    assert drain(60, 2, 1, 0) == ("", 3)


def test_what_does_not_end_is_told(drain):
    said, looks = drain(0.1, 2)
    assert said == "x.service: 2 requests have not ended in 0.1 s. They are broken off.\n"
    assert looks > 1


@pytest.mark.parametrize("requests", [None, 0])
def test_a_server_that_is_gone_or_idle_is_not_waited_for(drain, requests):
    assert drain(60, requests) == ("", 1)
