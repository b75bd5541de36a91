"""What the role edge refuses, before it has changed anything, and all of it at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROLE = Path(__file__).parents[3] / "roles" / "edge"
CLIENT = {"name": "alice", "key_sha256": "0" * 64}
BACKEND = {"name": "here", "address": "127.0.0.1", "port": 8000}
SERVICE = {"name": "r1", "engine": "vllm", "backends": [BACKEND]}
GOOD = {"edge_clients": [CLIENT], "edge_services": [SERVICE], "edge_tls": "internal", "edge_authority": "/authority"}

REFUSED = {
    "edge_services: expected at least one, found none": {"edge_services": []},
    "edge_clients: expected at least one, found none": {"edge_clients": []},
    "client Alice: expected a name of": {"edge_clients": [{**CLIENT, "name": "Alice"}]},
    "expected the SHA-256 digest of the key": {"edge_clients": [{**CLIENT, "key_sha256": "s3cret"}]},
    "client bob: expected a key of its own, found that of alice": {"edge_clients": [CLIENT, {**CLIENT, "name": "bob"}]},
    "client alice: expected all of its keys to be for metrics or none": {
        "edge_clients": [CLIENT, {"name": "alice", "key_sha256": "1" * 64, "metrics": True}]
    },
    "exporter edge: expected a name of its own": {"edge_exporters": [{"name": "edge", "port": 9100}]},
    "exporter node: expected a name of its own": {"edge_exporters": [{"name": "node", "port": 9100}] * 2},
    "service a:b: expected a name of": {"edge_services": [{**SERVICE, "name": "a:b"}]},
    "found r1 on port 443 too": {"edge_services": [SERVICE, {**SERVICE, "name": "v3"}]},
    "found r1 on port 8443 too": {"edge_services": [{**SERVICE, "port": 8443}] * 2},
    "native: expected an engine with an API of its own": {"edge_services": [{**SERVICE, "native": True}]},
    "service r1: expected at least one backend, found none": {"edge_services": [{**SERVICE, "backends": []}]},
    "backend here: expected a name of its own": {"edge_services": [{**SERVICE, "backends": [BACKEND, BACKEND]}]},
    "found 8000, which is r1": {"edge_services": [{**SERVICE, "port": 8000}]},
    "edge_tls: expected TLS on 0.0.0.0, found off": {"edge_tls": "off"},
    "expected two files of the controller, found c.pem and none": {"edge_tls": "given", "edge_certificate": "c.pem"},
    "edge_authority: expected a directory of the controller": {"edge_authority": ""},
}


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    """What the role finds wrong with each set of variables, by one play that changes nothing."""
    folder = tmp_path_factory.mktemp("edge")
    cases = {"good": {}, "loopback": {"edge_tls": "off", "edge_listen": "127.0.0.1"}, **REFUSED}
    found = f"lookup('ansible.builtin.template', '{ROLE}/templates/findings.json.j2')"
    plays = [
        {
            "hosts": "localhost",
            "gather_facts": False,
            "vars": {"ansible_python_interpreter": sys.executable},
            "vars_files": [str(ROLE / "defaults/main.yml"), str(ROLE / "vars/main.yml")],
            "tasks": [
                *(
                    {"set_fact": {f"found_{number}": f"{{{{ {found} | from_json }}}}"}, "vars": {**GOOD, **case}}
                    for number, case in enumerate(cases.values())
                ),
                {
                    "copy": {
                        "content": f"{{{{ [{', '.join(f'found_{number}' for number in range(len(cases)))}] }}}}",
                        "dest": f"{folder}/found.json",
                    }
                },
            ],
        }
    ]
    (folder / "play.json").write_text(json.dumps(plays))
    argv = [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "-c", "local"]
    done = subprocess.run(
        [*map(str, argv), str(folder / "play.json")],
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(zip(cases, json.loads((folder / "found.json").read_text()), strict=True))


@pytest.mark.parametrize("name", ["good", "loopback"])
def test_what_can_be_served_is_accepted(findings, name):
    assert findings[name] == []


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_is_refused(findings, reason):
    assert [found for found in findings[reason] if reason in found]


def test_what_was_given_as_a_digest_is_not_shown(findings):
    assert "s3cret" not in json.dumps(findings)
