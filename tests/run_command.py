"""What AnsibleModule.run_command is to the collection's algorithms, where there is no module."""

from __future__ import annotations

import os
import subprocess


def run_command(
    argv: list[str], *, environ_update: dict[str, str], handle_exceptions: bool = True, cwd: str | None = None
) -> tuple[int, str, str]:
    """Exit status, output and error output; a command that is not there raises OSError, as asked for."""
    assert not handle_exceptions
    environment = {**os.environ, **environ_update}
    done = subprocess.run(
        argv, capture_output=True, encoding="utf-8", errors="surrogateescape", env=environment, cwd=cwd, check=False
    )
    return done.returncode, done.stdout, done.stderr
