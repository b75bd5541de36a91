"""What the tests of playbooks share: hosts that do not answer."""

from __future__ import annotations

import pytest

SILENT = '''"""A connection to a host that does not answer."""

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: silent
short_description: A host that does not answer
description: A host that does not answer.
"""


class Connection(ConnectionBase):
    transport = "silent"
    has_pipelining = False

    def _connect(self):
        raise AnsibleConnectionFailure("No route to <b>host</b>")

    exec_command = put_file = fetch_file = close = lambda self, *args, **kwargs: self._connect()
'''


@pytest.fixture
def silent_plugin(tmp_path):
    """The folder of a connection plugin by the name "silent", with which no host answers."""
    (tmp_path / "silent.py").write_text(SILENT)
    return tmp_path
