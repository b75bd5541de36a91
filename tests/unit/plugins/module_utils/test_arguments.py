"""What is wrong with a service's args: each rule fires, and is silent where it should be; and how they are written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.llmfleet.serving.plugins.module_utils import _arguments
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._stack import Engine, Stack

FOLDER = Path(__file__).parents[4] / "playbooks" / "stacks" / "options"
KNOWN = _arguments.knowledge(
    [json.loads(path.read_text()) for path in FOLDER.glob("*.json")],
    yaml.safe_load((FOLDER / "removed.yml").read_text()),
)
NAMES = sorted(
    {
        (engine, release.version, name)
        for engine, all_of in KNOWN.releases.items()
        for release in all_of
        for name in release.options
    }
)


def judge(engine, version, args):
    """The findings about one service, as name of the argument -> (rule, severity)."""
    return {
        finding["object"].rpartition(".")[2]: (finding["id"].removeprefix("argument-"), finding["severity"])
        for finding in findings(engine, version, args)
    }


def findings(engine, version, args):
    stack = Stack("580.178.04", None, {engine: Engine(version, {})}, {})
    return _arguments.findings(stack, KNOWN, [{"name": "chat", "engine": engine, "args": args}])


def write(engine, version, args):
    return _arguments.command_line(KNOWN, engine, version, args)


@pytest.mark.parametrize(
    ("engine", "version", "args", "expected"),
    [
        ("vllm", "0.32.0", {"max_model_length": 8192}, {"max_model_length": ("unknown", "fail")}),
        ("vllm", "0.32.0", {"swap_space": 4}, {"swap_space": ("removed", "fail")}),
        ("vllm", "0.8.5.post1", {"swap_space": 4}, {}),
        ("vllm", "0.32.0", {"device": "cuda"}, {"device": ("removed", "fail")}),
        ("vllm", "0.7.3", {"speculative_disable_by_batch_size": 8}, {}),
        (
            "vllm",
            "0.8.5.post1",
            {"speculative-disable-by-batch-size": 8},
            {"speculative-disable-by-batch-size": ("removed", "fail")},
        ),
        ("vllm", "0.32.0", {"calculate_kv_scales": True}, {"calculate_kv_scales": ("removed", "fail")}),
        ("vllm", "0.8.5.post1", {"calculate_kv_scales": True}, {}),
        ("vllm", "0.7.3", {"cert_reqs": 0}, {"cert_reqs": ("removed", "fail")}),
        ("vllm", "0.33.0", {"cert_reqs": 0}, {"cert_reqs": ("removed", "fail")}),
        ("vllm", "0.8.5.post1", {"enable_reasoning": True}, {}),
        ("vllm", "0.32.0", {"enable_reasoning": True}, {"enable_reasoning": ("removed", "fail")}),
        ("vllm", "0.8.5.post1", {"disable_log_requests": True}, {}),
        ("vllm", "0.32.0", {"disable_log_requests": True}, {"disable_log_requests": ("removed", "fail")}),
        ("vllm", "0.33.0", {"disable_log_requests": True}, {}),
        # Not in the list by hand; the other releases' lists have it.
        ("vllm", "0.32.0", {"qlora_adapter_name_or_path": "x"}, {"qlora_adapter_name_or_path": ("removed", "fail")}),
        ("vllm", "0.8.5.post1", {"shutdown_timeout": 120}, {"shutdown_timeout": ("newer", "fail")}),
        ("vllm", "0.32.0", {"port": 8000, "api-key": "k"}, {"port": ("owned", "fail"), "api-key": ("owned", "fail")}),
        ("sglang", "0.5.23", {"nccl_init_addr": "a:1"}, {"nccl_init_addr": ("owned", "fail")}),
        ("llama_cpp", "b11669", {"a": "x", "hf": "a/b"}, {"a": ("owned", "fail"), "hf": ("owned", "fail")}),
        ("ollama", "0.34.0", {"OLLAMA_HOST": "::"}, {"OLLAMA_HOST": ("owned", "fail")}),
        ("vllm", "0.32.0", {"tp": 8, "tensor_parallel_size": 8}, {"tensor_parallel_size": ("twice", "fail")}),
        ("vllm", "0.32.0", {"max-model-len": 1, "max_model_len": 2}, {"max_model_len": ("twice", "fail")}),
        ("sglang", "0.5.23", {"disable_cuda_graph": True}, {"disable_cuda_graph": ("deprecated", "warn")}),
        ("sglang", "0.5.8.post1", {"cuda_graph_max_bs": 8}, {}),
        ("sglang", "0.5.23", {"cuda_graph_max_bs": 8}, {"cuda_graph_max_bs": ("removed", "fail")}),
        ("sglang", "0.4.6.post5", {"enable_flashinfer_mla": True}, {"enable_flashinfer_mla": ("removed", "fail")}),
        ("llama_cpp", "b11669", {"draft_max": 8}, {"draft_max": ("removed", "fail")}),
        ("ollama", "0.34.0", {"mirostat": 1}, {"mirostat": ("removed", "fail")}),
        ("ollama", "0.5.11", {"OLLAMA_CONTEXT_LENGTH": 1}, {"OLLAMA_CONTEXT_LENGTH": ("newer", "fail")}),
        ("vllm", "0.32.0", None, {}),
        ("vllm", "0.32.0", {"max_model_len": None}, {}),
    ],
)
def test_what_an_engine_does_not_take(engine, version, args, expected):
    assert judge(engine, version, args) == expected


@pytest.mark.parametrize(
    ("engine", "version", "name", "good", "bad"),
    [
        ("vllm", "0.32.0", "max_num_seqs", [8, "8", -1], [8.5, "eight", True, [8], {}, ""]),
        ("vllm", "0.32.0", "max_model_len", [8192, "64k", "auto", "1.5K"], ["64 k", 0.5, True]),
        ("vllm", "0.32.0", "gpu_memory_utilization", [0.9, 1, ".9", "1e-1"], ["90%", True]),
        ("vllm", "0.32.0", "enforce_eager", [True, False], ["yes", 1, []]),
        ("vllm", "0.32.0", "dtype", ["float16"], ["fp16", True]),
        ("vllm", "0.7.3", "block_size", [16, "16"], [17]),
        ("vllm", "0.32.0", "allowed_origins", [["*"], '["*"]', []], [True]),
        ("vllm", "0.32.0", "compilation_config", [{"mode": 3}, 3, "3"], [False]),
        ("vllm", "0.32.0", "middleware", ["a.b", ["a.b", "c.d"]], [[], True]),
        ("vllm", "0.32.0", "cudagraph_capture_sizes", [[1, 2], 1], [[], ["x"], [[1]]]),
        ("vllm", "0.32.0", "quantization", ["awq"], [True, ["awq"]]),
        ("sglang", "0.5.23", "reasoning_parser", ["deepseek-r1"], ["deepseek_r1"]),
        ("sglang", "0.5.23", "json_model_override_args", [{"a": 1}, '{"a": 1}'], [[1]]),
        ("llama_cpp", "b11669", "flash_attn", ["on", True, False, "auto"], ["yes", 1]),
        ("llama_cpp", "b11669", "cpu_strict", [0, 1, True], [2, "on"]),
        ("llama_cpp", "b11669", "tensor_split", ["1,1", [1, 1]], [True, {}]),
        ("llama_cpp", "b11669", "n_gpu_layers", [62, "all"], [True]),
        ("llama_cpp", "b11669", "ctx_size", [8192], ["all"]),
        ("ollama", "0.34.0", "num_gpu", [62, -1], ["all"]),
        ("ollama", "0.34.0", "use_mmap", [True], ["yes"]),
        ("ollama", "0.34.0", "stop", ["a", ["a", "b"]], [[]]),
        ("ollama", "0.34.0", "OLLAMA_FLASH_ATTENTION", [True], ["maybe"]),
    ],
)
def test_values(engine, version, name, good, bad):
    assert {repr(value): judge(engine, version, {name: value}) for value in good} == {repr(value): {} for value in good}
    refused = {name: ("value", "fail")}
    assert {repr(value): judge(engine, version, {name: value}) for value in bad} == {
        repr(value): refused for value in bad
    }


def test_a_finding_says_what_to_do():
    args = {"swap_space": 4, "max_model_length": 1, "shutdown_timout": 1, "dtype": "fp16"}
    found = findings("vllm", "0.32.0", args)
    assert found[0] == {
        "id": "argument-removed",
        "severity": "fail",
        "object": "service chat: args.swap_space",
        "expected": "an option of vllm 0.32.0",
        "found": "swap_space",
        "advice": f"Removed in 0.18.0. {KNOWN.removals['vllm']['swap-space'].instead}",
    }
    assert "max-model-len" in found[1]["advice"]
    assert "shutdown-timeout" in found[2]["advice"]
    assert (found[3]["expected"], found[3]["found"]) == (
        "one of auto, bfloat16, float, float16, float32, half",
        "'fp16'",
    )
    (newer,) = findings("vllm", "0.7.3", {"shutdown_timeout": 1})
    assert newer["advice"] == "It came later: 0.32.0 has it."
    (told,) = findings("sglang", "0.4.6.post5", {"enable_flashinfer_mla": True})
    assert told["advice"] == "Use attention-backend instead."
    (strange,) = findings("vllm", "0.32.0", {"zzz": 1})
    assert strange["advice"] == "None is spelled like it: docs/arguments.md tells where all are."


def test_a_secret_among_the_args_is_not_repeated():
    args = {"api_key": "canary", "hf_token": "canary"}
    assert "canary" not in str(findings("vllm", "0.32.0", args))
    with pytest.raises(LlmError) as caught:
        write("vllm", "0.32.0", args)
    assert "canary" not in str(caught.value)


def test_a_version_without_a_list_is_held_against_the_newest_before_it():
    found = judge("vllm", "0.32.1", {"brand_new": 1, "dtype": "float8", "port": 1, "max_num_seqs": 4})
    assert found == {
        "1": ("unlisted", "warn"),
        "brand_new": ("unknown", "warn"),
        "dtype": ("value", "warn"),
        "port": ("owned", "fail"),
    }
    # What is known of the version itself counts for more than the list of another.
    assert judge("vllm", "0.10.2", {"device": "cuda"})["device"] == ("removed", "fail")
    assert judge("vllm", "0.9.2", {"device": "cuda"}) == {"2": ("unlisted", "warn")}
    assert judge("vllm", "0.33.1", {"disable_log_requests": True}) == {"1": ("unlisted", "warn")}
    assert judge("vllm", "0.32.1", {"disable_log_requests": True})["disable_log_requests"] == ("removed", "fail")
    (unlisted, *_rest) = findings("vllm", "0.32.1", {"dtype": "auto"})
    assert unlisted["object"] == "service chat: vllm 0.32.1"
    assert unlisted["advice"] == "Its args were held against those of vllm 0.32.0."
    (oldest, *_rest) = findings("vllm", "0.7.0", {"dtype": "auto"})
    assert oldest["advice"] == "Its args were held against those of vllm 0.7.3."
    assert judge("vllm", "0.32.1", {}) == {}


def test_a_version_without_a_list_gets_what_is_unknown_as_it_looks():
    args = {"new_flag": True, "other_flag": False, "new_list": [1, 2], "new_dict": {"a": 1}, "new_number": 3}
    words = ["--new-flag", "--new-list", "1", "2", "--new-dict", '{"a":1}', "--new-number", "3"]
    assert write("vllm", "0.32.1", args) == words
    assert write("vllm", "0.32.1", {"enforce_eager": "auto", "seed": [1, 2]}) == [
        "--enforce-eager",
        "auto",
        "--seed",
        "1",
        "2",
    ]


def test_a_service_of_an_engine_that_the_stack_lacks_is_left_to_the_stack_s_rules():
    stack = Stack("580.178.04", None, {}, {})
    assert _arguments.findings(stack, KNOWN, [{"name": "chat", "engine": "vllm", "args": {"zzz": 1}}]) == []


@pytest.mark.parametrize("args", ["--tp 8", ["--tp", "8"], 8])
def test_args_that_are_no_dictionary_are_one_message(args):
    with pytest.raises(LlmError, match="The args of service chat are malformed: expected a dictionary, found"):
        findings("vllm", "0.32.0", args)


@pytest.mark.parametrize(
    ("engine", "version", "args", "words"),
    [
        (
            "vllm",
            "0.32.0",
            {"tp": 8, "max_model_len": "64k"},
            ["--tensor-parallel-size", "8", "--max-model-len", "64k"],
        ),
        ("vllm", "0.32.0", {"enable_prefix_caching": True}, ["--enable-prefix-caching"]),
        ("vllm", "0.32.0", {"enable_prefix_caching": False}, ["--no-enable-prefix-caching"]),
        ("vllm", "0.33.0", {"enable_prefix_caching": False}, ["--no-enable-prefix-caching"]),
        ("vllm", "0.33.0", {"disable_prefix_caching": True}, ["--no-enable-prefix-caching"]),
        ("vllm", "0.33.0", {"disable_prefix_caching": False}, ["--enable-prefix-caching"]),
        ("vllm", "0.32.0", {"no_enforce_eager": True}, ["--no-enforce-eager"]),
        ("vllm", "0.32.0", {"seed": None, "disable_log_stats": False}, []),
        ("vllm", "0.32.0", {"allowed_origins": ["https://a.example"]}, ["--allowed-origins", '["https://a.example"]']),
        ("vllm", "0.32.0", {"hf_overrides": {"a": [1, True]}}, ["--hf-overrides", '{"a":[1,true]}']),
        ("vllm", "0.32.0", {"cudagraph_capture_sizes": [1, 2]}, ["--cudagraph-capture-sizes", "1", "2"]),
        ("vllm", "0.32.0", {"middleware": ["a.b", "c.d"]}, ["--middleware", "a.b", "--middleware", "c.d"]),
        ("vllm", "0.32.0", {"max_logprobs": -1}, ["--max-logprobs=-1"]),
        ("vllm", "0.32.0", {"chat_template": "- 你好"}, ["--chat-template=- 你好"]),
        ("sglang", "0.5.23", {"tensor_parallel_size": 8}, ["--tp-size", "8"]),
        ("sglang", "0.5.23", {"model_checksum": True}, ["--model-checksum"]),
        ("llama_cpp", "b11669", {"ngl": 62, "fa": True}, ["--gpu-layers", "62", "--flash-attn", "on"]),
        ("llama_cpp", "b11669", {"kv_offload": False, "c": 8192}, ["--no-kv-offload", "--ctx-size", "8192"]),
        ("llama_cpp", "b11669", {"tensor_split": [3, 1], "seed": -1}, ["--tensor-split", "3,1", "--seed", "-1"]),
        ("llama_cpp", "b11669", {"cpu_strict": True}, ["--cpu-strict", "1"]),
    ],
)
def test_command_lines(engine, version, args, words):
    assert write(engine, version, args) == words


def test_args_take_the_place_of_defaults_by_whichever_name():
    defaults = {"tensor_parallel_size": 8, "quantization": "awq_marlin", "dtype": "float16"}
    args = {"tp": 4, "quantization": None, "seed": 1}
    words = _arguments.command_line(KNOWN, "vllm", "0.32.0", args, defaults)
    assert words == ["--dtype", "float16", "--tensor-parallel-size", "4", "--seed", "1"]
    assert _arguments.command_line(KNOWN, "vllm", "0.32.0", {}, {"seed": 1}) == ["--seed", "1"]


def test_a_default_that_the_version_has_not_is_refused():
    with pytest.raises(LlmError, match=r"args\.shutdown_timeout"):
        _arguments.command_line(KNOWN, "vllm", "0.8.5.post1", {}, {"shutdown_timeout": 120})


def test_a_command_line_is_refused_with_everything_that_is_wrong():
    with pytest.raises(LlmError) as caught:
        write("vllm", "0.32.0", {"swap_space": 4, "port": 1, "dtype": "fp16", "seed": 1})
    text = str(caught.value)
    assert text.startswith("vllm 0.32.0 does not take these args:\n- vllm: args.swap_space: expected an option of vllm")
    assert len(text.splitlines()) == 4
    with pytest.raises(LlmError, match="Ollama takes no arguments"):
        write("ollama", "0.34.0", {})


def test_ollama_s_args_are_parted():
    args = {
        "num-ctx": 8192,
        "stop": ["a"],
        "seed": None,
        "OLLAMA_KEEP_ALIVE": -1,
        "OLLAMA_FLASH_ATTENTION": True,
        "OLLAMA_SCHED_SPREAD": False,
    }
    assert _arguments.ollama_settings(KNOWN, "0.34.0", args) == {
        "parameters": {"num_ctx": 8192, "stop": ["a"]},
        "environment": {"OLLAMA_KEEP_ALIVE": "-1", "OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_SCHED_SPREAD": "0"},
    }
    with pytest.raises(LlmError, match=r"args\.num_gpus: expected an option of ollama 0\.34\.0"):
        _arguments.ollama_settings(KNOWN, "0.34.0", {"num_gpus": 8})


@given(st.from_regex(r"-{0,2}[A-Za-z0-9][A-Za-z0-9_-]*", fullmatch=True))
def test_a_name_has_one_form(name):
    form = _arguments.normal(name)
    assert _arguments.normal(form) == form
    assert _arguments.normal(form.replace("-", "_")) == _arguments.normal(name.replace("_", "-")) == form
    assert not set("_") & set(form)


@given(st.sampled_from(NAMES), st.data())
def test_an_option_is_found_however_it_is_spelled(which, data):
    engine, version, name = which
    spelled = "".join(data.draw(st.sampled_from("-_")) if letter == "-" else letter for letter in name)
    release = KNOWN.release(engine, version)
    assert release.version == version
    assert release.find(f"--{name}") is release.find(spelled)
    assert judge(engine, version, {spelled: None}).get(spelled, ("", ""))[0] in ("", "owned", "removed")
