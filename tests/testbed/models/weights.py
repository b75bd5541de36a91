# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The numbers: random, the same for the same seed on every machine, and such that a model tells the story.

The first channels of the residual stream belong to the story, one per place. The embedding of a token switches on the
channel of its place, no block ever writes to these channels, and the output row of a word listens to the channel of the
place before. All other channels are random: they choose among the words of a place, and depend on the whole prompt and
on every tensor of the model.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

from testbed.models.architectures import Model, Tensor
from testbed.models.vocabulary import EOS, STORY_LENGTH, Vocabulary, vocabulary

_CHANNELS = STORY_LENGTH + 1
# Chosen so that a word of the wrong place is some 30 logits behind, and words of one place differ by 1 or 2.
_PLACE_STRENGTH = 8.0
_PLACE_WEIGHT = 6.0
_CHOICE_SPREAD = 2.0


def weights(model: Model, tensor: Tensor, seed: int) -> npt.NDArray[np.floating]:
    """The values of one tensor of a model; they depend on its name, shape, role and the seed, not on other tensors."""
    if tensor.role == "norm":
        return np.ones(tensor.shape, tensor.dtype)
    values = _noise(tensor, seed)
    if tensor.role == "embedding":
        _show_places(values, vocabulary())
    elif tensor.role == "output":
        values *= _CHOICE_SPREAD / math.sqrt(model.width)
        _follow_places(values, vocabulary())
    elif tensor.role == "bias":
        values *= 0.01
    else:
        values *= 1 / math.sqrt(tensor.shape[-1])
    if tensor.role == "writer":
        # Every layer adds twice; so the stream keeps about the same strength in models of any depth.
        values *= 1 / math.sqrt(2 * model.layers)
        values[..., :_CHANNELS, :] = 0
    return values.astype(tensor.dtype)


def _noise(tensor: Tensor, seed: int) -> npt.NDArray[np.float32]:
    """Uniform numbers of variance 1.

    They are taken from the raw stream of the generator, which numpy promises never to change, unlike what its
    distributions make of it.
    """
    count = math.prod(tensor.shape)
    stream = np.random.PCG64(int.from_bytes(hashlib.sha256(f"{seed} {tensor.name}".encode()).digest(), "big"))
    raw = stream.random_raw(-(-count // 4)).astype("<u8", copy=False).view("<i2")[:count]
    values = raw.astype(np.float32)
    values *= math.sqrt(3) / 2**15
    return values.reshape(tensor.shape)


def _show_places(values: npt.NDArray[np.float32], words: Vocabulary) -> None:
    values[:, :_CHANNELS] = 0
    values[range(len(words.places)), words.places] = _PLACE_STRENGTH


def _follow_places(values: npt.NDArray[np.float32], words: Vocabulary) -> None:
    values[:, :_CHANNELS] = 0
    for token, place in enumerate(words.places):
        if place:
            values[token, place - 1] = _PLACE_WEIGHT
    values[words.id_of(EOS), STORY_LENGTH] = _PLACE_WEIGHT
