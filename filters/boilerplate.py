"""Stock phrases of assistants: refusals, self-descriptions, unfilled placeholders, openings and closings.

Each line of PHRASES is a phrase in lower case with straight apostrophes and single spaces; texts are brought
into that form before they are searched. `(a|b)` is an alternative, `…` stands for up to six words, and `?`
makes the part before it optional. Compare the lists with which ShareGPT and WizardLM were cleaned.
"""

import re
from collections.abc import Sequence
from typing import Literal

from distillgen import FieldName, Filter, Record

Kind = Literal["refusal", "identity", "placeholder", "opening", "closing"]

PHRASES: dict[Kind, str] = {
    # at the beginning: an apology followed by "cannot", or a plain "I can't help with that"
    "refusal": r"""
        (i'm|i am|we're) (very |really |so |truly )?sorry,? … (can't|cannot|can not|won't)
        (i'm|i am|we're) (very |really |so |truly )?sorry,? … (unable|not able|not allowed)
        (i apologi[sz]e|my apologies|apologies|sorry)[,.] … (can't|cannot|can not|won't|unable|not able)
        (unfortunately, )?i (can't|cannot|can not|won't|will not) … (help|assist|fulfill?)
        (unfortunately, )?i (can't|cannot|can not|won't|will not) … (comply|provide|answer)
        (unfortunately, )?i (can't|cannot|can not|won't|will not) … (create|generate)
        (unfortunately, )?i (can't|cannot|can not|won't|will not) … (write|produce|support)
        (unfortunately, )?i (can't|cannot|can not|won't|will not) … (engage|discuss|continue)
        (unfortunately, )?(i'm|i am) (unable|not able|not allowed|not permitted) to … (help|assist|fulfill?)
        (unfortunately, )?(i'm|i am) (unable|not able|not allowed|not permitted) to … (comply|provide|answer)
        (unfortunately, )?(i'm|i am) (unable|not able|not allowed|not permitted) to … (create|generate)
        (unfortunately, )?(i'm|i am) (unable|not able|not allowed|not permitted) to … (write|engage|discuss)
        i must (respectfully )?(decline|refuse)
        es tut mir (sehr )?leid,? … (kann|darf)
        (leider )?(kann|darf) ich … nicht … (helfen|beantworten|erfüllen|unterstützen)
        (je suis )?(désolée?|navrée?),? (mais )?je ne (peux|suis)
        lo siento,? (pero )?(no puedo|no me es posible)
        (desculpe|sinto muito|lamento),? (mas )?(eu )?não posso
        mi dispiace,? (ma )?non posso
        het spijt me,? (maar )?ik kan
        przykro mi,? (ale )?nie mogę
        (извините|простите|к сожалению),? (но )?я не могу
        (很|非常)?抱歉[,，]? ?(但)?(我)?(不能|无法|無法)
        (对不起|對不起)[,，]? ?(但)?(我)?(不能|无法|無法)
        申し訳(ありません|ございません)が
        죄송(합니다|하지만)
    """,
    # anywhere: the speaker calls itself a machine, or names the date at which its knowledge ends
    "identity": r"""
        as an? (helpful |responsible |text-based |large )?(ai|artificial intelligence|chatbot|llm)
        as an? (helpful |text-based )?(ai |artificial intelligence )?(language model|assistant model)
        as an? (helpful |text-based )?(large |generative )?(language model|assistant model)
        (i'm|i am) (just |only |merely |simply )?an? (helpful |large )?(ai|artificial intelligence)
        (i'm|i am) (just |only |merely |simply )?an? (helpful |large )?(language model|chatbot)
        i (do not|don't) (have|possess) (personal|feelings|emotions|access to real-time)
        i (do not|don't) (have|possess) the ability to (browse|access)
        (my|as of my) (last |latest )?(knowledge|training)( data)? (cut-?off|update)
        as of my (last|latest) (training|update)
        (openai|anthropic)'s? (content |usage |use case )?(policy|policies|guidelines)
        als (eine? )?(ki|künstliche intelligenz|sprachmodell|ki-\w+)
        en tant qu(e |')(ia|intelligence artificielle|modèle de langage|assistant virtuel)
        como (una? |uma? )?(ia|inteligencia artificial|inteligência artificial|modelo de (lenguaje|linguagem))
        in quanto (ia|intelligenza artificiale|modello linguistico)
        als (een )?ai-? ?(taalmodel|assistent)
        jako (model językowy|sztuczna inteligencja|ai)
        как (ии|искусственный интеллект|языковая модель)
        作为(一个|一名|一款)?(ai|人工智能|语言模型|大语言模型|大型语言模型)
        作為(一個)?(ai|人工智慧|語言模型)
        (ai|人工知能|言語モデル)(である|なので|として)
        (ai|인공지능|언어 모델)(로서|이기 때문에)
    """,
    # anywhere: blanks to be filled in
    "placeholder": r"""
        [\[<](your|insert|enter|company|recipient|placeholder) [^\[\]<>]{1,60}[\]>]
        [\[<](name|date|topic|title|link|url|email|address)[\]>]
        \[(dein|ihr|votre|tu|su|seu) (name|nom|nombre|nome)\]
        [{]{2}[^{}]{1,80}}}
        lorem ipsum
    """,
    # at the beginning: chatter before the answer
    "opening": r"""
        (sure|certainly|of course|absolutely|definitely)( thing)?[!,.:]
        (great question|good question|no problem)( thing)?[!,.:]
        (okay|ok|alright),? (here|let)
        here('s| is| are) (the|a|an|some|your|my|one) [^:]{0,100}:
        (thank you|thanks) for (your|the|asking)
        (natürlich|selbstverständlich|gerne|bien sûr|certainement|claro)[!,.:]
        (por supuesto|com certeza|certo|natuurlijk|конечно)[!,.:]
        (当然|好的|もちろん|물론)
    """,
    # anywhere: chatter after the answer
    "closing": r"""
        hope (this|that) (helps|is helpful|answers)
        let me know … (questions?|help|need|like|further|else|assistance|clarification)
        (feel free|don't hesitate) to (ask|reach out|contact|let me know)
        is there anything else (i|you)
        happy to (help|assist) further
        ich hoffe,? (das|dies) hilft
        j'espère que cela
        espero que (esto|isso) (te )?(ayude|ajude)
        希望(这|这些|以上)\S{0,8}(帮助|有用)
        お役に立て
    """,
}
AT_START = {"refusal", "opening"}
LETTER = "[a-zß-ÿа-я]"  # of the scripts that put spaces between words


