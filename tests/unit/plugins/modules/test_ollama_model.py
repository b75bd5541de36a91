"""ollama_model against the real Ollama: the oldest version of interest and the newest."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import time
import types
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils import _files, _ollama_store
from ansible_collections.llmfleet.serving.plugins.module_utils._files import read_record, sha256_file, write_record
from ansible_collections.llmfleet.serving.plugins.modules import ollama_model
from testbed.models import ensure, make
from testbed.ollama import VERSIONS
from testbed.ollama_server import serve

PARAMETERS = {"num_ctx": 512, "temperature": 0.6, "top_k": 1, "stop": ["<|end & done|>", 'a "b"\n']}
TEMPLATE = "<|User|>{{ .System }} {{ .Prompt }}<|Assistant|>"
SYSTEM = "You are a <river>."


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Every file below `root` with its inode and its time of change, which no operation leaves as it was."""
    return {str(path): (path.lstat().st_ino, path.lstat().st_ctime_ns) for path in root.rglob("*") if not path.is_dir()}


def wait_for(condition):
    """What the server does in the background is done within seconds, on a machine that does nothing else."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


@pytest.fixture
def gguf(tmp_path):
    [path] = make(tmp_path / "models", "tiny", architecture="llama")
    return path


@pytest.fixture(scope="module", params=VERSIONS)
def running(request, tmp_path_factory):
    with serve(request.param, tmp_path_factory.mktemp(f"ollama-{request.param}")) as server:
        yield server


@pytest.fixture
def ollama(running, run_module):
    """A server without models, a model file on the same file system, and the module bound to both."""
    [src] = make(running.models_dir.parent / "models", "tiny", architecture="llama", size=4_000_000)

    def run(check=False, **params):
        common = {"name": "Tiny-R1", "models_dir": str(running.models_dir), "url": running.url}
        if params.get("state") != "absent":
            common["src"] = str(src)
        return run_module(ollama_model, check=check, **{**common, **params})

    yield types.SimpleNamespace(server=running, store=running.models_dir, src=src, run=run)
    for model in running.get("/api/tags")["models"]:
        run(name=model["name"], state="absent")
    shutil.rmtree(src.parent)


@pytest.mark.bed
class TestPresent:
    def test_check_real_check_real(self, ollama):
        empty = tree(ollama.store)
        wish = {"parameters": PARAMETERS, "template": TEMPLATE, "system": SYSTEM}
        predicted = ollama.run(check=True, **wish)
        assert tree(ollama.store) == empty
        done = ollama.run(**wish)
        after = tree(ollama.store)
        assert [predicted["changed"], done["changed"]] == [True, True]
        assert predicted["diff"] == done["diff"]
        assert predicted["model"] == done["model"] == done["diff"]["after"]["model"]
        assert done["diff"]["before"]["model"] is None
        assert [ollama.run(check=True, **wish)["changed"], ollama.run(**wish)["changed"]] == [False, False]
        assert tree(ollama.store) == after

    def test_model_file_is_not_copied(self, ollama):
        digest = ollama.run(parameters=PARAMETERS, template=TEMPLATE)["model"]["file_sha256"]
        assert digest == sha256_file(ollama.src) == read_record(ollama.src)["sha256"]
        blob = ollama.store / "blobs" / f"sha256-{digest}"
        assert blob.stat().st_ino == ollama.src.stat().st_ino
        assert ollama.src.stat().st_nlink == 2
        written = [path.stat() for path in ollama.store.rglob("*") if path != blob]
        assert 0 < sum(status.st_blocks * 512 for status in written) <= 100_000

    def test_server_sees_digest_parameters_template_and_system(self, ollama):
        model = ollama.run(parameters=PARAMETERS, template=TEMPLATE, system=SYSTEM)["model"]
        [listed] = ollama.server.get("/api/tags")["models"]
        assert (
            (listed["name"], listed["digest"])
            == (model["name"], model["digest"])
            == ("Tiny-R1:latest", model["digest"])
        )
        assert listed["details"]["family"] == "llama"
        assert listed["details"]["quantization_level"] == "F16"
        assert listed["details"]["parameter_size"].endswith("M")
        [row] = ollama.server.command("list").splitlines()[1:]
        assert row.split()[:2] == ["Tiny-R1:latest", model["digest"][:12]]
        shown = ollama.server.get("/api/show", {"model": "Tiny-R1"})
        assert {tuple(line.split(None, 1)) for line in shown["parameters"].splitlines()} == {
            ("num_ctx", "512"),
            ("temperature", "0.6"),
            ("top_k", "1"),
            ("stop", '"<|end & done|>"'),
            ("stop", r'"a \"b\"\n"'),
        }
        assert shown["system"] == SYSTEM
        assert f"TEMPLATE {TEMPLATE}" in shown["modelfile"].replace('"""', "")

    def test_model_answers_also_after_a_restart_that_prunes(self, ollama):
        ollama.run(parameters={"num_predict": 8, "top_k": 1})
        question = {"model": "Tiny-R1", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
        before = ollama.server.get("/api/chat", question)["message"]["content"]
        assert before.strip()
        # From v0.21 on only what is older than an hour is pruned. The blob that nothing lists shows that it happens.
        orphan = ollama.store / "blobs" / f"sha256-{'0' * 64}"
        orphan.write_text("nobody's")
        for path in (ollama.store / "blobs").iterdir():
            if path.stat().st_ino != ollama.src.stat().st_ino:
                os.utime(path, (time.time() - 7200,) * 2)
        ollama.server.restart()
        wait_for(lambda: not orphan.exists())
        assert ollama.server.get("/api/chat", question)["message"]["content"] == before

    def test_changed_parameters_replace_the_old_ones(self, ollama):
        first = ollama.run(parameters={"num_ctx": 512})["model"]
        result = ollama.run(parameters={"num_ctx": 1024})
        assert result["changed"]
        assert result["diff"]["before"]["model"] == first
        assert result["model"]["parameters"] == {"num_ctx": 1024}
        # Model, parameters, config.
        assert len(list((ollama.store / "blobs").iterdir())) == 3

    def test_damaged_store_is_mended(self, ollama):
        model = ollama.run(parameters={"num_ctx": 512})["model"]
        for blob in (ollama.store / "blobs").iterdir():
            blob.unlink()
        result = ollama.run(parameters={"num_ctx": 512})
        assert result["changed"]
        assert result["model"] == model
        assert ollama.src.stat().st_nlink == 2

    def test_two_names_share_one_file(self, ollama):
        ollama.run()
        ollama.run(name="team/other:q4")
        assert ollama.src.stat().st_nlink == 2
        ollama.run(state="absent")
        assert ollama.src.stat().st_nlink == 2
        assert [model["name"] for model in ollama.server.get("/api/tags")["models"]] == ["team/other:q4"]
        assert ollama.server.get("/api/show", {"model": "team/other:q4"})["details"]["family"] == "llama"

    def test_file_on_another_file_system_is_linked_symbolically(self, tmp_path, run_module, running):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            if Path(folder).stat().st_dev == tmp_path.stat().st_dev:
                pytest.skip("shared memory is on the file system of the temporary folders")
            [src] = make(Path(folder), "far", architecture="llama")
            with serve(running.version, tmp_path, Path(folder)) as server:
                wish = {"name": "far", "src": str(src), "models_dir": str(server.models_dir), "url": server.url}
                model = run_module(ollama_model, **wish)["model"]
                assert (server.models_dir / "blobs" / f"sha256-{model['file_sha256']}").readlink() == src
                assert run_module(ollama_model, **wish)["changed"] is False
                answer = server.get("/api/generate", {"model": "far", "prompt": "Hello", "stream": False})
                assert answer["response"].strip()
                del wish["src"]
                assert run_module(ollama_model, state="absent", **wish)["changed"]
            assert src.exists()

    def test_files_belong_to_the_owner_of_the_store(self, tmp_path, run_module, running):
        if os.geteuid() != 0:
            pytest.skip("only root can write for another account")
        tmp_path.chmod(0o755)
        (tmp_path / "store").mkdir()
        os.chown(tmp_path / "store", 65534, 65534)
        [src] = make(tmp_path / "models", "tiny", architecture="llama")
        with serve(running.version, tmp_path, user="65534:65534") as server:
            wish = {"name": "tiny", "src": str(src), "models_dir": str(server.models_dir), "url": server.url}
            run_module(ollama_model, **wish)
            made = [path for path in server.models_dir.rglob("*") if not path.is_file() or path.stat().st_nlink == 1]
            assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(65534, 65534)}
            assert {path.stat().st_mode & 0o777 for path in made} == {0o755, 0o644}
            assert src.stat().st_uid == 0

            before = tree(server.models_dir)
            src.chmod(0o600)
            result = run_module(ollama_model, **{**wish, "name": "other"})
            assert result["failed"]
            assert "permission denied" in result["msg"].lower()
            assert {path: inode for path, (inode, _dummy) in tree(server.models_dir).items()} == {
                path: inode for path, (inode, _dummy) in before.items()
            }


