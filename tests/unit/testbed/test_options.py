# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""testbed.options: what a parser, a help text and Go sources are read as."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.plugin_utils import _options
from testbed.options import texts
from testbed.options.examples import command_lines
from testbed.tools import tool

PROBE = Path(texts.__file__).with_name("probe.py")

# A tree like vLLM's, with each kind of option.
PARSER = """
import argparse, json

def optional_type(return_type):
    def convert(text):
        return None if text == "None" else return_type(text)
    return convert

def human(text):
    return int(text[:-1]) * 1000 if text.endswith("k") else int(text)

class Config:
    @classmethod
    def from_cli(cls, text):
        json.loads(text)
        return cls()

def truth(text):
    return {"true": True, "false": False}[text]

class Gone(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        raise ValueError("--gone is gone: use --seed or --name")

def make_arg_parser(parser):
    parser.add_argument("model", nargs="?")
    parser.add_argument("--seed", "-s", type=int)
    parser.add_argument("--length", type=optional_type(human))
    parser.add_argument("--rate", type=float)
    parser.add_argument("--origins", type=json.loads)
    parser.add_argument("--compilation", type=Config.from_cli)
    parser.add_argument("--lowered", type=truth)
    parser.add_argument("--name", "--full-name", help="No name is deprecated.")
    parser.add_argument("--size", type=int, choices=[16, 8, None])
    parser.add_argument("--caching", action=argparse.BooleanOptionalAction)
    parser.add_argument("--eager", action="store_true", help="(Deprecated) no effect")
    parser.add_argument("--loras", nargs="+", type=optional_type(str))
    parser.add_argument("--pair", nargs=2)
    parser.add_argument("--middleware", action="append")
    parser.add_argument("--token", nargs="?", const=True)
    parser.add_argument("--gone", action=Gone, nargs=0)
    return parser
"""

HELP = """----- common params -----

-h,    --help, --usage                  print usage and exit
--version                               show version and build info
-c,    --ctx-size N                     size of the prompt context (default: 0)
                                        (env: LLAMA_ARG_CTX_SIZE)
-fa,   --flash-attn [on|off|auto]       set Flash Attention use ('on', 'off', or 'auto')
-kvo,  --kv-offload, -nkvo, --no-kv-offload
                                        whether to enable KV cache offloading (default: enabled)
--no-host                               bypass host buffer
-ctk,  --cache-type-k TYPE              KV cache data type for K
                                        allowed values: f32, q8_0
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM, either an exact number,
                                        'auto', or 'all' (default: auto)
-ts,   --tensor-split N0,N1,N2,...      fraction of the model to offload to each GPU
-ot,   --override-tensor <tensor name pattern>=<buffer type>,...
                                        override tensor buffer type
--control-vector-layer-range START END
                                        layer range
--ui-config, --webui-config JSON        JSON that provides default UI settings
-dt,   --defrag-thold N                 threshold (DEPRECATED)
--draft, --draft-n N                    the argument has been removed. use --spec-draft-n-max or
                                        --spec-n
"""


def tree(folder: Path, module: str, extra: str = "") -> dict[str, str]:
    """A package of the engine's name; the environment in which Python finds it."""
    for name in ("vllm", "vllm/utils", "vllm/entrypoints", *(f"vllm/{'/'.join(module.split('.')[:-1])}".split())):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "__init__.py").touch()
    (folder / "vllm" / f"{module.replace('.', '/')}.py").write_text(extra + PARSER)
    (folder / "vllm" / "utils" / "__init__.py").write_text(
        "from argparse import ArgumentParser as FlexibleArgumentParser\n"
    )
    return {**os.environ, "PYTHONPATH": str(folder)}


def probe(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PROBE), *words], env=env, capture_output=True, text=True, check=False)


# Where it was up to 0.26, and where it is in 0.33.
@pytest.mark.parametrize("module", ["entrypoints.openai.cli_args", "entrypoints.common.cli_args"])
def test_a_parser_tells_what_it_takes(tmp_path, module):
    env = tree(tmp_path / "site", module)
    output = tmp_path / "options.json"
    result = probe(env, "list", "vllm", str(output))
    assert result.returncode == 0, result.stderr
    assert json.loads(output.read_text()) == {
        "seed": {"type": "int", "aliases": ["s"]},
        "length": {"type": "size"},
        "rate": {"type": "float"},
        "origins": {"type": "json"},
        "compilation": {"type": "json"},
        "lowered": {"type": "bool"},
        "name": {"type": "text", "aliases": ["full-name"]},
        "size": {"type": "int", "choices": ["None", "8", "16"]},
        "caching": {"type": "flag", "opposite": ["no-caching"]},
        "eager": {"type": "flag", "deprecated": True},
        "loras": {"type": "text", "many": True},
        "pair": {"type": "text", "many": True},
        "middleware": {"type": "text", "repeat": True},
        "token": {"type": "text", "bare": True},
        "gone": {"type": "flag", "removed": ["seed", "name"]},
    }


