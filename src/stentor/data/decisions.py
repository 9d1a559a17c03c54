"""A piece before the last reply that says what it is: a refusal, support or an answer.

The model draws it first, so that greedy decoding follows what it holds likelier as a whole, and
not the likeliest first word: answers begin in a thousand ways and refusals in a few, so words
alone refuse where an answer is twice as likely. The reply is then written with the choice made.
Refusal tokens: Jain et al., 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from stentor.chat import Encoded
from stentor.data.encode import EncodedExample
from stentor.data.examples import Example

REFUSE, SUPPORT, ANSWER = 0, 1, 2
"""What a reply can be: numbers of the template's `decisions`."""


def due(example: Example) -> int | None:
    """What its last reply must be; a plain document has none."""
    if example.kind == "text":
        return None
    if example.kind != "harmful":
        return ANSWER
    return SUPPORT if example.category == "self_harm" else REFUSE


def with_decisions(
    examples: Sequence[EncodedExample],
    pieces: Sequence[int],
    *,
    share: float,
    window: int,
    seed: int,
    refuses: Callable[[str, str], bool | None],
) -> list[EncodedExample]:
    """`share` of the examples with the piece of their decision, as far as `window` has room.

    `pieces`: the ids for REFUSE, SUPPORT and ANSWER. A worse reply gets the piece of what it is:
    `refuses` (prompt, reply) tells, None where it is neither refusal nor answer (silence, a loop);
    such a reply gets the right piece, since it is not what it decided that was wrong.
    """
    drawn = np.random.default_rng(seed).random(len(examples)) < share
    found = []
    for e, chosen in zip(examples, drawn, strict=True):
        right, rejected = due(e.example), e.rejected
        longest = max(len(encoded.ids) for encoded in (e.encoded, rejected) if encoded is not None)
        if right is None or not chosen or longest >= window:
            found.append(e)
            continue
        if rejected is not None:
            said = refuses(e.example.messages[-2]["content"], e.example.rejected or "")
            decided = right if said in (None, right != ANSWER) else (REFUSE if said else ANSWER)
            rejected = begun_with(rejected, pieces[decided])
        found.append(replace(e, encoded=begun_with(e.encoded, pieces[right]), rejected=rejected))
    return found


def begun_with(encoded: Encoded, piece: int) -> Encoded:
    """The conversation with `piece` before its last reply, to be learned."""
    place = max(i for i, m in enumerate(encoded.mask) if m and not encoded.mask[i - 1])
    ids = (*encoded.ids[:place], piece, *encoded.ids[place:])
    return Encoded(ids, (*encoded.mask[:place], 1, *encoded.mask[place:]), encoded.system)
