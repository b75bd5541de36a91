"""A Python environment is whole or absent: made by the real uv, from an index that has one small wheel."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.modules import python_environment

ROOT = Path(__file__).parents[4]
UV = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".cache/uv/bin/uv")
WHEEL = "tiny-1.0-py3-none-any.whl"
FILES = {
    "tiny.py": "def main():\n    print('tiny runs')\n",
    "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
    "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "tiny-1.0.dist-info/entry_points.txt": "[console_scripts]\ntiny = tiny:main\n",
}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args):
        pass


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """An index's address, and the hash of the one wheel that it has."""
    folder = tmp_path_factory.mktemp("index") / "tiny"
    folder.mkdir()
    records = ""
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        for name, text in FILES.items():
            wheel.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            records += f"{name},sha256={digest},{len(text)}\n"
        wheel.writestr("tiny-1.0.dist-info/RECORD", f"{records}tiny-1.0.dist-info/RECORD,,\n")
    sha256 = hashlib.sha256((folder / WHEEL).read_bytes()).hexdigest()
    (folder / "index.html").write_text(f'<a href="{WHEEL}#sha256={sha256}">{WHEEL}</a>')
    handler = functools.partial(Quiet, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", sha256
        server.shutdown()
        thread.join()


@pytest.fixture
def make(tmp_path, run_module, index):
    """Run the module on an environment of the tiny package, as `make(free=...)`."""
    (tmp_path / "lock.txt").write_text(f"tiny==1.0 --hash=sha256:{index[1]}\n")
    given = {
        "path": str(tmp_path / "engine" / "1.0"),
        "requirements": str(tmp_path / "lock.txt"),
        "python": sys.executable,
        "index_url": index[0],
        "free": 0,
        "uv": UV,
    }
    return lambda **params: run_module(python_environment, **{**given, **params})


def names(tmp_path):
    folder = tmp_path / "engine"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_is_predicted_and_made_once(tmp_path, make):
    assert make(check=True)["changed"]
    assert names(tmp_path) == []
    assert make()["changed"]
    assert names(tmp_path) == ["1.0"]
    assert not make(check=True)["changed"]
    assert not make()["changed"]


def test_its_commands_run_under_its_final_name(tmp_path, make):
    make()
    command = tmp_path / "engine" / "1.0" / "bin" / "tiny"
    assert subprocess.run([command], capture_output=True, text=True, check=True).stdout == "tiny runs\n"
    assert "stage" not in command.read_text()


def test_is_compiled_because_services_may_not_write_there(tmp_path, make):
    make()
    assert list((tmp_path / "engine" / "1.0").rglob("tiny.*.pyc"))


def test_what_a_killed_run_left_is_replaced(tmp_path, make):
    stage = tmp_path / "engine" / ".1.0.llmfleet.stage"
    (stage / "bin").mkdir(parents=True)
    (stage / "rubbish").write_text("")
    assert make()["changed"]
    assert names(tmp_path) == ["1.0"]
    assert not (tmp_path / "engine" / "1.0" / "rubbish").exists()


def test_a_package_with_another_hash_is_refused_and_nothing_is_left(tmp_path, make):
    (tmp_path / "lock.txt").write_text(f"tiny==1.0 --hash=sha256:{'0' * 64}\n")
    result = make()
    assert result["failed"]
    assert "uv pip sync failed" in result["msg"]
    assert "ash" in result["msg"]
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"free": 1 << 20}, "too little free space for the environment"),
        ({"uv": "/nowhere/uv"}, "Run the role llmfleet.serving.uv first"),
        ({"requirements": "/nowhere/lock.txt"}, "The lock file /nowhere/lock.txt is missing"),
        ({"python": "2.4"}, "uv venv"),
    ],
)
def test_says_what_it_lacks_and_leaves_nothing(tmp_path, make, params, said):
    result = make(**params)
    assert result["failed"]
    assert said in result["msg"]
    assert names(tmp_path) == []


def test_a_finished_one_is_never_changed(tmp_path, make):
    make()
    with (tmp_path / "lock.txt").open("a") as file:
        file.write("# newer\n")
    for check in (True, False):
        result = make(check=check)
        assert result["failed"]
        assert "was made from another lock file" in result["msg"]


def test_something_else_under_its_name_is_refused(tmp_path, make):
    (tmp_path / "engine" / "1.0").mkdir(parents=True)
    result = make()
    assert result["failed"]
    assert "is no environment that was made here" in result["msg"]


def test_is_taken_away(tmp_path, make):
    make()
    assert make(state="absent", check=True)["changed"]
    assert names(tmp_path) == ["1.0"]
    assert make(state="absent")["changed"]
    assert names(tmp_path) == []
    assert not make(state="absent")["changed"]
