# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a benchmark's Ansible reaches simulated hosts as users reach theirs: by ssh, with connections that stay open."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from bench._harness import need
from testbed import BedError
from testbed.engine import command

# A socket's path has 107 bytes at most: a slash, Ansible's name for a host, and what ssh appends until it is open.
_FOLDER_MOST = 107 - len("/0123456789.0123456789abcdef")
_END_S = 10


class Ssh:
    """A key pair of its own, and the processes that keep connections open, which ssh calls masters.

    A master detaches itself from the ssh that has started it, so it is no child of ansible-playbook. Its title is its
    socket, by which it is found.

    :ivar key: the public key, a line.
    :ivar variables: of the hosts, for the inventory.
    :ivar environment: of ansible-playbook.
    """

    def __init__(self, folder: Path) -> None:
        """:raises BedError: if there is no ssh client, or the folder's path is too long for a socket."""
        need("ssh", "openssh-client")
        self._sockets = folder / "ssh"
        if len(bytes(self._sockets)) > _FOLDER_MOST:
            raise BedError(f"{folder} is too long a path for ssh's sockets. Choose another one with --folder.")
        self._sockets.mkdir(mode=0o700)
        key = folder / "key"
        command(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "llmfleet-bench", "-f", str(key)])
        self.key = key.with_suffix(".pub").read_text().strip()
        # Nobody is asked, and nothing of this machine's own configuration counts.
        own = (
            f"-F none -o UserKnownHostsFile={folder / 'known_hosts'} -o GlobalKnownHostsFile=none"
            " -o StrictHostKeyChecking=accept-new -o IdentitiesOnly=yes"
        )
        self.variables = {
            "ansible_connection": "ssh",
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(key),
            "ansible_ssh_common_args": own,
        }
        self.environment = {"ANSIBLE_SSH_CONTROL_PATH_DIR": str(self._sockets)}

    def masters(self) -> list[int]:
        """The processes that keep a connection open now."""
        title = f"ssh: {self._sockets}/".encode()
        return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _title(path, title)]

    def close(self) -> None:
        """End all connections.

        :raises BedError: if one does not end.
        """
        deadline = time.monotonic() + _END_S
        while masters := self.masters():
            if time.monotonic() > deadline:
                raise BedError(f"ssh does not end: processes {masters}.")
            for pid in masters:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            time.sleep(0.05)


def cpu_of(pid: int) -> float:
    """Seconds of processor time that a process has used by itself; 0 if it has ended."""
    try:
        # Behind the name, which may have spaces, beginning with field 3.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _title(process: Path, title: bytes) -> bool:
    try:
        return (process / "cmdline").read_bytes().startswith(title)
    except OSError:
        return False
