# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``serve.py ENGINE WORD...`` runs the command line of vLLM or SGLang with the key that systemd hands over.

An option for the key would show in every process list, and vLLM 0.8 and SGLang write all their options, the key too,
into their log. So the key is given inside the process, and the log has stars in its place.
"""

from __future__ import annotations

import logging
import os
import runpy
import sys
from pathlib import Path
from typing import Any

_MODULES = {"vllm": "vllm.entrypoints.cli.main", "sglang": "sglang.launch_server"}


def _hide(key: str) -> None:
    """Have no record of this process's logs show the key."""
    make = logging.getLogRecordFactory()

    def without(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        text = record.getMessage()
        if key in text:
            record.msg, record.args = text.replace(key, "***"), ()
        return record

    logging.setLogRecordFactory(without)


def main() -> None:
    engine, *words = sys.argv[1:]
    key = Path(os.environ["CREDENTIALS_DIRECTORY"], "key").read_text(encoding="utf-8").strip()
    _hide(key)
    if engine == "vllm":
        os.environ["VLLM_API_KEY"] = key
    else:
        # SGLang knows no variable for it.
        words += ["--api-key", key]
    sys.argv = [engine, *words]
    runpy.run_module(_MODULES[engine], run_name="__main__")


# Engines start processes of their own, which import this file again.
if __name__ == "__main__":
    main()
