"""Which replies of a teacher are good to learn from: short, whole, plain, and nobody else's.

A teacher of this size is often wrong, so facts are held against what is known: answers that a
prompt brings with it, and the names and numbers of a reference. Where nothing is known, a reply
may name nobody and count nothing that its prompt did not.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from stentor.data.encode import sentence_ends
from stentor.data.examples import normalise
from stentor.evaluate import degenerate
from stentor.evaluate.english import english
from stentor.evaluate.judge import judge

MAX_WORDS, MAX_SENTENCES = 60, 4
CUT_WORDS, CUT_SENTENCES = 45, 3
FEW, TWICE = 5, 2
SMALL, RARE = 10, 4
"""Numbers up to `SMALL` need no check; a word is too rare from `RARE` pieces on."""
AGREED, STEM = 0.5, 5
"""The share of the words a reply adds that must stand in the reference, as stems so long."""
NEAR = 0.7
"""A Jaccard similarity of the sets of words from which on two prompts are too near."""


@dataclass(frozen=True)
class Candidate:
    """A reply, and what is known about its prompt."""

    prompt: str
    reply: str
    answers: tuple[str, ...] = ()
    """If there are any, the reply must hold one of them."""
    reference: str = ""
    """A text whose names and numbers the reply may use."""

    @property
    def creative(self) -> bool:
        """Whether the prompt asks for something made up, or in somebody's name."""
        return bool(_CREATIVE.search(self.prompt))


_CREATIVE = re.compile(
    r"\b(?:story|stories|poem|haiku|limerick|rhyme|verse|song|lullaby|chorus|tale|fable|riddle|joke|"
    r"write|rewrite|compose|imagine|pretend|invent|make up|made up|finish|complete|continue|slogan|"
    r"dialogue|diary|letter|card|note|name for|names for|call (?:a|my|the)|title)\b",
    re.IGNORECASE,
)
_SELF = re.compile(
    r"\bas an? (?:ai\b|artificial|language|virtual|digital|computer|machine)|language model|"
    r"smol ?lm|hugging ?face|openai|chatgpt|\bai (?:assistant|model|language|chatbot)|\ban ai\b|"
    r"virtual assistant|digital assistant|\bchatbot|"
    r"\bmy (?:training|programming|creators?|developers?|name is)\b|"
    r"\bi(?:'m| am| was) (?:trained|programmed|created|designed|developed)\b",
    re.IGNORECASE,
)
_HUMAN = re.compile(
    r"\b(?:my (?:wife|husband|kids|children|mom|mum|mother|dad|father|son|daughter|boyfriend|"
    r"girlfriend|family|boss|job|house|home|childhood|parents|brother|sister|grandmother|grandma|"
    r"friends?|dogs?|cats?|own experience|favou?rite)|i (?:grew up|live in|was born|work as|"
    r"went to|remember when|once|recently|used to|have been|had|bought|got)|when i was)\b",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"\[[^\]\n]{1,40}\]|_{3,}|<[^>\n]+>|\{[^}\n]*\}|\b(?:insert|your name)\b", re.I
)
_MARKUP = re.compile(r"```|\*\*|`|^\s*#{1,4} |\|.*\||^\s*\\|\\[a-z(\[]|={2,}", re.MULTILINE)
_ADDRESS = re.compile(r"https?://|www\.|\b\w+\.(?:com|org|net|io|gov)\b|\w@\w", re.IGNORECASE)
_ROLE = re.compile(r"^\W*(?:user|assistant|system|question|answer|q|a|prompt|response)\s*:", re.I)
_SUM = re.compile(r"\d\s*[+*/×÷=−]\s*\d|=\s*\d")
_EXPLAINED = re.compile(r"(?:an? |the )?([a-z]{4,})s? (?:is|are|refers?|means?)\b(.*)", re.I | re.S)
_YES_NO = re.compile(r"\W*(?:yes|no|nope|true|false|not (?:really|necessarily|always))\b", re.I)
_NUMBER = re.compile(r"\d[\d,.]*\d|\d")
_NAME = re.compile(r"(?<![.!?:\"'“(\n] )(?<![.!?:\"'“(\n])(?<!^)\b[A-Z][a-z]{2,}\b", re.MULTILINE)
_COMMON_NAMES = """
January February March April May June July August September October November December
Monday Tuesday Wednesday Thursday Friday Saturday Sunday English Christmas Easter Halloween
Thanksgiving Earth Sun Moon God Internet Mom Dad Grandma Grandpa
"""
_KNOWN_NAMES = frozenset(_COMMON_NAMES.split())
_COMMON_WORDS = """
the and are was that its for with from this which can you your they their them our have has had
not more most than when what how why would could should may one two many some other such also
into about used use make made people help helps way very but all any because there these those
"""
_LITTLE_WORDS = frozenset(_COMMON_WORDS.split())
_LEAD_IN = re.compile(
    r"\b(?:here (?:are|is)|(?:the )?following|steps|tips|ways|things|reasons|ideas)\b|[:;,]$|"
    r"^(?:first(?:ly)?|to start|start by|begin by|step \d)\b",
    re.IGNORECASE,
)
_ITEM = re.compile(r"(?:^|\s)(?:[-*•]|\(?\d{1,2}[.)])\s")
_END = re.compile(r"[.!?…][\"'”’)\]]*$")


