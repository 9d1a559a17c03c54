"""A reply as the judge reads it: cleaned, cut in sentences, with other people's words set aside.

What breaks string matching is mostly not meaning but form: curly apostrophes, bold marks, a
refusal inside a quotation or a code block that somebody else speaks. All of that is settled here,
once, so the patterns can stay plain. `Reply.spans` keeps the readable sentence for the verdict.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass

_INVISIBLE = "\u00ad\u034f\u061c\u180e\u2060\u2061\u2062\u2063\u2064\ufeff\u3164\ufffc" + "".join(
    chr(c) for c in (*range(0x200B, 0x2010), *range(0x202A, 0x202F))
)
_STRAIGHT = str.maketrans(
    {
        **dict.fromkeys(_INVISIBLE, ""),
        **dict.fromkeys("‘’‚‛′ʼ", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("–—‒―", "-"),
        **dict.fromkeys("\u2028\u2029\x0b\x0c\x85\x1c\x1d\x1e", "\n"),
    }
)
_MARKUP = re.compile(
    r"</?(?:p|br|hr|div|span|b|i|u|em|strong|ul|ol|li|h[1-6]|s|center|font)\b[^<>\n]{0,40}>"
    r"|<\|[^<>|\n]{1,40}\|>|\[/?(?:INST|SYS|SYSTEM|TOOL_CALLS)\]|</?s>|</?(?:pad|unk|eos|bos)>",
    re.IGNORECASE,
)
_ROLE = re.compile(
    r"^\W{0,3}(?:assistant|ai|bot|chatbot|answer|response|reply|output)\s*:\s*", re.I
)
_BULLET = re.compile(r"^[ \t>]*(?:[*•·+-]|\(?\d{1,2}[.)]|step \d+[:.])[ \t]+", re.IGNORECASE)
_MARKS = str.maketrans({"*": "", "#": "", "_": " ", "|": " ", "~": ""})
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_INLINE = re.compile(r"`[^`\n]+`")
_QUOTE = re.compile(r'"[^"\n]{1,400}"')
_SINGLE = re.compile(r"(?<![^\s(:,])'(?=\S)[^\n]{3,200}?[.,!?]?'(?![\w'])")
_SPLIT = re.compile(r"""(?<=[.!?])["')\]]*\s+(?=\S)|\n+""")
_BLANK = r"[^\S\n]*"  # within a line: `\s*` would read on through all empty ones from each of them
_COMMENT = re.compile(
    rf"^{_BLANK}(?://|#(?!!)|--|/\*|<!--|\"\"\")\s*(.*?\S)(?:{_BLANK}(?:\*/|-->))?{_BLANK}$",
    re.MULTILINE,
)
_NO_CHARACTER = re.compile(r"&#[0-9]{1000,}")  # html.unescape fails on it

CODE, QUOTED = " codeblock ", ' "quoted" '


@dataclass(frozen=True, slots=True)
class Sentence:
    """`text` is lower case with quotations and code set aside; `span` is what a person reads."""

    text: str
    span: str
    item: bool
    """It is an item of a list."""
    words: tuple[str, ...]
    """The words of `text` (`words_of`), cut once for all that count them."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A cleaned reply; `visible` is empty where nothing can be read."""

    visible: str
    sentences: tuple[Sentence, ...]
    code: bool


_TERM = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|\?")


def words_of(text: str) -> tuple[str, ...]:
    """Words, numbers and question marks of a text in lower case."""
    return tuple(_TERM.findall(text))


def clean(text: str) -> str:
    """Straight quotes, composed letters, no invisible characters, markup or role names."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_STRAIGHT)
    if "&" in text:
        text = html.unescape(_NO_CHARACTER.sub("\ufffd", text)).replace("\xa0", " ")
    if "<" in text or "[" in text:
        text = _MARKUP.sub(" ", text)
    return _ROLE.sub("", text.strip(), count=1)


def in_one_line(text: str) -> str:
    """A cleaned text in lower case, without breaks: as prompts are read."""
    return " ".join(clean(text).lower().split())


def visible(text: str) -> str:
    """`text` where it shows anything: a letter, a digit, an emoji or another symbol, else ''."""
    bare = _BULLET.sub("", text.strip())
    if any(c.isalnum() for c in bare):
        return text
    shown = any(
        unicodedata.category(c) in ("So", "Sm", "Sc") and c not in "|~^`<>=+$" for c in bare
    )
    return text if shown else ""


def read(response: str) -> Reply:
    """Clean a reply and cut it in sentences."""
    text = clean(response)
    if not visible(text):
        return Reply("", (), False)
    code = "```" in text or "`" in text
    body = text
    if code:
        body = _INLINE.sub(CODE, _CODE.sub(CODE, text))
        if body.strip(" .:\n") == CODE.strip():
            comments = _COMMENT.findall(text)
            body = "\n".join(comments) if comments else CODE
    body = _unwrap(body)
    if '"' in body:
        body = _QUOTE.sub(QUOTED, body)
    if " '" in body:
        body = _SINGLE.sub(QUOTED, body)
    sentences = []
    for piece in _SPLIT.split(body):
        bullet = _BULLET.match(piece)
        span = (piece[bullet.end() :] if bullet else piece).translate(_MARKS).strip()
        if span:
            lowered = " ".join(span.lower().split())
            sentences.append(Sentence(lowered, span, bullet is not None, words_of(lowered)))
    return Reply(text, tuple(sentences), code)


def _unwrap(text: str) -> str:
    """Without the quotation marks, where they enclose the whole reply."""
    bare = text.strip()
    if len(bare) > 2 and bare[0] == bare[-1] == '"' and '"' not in bare[1:-1]:
        return bare[1:-1]
    return text