@pytest.mark.bed
class TestAbsent:
    def test_check_real_check_real(self, ollama):
        present = ollama.run()["model"]
        server = ollama.server
        server.get("/api/generate", {"model": "Tiny-R1", "prompt": "Hello", "stream": False, "keep_alive": -1})
        assert len(server.get("/api/ps")["models"]) == 1
        files = tree(ollama.store)
        predicted = ollama.run(state="absent", check=True)
        assert tree(ollama.store) == files
        done = ollama.run(state="absent")
        assert predicted == done
        assert done["changed"]
        assert done["diff"] == {"before": {"model": present}, "after": {"model": None}}
        assert server.get("/api/tags")["models"] == []
        wait_for(lambda: server.get("/api/ps")["models"] == [])
        assert ollama.src.stat().st_nlink == 1
        assert tree(ollama.store) == {}
        assert not ollama.run(state="absent", check=True)["changed"]
        assert not ollama.run(state="absent")["changed"]

    def test_works_when_the_server_is_stopped(self, ollama):
        ollama.run()
        ollama.server.stop()
        try:
            assert ollama.run(state="absent")["changed"]
        finally:
            ollama.server.restart()
        assert ollama.server.get("/api/tags")["models"] == []
        assert ollama.src.exists()


@pytest.mark.bed
class TestServerRefuses:
    def test_models_dir_of_another_server(self, ollama, tmp_path):
        result = ollama.run(models_dir=str(tmp_path))
        assert result["failed"]
        assert "does not have Tiny-R1:latest" in result["msg"]
        assert "models_dir" in result["msg"]
        assert tree(tmp_path) == {}
        assert ollama.src.stat().st_nlink == 1

    def test_template_with_an_error_leaves_the_former_model(self, ollama):
        ollama.run(template=TEMPLATE)
        before = tree(ollama.store)
        result = ollama.run(template="{{ .Prompt")
        assert result["failed"]
        assert "template" in result["msg"]
        assert set(tree(ollama.store)) == set(before)
        assert not ollama.run(template=TEMPLATE)["changed"]


