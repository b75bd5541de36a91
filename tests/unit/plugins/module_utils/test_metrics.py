"""An engine's metrics say that it moves, and nothing else does."""

from __future__ import annotations

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._metrics import parse

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 1.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0
vllm:generation_tokens_total{engine="0",model_name="tiny"} 41.0
vllm:request_success_total{finished_reason="abort",model_name="tiny"} 0.0
http_requests_total{handler="/metrics",method="GET"} 7.0
process_cpu_seconds_total 12.5
"""


def state(text):
    metrics = parse(text)
    assert metrics is not None
    return metrics.state


def test_requests_that_run_or_wait():
    metrics = parse(VLLM)
    assert metrics is not None
    assert metrics.requests == 3


@pytest.mark.parametrize(
    ("text", "requests"),
    [
        ('sglang:num_running_reqs{model_name="a"} 1\nsglang:num_queue_reqs 1e+00\n', 2),
        ("llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n", 1),
        ("vllm:num_requests_running NaN\n", 0),
        ("vllm:generation_tokens_total 5\n", None),
    ],
)
def test_each_engine(text, requests):
    metrics = parse(text)
    assert metrics is not None
    assert metrics.requests == requests


@pytest.mark.parametrize("text", ["", "process_cpu_seconds_total 1\n", "<html>vllm:</html>", "# vllm:x 1\n"])
def test_no_engine(text):
    assert parse(text) is None


@pytest.mark.parametrize(
    ("line", "moves"),
    [
        ('vllm:generation_tokens_total{engine="0",model_name="tiny"} 41.0', True),
        ('vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0', True),
        # Our own questions, and our own patience.
        ('http_requests_total{handler="/metrics",method="GET"} 7.0', False),
        ("process_cpu_seconds_total 12.5", False),
        ('vllm:request_success_total{finished_reason="abort",model_name="tiny"} 0.0', False),
    ],
)
def test_what_moves(line, moves):
    assert line in VLLM
    other = VLLM.replace(line, f"{line.rpartition(' ')[0]} 99.0")
    assert (state(other) != state(VLLM)) is moves


def test_order_is_no_movement():
    assert state("\n".join(reversed(VLLM.splitlines()))) == state(VLLM)
