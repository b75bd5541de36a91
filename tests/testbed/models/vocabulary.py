# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one vocabulary of all generated models: a byte-level BPE, and a story that the models tell.

Text is encoded as bytes and a few English letter pairs, so every language goes in and comes back. Answers are made of
other tokens: whole words that no merge can produce. The word at place `n` of the story may only be followed by a word
of place `n + 1`, and every token that is not of the story by a word of place 1. Whatever the prompt, an answer is
therefore one of 3^40 readable stories of `STORY_LENGTH` tokens, followed by the end-of-sequence token.
"""

# ruff: noqa: RUF001 - DeepSeek spells its control tokens with a full-width bar.

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
CONTROL = (BOS, EOS, "<｜User｜>", "<｜Assistant｜>")
# Reasoning parsers look these two up in the vocabulary and refuse to start without them.
USER_DEFINED = ("<think>", "</think>")

# As R1's own: the system message comes first whatever its place, and reasoning is left out of earlier answers. A
# shorter one is taken by Ollama for the template of another model, whose stop words it then adds.
CHAT_TEMPLATE = (
    "{% set ns = namespace(system='') %}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{% set ns.system = message['content'] %}{% endif %}{% endfor %}{{ bos_token }}{{ ns.system }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜>' + message['content'].split('</think>')[-1] + eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)

# One place per blank, the choices of a place parted by a slash. No word may occur twice: it would have two places.
_CLAUSES = (
    "Today the quiet/brave/gentle server/lantern/river",
    "carries/follows/paints a silver/hollow/distant mirror,/bridge,/feather,",
    "while one careful/patient/curious gardener/sailor/painter",
    "counts/gathers/repairs some broken/golden/frozen windows,/ladders,/baskets,",
    "because every clever/little/honest teacher/farmer/baker",
    "needs/wants/keeps another warm/narrow/heavy blanket./kettle./wagon.",
    "Then this ancient/wooden/crooked tower/clock/garden",
    "shelters/measures/hides its simple/secret/early shadow,/promise,/music,",
    "and our northern/eastern/southern harbour/valley/market",
    "welcomes/remembers/borrows any foreign/modest/cheerful traveller,/stranger,/visitor,",
    "until that sudden/summer/evening storm/breeze/thunder",
    "covers/crosses/wakes your sleepy/upper/lower village./meadow./orchard.",
    "Finally my younger/taller/wiser sister/cousin/brother",
    "opens/studies/copies each yellow/printed/missing letter,/chapter,/atlas,",
    "so no tired/nervous/careless clerk/pilot/student",
    "loses/forgets/misses their morning/weekly/final train./lesson./signal.",
)
_STORY = [choices.split("/") for clause in _CLAUSES for choices in clause.split()]
STORY_LENGTH = len(_STORY)

# Letters only: a merge that starts with a blank could build a word of the story out of the prompt.
_PAIRS = (
    "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de hi ri ro ic"
)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id.

    :ivar tokens: spelled in the byte-level alphabet; control and user-defined tokens as they are.
    :ivar merges: pairs of token spellings, most important first.
    :ivar places: per token its place in the story from 1 on, 0 for all others.
    """

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]
    places: tuple[int, ...]

    def id_of(self, token: str) -> int:
        return self.tokens.index(token)


@cache
def vocabulary() -> Vocabulary:
    alphabet = _byte_alphabet()
    words = [
        (_spelled(f" {word}" if place > 1 else word, alphabet), place)
        for place, choices in enumerate(_STORY, 1)
        for word in choices
    ]
    pairs = _PAIRS.split()
    others = [*CONTROL, *USER_DEFINED, *alphabet, *pairs]
    return Vocabulary(
        tokens=(*others, *(word for word, _place in words)),
        merges=tuple((pair[0], pair[1]) for pair in pairs),
        places=(*(0 for _dummy in others), *(place for _word, place in words)),
    )


def _byte_alphabet() -> list[str]:
    """The visible character that stands for each byte in a byte-level BPE, as GPT-2 defined it.

    Printable Latin-1 characters stand for themselves, the others take the code points from 256 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def _spelled(text: str, alphabet: list[str]) -> str:
    return "".join(alphabet[byte] for byte in text.encode())