def compiled(kind: Kind) -> re.Pattern[str]:
    """Return one pattern for all phrases of a kind, matched as whole words in scripts that separate words."""
    phrases = [re.sub(r"(?<!\\)\(", "(?:", line.strip()) for line in PHRASES[kind].strip().split("\n")]
    phrases = [phrase.replace(" … ", r"(?: \S{1,40}){0,6}? ") for phrase in phrases]
    either = "|".join(rf"(?<!{LETTER}(?={LETTER})){phrase}(?!(?<={LETTER}){LETTER})" for phrase in phrases)
    return re.compile(
        rf"\A\W{{0,20}}(?:as an? [^.!?]{{0,60}}, ?)?(?:{either})" if kind in AT_START else either
    )


def boilerplate(
    *,
    fields: list[FieldName],
    kinds: list[Kind] = ["refusal", "identity", "placeholder"],
    patterns: list[str] = [],
) -> Filter:
    """Drop refusals, "As an AI language model" and unfilled "[Your Name]"; on demand "Sure!" and "I hope this
    helps".

    Costs 2 ms a page. Measures how often each kind occurs. The lists are longest for English; eleven other
    languages have shorter ones. `patterns` are regular expressions of your own.

    Options:
        fields: the texts to search
        kinds: the kinds of phrases to search: refusal, identity ("As an AI"), placeholder, opening ("Sure!"),
            closing
        patterns: regular expressions of your own, compared as the built-in phrases are
    """
    searched: dict[str, re.Pattern[str]] = {kind: compiled(kind) for kind in kinds}
    try:
        searched |= {pattern: re.compile(pattern) for pattern in patterns}
    except re.error as error:
        raise ValueError(f"'patterns': {error.pattern!r} is not a regular expression: {error}") from error

    def count(record: Record) -> dict[str, float]:
        texts = [" ".join(record.text(name).lower().replace("’", "'").split()) for name in fields]
        return {
            kind: sum(sum(1 for _ in pattern.finditer(text)) for text in texts)
            for kind, pattern in searched.items()
        }

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [count(record) for record in records]

    def decide(numbers: dict[str, float]) -> str | None:
        return ", ".join(f"{kind} {times:.0f} times" for kind, times in numbers.items() if times) or None

    return Filter(measure, decide)
