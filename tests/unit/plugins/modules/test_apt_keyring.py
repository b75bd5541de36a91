# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.llmfleet.serving.plugins.modules import apt_keyring

KEYS = Path(__file__).parents[1] / "module_utils/fixtures/keys"
KEY, OTHER = ((KEYS / name).read_bytes() for name in ("ed25519.asc", "rsa-with-subkey.asc"))
FINGERPRINT = "F0E5A36930C4AC9BCC5B13D34DFB95A63FCF9BD5"
OTHER_FINGERPRINT = "4CE31738476F208EA4A94E1EC22DDB399ADEB95B"


@pytest.fixture
def keyring(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(apt_keyring, "_KEYRINGS", tmp_path / "keyrings")
    return tmp_path / "keyrings/archive.gpg"


@pytest.fixture
def run(run_module, keyring, scripted):
    """`run(check=..., fingerprint=...)` runs the module against a server that has the key as `/key.pub`."""
    scripted.routes["GET /key.pub"] = KEY

    def run(**params):
        source = {} if "content" in params else {"url": f"{scripted.url}/key.pub"}
        return run_module(
            apt_keyring, **{"name": "archive", "fingerprint": FINGERPRINT, "timeout": 5, **source, **params}
        )

    return run


def test_check_real_check_real(run, keyring, scripted):
    predicted = run(check=True)
    assert not keyring.parent.exists()
    made = run()
    asked = len(scripted.seen)
    again = [run(check=True), run()]
    assert [result["changed"] for result in (predicted, made, *again)] == [True, True, False, False]
    assert predicted["diff"] == made["diff"] == {"before": {"key": None}, "after": {"key": FINGERPRINT}}
    assert len(scripted.seen) == asked, "a key that is there is not asked for"
    assert keyring.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in keyring.parent.iterdir()] == ["archive.gpg"]
    assert made["path"] == str(keyring)


def test_absent_check_real_check_real(run, keyring):
    run()
    results = [run(state="absent", check=check) for check in (True, False, True, False)]
    assert [result["changed"] for result in results] == [True, True, False, False]
    assert not keyring.exists()


@pytest.mark.parametrize("check", [True, False])
def test_another_key_of_the_right_name_is_refused(run, keyring, scripted, check):
    scripted.routes["GET /key.pub"] = OTHER
    result = run(check=check)
    assert result["msg"].startswith(f"The key key.pub is refused: expected the key {FINGERPRINT} and no other")
    assert OTHER_FINGERPRINT in result["msg"]
    assert not keyring.parent.exists()


def test_the_key_that_is_there_stays_where_another_one_is_refused(run, keyring):
    run()
    before = keyring.read_bytes()
    assert "is refused" in run(fingerprint=OTHER_FINGERPRINT)["msg"]
    assert keyring.read_bytes() == before


def test_another_key_that_is_there_is_replaced(run, keyring):
    run(content=OTHER.decode(), fingerprint=OTHER_FINGERPRINT)
    result = run()
    assert result["diff"] == {"before": {"key": "another key"}, "after": {"key": FINGERPRINT}}
    assert run()["changed"] is False


def test_mode_is_put_right(run, keyring):
    run()
    keyring.chmod(0o600)
    assert run(check=True)["changed"] is True
    assert keyring.stat().st_mode & 0o777 == 0o600
    assert run()["changed"] is True
    assert keyring.stat().st_mode & 0o777 == 0o644


def test_content_needs_no_server(run, scripted):
    assert run(content=KEY.decode())["changed"] is True
    assert run(content=KEY.decode())["changed"] is False
    assert scripted.seen == []


def test_password_of_the_address_is_not_shown(run, scripted):
    scripted.routes["GET /key.pub"] = OTHER
    address = scripted.url.replace("http://", "http://user:canary@")
    assert "canary" not in run(url=f"{address}/key.pub")["msg"]
    assert "canary" not in run(url=f"{address}/none.pub")["msg"]


def test_what_is_too_large_is_refused(run, scripted, keyring):
    scripted.routes["GET /key.pub"] = b"x" * (2 << 20)
    assert "more than 1048576 bytes" in run()["msg"]
    assert not keyring.parent.exists()


@pytest.mark.parametrize("name", ["../evil", "", "a b", ".hidden"])
def test_a_name_that_is_no_file_name_is_refused(run, name):
    assert "is refused: expected letters" in run(name=name)["msg"]


def test_a_short_id_is_refused(run):
    assert "expected all 40 hexadecimal digits" in run(fingerprint=FINGERPRINT[-16:])["msg"]


def test_a_link_is_not_followed(run, keyring, tmp_path):
    keyring.parent.mkdir()
    keyring.symlink_to(tmp_path / "elsewhere")
    assert "is a symbolic link" in run()["msg"]
