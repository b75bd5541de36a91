"""Engines without GPUs: the lock files are theirs, and what is made here is always the same."""

from __future__ import annotations

import hashlib
import io
import types
import zipfile

import pytest

from ansible_collections.llmfleet.serving.plugins.module_utils._lock_file import parse
from testbed import BedError, wheels

VERSIONS = {"vllm": "0.32.0", "sglang": "0.5.23"}


@pytest.mark.parametrize("engine", wheels.BUILDS)
def test_a_lock_is_of_the_engine_s_version_and_names_no_index(engine):
    text = wheels.lock_file(engine).read_text()
    packages = parse(text, "lock", engine, VERSIONS[engine]).packages
    build = wheels.BUILDS[engine]
    assert packages.items() >= {*(tuple(one.split("==")) for one in build.requirements), build.stand_in}
    assert packages.keys().isdisjoint(build.without)
    assert "://" not in text


@pytest.mark.parametrize("engine", wheels.BUILDS)
def test_what_stands_in_has_the_hash_of_the_lock(engine):
    content = wheels.stand_in(wheels.BUILDS[engine])
    assert f"--hash=sha256:{hashlib.sha256(content).hexdigest()}\n" in wheels.lock_file(engine).read_text()
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        assert wheel.testzip() is None
        assert set(wheels.BUILDS[engine].files) < set(wheel.namelist())


@pytest.fixture
def index(tmp_path, monkeypatch):
    """The bed's cache, and a package index that has a wheel for each requirement; which batches were asked of it."""
    monkeypatch.setenv("LLMFLEET_BED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(wheels, "_BATCH", 2)
    lock = "".join(f"{name}==1.0 \\\n    --hash=sha256:{digest(name)}\n" for name in ("one", "Two.two", "three"))
    monkeypatch.setattr(wheels, "lock_file", lambda _engine: tmp_path / "lock.txt")
    (tmp_path / "lock.txt").write_text(f"# A lock.\n{lock}")
    asked = []

    def download(requirements, folder):
        asked.append([requirement.partition("==")[0] for requirement in requirements])
        (folder / "wheels").mkdir()
        for name in asked[-1]:
            (folder / "wheels" / f"{name.replace('.', '_')}-1.0-py3-none-any.whl").write_bytes(wheel(name))

    monkeypatch.setattr(wheels, "_download", download)
    return asked


def wheel(name):
    return wheels.stand_in(wheels.Build((), {}, (), (name, "1.0")))


def digest(name):
    return hashlib.sha256(wheel(name)).hexdigest()


def test_what_is_missing_is_downloaded_in_batches_and_once(index):
    folder = wheels.ensure("vllm")
    assert index == [["one", "Two.two"], ["three"]]
    assert f"#sha256={digest('Two.two')}" in (folder / "two-two" / "index.html").read_text()
    assert (folder / "two-two" / "Two_two-1.0-py3-none-any.whl").read_bytes() == wheel("Two.two")
    assert wheels.ensure("vllm") == folder
    assert len(index) == 2
    assert not list(folder.parent.glob(".unfinished-*"))


def test_both_engines_have_one_index(index):
    assert wheels.ensure("vllm") == wheels.ensure("sglang")
    assert len(index) == 2
    # Names that only stand for something, of which each engine has a version.
    page = (wheels.ensure("vllm") / "vllm" / "index.html").read_text()
    assert [page.count(f">vllm-{version}-py3") for version in ("0.32.0+cpu", "0.0.0")] == [1, 1]


def test_a_run_after_one_that_was_cut_off_goes_on_where_that_was(index, monkeypatch):
    download = wheels._download

    def cut_off(requirements, folder):
        if index:
            raise KeyboardInterrupt
        download(requirements, folder)

    monkeypatch.setattr(wheels, "_download", cut_off)
    with pytest.raises(KeyboardInterrupt):
        wheels.ensure("vllm")
    monkeypatch.setattr(wheels, "_download", download)
    wheels.ensure("vllm")
    assert index == [["one", "Two.two"], ["three"]]


def test_another_wheel_than_the_lock_s_is_refused(index, monkeypatch):
    download = wheels._download
    monkeypatch.setattr(
        wheels, "_download", lambda wanted, folder: download([wanted[0].replace("one", "other")], folder)
    )
    with pytest.raises(BedError, match=r"vllm: expected the wheel of one==1.0 with a hash"):
        wheels.ensure("vllm")


def test_a_disk_that_is_too_small_is_told_before_anything_is_downloaded(index, monkeypatch):
    monkeypatch.setattr(wheels.shutil, "disk_usage", lambda _path: types.SimpleNamespace(free=1_200_000_000))
    with pytest.raises(BedError, match=r"expected 5 GB free for the wheels of vllm, found 1\.2 GB"):
        wheels.ensure("vllm")
    assert index == []