@pytest.mark.bed
def test_same_layers_as_ollama_create_and_its_copy_is_given_back(tmp_path, run_module):
    """From v0.30 on `ollama create` rewrites the file, so the older version is the one to compare with."""
    [src] = make(tmp_path / "models", "tiny", architecture="llama")
    (tmp_path / "Modelfile").write_text(
        f'FROM {src}\nTEMPLATE """{TEMPLATE}"""\nSYSTEM """{SYSTEM}"""\nPARAMETER num_ctx 512\nPARAMETER top_p 1.0\n'
        "PARAMETER temperature 0.6\nPARAMETER use_mmap false\nPARAMETER stop <|end & done|>\nPARAMETER stop <>\n"
    )
    with serve("0.5.11", tmp_path) as server:
        server.command("create", "tiny", "--file", str(tmp_path / "Modelfile"))
        manifest = server.models_dir / "manifests/registry.ollama.ai/library/tiny/latest"
        theirs = json.loads(manifest.read_text())["layers"]
        blob = server.models_dir / "blobs" / f"sha256-{sha256_file(src)}"
        assert blob.stat().st_ino != src.stat().st_ino
        result = run_module(
            ollama_model,
            name="tiny",
            src=str(src),
            models_dir=str(server.models_dir),
            url=server.url,
            template=TEMPLATE,
            system=SYSTEM,
            parameters={
                "num_ctx": "512",
                "temperature": 0.6,
                "top_p": 1.0,
                "use_mmap": False,
                "stop": ["<|end & done|>", "<>"],
            },
        )
        assert result["changed"]
        ours = json.loads(manifest.read_text())["layers"]
        key = "mediaType", "digest", "size"
        assert [[layer[name] for name in key] for layer in ours] == [[layer[name] for name in key] for layer in theirs]
        assert blob.stat().st_ino == src.stat().st_ino


