"""The model is one whole file, readable by the engines, and nothing is left beside it but what was recorded of it."""

import json

MODEL = "/data/models/deepseek-r1-q4.gguf"


def read(host, suffix):
    return json.loads(host.file(f"/data/models/.deepseek-r1-q4.gguf.llmfleet.{suffix}").content_string)


def test_is_what_the_record_says(host):
    assert host.check_output(f"sha256sum {MODEL}").split()[0] == read(host, "json")["sha256"]


def test_everything_is_what_the_list_of_sums_says(host):
    sums = host.check_output("cat /data/models/SHA256SUMS").splitlines()
    assert len(sums) > 3
    host.check_output("cd /data/models && sha256sum --check --strict --quiet SHA256SUMS")


def test_repository_is_there_under_its_own_names(host):
    names = host.check_output("ls /data/models/tiny").split()
    assert {"config.json", "model.safetensors.index.json", "tokenizer.json"} <= set(names)


def test_says_where_it_came_from(host):
    manifest = read(host, "manifest")
    assert manifest["wanted"]["repo"] == "unsloth/DeepSeek-R1-GGUF"
    assert len(manifest["wanted"]["commit"]) == 40
    assert [len(shard["sha256"]) for shard in manifest["shards"]] == [64] * 9


def test_is_readable_by_every_engine(host):
    assert host.file(MODEL).mode == 0o644
    assert host.file(MODEL).user == "root"


def test_leaves_no_shard_and_no_stage(host):
    assert host.check_output("ls -A /data/models").split() == [
        ".deepseek-r1-q4.gguf.llmfleet.json",
        ".deepseek-r1-q4.gguf.llmfleet.manifest",
        "SHA256SUMS",
        "deepseek-r1-q4.gguf",
        "tiny",
    ]