def shortened(reply: str, *, ended: bool, creative: bool) -> str | None:
    """The reply, cut after a sentence where it is too long; None where that is not possible.

    What can't be cut: a list, a story or poem, steps that follow one another, and what the kept
    part announces but would no longer hold.
    """
    text = reply.strip()
    ends = sentence_ends(text)
    if ended and len(text.split()) <= MAX_WORDS and len(ends) <= MAX_SENTENCES:
        return text
    if creative or "\n" in text or _ITEM.search(text):
        return None
    for end in reversed(ends[:CUT_SENTENCES]):
        kept = text[:end]
        if len(kept.split()) <= CUT_WORDS:
            return None if _announces(kept) else kept
    return None


def _announces(text: str) -> bool:
    """Whether a sentence of the text promises more than itself."""
    starts = [0, *sentence_ends(text)]
    sentences = [text[a:b].strip() for a, b in itertools.pairwise(starts)]
    return any(_LEAD_IN.search(sentence) for sentence in sentences)


def _loops(c: Candidate) -> bool:
    words = degenerate.words_of(c.reply)
    runs = Counter(zip(*(words[i:] for i in range(4)), strict=False))
    starts = [0, *sentence_ends(c.reply)]
    said = [normalise(c.reply[a:b]) for a, b in itertools.pairwise(starts)]
    few = len(words) >= 12 and len({*words}) < 0.55 * len(words)
    return few or max(runs.values(), default=0) > 1 or len({*said}) < len(said)


def _echoes(c: Candidate) -> bool:
    asked, said = normalise(c.prompt), normalise(c.reply)
    return len(asked.split()) > 2 and (said.startswith(asked) or said in asked)


def _foreign(c: Candidate) -> bool:
    if any(char > "\u024f" and char not in "–—‘’“”…•°" for char in c.reply):
        return True
    words = [word for word in degenerate.words_of(c.reply) if word.isalpha()]
    told = {*degenerate.words_of(c.prompt), *degenerate.words_of(c.reference)}
    strange = sum(word not in english().known and word not in told for word in words)
    return len(words) > 4 and 2 * strange > len(words)


def _unknown_numbers(c: Candidate) -> bool:
    told = {*_NUMBER.findall(c.prompt), *_NUMBER.findall(c.reference)}
    counted = (n for n in _NUMBER.findall(c.reply) if n not in told)
    return any(not n.isdigit() or int(n) > SMALL for n in counted)


def _unknown_names(c: Candidate) -> bool:
    if c.creative:
        return False
    told = normalise(f"{c.prompt} {c.reference} {' '.join(c.answers)}").split()
    names = {name for name in _NAME.findall(c.reply) if name not in _KNOWN_NAMES}
    return any(name.lower() not in told for name in names)


def _circular(c: Candidate) -> bool:
    """Whether the thing that is explained occurs in its own explanation ("Design is … design")."""
    found = _EXPLAINED.match(c.reply)
    if not found:
        return False
    stem, rest = found[1].lower()[:6], degenerate.words_of(found[2])
    return any(word.startswith(stem) for word in rest)


def _rare_words(c: Candidate) -> bool:
    """Whether a word falls into many pieces of our vocabulary: it is invented, or too rare."""
    told = {*degenerate.words_of(c.prompt), *degenerate.words_of(c.reference)}
    words = {w for w in degenerate.words_of(c.reply) if len(w) > 7} - english().known - told
    return any(len(_pieces(word)) >= RARE for word in words)