def test_check_mode_works_where_nothing_exists_yet(run_module, tmp_path):
    result = run_module(
        ollama_model,
        check=True,
        name="tiny",
        src=str(tmp_path / "later.gguf"),
        models_dir=str(tmp_path / "store"),
        url="http://127.0.0.1:9",
    )
    assert result["changed"]
    assert result["diff"] == {"before": {"model": None}, "after": {"model": {"name": "tiny:latest"}}}
    assert list(tmp_path.iterdir()) == []


def test_check_mode_works_before_the_server_runs(run_module, gguf, tmp_path):
    files = tree(tmp_path)
    result = run_module(
        ollama_model,
        check=True,
        name="tiny",
        src=str(gguf),
        models_dir=str(tmp_path / "store"),
        url="http://127.0.0.1:9",
    )
    assert result["changed"]
    assert result["model"]["file_sha256"] == sha256_file(gguf)
    assert tree(tmp_path) == files


def test_absent_is_nothing_to_do_without_a_store(run_module, tmp_path):
    store = str(tmp_path / "store")
    assert not run_module(ollama_model, name="tiny", state="absent", models_dir=store, url="http://127.0.0.1:9")[
        "changed"
    ]


REFUSALS = {
    "name": ({"name": "../etc/passwd:x"}, "'../etc/passwd:x' is refused"),
    "unknown parameter": ({"parameters": {"num_cpu": 4}}, "'num_cpu' is unknown to Ollama"),
    "wrong type": ({"parameters": {"num_ctx": "many"}}, "num_ctx is 'many'; expected an integer"),
    "missing": ({"src": "/nowhere/model.gguf"}, "/nowhere/model.gguf failed: No such file"),
    "not a GGUF file": ({"src": __file__}, "is not a usable GGUF file"),
    "not a store": ({"models_dir": __file__}, "Reading the model folder failed"),
}


