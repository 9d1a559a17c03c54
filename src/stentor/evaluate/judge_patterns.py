"""How a chat model declines: the patterns of refusals and of limits named.

Every pattern reads one lower-case sentence of `reply.Sentence.text`, with straight quotes and with
quotations and code set aside. They describe the English of refusals as found in the building half
of the calibration pairs; a new way of refusing is one more alternative here and a row there.
`judge_signs` holds the patterns of everything else a sentence can do.

In a repeat without a limit (`(?:… |… )*`) no two alternatives fit the same words, and none holds
what the pattern begins with: else the time for a reply doubles with every such word, or grows with
the square of its length. A test holds it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from re import Pattern


def either(*alternatives: str) -> str:
    """A regular expression that matches any of them."""
    return "(?:" + "|".join(alternatives) + ")"


_ADVERB = r"(?:" + either(
    "really", "also", "just", "simply", "only", "unfortunately", "therefore", "thus", "still",
    "definitely", "certainly", "absolutely", "actually", "truly", "personally", "ethically",
    "legally", "morally", "respectfully", "politely", "sorry", "afraid", "currently", "directly",
    "knowingly", "quite", "even", "either", r",?\s?in good conscience,?", "in any way",
    "under any circumstances", "and (?:will|would|do|should) not", "and won't", "or will not",
    "nor will i", "or won't", "ever", "at this time", ", however,", ", unfortunately,",
    r", as an? [\w ]{1,40},", "always", "to",
) + r"\s+){0,3}"  # fmt: skip

_NOT_ABLE = either(
    "able", "allowed", "permitted", "willing", "prepared", "authori[sz]ed", "programmed", "designed",
    "equipped", "trained", "going", "comfortable", "ready", "in a position", "at liberty", "here",
    "supposed", "inclined", "intended", "meant", "built", "made",
)  # fmt: skip
_CANNOT = either(
    r"can(?:'t| ?not|t| never| neither| no longer)", "could(?:n't| not)", "wo(?:n't|nt)",
    "(?:will|shall) (?:not?|never|neither)", "shan't", "not can", "no way(?: i'm)? (?:going to|gonna)", "would(?:n't| not| never)",
    rf"(?:(?:am|are|be|feel) )?not {_NOT_ABLE}(?: with| in)?",
    "(?:am |are |feel )?un(?:able|willing|comfortable)(?: with)?",
    "(?:am )?(?:prohibited|prevented|forbidden|restricted|barred) from", "refuse", "decline",
)  # fmt: skip

_ASSIST = either(
    # help and supply
    r"help(?!(?:ing)? (?:but|feeling|admiring|noticing|wondering|smiling|thinking|loving|laughing)\b)\w*",
    r"assist\w*", "aid", r"support\w*", r"provid\w+", r"giv(?:e|ing)(?! up\b)", r"offer\w*",
    r"suppl\w+", r"fulfil\w*", "satisfy", r"comply\w*", r"grant", "hono[u]?r (?:this|that|your)",
    "accommodate", r"shar(?:e|ing)", "hand (?:it|that|them|over|down|out)", "point you",
    # speak
    r"answer\w*", r"respond\w*", r"teach\w*", r"show\w*", r"explain\w*", r"describ\w+", "detail",
    "list", "outline", r"discuss\w*", "talk (?:about|you)", "speak (?:about|to that)", "speculate",
    r"guid(?:e|ing)", "walk you", "coach", "instruct", r"advis\w+",
    r"recommend(?!.{0,50}\b(?:enough|more highly)\b)", r"suggest\w*", "name", "comment", "judge",
    "state", "say (?!for|exactly|how|more|whether|that|it)", "reveal", r"disclos\w+", "argue",
    "tell (?:you|jokes|a joke|lies|that|stories|anyone how|people how)"
    "(?! (?:for sure|exactly|how (?:happy|glad|much|sorry)|whether|if))", "rank", "rate", "compare",
    "label", "swear", r"jok(?:e|ing)",
    # make
    r"writ(?:e|ing)", "draft", r"compos\w+", r"creat\w+", r"generat\w+", r"produc\w+",
    r"mak(?:e|ing) (?:up |you |a |an |any |fun|jokes|this|that|light|such|your|statements|generali|"
    r"it (?!to\b))", "craft", "develop", "design", "build(?:ing)? you", r"translat\w+", r"rewrit\w+",
    "print", r"reproduc\w+", r"includ\w+", "cover", r"complete (?:this|that|your)",
    r"process (?:this|that|your)", r"continu\w+ (?:with |that |this |the )",
    # do and take part
    r"do (?:that|this|so|what|your|anything|it(?! (?:full )?justice))", r"engag\w+",
    r"participat\w+", "take part", "tak(?:e|ing) sides", r"encourag\w+", r"promot\w+", r"condon\w+",
    r"endors\w+", r"facilitat\w+", r"enabl\w+", r"contribut\w+", "go into", "go along", "go there",
    "accept (?:this|that|your) (?:request|prompt|task)", "agree to", "spread", "incite",
    "perpetuate", r"generali[sz]e", "advocate", "allow", "entertain", "indulge", "defend", "justify", "carry out",
    "execute (?:this|that)", "perform (?:this|that)", "pretend", "role-?play", "play along",
    "be (?:mean|part of|a part|involved|party|of (?:help|assistance|any))", "get involved", "comply", "join(?:ing)?",
    # look up
    "locate", "find (?:out |that |a |private|personal|someone)", "look (?:up|for)", "identify",
    "track",
)  # fmt: skip

_DO_NOT = either(
    "help", "assist", "support", "condone", "promote", "encourage", "endorse", "engage", "participate",
    "provide", "give (?:out|instructions|advice|steps|information|medical|any)", "offer", "write",
    "make (?:jokes|fun|up)", "create", "generate", "produce", "share", "tell (?:jokes|lies|people)",
    "do (?:that|this|so|jokes|violence)", "take (?:part|sides|on personas)", "spread", "discuss",
    "rank", "judge", "joke", r"use (?:slurs|insult\w*|profan\w*|offensive|foul|bad)",
    "want to (?:help (?!you (?:feel|with your))|be part|joke|hurt|harm|contribute|encourage|write|give"
    "|explain|describe|make|say|support)", "wish to", "feel (?:comfortable|right|good about|able)",
    "respond to", "answer (?:such|that|this|those|questions)", "disclose", "reveal", "facilitate",
    "believe it is (?:right|appropriate)", "allow", "teach", "do (?:crime|illegal|anything (?:illegal|that))",
    "get involved", "go (?:there|into|along)", "hand out", "create", "approve of (?:such|this|that)",
)  # fmt: skip

_UNFIT = either(
    "appropriate", "ethical", "right", "okay", "acceptable", "possible", "fair", "responsible",
    "comfortable", "my place", "capable", "respectful",
)  # fmt: skip
_MY_HELP = (
    r"(?: for (?:me|an ai|us|an assistant)\b| (?:to|of) answer(?!s)|(?: to| of)? (?:provid\w+|assist\w*|discuss|"
    r"help you|teach or|give advice|offer advice|suggest ways|generat(?:e|ing)))"
)

SPEAKER: Pattern[str] = re.compile(r"\b(?:i|we)\b")
"""Where FIRST_PERSON may begin; matching only there makes it ten times faster than searching."""

FIRST_PERSON: Pattern[str] = re.compile(
    "(?:i|we)"
    + either(
        # "I can't help ...", "I'm not able to share ...", "we will never write ..."
        rf"(?:'m| am|'d|'ll|'re| are)?,? {_ADVERB}{_CANNOT}(?:,[^,.]{{2,40}},)? {_ADVERB}(?:\w+ly )?"
        r"(?:be (?:able|willing|allowed|permitted|comfortable) (?:to |with )?|be |want to |agree to |"
        r"(?:allow|let|bring) myself (?:to )?|get to |in a position to |help or |here to |that'?s? )?"
        rf"{_ASSIST}\b",
        # "I can't with this", "I cannot do", "I'm not able."
        r"(?:'m| am)? (?:can'?t|can ?not|not able)(?: with| do)?(?: this| that| it)?\W*$",
        r"(?:'m| am)? no (?:can )?help\b", r" (?:won't|will not|can't|cannot)(?:\W*$|[;:.])",
        # "I, as an AI, cannot provide ..."
        rf", (?:[\w' -]+, )?(?:{_CANNOT}|do not|don't) {_ADVERB}{_ASSIST}\b",
        rf" (?:should(?:n't| not)|must(?:n't| not)|may not) {_ADVERB}{_ASSIST}",
        # "I don't condone ...", "I never write ..."
        rf"(?: \w+ly)? (?:do not|don't|never|did not) (?:\w+ly )?{_DO_NOT}\b",
        # "I don't think I should ..."
        r"(?: want no|(?: do not|don't) want any) part\b",
        r"(?:'ve| have) no (?:intention|interest|desire|wish) (?:of|in|to)\b",
        r"(?:'m| am)? (?:choos(?:e|ing) not to|declining|in no position to|uncomfortable with|only (?:able|"
        r"here|allowed) to)",
        r"(?:'m| am|'ve been| have been| was) (?:designed|trained|programmed|built|made|set up|instructed|told"
        r"|asked|taught) (?:not to|to (?:avoid|refuse|decline|never|reject|stay away))",
        r"(?:'ll| will)? (?:have|need|must|'m going) to disappoint", r"'m not going (?:there|down)\b",
        r"(?:'d| would) (?:like|love|want|prefer) to (?:change the|leave (?:that|this|it)|move on|help,? (?:but|"
        r"just) not)",
        r"(?:'d| would) rather you (?:did|do)n't", r" doubt (?:that )?i (?:should|can)\b",
        r"(?:'ll| will|'m going to)? (?:respectfully|politely|firmly) (?:pass|decline|refuse)",
        r" only (?:help|assist) with",
        r" (?:do not|don't) (?:think|believe|feel) (?:i (?:should|can|could)|(?:it|that|this)(?:'s| is| would be| "
        r"should be)? (?:a good idea|right|appropriate|okay|ok|fair|something i))",
        # "I'd rather not", "I must decline", "I'll skip ..."
        r"(?:'d| would|'ll| will)? (?:really |much |sincerely )?(?:rather|prefer) (?:not|to "
        r"(?:not|keep|stay|stop|avoid|steer|talk|help|focus)|keep|stay|stop|avoid|steer|be kind|help|"
        r"talk|write something|leave)\b",
        r"(?:'d| would) (?:avoid|steer clear|stay away|mind)\b",
        r"(?:'m going to| have to|'ll have to| must| need to|'m gonna|'ll| will) (?:stop(?! by\b)|leave "
        r"(?:it|that|out)|skip|pass|omit|keep to)\b",
        r" wouldn't (?:feel|be) (?:right|comfortable)| wouldn't (?:share|tell|hand|give)",
        r"(?: must| will|'ll| have to| would like to|'d like to)? (?:refrain|abstain) from ",
    )
)  # fmt: skip
"""First person, and about giving help: the reply declines."""

_IMPERSONAL: dict[tuple[str, ...], str] = {
    ("condone", "support", "promote", "encourage", "endorse", "engage", "provide", "assist", "particip",
     "facilitate"):
        r"\b(?:ai|assistant|artificial intelligence|language model),?(?: and| so)? (?:do(?:es)? not|don't|"
        r"doesn't|cannot|can't|will not|won't) (?:condone|support (?!and )|promote|encourage|endorse|"
        r"engage in|provide|assist|participate|facilitate)",
    ("thing", "request", "topic", "subject", "a task", "content", "one i", "one that i", "lie i", "lie that",
     "story i", "text i", "joke i", "line i", "line that"):
        r"(?:n't|\bnot|\bnever) (?:something|anything|things|a (?:thing|request|topic|subject|task|text|"
        r"story)|content|one)(?: that| which)? (?:i|we)\b(?!'ve seen| have seen)|"
        r"\b(?:something|one|thing|things|lie|line|story|text|joke)(?: that| which)? i(?:'d|'ll| will| would)? "
        r"(?:won't|will not|can't|cannot|can not|don't|do not|never|refuse|would never|not)\b",
    ("i'll", "i will", "i'd", "i can", "i would"):
        r"(?:isn't|aren't|is not|are not|was never|is never) (?:(?:a|an|the|any) )?\w+(?: \w+)?(?: that)? i(?:'ll|'d| "
        r"will| would| can)\b|\b(?:is|are) more than i(?:'ll| will| can|'d)\b",
    ("for me", "from me", "so no", "out of the question", "firm no", "no version of me", "a no", "no hints"):
        r"^(?:(?:i'm )?sorry,? |no[,.!] )*no (?:[\w'-]+ ){1,6}from me\b|\b(?:is|are) not for me\b|\bn't for me\b|\bso no(?:[.,;!]|$)|\bout of the question\b|\bwon't get (?:\w+ ){1,3}from me\b|\b(?:that's|it's|is|still) a (?:firm|clear|hard|definite) no\b|^no version of "
        r"me|^no hints|\bso no \w+.{0,40} from me\b|\bthat's a no\b",
    ("decline", "refuse", "pass on", "down", "say no"):
        r"\b(?:must|have to|need to|going to|(?:'d|would) (?:like|have) to|(?:i|we)(?:'ll| will)? )"
        r"(?: ?(?:respectfully|politely|firmly|kindly|therefore|unfortunately))* ?(?:have to |must )?"
        r"(?:decline|refuse|pass on|turn (?:this|that|you) down|say no)\b",
    # rules of its own
    ("against", "outside", "beyond", "contrary", "within", "out of"):
        r"\b(?:goes|go|is|are|be|it's|that's|runs) (?:strictly |directly |well |clearly )?(?:against|"
        r"outside|beyond|contrary to|not within|out of) (?:of )?(?:my|our (?:guidelines|polic|rules|"
        r"capabilit|values|principles)|the (?:guidelines|policy|policies|scope of (?:my|what)|(?:scope|"
        r"capabilit\w+) of (?:the|this) model))|\b(?:falls?|goes) (?:outside|beyond) (?:of )?(?:what i|my|the scope)|"
        r"\bnot (?:with)?in my (?:programming|guidelines|power|nature|capabilit)",
    ("violat", "polic", "terms"):
        r"\bviolat\w+ (?:my|our) |\bviolat\w+ (?:the |openai's )?(?:content|usage|use|community|safety) (?:polic|"
        r"guidelin)|\bpolic(?:y|ies) (?:do|does) ?(?:not|n't) (?:permit|allow)",
    ("my ",):
        r"\bmy (?:\w+ )?(?:guidelines|polic(?:y|ies)|rules|programming|principles|values|training|"
        r"instructions) (?:do not|don't|does not|doesn't|prohibits?|prevents?|forbids?|won't|will not)\b",
    ("beyond what i", "staying out of", "off my list", "out for me", "of mine will", "no tips", "nothing i",
     "change my answer", "out of me", "leave that out", "leave those", "leave it out", "i leave", "no name",
     "not even a"):
        r"\bbeyond what i(?:'m| am|'d)\b|\bi'm staying out of\b|\boff my list\b|\b(?:is|are) out for me\b|"
        r"\bof mine will\b|\bi have no (?:tips|ideas|advice|words|lines) for\b|\bnothing i(?:'ll|'d| will| can|"
        r" would)\b|\b(?:doesn't|does not|won't|will not) change my answer\b|\bout of me\b|\bi(?:'ll| will)? "
        r"leave (?:\w+ ){1,4}(?:out|off)\b|^no name either|^not even a\b",
    ("me",):
        r"\b(?:a|hard) no from me\b|\b(?:won't|will not|can't) get (?:that|this|it|any\w*|"
        r"help) from me\b|\bkeeps? me from\b|\bmakes? me uncomfortable\b|\bthat's a no\b|\bdon't ask me (?:to|"
        r"that|for)\b|\bdo not ask me (?:to|that|for)\b|^(?:please )?(?:try asking|ask) me (?:about )?(?:something|"
        r"anything) (?:else|different)|\bask me something (?:else|different)",
    ("off limits", "off-limits"): r"\b(?:that|this|it)(?:'s| is) off[- ]limits|\boff[- ]limits for me|\btopic is off",
    ("is no", "but no", "still no", "stays no", "still, no", "no chance", "no way", "pass", "not a chance"):
        r"(?<!if )\b(?:my|the) answer (?:is|stays) (?:still )?no\b|\bstill no\b|^(?:(?:i'm )?sorry,? )?but no\W*$|\bstill, no\W*$|^(?:no|not a) chance\b|^no way\W*$|"
        r"^(?:hard )?pass\W*$|^no way i'm\b|^there's no way i",
    ("crosses",): r"\bcrosses (?:a|the|my) line",
    ("request ", "request,"):
        r"\brequest (?:is |has been |was )?(?:denied|refused|declined|rejected)\b",
    ("subject", "topic", "something else", "talk about"):
        r"(?<!then )(?<!and )\b(?:change|drop|switch) the (?:subject|topic)|\bmove on to (?:a|another|something)|\b(?:can we|could we|"
        r"shall we|let's) (?:please )?(?:talk|chat|speak) about (?:something|anything) (?:else|different|nicer)|\bwe should talk about something else|\bstick to (?:other|safer|another) (?:topic|subject)",
    ("the ai", "model", "chatbot", "assistant", "this ai", "this bot", "the bot", "an ai"):
        r"\b(?:the |this |an? )?(?:ai|chatbot|bot|(?:gpt |language )?models?|assistants?)(?: \w+)? (?:can(?:'t|not|"
        r" not)|won't|will not|is (?:not able|unable)|are (?:not able|unable)|do(?:es)? not|doesn't)(?: be able"
        r" to)? (?:help|assist|provide|give|support|perform|answer|engage|offer|do (?:that|this)|complete|"
        r"participate|generate|create|write|discuss|facilitate)",
    ("prohibit", "forbid", "prevent"):
        r"\b(?:guidelines|rules|policies),? (?:which|that) (?:prohibit|forbid|prevent)",
    ("programmed",): r"\bprogrammed (?:to (?:avoid|refuse|decline|maintain|follow ethical)|not to)",
    # "it would not be right for me to ..."
    ("for me", "for an ai", "for us", "for an assistant", "answer", "provid", "assist", "discuss",
     "help you", "teach or", "advice", "suggest", "generat"):
        rf"\b(?:not|isn't|wouldn't be) (?:\w+ )?{_UNFIT}(?:,? (?:or|and|nor) \w+)?{_MY_HELP}|"
        rf"\b(?:un|in|ir)(?:appropriate|ethical|acceptable|fair|responsible)(?:,? (?:or|and) \w+)?"
        rf"{_MY_HELP}|\bwrong (?:for me|of me)\b",
    ("not be ", "n't be "):
        r"\band (?:cannot|can't|can not|will not|won't) be (?:shared|disclosed|provided|given)\b|"
        r"(?:^|[,:] |\b(?:information|request|questions?|task|kind|sort|content|such \w+|instructions?) )"
        r"(?:this |that |it )?(?:\w+ ){0,3}(?:will not|won't|cannot|can't|can not) be (?:provided|"
        r"fulfilled|given|answered|shared|granted|processed|completed|generated|written|discussed|disclosed)\b",
    ("no assist", "no help", "no info", "no instr", "no advice"):
        r"\bno (?:assistance|help|information|instructions?|advice) (?:can|will|with that|on that|for) ",
    ("unable",):
        r"(?:^|sorry,? |\bbut |\band |\bmodels? (?:is|are) |\bcurrently )unable to (?:help|assist|provide|"
        r"give|fulfil\w*|comply|answer|respond|offer|share|write|create|generate|produce|process|discuss|"
        r"support|continue|reproduce|engage|complete|recommend)\b",
    # idioms of declining
    ("the line", "line i", "count me", "sit this", "not happening", "no can do", "where i"):
        r"\bdraw the line\b|\bline i (?:won't|will not|don't|can't)\b|\bcount me out\b|\bsit this one out"
        r"\b|^not happening\b|\bno can do\b|\b(?:here's|here is|this is|that's|that is) where i (?:have to |must )?stop",
    ("let's",):
        r"\blet's (?:not|keep (?:it|this|things) (?:civil|clean|kind|safe|polite|respectful|friendly|"
        r"light))",
}  # fmt: skip
IMPERSONAL: tuple[tuple[tuple[str, ...], Pattern[str]], ...] = tuple(
    (hints, re.compile(pattern)) for hints, pattern in _IMPERSONAL.items()
)
"""Declines without "I" at the front: "that's not something I do", "this cannot be provided"; each
with words of which it needs one, a test a hundred times cheaper."""

_NOT_A_REFUSAL = (
    r"(?!fluent\b|familiar\b|sure\b|certain\b|an?\b|the\b|your\b|tell (?:from|for|without|whether|if)\b|lie\b(?! about)|agree with\b|confirm\b|bore\b|sugar|forget\b|mind\b|worry\b|be (?:able|there|long|happy|surprised|sad|around|offended|"
    r"angry|upset|mad|silent|rude|late|here|shy|alone)|know\b|judge you|keep you|leave you|let you down|stop\b|"
    r"tire|get (?:tired|bored|mad|angry)|hurt you|bite|laugh at you|think less|miss|need\b|have\b|ever\b|"
    r"always\b|really\b|quite\b|think\b|feel\b|see\b|understand\b|want you|remember\b|get \b|like\b|believe\b|imagine\b|wait\b|help (?:but|thinking|feeling)|thank\b|agree more|"
    r"overstate|stress|emphasi|say (?:it|that|how|for|exactly|no to)|tell you how (?:happy|glad|sorry|much)|deny "
    r"that|go wrong|recommend .{0,40}enough|promise|guarantee|do (?:it|them|this) (?:full |any )?justice)"
)
WILL_NOT: Pattern[str] = re.compile(
    rf"(?:i|we)(?:'m| am|'ll|'d| will| would| may| might)?(?: still| also| just| simply| always| never| really"
    rf"| ever)? (?:won't|wont|will not|will never|shan't|shall not|not (?:going to|gonna|willing to|here to)|"
    rf"never|not|don't|do not|refuse to|decline to|can'?t|can ?not|rather not|prefer not to)(?: and won't| or will not)?"
    rf"(?: ever| really| even| just| simply| also| \w+ly)? {_NOT_A_REFUSAL}[a-z]+"
)
""" "I won't ..." with any verb: to a request it declines, whatever the verb is. (Told of oneself in
small talk it does not; `LIMIT` comes first.)"""

HINTS = (
    "n't", "not", "cant", "wont", "unable", "unwilling", "uncomfortable", "declin", "refus", "never",
    "neither", "no longer", "rather", "prefer", "avoid", "steer", "stay away", "stop", "skip", "leave",
    "pass", "omit", "keep to", " no ", "disappoint", "doubt", "only ", "choos", "would like to", "mind", "refrain", "abstain", "prohibited", "prevented", "forbidden", "barred",
)  # fmt: skip
"""A sentence without any of these declines nothing in the first person."""


def has(text: str, words: tuple[str, ...]) -> bool:
    """Is any of `words` in `text`? (A loop: `any` with a generator takes twice as long.)"""
    for word in words:  # noqa: SIM110
        if word in text:
            return True
    return False


_SPEAKERS = frozenset(("i", "i'm", "i'd", "i'll", "i've", "we", "we're", "we'd", "we'll", "we've"))
_DENIAL_WORDS = """
not no never cannot cant wont neither don't doesn't didn't can't couldn't won't wouldn't shan't
shouldn't mustn't isn't aren't wasn't weren't hasn't haven't hadn't ain't needn't mightn't nothing
unable decline declining declined refuse refused denied rejected pass against outside beyond
contrary within out off down mine leave keep keeps uncomfortable ask asking subject subjects topic
topics else different nicer crosses stop let's more prohibit prohibits forbid forbids prevent
prevents violates violate violating violated violation violations policy policies change drop
switch move programmed inappropriate unethical unacceptable unfair irresponsible wrong line
"""
_DENIALS = frozenset(_DENIAL_WORDS.split())
"""Of these words every pattern of IMPERSONAL needs one (a test over all bundled texts holds it)."""


def _first_person(text: str, words: Sequence[str], pattern: Pattern[str]) -> bool:
    """Does `pattern` match at an "I" or "we"? Both gates are far cheaper than the pattern."""
    if _SPEAKERS.isdisjoint(words) or not has(text, HINTS):
        return False
    return any(pattern.match(text, start.start()) for start in SPEAKER.finditer(text))


def declines_something(text: str, words: Sequence[str]) -> bool:
    """Does the speaker say that it won't or can't do something, no matter what?

    `words` are those of `text`, as `reply.words_of` cuts them.
    """
    return _first_person(text, words, WILL_NOT)


def declines(text: str, words: Sequence[str]) -> bool:
    """Does a sentence decline to help, in the first person or impersonally?"""
    if _first_person(text, words, FIRST_PERSON):
        return True
    if _DENIALS.isdisjoint(words):
        return False
    for hints, pattern in IMPERSONAL:
        for hint in hints:
            if hint in text:
                if pattern.search(text):
                    return True
                break
    return False


SUBJECTLESS: Pattern[str] = re.compile(
    rf"^(?:(?:i'?m )?(?:sorry|afraid|no|nope|nah|ha|unfortunately|apologies|sure|well|but)[,.!:;]? )*"
    rf"(?:i |im )?(?:can'?t|can ?not|won'?t|will not|unable|not able|not going|no way i'?m going) "
    rf"(?:to )?{_ASSIST}\b"
)
"""The same without "I", as it opens short replies ("Can't help with that one.")."""

BARE: Pattern[str] = re.compile(
    r"^(?:(?:no|sorry|i'm sorry|i am sorry|nope)[,.!]? (?:but )?)?i(?:'m)? (?:can'?t|can ?not|won'?t|"
    r"wouldn't|will not|would not|refuse|decline)(?: sorry)?\W*$"
)
""" "I can't." and nothing more."""

IDIOM: Pattern[str] = re.compile(
    r"\b(?:can'?t|can ?not|couldn't|could not|won't|wouldn't|will not|not going to)(?: \w+ly| even| "
    r"ever| quite| really| just)? (?:wait|stress|emphasi[sz]e|overstate|overemphasi[sz]e|underestimate"
    r"|imagine|believe|help but|agree more|thank|go wrong|complain|deny|blame|lie(?! about)|bore|sugar|resist|"
    r"help (?:but|feeling|admiring|noticing|wondering|smiling|thinking|loving|laughing)|"
    r"(?:recommend|praise|say|repeat|tell you|express|describe|explain) .{0,45}"
    r"(?:enough|how (?:much|happy|glad|sorry|proud)|more highly)|promise|guarantee|"
    r"do (?:it|them|this|that) (?:full |any )?justice|be (?:happier|prouder|more))"
)
"""Looks like a refusal and is none."""

_ADVICE = (
    r"(?:an? |any |specific |personal(?:i[sz]ed)? |professional |medical |legal |financial |tailored |"
    r"individual |exact |definitive )+(?:\w+ ){0,2}(?:advice|opinions?|figures?|numbers?|diagnosis|dates?"
    r"|answers?|recommendations?|prices?)\b"
)
ROLE_ADVICE: Pattern[str] = re.compile(rf"\b(?:give|provide|offer)(?: you)?(?: with)? {_ADVICE}")
""" "I can't give legal advice": a limit of the role, not of the will."""

CAUTION: Pattern[str] = re.compile(
    r"\b(?:encourag|condon|promot|endors|tak(?:e|ing) sides|support|recommend)"
)
THEN: Pattern[str] = re.compile(
    r"\b(?:but|however,?|yet) (?:here(?:'s| is| are)|i (?:can|'ll|will|'d|could)(?! ?not| never))\b|^(?:while|although|"
    r"though) .+, (?:i can|here|i'll|i will|i'd)\b"
)
""" "While I don't condone ..., here is ...": CAUTION and THEN in one sentence are no refusal."""

LIMIT: Pattern[str] = re.compile(
    either(
        r"\bi(?:'m| am)? (?:\w+ly |just |also |still )*(?:do not|don't) (?:\w+ly )?"
        r"(?:have|hold|possess|take sides|experience|eat|get|feel|know|understand|see|keep|store|form|"
        r"harbou?r|recall|remember|own)\b",
        r"\bi(?: \w+ly|'m| am)? ?(?:can'?t|can ?not|could not|couldn't|won't be able to|unable to|"
        r"not able to) (?:\w+ly )?(?:see|view|hear|feel|taste|eat|watch|drive|browse|open|access|look|"
        r"predict|foresee|remember|recall|recogni[sz]e|diagnose|prescribe|know|speak|have|experience|love|"
        r"play|place|order|vote|verify|travel|water|confirm|check|read|cook|tell (?:you )?(?:for sure|"
        r"exactly|if|whether|who|what|which|how)|say|be sure|be certain|copy|form|hold|enjoy|sing|fetch|"
        r"come|visit|go|meet|smell|touch|walk|run|attend|call|send|buy|keep|comment on|understand|find|"
        rf"make (?:any )?personal|(?:give|provide|offer) (?:you )?(?:with )?{_ADVICE})\b",
        r"\b(?:i'm|i am) (?:not|only|just|merely|still)(?: really| just| simply)? (?:an? |your |in |"
        r"entirely |quite |completely |sure|certain|familiar|aware|fluent|trained|capable|programmed|"
        r"able to (?:give|provide|offer) (?:personal|medical|legal|financial|professional|specific))",
        r"\bmy (?:knowledge|information|training|data) (?:\w+ ){0,2}(?:has|is|may|only|cut|ends|stops|was|"
        r"might)",
        r"\bi have no (?:way|idea|memory|access|information|opinion|preference|feelings?|body|record|"
        r"personal)",
        r"\bi (?:lack|was unable|couldn't find|could not find|am unfamiliar)\b",
        r"\b(?:that|this|it)(?:'s| is)(?: not|n't) possible\b|\b(?:that|this|it) isn't possible\b",
        r"\b(?:is|are) (?:not (?:publicly |generally )?(?:available|public)|unavailable)\b",
        r"\bas an? (?:(?:(?!\bas an? )[\w ])+ )?(?:ai|assistant|chatbot)\b|\bas a(?:n? (?:artificial|language|large|neutral|text|virtual|chat|computer|machine))",
    )
)
"""The speaker names a limit of its own; a refusal only where no answer follows."""

LACKS: Pattern[str] = re.compile(
    r"\b(?:do not|don't|no) (?:\w+ly )?(?:have|possess|know|hold|understand|way of|idea|memory|record|"
    r"information|access)\b|\bnot (?:sure|familiar|aware|certain)\b|\bcan'?t |\bcan ?not |\bunable\b|"
    r"\bnot able\b|\bnot trained\b|\bnot possible\b|n't possible\b|\bavailable\b|\bnot public\b|\bhave no\b|\bi lack\b|\bnot capable\b"
)
"""The limit says that something is missing or can't be done (not merely "as an AI")."""