@cache
def _vocabulary() -> Any:
    from stentor.model.tokenizer import bundled

    return bundled()


def _pieces(word: str) -> list[str]:
    pieces: list[str] = _vocabulary().tokenize(word)
    return pieces


def _misses_the_answer(c: Candidate) -> bool:
    said = f" {normalise(c.reply)} "
    return bool(c.answers) and not any(f" {normalise(answer)} " in said for answer in c.answers)


def _strays(c: Candidate) -> bool:
    """Whether most of what a reply adds to its prompt stands nowhere in the reference.

    Of the replies of SmolLM2-135M-Instruct this leaves out more wrong ones than right ones
    (docs/distilling.md).
    """
    if not c.reference or c.creative:
        return False
    added = _stems(c.reply) - _stems(c.prompt)
    return len(added & _stems(c.reference)) < AGREED * len(added)


def _stems(text: str) -> set[str]:
    words = set(degenerate.words_of(text)) - _LITTLE_WORDS
    return {word[:STEM] for word in words if len(word) > 2}


def _answers_yes_or_no(c: Candidate) -> bool:
    """What a teacher this small says there is not better than a coin."""
    return bool(_YES_NO.match(c.reply)) and not c.answers and not c.reference


Fault = Callable[[Candidate], bool]
FAULTS: tuple[tuple[str, Fault], ...] = (
    ("no words", lambda c: not degenerate.words_of(c.reply)),
    ("names itself or its maker", lambda c: bool(_SELF.search(c.reply))),
    ("markup, code or a table", lambda c: bool(_MARKUP.search(c.reply))),
    ("an address of the web or of mail", lambda c: bool(_ADDRESS.search(c.reply))),
    ("a slot left open", lambda c: bool(_PLACEHOLDER.search(c.reply))),
    ("speaks for user and assistant", lambda c: bool(_ROLE.search(c.reply))),
    ("an echo of the prompt", _echoes),
    ("a loop, or said twice", _loops),
    ("does not end as a sentence does", lambda c: not _END.search(c.reply)),
    ("not plain English", _foreign),
    ("claims a life of its own", lambda c: not c.creative and bool(_HUMAN.search(c.reply))),
    ("a sum", lambda c: bool(_SUM.search(c.reply))),
    ("a yes or no that nobody checked", _answers_yes_or_no),
    ("misses the known answer", _misses_the_answer),
    ("explains a thing by itself", _circular),
    ("little of it stands in the reference", _strays),
    ("numbers that nobody checked", _unknown_numbers),
    ("names that nobody checked", _unknown_names),
    ("a word that is rare or invented", _rare_words),
)
"""In order; the first that is found is the one that is reported."""


def fault(candidate: Candidate) -> str:
    """Why a reply is left out, or ''."""
    for name, found in FAULTS:
        if found(candidate):
            return name
    outcome = judge(candidate.prompt, candidate.reply).outcome
    return "" if outcome == "answer" else f"the judge: {outcome}"


class Probes:
    """The prompts of the suites, to keep what is near to one out of training."""

    def __init__(self, prompts: Iterable[str]) -> None:
        self._sets = [frozenset(normalise(prompt).split()) for prompt in prompts]

    def near(self, prompt: str) -> bool:
        """Whether a prompt shares `NEAR` of its words with one of a suite."""
        words = frozenset(normalise(prompt).split())
        return any(
            len(words & probe) >= NEAR * len(words | probe)
            for probe in self._sets
            if NEAR * len(words) <= len(probe) <= len(words) / NEAR
        )


def opening(reply: str) -> str:
    """The first four words."""
    return " ".join(degenerate.words_of(reply)[:4])


def too_common(replies: Sequence[str], order: Sequence[int], share: float) -> set[int]:
    """The numbers of replies to leave out so that no opening begins more than `share` of the rest.

    Of those with one opening, the first in `order` stay, `FEW` at least; of equal replies `TWICE`.
    """
    limit = max(FEW, int(share * len(replies)))
    openings: Counter[str] = Counter()
    texts: Counter[str] = Counter()
    left_out = set()
    for number in order:
        begun, text = opening(replies[number]), normalise(replies[number])
        if openings[begun] >= limit or texts[text] >= TWICE:
            left_out.add(number)
        else:
            openings[begun] += 1
            texts[text] += 1
    return left_out