def test_a_parser_takes_command_lines_or_refuses_one(tmp_path):
    env = tree(tmp_path, "entrypoints.openai.cli_args")
    file = tmp_path / "lines.json"
    taken = [["--seed", "1", "--no-caching"], ["--eager"]]
    file.write_text(json.dumps(taken))
    assert probe(env, "parse", "vllm", str(file)).returncode == 0
    file.write_text(json.dumps([*taken, ["--swap-space=4"]]))
    refused = probe(env, "parse", "vllm", str(file))
    assert refused.returncode == 2
    assert "unrecognized arguments: --swap-space=4" in refused.stderr


def test_an_engine_that_cannot_be_imported_is_no_parser_elsewhere(tmp_path):
    broken = probe(tree(tmp_path, "entrypoints.common.cli_args", "import no_such_package\n"), "list", "vllm", "x")
    assert "No module named 'no_such_package'" in broken.stderr
    (tmp_path / "vllm" / "entrypoints" / "common" / "cli_args.py").unlink()
    assert "vllm has none of" in probe({**os.environ, "PYTHONPATH": str(tmp_path)}, "list", "vllm", "x").stderr


def test_the_help_of_llama_server():
    assert texts.llama_server(HELP) == {
        "ctx-size": {"type": "float", "aliases": ["c"]},
        "flash-attn": {"type": "text", "aliases": ["fa"], "choices": ["auto", "off", "on"]},
        "kv-offload": {"type": "flag", "opposite": ["nkvo", "no-kv-offload"], "aliases": ["kvo"]},
        "no-host": {"type": "flag"},
        "cache-type-k": {"type": "text", "aliases": ["ctk"], "choices": ["f32", "q8_0"]},
        "gpu-layers": {"type": "text", "aliases": ["ngl", "n-gpu-layers"]},
        "tensor-split": {"type": "list", "aliases": ["ts"]},
        "override-tensor": {"type": "list", "aliases": ["ot"]},
        "control-vector-layer-range": {"type": "text", "many": True},
        "ui-config": {"type": "json", "aliases": ["webui-config"]},
        "defrag-thold": {"type": "float", "aliases": ["dt"], "deprecated": True},
        "draft": {"type": "float", "aliases": ["draft-n"], "removed": ["spec-draft-n-max", "spec-n"]},
    }


@pytest.mark.bed
def test_the_bed_s_llama_server_is_the_one_of_the_list(tmp_path):
    text = tool(tmp_path, "llama-server", "--help").stdout
    release = _options.shared().release("llama_cpp", "b11669")
    assert {name: {"name": name, **option} for name, option in texts.llama_server(text).items()} == {
        option.name: {key: value for key, value in dataclasses.asdict(option).items() if value or value == []}
        for option in release.options.values()
    }


@pytest.mark.bed
def test_the_bed_s_llama_server_takes_the_examples_and_all_flags(tmp_path):
    for line in command_lines("llama_cpp", "b11669"):
        # It reads its words one by one, and ends at this one.
        result = tool(tmp_path, "llama-server", *line, "--version", check=False)
        assert (result.returncode, "version:" in result.stderr) == (0, True), result.stderr


def test_the_sources_of_ollama(tmp_path):
    (tmp_path / "api").mkdir()
    (tmp_path / "envconfig").mkdir()
    (tmp_path / "api" / "types.go").write_text(
        "type Options struct {\n\tRunner\n\n\t// Used at runtime\n"
        '\tTopP float32 `json:"top_p,omitempty"`\n\tStop []string `json:"stop,omitempty"`\n}\n\n'
        'type Runner struct {\n\tNumCtx int `json:"num_ctx,omitempty"`\n'
        '\tUseMMap *bool `json:"use_mmap,omitempty"`\n}\n\n'
        'type Other struct {\n\tNot int `json:"not,omitempty"`\n}\n'
    )
    (tmp_path / "envconfig" / "config.go").write_text(
        'NoPrune = Bool("OLLAMA_NOPRUNE")\nFlash = BoolWithDefault("OLLAMA_FLASH_ATTENTION")\n'
        'Overhead = Uint64("OLLAMA_GPU_OVERHEAD", 0)\nif s := Var("OLLAMA_MODELS"); s != "" {\n'
        '"OLLAMA_NOPRUNE": {"OLLAMA_NOPRUNE", NoPrune(), "no pruning"},\n"HTTP_PROXY": {},\n'
    )
    assert texts.ollama(tmp_path) == {
        "top_p": {"type": "float"},
        "stop": {"type": "text", "many": True},
        "num_ctx": {"type": "int"},
        "use_mmap": {"type": "bool"},
        "OLLAMA_NOPRUNE": {"type": "bool"},
        "OLLAMA_FLASH_ATTENTION": {"type": "bool"},
        "OLLAMA_GPU_OVERHEAD": {"type": "int"},
        "OLLAMA_MODELS": {"type": "text"},
    }
