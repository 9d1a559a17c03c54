"""Replies that are no language: loops, gibberish, word salad, an echo; and foreign languages.

The thresholds were set on the building half of the calibration pairs and on texts that are known
to be good (benchmarks/judge_false_alarms.py counts the false alarms there).
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from difflib import SequenceMatcher
from functools import lru_cache

from stentor.evaluate.english import english, tokens

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_CHARACTERS = re.compile(r"(\S{1,12}?)\1{5,}")
_NO_VOWEL = re.compile(
    r"(?=[a-z]{3})[^aeiouy\W\d]+\Z|.*[^aeiouy\W\d]{5}|(?:tth|nnd|ssp|rtl|xk|qz|zx)"
)
_FOREIGN_WORDS = """
el la los las un una del que con por para como está más lo pero puedo y le les des une et est je ne
pas vous avec pour dans il di che per non della quando sei der die das und ist nicht ein eine mit für
dir wie wenn auf het een van niet met voor dat och att det som är på med ikke og en ei se ja w nie na
jest się to czy bir ve bu çok için você não uma com mais até của là không các nên trong
"""
"""Short words of other languages in Latin letters (Spanish to Vietnamese), less those of English."""
_FOREIGN = frozenset(_FOREIGN_WORDS.split()) - {
    "on",
    "to",
    "la",
    "i",
    "se",
    "die",
    "com",
    "no",
    "per",
}
_SMALL_WORDS = """
the a an of to and in is it you i that he she was for on are with as his they at be this have from or
had by not but what all were we when your can there use said each which do how their if will
"""
_SMALL = frozenset(_SMALL_WORDS.split())
_NEEDS_LANGUAGE = re.compile(
    r"\b(?:translat|language|spanish|french|german|italian|portuguese|dutch|russian|chinese|"
    r"japanese|korean|arabic|hindi|greek|hebrew|latin|welsh|polish|turkish|swedish|norwegian|danish"
    r"|finnish|vietnamese|thai|swahili|irish|gaelic|ukrainian|czech|hungarian|romanian|persian|"
    r"esperanto|mandarin|proverb)"
)
_MAY_REPEAT = re.compile(
    r"\b(?:repeat|times|echo|say|copy|correct|fix|rewrite|rephrase|paraphrase|spell|capital|"
    r"upper ?case|lower ?case|grammar|count|translate|proofread|punctuat|continue|quote|read back)"
)
_ROLES = frozenset(("user", "human", "question", "prompt", "q", "assistant", "answer"))
_SWAP = {"you": "i", "your": "my", "me": "i", "yours": "mine", "yourself": "myself", "we": "i"}
_ASKS_CODE = re.compile(
    r"\b(?:code|function|python|java|javascript|c\+\+|sql|html|css|excel|formula|equation|regex|script|"
    r"array|json|xml|yaml|bash|algorithm|query|program|loop|class|ascii|markdown|latex|chess|password|"
    r"parts? of speech|crypt|cipher|morse|binary|hex|url)\b"
)
_RUN = re.compile(r"(\w)\1{3}")
_NUMBERED = re.compile(r"(?m)^[^\S\n]*\(?\d{1,3}[.)](?=\s)")
_STRANGE = re.compile(r"[^\w\s,.:;!?'\"/%$&-]|(?<=\s)[,.;:](?=\s)")
_QUOTES = re.compile(r"\"[^\"\n]{1,300}\"")
LOOP_SHARE, SALAD_WORDS = 0.5, 8
SALAD_BITS, SALAD_SHORT, SALAD_LIST = -0.55, -0.8, -1.2
"""Mean bits a pair below which words are salad: in running text, in a short one, in a list."""
SALAD_UNMARKED = 0.25
"""Raises the limit for text without any mark of punctuation."""


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers."""
    return _WORD.findall(text.lower())


def loop(text: str, words: list[str], prompt: str) -> str:
    """The repeated piece where a reply is stuck in a loop, else ''."""
    if max(map(len, words), default=0) > 15 or len(words) < 3:
        match = _CHARACTERS.search(text)
        if match and 2 * len(match[0]) > len(text.strip()) and len(match[0]) >= 10:
            return match[0][:40]
    if _RUN.search(text) and 2 * sum(len(w) > 3 and len(set(w)) == 1 for w in words) > len(words):
        return words[0]
    if _NUMBERED.search(text):
        words = words_of(_NUMBERED.sub("", text))
    n = len(words)
    if n < 8 or len(set(itertools.pairwise(words))) > 0.72 * (n - 1):
        return ""
    if "times" in prompt or "repeat" in prompt or _ASKS_CODE.search(prompt):
        return ""
    covered, piece = _periodic(words)
    if covered >= LOOP_SHARE * n or (covered >= 24 and covered >= 0.35 * n):
        return piece
    return ""


