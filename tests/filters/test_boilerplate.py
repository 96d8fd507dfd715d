"""Refusals, self-descriptions of assistants, blanks and chatter."""

import pytest

ALL = {"fields": ["x"], "kinds": ["refusal", "identity", "placeholder", "opening", "closing"]}

CASES = [
    ({"fields": ["x"]}, {"x": "Lake Baikal is 1,642 metres deep."}, None),
    ({"fields": ["x"]}, {"x": "I’m sorry, but I can’t assist with that request."}, "refusal 1 times"),
    (
        {"fields": ["q", "x"]},
        {"q": "Who are you?", "x": "As an AI language model, I cannot\nhelp you."},
        "refusal 1 times, identity 1 times",
    ),
    ({"fields": ["x"]}, {"x": "The door would not open. \"I'm sorry, I can't help,\" she said."}, None),
    ({"fields": ["x"]}, {"x": "She works as an aircraft mechanic and as an aide."}, None),
    ({"fields": ["x"]}, {"x": "Dear [Your Name], thank you."}, "placeholder 1 times"),
    ({"fields": ["x"]}, {"x": "An array a[name_of_it] and [1, 2] and <b>bold</b>."}, None),
    ({"fields": ["x"]}, {"x": "Sure! It is 1,642 metres deep. I hope this helps!"}, None),
    (ALL, {"x": "Sure! It is 1,642 metres deep. I hope this helps!"}, "opening 1 times, closing 1 times"),
    (ALL, {"x": "Surely it is deep. We hope to help. Certain things are here."}, None),
    (
        {"fields": ["x"], "kinds": [], "patterns": [r"\bdelve\b"]},
        {"x": "Let us Delve\tinto it."},
        r"\bdelve\b 1 times",
    ),
]


@pytest.mark.parametrize(
    "kind, text",
    [
        ("refusal", "I apologize, but as your assistant I am unable to do so."),
        ("refusal", "Unfortunately, I cannot really help with that."),
        ("refusal", "I am not able to provide medical advice."),
        ("refusal", "“Sorry, I can't do that."),
        ("refusal", "I must respectfully decline."),
        ("refusal", "Es tut mir leid, aber ich kann dabei nicht helfen."),
        ("refusal", "Leider kann ich diese Frage nicht beantworten."),
        ("refusal", "Je suis désolé, mais je ne peux pas répondre."),
        ("refusal", "Lo siento, pero no puedo ayudarte con eso."),
        ("refusal", "Desculpe, mas não posso ajudar."),
        ("refusal", "Mi dispiace, ma non posso."),
        ("refusal", "Извините, но я не могу помочь."),
        ("refusal", "很抱歉，我无法回答这个问题。"),
        ("refusal", "申し訳ありませんが、お答えできません。"),
        ("refusal", "죄송하지만 도와드릴 수 없습니다."),
        ("identity", "Well, I'm just an AI, so I have no body."),
        ("identity", "As a large language model I know little of it."),
        ("identity", "I don't have personal opinions."),
        ("identity", "As of my last knowledge update in 2021, it stood."),
        ("identity", "That would break OpenAI's usage policies."),
        ("identity", "Als KI-Sprachmodell habe ich keine Meinung."),
        ("identity", "En tant qu'IA, je n'ai pas d'avis."),
        ("identity", "Como modelo de lenguaje, no tengo opiniones."),
        ("identity", "作为一个人工智能，我没有感情。"),
        ("identity", "AIとして、意見はありません。"),
        ("placeholder", "Regards,\n[Insert your company here]"),
        ("placeholder", "Hello {{ name }},"),
        ("opening", "Here are some ideas for a party: balloons."),
        ("closing", "Let me know if you have any other questions."),
        ("closing", "Is there anything else I can do?"),
    ],
)
def test_each_kind_is_found_by_its_phrases(reason, kind, text):
    assert reason("boilerplate", {"fields": ["x"], "kinds": [kind]}, {"x": text}) == f"{kind} 1 times"


def test_a_wrong_pattern_is_told(reason):
    with pytest.raises(ValueError, match="'patterns': '\\(' is not a regular expression"):
        reason("boilerplate", {"fields": ["x"], "patterns": ["("]}, {"x": ""})
