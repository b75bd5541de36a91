# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection's only exception family. Private to this collection."""

from __future__ import annotations


class LlmError(Exception):
    """A failure whose text is fit to be shown to the user as the module's message.

    The text names the object, what was expected, what was found and what to do next; it never holds a secret.
    """
