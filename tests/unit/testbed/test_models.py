# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The generated models are real: llama.cpp's own programs split, merge, load and run them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest
import requests
from safetensors import safe_open

from testbed import BedError
from testbed.engine import LABEL, docker
from testbed.images import ensure_image
from testbed.models import ensure, make
from testbed.models.architectures import Tensor, model_of
from testbed.models.hf_files import write_safetensors
from testbed.models.vocabulary import EOS, STORY_LENGTH, vocabulary
from testbed.models.weights import weights
from testbed.tools import tool

ARCHITECTURES = ("llama", "deepseek2")
STORY = re.compile(r"Today the (?:[a-z]+ ){3}a .* so no .* their (?:morning|weekly|final) (?:train|lesson|signal)\.")
LOADING_TIMEOUT_S = 180


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class LlamaServer:
    """The real llama-server, with one thread so that the order of its sums is always the same."""

    def __init__(self, url: str) -> None:
        self._url = url

    def post(self, path: str, body: dict[str, object]) -> dict[str, object]:
        answer = requests.post(self._url + path, json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def greedy(self, prompt: str) -> tuple[list[int], object]:
        """Token ids of the answer, and the log-probabilities of the three likeliest tokens at every step."""
        answer = self.post(
            "/completion",
            {
                "prompt": prompt,
                "temperature": 0,
                "n_predict": 100,
                "n_probs": 3,
                "return_tokens": True,
                "cache_prompt": False,
            },
        )
        return answer["tokens"], answer["completion_probabilities"]


@contextlib.contextmanager
def llama_server(model: Path) -> Iterator[LlamaServer]:
    everywhere = "0.0.0.0"  # noqa: S104 - in the container; this machine publishes the port on its loopback only
    container = docker(
        "run", "--detach", "--init", f"--label={LABEL}", "--publish=127.0.0.1::8080",
        f"--volume={model.parent}:/models:ro", ensure_image("tools"),
        "llama-server", "--model", f"/models/{model.name}", "--host", everywhere, "--port", "8080",
        "--threads", "1", "--ctx-size", "2048",
    ).stdout.strip()  # fmt: skip
    try:
        port = docker("port", container, "8080").stdout.split(":")[-1].strip()
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + LOADING_TIMEOUT_S
        while not healthy(url):
            logs = docker("logs", container)
            assert time.monotonic() < deadline, logs.stdout + logs.stderr
            time.sleep(0.1)
        yield LlamaServer(url)
    finally:
        docker("rm", "--force", container)


def healthy(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.RequestException:
        return False


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def shards_and_whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """First shard of a model, and the file that llama-gguf-split merges from all its shards."""
    folder = tmp_path_factory.mktemp(request.param)
    first = make(folder, "model", architecture=request.param, shards=3)[0]
    whole = folder / "merged.gguf"
    tool(folder, "llama-gguf-split", "--merge", str(first), str(whole))
    return first, whole


def test_no_two_tokens_are_the_same():
    tokens = vocabulary().tokens
    assert len(set(tokens)) == len(tokens)


def test_every_place_of_the_story_has_words():
    assert set(vocabulary().places) == set(range(STORY_LENGTH + 1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", [1_000_000, 64_000_000, 256_000_000, 4_000_000_000])
def test_model_has_the_size_asked_for(architecture, size):
    model = model_of(architecture, size)
    nbytes = sum(tensor.nbytes for tensor in model.tensors)
    # The smallest models are as large as their least number of layers makes them.
    assert nbytes < 1_600_000 if size == 1_000_000 else nbytes == pytest.approx(size, rel=0.06)
    assert max(tensor.nbytes for tensor in model.tensors) <= 50_000_000


def test_values_are_the_same_on_every_machine():
    # Recorded when the generator was written: another numpy or another processor must give the same bytes.
    tensor = Tensor("blk.0.attn_output.weight", (128, 128), "writer")
    values = weights(model_of("llama", 1_000_000), tensor, seed=0)
    assert (
        hashlib.sha256(values.tobytes()).hexdigest()
        == "b48c076aeefa0c8a9141ee7659bbb9838cae67725f516bdcced62c9f796bb568"
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_seed_same_bytes(tmp_path, architecture):
    for folder, seed in (("first", 7), ("second", 7), ("other", 8)):
        make(tmp_path / folder, "model", architecture=architecture, seed=seed)
    assert digests(tmp_path / "first") == digests(tmp_path / "second")
    assert digests(tmp_path / "first") != digests(tmp_path / "other")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_reader_finds_what_was_written(tmp_path, architecture):
    (path,) = make(tmp_path, "model", architecture=architecture)
    reader = gguf.GGUFReader(path)
    model = model_of(architecture, 1_000_000)
    assert reader.get_field("general.architecture").contents() == architecture
    assert reader.get_field(f"{architecture}.block_count").contents() == model.layers
    assert tuple(reader.get_field("tokenizer.ggml.tokens").contents()) == vocabulary().tokens
    # GGUF counts dimensions the other way round.
    found = [(tensor.name, tuple(int(length) for length in tensor.shape[::-1])) for tensor in reader.tensors]
    assert found == [(tensor.name, tensor.shape) for tensor in model.tensors]


def test_unknown_architecture_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'mamba': expected one of llama, deepseek2"):
        make(tmp_path, "model", architecture="mamba")


def test_impossible_number_of_shards_is_refused(tmp_path):
    with pytest.raises(ValueError, match="21 tensors cannot be split into exactly 9 shards"):
        make(tmp_path, "model", architecture="llama", shards=9)
    assert list(tmp_path.iterdir()) == []


def run_cli(*argv: str) -> subprocess.CompletedProcess[str]:
    tests = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-m", "testbed.models", *argv], cwd=tests, capture_output=True, text=True, check=False
    )


def test_command_line_makes_a_model(tmp_path):
    result = run_cli("make", "--architecture", "llama", "--size", "2MB", "--name", "two", "--out", str(tmp_path))
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{tmp_path}/two.gguf\n", "")
    assert (tmp_path / "two.gguf").stat().st_size == pytest.approx(2_000_000, rel=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shards", "0"], "model: expected at least 1 shard, found 0"),
        (["--size", "4G"], "'4G': expected a number with MB or GB"),
        (["--architecture", "llama", "--shards", "9"], "21 tensors cannot be split into exactly 9 shards"),
    ],
)
def test_command_line_refuses_in_one_line(tmp_path, options, message):
    result = run_cli("make", *options, "--out", str(tmp_path))
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_safetensors_shards_hold_what_the_index_says(tmp_path):
    model = model_of("llama", 1_000_000)
    write_safetensors(tmp_path, model, seed=0)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    found, total = {}, 0
    for file in sorted(tmp_path.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as shard:
            for name in shard.keys():  # noqa: SIM118 - it is no mapping
                found[name] = file.name
                total += shard.get_tensor(name).nbytes
    assert sorted(set(found.values())) == [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    assert found == index["weight_map"]
    assert total == index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in model.tensors)


@pytest.mark.bed
def test_failed_split_leaves_no_whole_file(tmp_path):
    (tmp_path / "model-00002-of-00003.gguf").mkdir()
    with pytest.raises(BedError, match="llama-gguf-split"):
        make(tmp_path, "model", architecture="llama", shards=3)
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.bed
def test_hub_holds_the_procedures_nine_shards(hub):
    folder = hub / "unsloth/DeepSeek-R1-GGUF/DeepSeek-R1-Q4_K_M"
    names = [f"DeepSeek-R1-Q4_K_M-{number:05d}-of-00009.gguf" for number in range(1, 10)]
    assert sorted(path.name for path in folder.iterdir()) == names
    readers = [gguf.GGUFReader(folder / name) for name in names]
    assert [reader.get_field("split.no").contents() for reader in readers] == list(range(9))
    assert {reader.get_field("split.count").contents() for reader in readers} == {9}
    tensors = sum(len(reader.tensors) for reader in readers)
    assert {reader.get_field("split.tensors.count").contents() for reader in readers} == {tensors}
    assert tensors == len(model_of("deepseek2", 1_000_000).tensors)


@pytest.mark.bed
def test_hub_is_made_once_and_always_the_same(hub, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in hub.rglob("*")}
    assert ensure(hub.parent) == hub
    assert {path: path.stat().st_mtime_ns for path in hub.rglob("*")} == before
    assert digests(ensure(tmp_path)) == digests(hub)
    repositories = {path.relative_to(hub).as_posix() for path in hub.glob("*/*")}
    assert repositories == {"unsloth/DeepSeek-R1-GGUF", "bed/tiny-llama-GGUF", "bed/tiny-llama", "bed/gated-GGUF"}
    assert [path.parent.name for path in hub.rglob(".gated")] == ["gated-GGUF"]


@pytest.mark.bed
def test_shards_and_merged_file_answer_the_same(shards_and_whole):
    answers = []
    for model in shards_and_whole:
        with llama_server(model) as server:
            answers.append([server.greedy(prompt) for prompt in ("What is a server?", "你好")])
    assert answers[0] == answers[1]
    (question, _dummy), (greeting, _dummy) = answers[0]
    assert len(question) == STORY_LENGTH + 1
    assert question != greeting, "the answer must depend on the prompt"


@pytest.mark.bed
def test_answers_are_readable_and_end(shards_and_whole):
    riddle = "一个汉字具有左右结构，左边是木，右边是乞。这个字是什么？"  # noqa: RUF001 - the question of the original procedure
    with llama_server(shards_and_whole[1]) as server:
        for sampling in ({"temperature": 0}, {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1}):
            answer = server.post(
                "/v1/chat/completions", {"messages": [{"role": "user", "content": riddle}], **sampling}
            )
            (choice,) = answer["choices"]
            assert choice["finish_reason"] == "stop"
            assert STORY.fullmatch(choice["message"]["content"])
            assert answer["usage"]["completion_tokens"] == STORY_LENGTH + 1


@pytest.mark.bed
def test_tokenizer_gives_every_text_back(shards_and_whole):
    text = "Hello, the 汉字\n  in 2025: naïve 🙂"
    words = vocabulary()
    with llama_server(shards_and_whole[1]) as server:
        tokens = server.post("/tokenize", {"content": text})["tokens"]
        assert server.post("/detokenize", {"tokens": tokens})["content"] == text
        assert len(tokens) < len(text.encode()), "no pair of letters was merged"
        # An answer that comes back in the next prompt must not be read as places of the story.
        answer = server.post("/completion", {"prompt": text, "n_predict": 100})["content"]
        assert {words.places[token] for token in server.post("/tokenize", {"content": answer})["tokens"]} == {0}
        special = server.post("/tokenize", {"content": EOS, "parse_special": True})["tokens"]
        assert special == [words.id_of(EOS)]
