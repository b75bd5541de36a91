# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs on hosts run commands as modules do."""

from __future__ import annotations

from ansible_collections.llmfleet.serving.plugins.module_utils._run import run_command


def test_what_a_command_says():
    argv = ["sh", "-c", 'echo "out $WORD"; echo err >&2; printf "\\377"; exit 3']
    assert run_command(argv, environ_update={"WORD": "x"}) == (3, "out x\n\ufffd", "err\n")


def test_a_command_that_is_not_there():
    status, out, err = run_command(["/no/such/program"])
    assert (status, out) == (127, "")
    assert "/no/such/program" in err
