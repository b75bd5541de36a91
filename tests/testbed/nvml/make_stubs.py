# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Print a weak stub for every function that NVIDIA's nvml.h declares: make_stubs.py NVML_H > stubs.c.

A stub answers NVML_ERROR_NOT_SUPPORTED (3) and touches no argument, so it needs no prototype.
Where a source of the mock defines the function, the linker takes that one. The header itself is never committed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def declared_functions(header: str) -> list[str]:
    """The names of the functions of nvml.h that return nvmlReturn_t, without repeats, in the header's order."""
    return list(dict.fromkeys(re.findall(r"^\s*nvmlReturn_t\s+DECLDIR\s+(nvml\w+)\s*\(", header, re.MULTILINE)))


def main() -> None:
    names = declared_functions(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if not names:
        sys.exit(f"{sys.argv[1]} declares no NVML function: expected NVIDIA's nvml.h, as in Debian's libnvidia-ml-dev")
    for name in names:
        print(f"int __attribute__((weak)) {name}(void) {{ return 3; }}")


if __name__ == "__main__":
    main()