@pytest.mark.parametrize(("params", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(run_module, gguf, tmp_path, scripted, params, reason):
    scripted.routes = {"GET /api/version": {"version": "0.34.0"}}
    wish = {"name": "tiny", "src": str(gguf), "models_dir": str(tmp_path), "url": scripted.url}
    before = tree(tmp_path)
    result = run_module(ollama_model, **{**wish, **params})
    assert result["failed"]
    assert reason in result["msg"]
    assert tree(tmp_path) == before


SERVERS = {
    "too old": ({"version": "0.5.4"}, "is version 0.5.4; 0.5.5 or newer is supported"),
    "not Ollama": ({"hello": "world"}, "is not an Ollama server"),
    "not there": (None, "No Ollama server answers"),
    "no store": ({"version": "0.34.0"}, "does not exist, though the server"),
}


@pytest.mark.parametrize(("version", "reason"), SERVERS.values(), ids=SERVERS)
def test_refusals_of_a_server(run_module, gguf, tmp_path, scripted, version, reason):
    scripted.routes = {"GET /api/version": version}
    result = run_module(
        ollama_model,
        name="tiny",
        src=str(gguf),
        models_dir=str(tmp_path / "none"),
        url=scripted.url if version else "http://127.0.0.1:9",
    )
    assert result["failed"]
    assert reason in result["msg"]
    assert not (tmp_path / "none").exists()


def test_blob_of_ollama_is_refused(run_module, gguf, tmp_path):
    blob = tmp_path / "store" / "blobs" / f"sha256-{sha256_file(gguf)}"
    blob.parent.mkdir(parents=True)
    gguf.rename(blob)
    result = run_module(
        ollama_model, name="tiny", src=str(blob), models_dir=str(tmp_path / "store"), url="http://127.0.0.1:9"
    )
    assert result["failed"]
    assert "is one of Ollama's own blobs" in result["msg"]


@pytest.mark.parametrize("failing", range(5))
def test_full_disk_leaves_nothing_behind(run_module, gguf, tmp_path, scripted, monkeypatch, failing):
    """Template, system, parameters, config, manifest: the one of this number does not fit any more."""
    scripted.routes = {"GET /api/version": {"version": "0.34.0"}}
    (tmp_path / "store").mkdir()
    commits = iter(range(100))

    def full(stage, dest):
        if next(commits) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(stage))
        _files.commit(stage, dest)

    monkeypatch.setattr(_ollama_store, "commit", full)
    result = run_module(
        ollama_model,
        name="tiny",
        src=str(gguf),
        models_dir=str(tmp_path / "store"),
        url=scripted.url,
        parameters=PARAMETERS,
        template=TEMPLATE,
        system=SYSTEM,
    )
    assert result["failed"]
    assert "No space left on device" in result["msg"]
    assert [path for path in (tmp_path / "store").rglob("*") if path.name not in ("blobs", "manifests")] == []
    assert gguf.stat().st_nlink == 1


def test_truncated_file_is_refused(run_module, gguf, tmp_path, scripted):
    scripted.routes = {"GET /api/version": {"version": "0.34.0"}}
    os.truncate(gguf, gguf.stat().st_size - 1000)
    result = run_module(ollama_model, name="tiny", src=str(gguf), models_dir=str(tmp_path), url=scripted.url)
    assert result["failed"]
    assert "is no whole model" in result["msg"]


@pytest.mark.bed
def test_shard_is_refused(run_module, tmp_path, scripted):
    scripted.routes = {"GET /api/version": {"version": "0.34.0"}}
    shard = ensure() / "bed/tiny-llama-GGUF/tiny-llama-00002-of-00003.gguf"
    result = run_module(ollama_model, name="tiny", src=str(shard), models_dir=str(tmp_path), url=scripted.url)
    assert result["failed"]
    assert "is shard 2 of 3" in result["msg"]
    assert "gguf_merge" in result["msg"]


def test_recorded_sha256_saves_reading_the_file(run_module, gguf, tmp_path):
    """The record holds what no reading would give, so reading it shows."""

    def found():
        store, url = str(tmp_path / "store"), "http://127.0.0.1:9"
        return run_module(ollama_model, check=True, name="tiny", src=str(gguf), models_dir=store, url=url)["model"]

    write_record(gguf, {"sha256": "0" * 64})
    assert found()["file_sha256"] == "0" * 64
    os.utime(gguf, (0, 0))
    assert found()["file_sha256"] == sha256_file(gguf)
