# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The load of `llm_bench`, put on vLLM by vLLM's own client, `vllm bench serve`. Private to this collection.

The client is that of the Python environment that a service runs from. It is given the prompts as a data set in the
form of ShareGPT: the one for prompts of one's own (`custom`) needs pandas, which vLLM does not install.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
import typing as t
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.llmfleet.serving.plugins.module_utils._bench import Figures, Load, failed, warm_up
from ansible_collections.llmfleet.serving.plugins.module_utils._bounded import said_by
from ansible_collections.llmfleet.serving.plugins.module_utils._errors import LlmError
from ansible_collections.llmfleet.serving.plugins.module_utils._gpu_facts import RunCommand
from ansible_collections.llmfleet.serving.plugins.module_utils._http import request_json
from ansible_collections.llmfleet.serving.plugins.module_utils._probe import Question

# Before it, the options had other names, or the client asked nothing but random tokens.
_OLDEST = (0, 11)
_VERSION = "import importlib.metadata; print(importlib.metadata.version('vllm'))"
# What the client leaves out of such a data set (`is_valid_sequence` in vllm/benchmarks/datasets).
_TOKENS_MIN, _TOKENS_MAX = 4, 2048
_TAKES = f"It takes prompts of {_TOKENS_MIN} to 1024 tokens, and no more than {_TOKENS_MAX} tokens with their answers."
_INSTEAD = "Measure by the client own, which asks all engines alike."
_METRICS = {"ttft_seconds": "ttft", "tpot_seconds": "tpot", "latency_seconds": "e2el"}
# A table of its figures, or the end of a traceback.
_SAID_MAX = 1 << 16
_SHOWN_LINES = 3


@dataclass(frozen=True)
class Client:
    """vLLM's own client.

    :ivar python: the interpreter of the environment that it is in.
    """

    python: str
    version: str

    @property
    def name(self) -> str:
        """Who measures, for the record."""
        return f"vllm {self.version}"


def client_of(unit: str, run: RunCommand) -> Client:
    """The client in the environment that a unit of systemd runs from.

    :raises LlmError: when there is none, or it is too old.
    """
    argv = ["systemctl", "show", "--property=ExecStart", "--value", unit]
    _status, started, complaint = run(argv, environ_update={"LC_ALL": "C"})
    found = re.search(r"\bpath=(\S+/bin/python[0-9.]*) ;", started)
    if found is None:
        what = started.strip() or complaint.strip() or "no such unit"
        raise LlmError(f"{unit} was expected to start a Python environment of vLLM, found {what[:200]}. {_INSTEAD}")
    python = found.group(1)
    status, version, complaint = run([python, "-I", "-c", _VERSION])
    if status != 0:
        raise LlmError(f"{unit} runs from {python}, which has no vLLM: {_last(complaint, 1)}. {_INSTEAD}")
    client = Client(python, version.strip())
    numbers = re.match(r"(\d+)\.(\d+)", client.version)
    if numbers and (int(numbers.group(1)), int(numbers.group(2))) < _OLDEST:
        raise LlmError(
            f"{unit} runs vLLM {client.version}, whose own client cannot ask this. Expected vLLM "
            f"{'.'.join(map(str, _OLDEST))} or newer. {_INSTEAD}"
        )
    return client


def measure_by(client: Client, load: Load, clock: Callable[[], float] = time.monotonic) -> Iterator[Figures]:
    """As `measure`, by that client. What does not count is asked as `measure` asks it.

    :raises LlmError: as `measure` does, and when the client fails. It is ended when the time is over.
    """
    deadline = clock() + load.question.timeout
    if load.question.api != "openai" or load.question.max_tokens > _TOKENS_MAX - _TOKENS_MIN:
        raise LlmError(
            f"{client.name} cannot ask {load.question.api} for {load.question.max_tokens} tokens; expected openai. "
            f"{_TAKES} {_INSTEAD}"
        )
    tokenizer = _model_directory(load.question)
    for concurrency in load.concurrencies:
        warm_up(load, concurrency, deadline, clock)
        with tempfile.TemporaryDirectory(prefix="llmfleet-bench-") as folder:
            written = _run(client, load, concurrency, tokenizer, Path(folder), deadline - clock())
        try:
            result = json.loads(written)
            found = _figures(result, concurrency)
        except (KeyError, TypeError, ValueError) as exc:
            what = f"{type(exc).__name__}: {exc}"
            raise LlmError(f"{client.name} has written a result without figures ({what}). {_INSTEAD}") from exc
        yield found
        _require_whole(found, result["errors"], load, client)


