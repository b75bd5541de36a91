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

# SGLang 0.5.23 counts its web server's requests and its processes' seconds under its own name.
SGLANG = """sglang:num_running_reqs{engine_type="unified",model_name="tiny",tp_rank="0"} 1.0
sglang:realtime_tokens_total{mode="decode",model_name="tiny"} 400.0
sglang:http_requests_total{endpoint="/metrics",method="GET"} 7.0
sglang:http_responses_total{endpoint="/health",method="GET",status_code="503"} 7.0
sglang:http_requests_active{endpoint="/v1/chat/completions",method="POST"} 7.0
sglang:process_cpu_seconds_total{component="tokenizer"} 7.5
sglang:scheduler_process_cpu_seconds_total{model_name="tiny"} 7.5
sglang:scheduler_idle_seconds_total{model_name="tiny"} 7.5
sglang:num_aborted_requests_total{model_name="tiny"} 7.0
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


def test_what_moves_of_an_engine_that_counts_its_web_server():
    moving = {}
    for line in SGLANG.splitlines():
        other = SGLANG.replace(line, f"{line.rpartition(' ')[0]} 99.0")
        moving[line.partition("{")[0]] = state(other) != state(SGLANG)
    found = {name for name, moves in moving.items() if moves}
    assert found == {"sglang:num_running_reqs", "sglang:realtime_tokens_total"}


def test_order_is_no_movement():
    assert state("\n".join(reversed(VLLM.splitlines()))) == state(VLLM)
