"""The teacher of hello.yaml: answers written by hand, so that the pipeline runs without a model."""

import json

from distillgen import Request

WRITTEN = {
    "why the sea is salty": (
        "Why is the sea salty?",
        "Rivers wash salts out of rocks into the sea, and only the water leaves it again, as vapour.",
    ),
    "how bread rises": (
        "What makes bread rise?",
        "Yeast feeds on sugars in the dough and gives off carbon dioxide, which the dough traps as bubbles.",
    ),
    "what keeps a bicycle upright": (
        "What keeps a rolling bicycle upright?",
        "It steers into each fall, which moves its wheels back under its weight.",
    ),
    "where the names of the days come from": (
        "Which gods gave their names to the English days from Tuesday to Friday?",
        "Tiw, Woden, Thor and Frigg, who stand in for the Roman gods of those days.",
    ),
    "how bees find their way home": (
        "How do bees find their way home?",
        "They read the direction of the sun and remember landmarks along the way.",
    ),
}


def written_answers(request: Request, sample: int) -> str:
    """The question and answer about the prompt's topic, as JSON."""
    topic = request.messages[-1]["content"].removeprefix("Topic: ").strip()
    if topic not in WRITTEN:
        remedy = "write one there, or name a real teacher in pipelines/hello.yaml"
        raise LookupError(f"data/hello.py has no answer about '{topic}': {remedy}")
    question, answer = WRITTEN[topic]
    return json.dumps({"question": question, "answer": answer})