def _periodic(words: list[str]) -> tuple[int, str]:
    """How many words lie in runs that repeat with a period of 1 to 20 words, three times or more."""
    n = len(words)
    inside = bytearray(n)
    longest, piece = 0, ""
    for period in range(1, min(20, n // 3) + 1):
        run = 0
        for i in range(period, n + 1):
            if i < n and words[i] == words[i - period]:
                run += 1
                continue
            if run >= max(2 * period, 4):
                inside[i - run - period : i] = b"\1" * (run + period)
                if run > longest:
                    longest, piece = run, " ".join(words[i - run - period : i - run])
            run = 0
    return sum(inside), piece


def gibberish(text: str, words: list[str], prompt: str, code: bool) -> str:
    """Why a reply is no language ("letters", "word salad"), else ''."""
    if code or _ASKS_CODE.search(prompt):
        return ""
    known = english().known
    unknown = [w for w in words if w not in known]
    odd = sum(w.isalpha() and bool(_NO_VOWEL.match(w)) for w in unknown)
    if odd >= 3 and odd > 0.34 * len(words) and not text.isupper():
        return "letters"
    if len(text) > 15 and len(words) <= 20 and _symbols(text):
        return "letters"
    if len(words) < SALAD_WORDS or not text.isascii():
        return ""
    sequence = tokens((_QUOTES.sub(" thing ", text) if '"' in text else text).lower())
    if len(sequence) < SALAD_WORDS:
        return ""
    marks = sequence.count(".") + sequence.count(",") + text.count("\n") + text.count("- ")
    share = 1 - sum(w.isalpha() for w in unknown) / len(words)
    bits = english().bits(sequence)
    if bits > SALAD_BITS + SALAD_UNMARKED and marks:
        return ""
    if len(words) >= 10 and marks == 0 and share > 0.8:
        small = sum(w in _SMALL for w in words)
        if small < 0.15 * len(words):
            return "word salad"
    if share < 0.5 or (marks * 5 > len(sequence) and odd < 1 and len(sequence) < 120):
        limit = SALAD_LIST
    elif len(sequence) < 16:
        limit = SALAD_SHORT
    else:
        limit = SALAD_BITS
    if marks * 12 < len(sequence) and share > 0.75:
        limit += SALAD_UNMARKED
    return "word salad" if bits < limit else ""


def _symbols(text: str) -> bool:
    """More than a fifth of the text is symbols that prose does without, and it is no arithmetic."""
    strange = len(_STRANGE.findall(text))
    return strange > 0.2 * len(text) > sum(c.isdigit() for c in text)


@lru_cache(maxsize=1024)
def _source(text: str) -> tuple[list[str], list[str], frozenset[tuple[str, ...]]]:
    words = words_of(text)
    swapped = [_SWAP.get(w, w) for w in words]
    return words, swapped, frozenset(zip(*(words[i:] for i in range(4)), strict=False))


def echo(words: list[str], prompt: str, systems: tuple[str, ...]) -> str:
    """What a reply repeats ("the prompt", "the system prompt"), else ''."""
    if len(words) < 4:
        return ""
    if len(words) >= 6 and any(_repeats(words, system) for system in systems):
        return "the system prompt"
    asked, swapped, _ = _source(prompt)
    if not 4 <= len(asked) <= 1.25 * len(words) or _MAY_REPEAT.search(prompt.lower()):
        return ""
    said = [_SWAP.get(w, w) for w in words if w not in _ROLES]
    if said[:2] != swapped[:2] or len(said) < 0.8 * len(asked):
        return ""
    known = set(swapped)
    if sum(w not in known and len(w) > 1 for w in said) > 0.03 * len(said):
        return ""
    turned = said[: len(asked) + 2]
    same = sum(b.size for b in SequenceMatcher(None, swapped, turned, False).get_matching_blocks())
    return "the prompt" if same >= 0.85 * len(asked) else ""


def _repeats(words: list[str], source: str) -> bool:
    """Are more than 70 % of the runs of four words those of `source`? (A few tell it is not.)"""
    known = _source(source)[2]
    step = max(1, len(words) // 8)
    if not any(tuple(words[i : i + 4]) in known for i in range(0, len(words) - 3, step)):
        return False
    runs = list(zip(*(words[i:] for i in range(4)), strict=False))
    return sum(run in known for run in runs) > 0.7 * len(runs)


def without_echo(text: str, prompt: str) -> str:
    """`text` without a verbatim copy of the prompt at its start (some models repeat, then answer)."""
    asked = " ".join(prompt.split())
    flat = text.lstrip("\"' \n")
    if len(asked) > 12 and flat[: len(asked)].lower() == asked.lower():
        rest = flat[len(asked) :].lstrip("\"' \n?.!:")
        return rest if len(rest.split()) > 1 else text
    return text


def foreign(text: str, words: list[str], prompt: str) -> str:
    """The script or language a reply is in, where it is not English and was not asked for."""
    if not text.isascii():
        letters = [c for c in text if c.isalpha()]
        other = [c for c in letters if c > "\u024f"]
        if len(other) > 0.5 * len(letters) and not _NEEDS_LANGUAGE.search(prompt.lower()):
            scripts = Counter(unicodedata.name(c, "UNKNOWN").split()[0] for c in other[:200])
            return scripts.most_common(1)[0][0].capitalize()
    if len(words) < 5:
        return ""
    known = english().known
    share = len([w for w in words if w in known]) / len(words)
    if share >= 0.5 or _NEEDS_LANGUAGE.search(prompt.lower()):
        return ""
    hits = sum(w in _FOREIGN for w in words)
    accents = sum(not w.isascii() for w in words)
    names = sum(w[0].isupper() for w in _WORD.findall(text)) > 0.6 * len(words)
    if names and hits < 0.3 * len(words):
        return ""
    if (hits >= 2 or accents >= 3) and hits + accents > 0.15 * len(words):
        return "a language that uses Latin letters, not English"
    return ""