def _model_directory(question: Question) -> str:
    """Where the tokenizer is, which the client counts prompts with. vLLM tells what it has loaded the model from."""
    listed = request_json("GET", f"{question.base}/v1/models", token=question.key, timeout=question.timeout)
    root = next((model.get("root") for model in listed["data"] if model.get("id") == question.model), None)
    if not root or not Path(str(root)).is_dir():
        raise LlmError(
            f"{question.url} was expected to tell the directory of {question.model} on this host, which has its "
            f"tokenizer; it told {root!r}. {_INSTEAD}"
        )
    return str(root)


def _run(client: Client, load: Load, concurrency: int, tokenizer: str, folder: Path, seconds: float) -> str:
    """What the client has written."""
    question, planned = load.question, concurrency * load.requests
    prompts, output = folder / "prompts.json", folder / "result.json"
    # An answer has to be there, and is not used.
    rows = [{"conversations": [{"value": load.prompt(number)}, {"value": ""}]} for number in range(planned)]
    prompts.write_text(json.dumps(rows), encoding="utf-8")
    argv = [
        # Neither variables nor a working directory of ours decide what is imported, and nothing is written there.
        *(client.python, "-I", "-B", "-m", "vllm.entrypoints.cli.main", "bench", "serve"),
        *("--backend", "openai-chat", "--base-url", question.base, "--endpoint", "/v1/chat/completions"),
        *("--model", question.model, "--tokenizer", tokenizer),
        *("--dataset-name", "sharegpt", "--dataset-path", str(prompts), "--no-oversample"),
        *("--sharegpt-output-len", str(question.max_tokens)),
        *("--num-prompts", str(planned), "--max-concurrency", str(concurrency), "--request-rate", "inf"),
        *("--percentile-metrics", ",".join(_METRICS.values()), "--metric-percentiles", "50,90,99"),
        # With the details come the errors.
        *("--save-result", "--save-detailed", "--result-dir", str(folder), "--result-filename", output.name),
        "--disable-tqdm",
    ]
    said = said_by(argv, seconds, _SAID_MAX, last=True, environment=_environment(folder, question.key))
    text = said.text.decode(errors="replace")
    if question.key:
        text = text.replace(question.key, "***")
    at = f"{question.model} at concurrency {concurrency}"
    if said.late:
        raise LlmError(
            f"{question.timeout:g} s were over while {client.name} measured {at}. It is started for each number of "
            "streams, which may take a minute. Allow more time, or ask for less."
        )
    if said.status != 0 or not output.exists():
        raise LlmError(
            f"{client.name} has failed to measure {at} (status {said.status}): {_last(text, _SHOWN_LINES)}. {_TAKES}"
        )
    return output.read_text(encoding="utf-8")


def _environment(folder: Path, key: str | None) -> dict[str, str]:
    """The key, where no process list shows it; no hub, no use that is told, no traces; and no proxy to the loopback."""
    passed = os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))
    return {
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "HOME": str(folder),
        "OPENAI_API_KEY": key or "",
        "TMPDIR": str(folder),
        "VLLM_NO_USAGE_STATS": "1",
        "no_proxy": ",".join(filter(None, (passed, "127.0.0.1", "localhost"))),
    }


def _figures(result: dict[str, t.Any], concurrency: int) -> Figures:
    asked, answered = len(result["errors"]), result["completed"]
    speed = round(result["output_throughput"], 2) if answered else None
    return {
        "concurrency": concurrency,
        "requests": asked,
        "failures": asked - answered,
        "seconds": round(result["duration"], 6),
        "output_tokens": result["total_output_tokens"],
        "tokens_from": "usage",
        "output_tokens_per_second": speed,
        "output_tokens_per_second_stream": None if speed is None else round(speed / concurrency, 2),
        "total_tokens_per_second": round(result["total_token_throughput"], 2) if answered else None,
        **{name: _spread(result, metric) for name, metric in _METRICS.items()},
    }


def _spread(result: dict[str, t.Any], metric: str) -> dict[str, float] | None:
    """None for what the client knows nothing of: then it writes zeros."""
    values = {name: round(result[f"{name}_{metric}_ms"] / 1000, 6) for name in ("mean", "p50", "p90", "p99")}
    return values if any(values.values()) else None


def _require_whole(found: Figures, errors: list[str], load: Load, client: Client) -> None:
    planned, asked, failures = found["concurrency"] * load.requests, found["requests"], found["failures"]
    at = f"at concurrency {found['concurrency']}"
    if failures:
        first = next((_last(error, 1) for error in errors if error), "the client tells none.")
        which = f"{load.question.model} failed {at}, made by {client.name}"
        raise failed(failures, planned, asked - failures, which, first)
    if asked < planned:
        raise LlmError(
            f"{client.name} has asked {load.question.model} {asked} of {planned} prompts {at}, and has left out the "
            f"others. {_TAKES} {_INSTEAD}"
        )


def _last(text: str, lines: int) -> str:
    """The last lines of what a program has said, as one."""
    return "; ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])[-600:] or "no word"
