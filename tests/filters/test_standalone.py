"""Texts that point outside themselves."""

PASSAGE = "Lake Baikal, in Siberia, is the deepest lake on Earth, reaching 1,642 metres. Three rivers flow out."
BAIKAL = {"title": "Lake Baikal", "passage": PASSAGE}

CASES = [
    ({"fields": ["q", "a"], "subject": "title"}, {**BAIKAL, "q": "How deep is Lake Baikal?", "a": "1,642 metres."}, None),
    ({"fields": ["q", "a"], "subject": "title"}, {**BAIKAL, "q": "How deep is it?", "a": "Deep."}, "points outside itself"),
    ({"fields": ["q", "a"], "subject": "title"}, {**BAIKAL, "q": "What does the passage say of Baikal?", "a": "Much."}, "1 times"),
    ({"fields": ["q", "a"], "subject": "title"}, {**BAIKAL, "q": "What is Baikal?", "a": "It is a lake."}, "1 times"),
    ({"fields": ["q", "a"], "subject": "title"}, {**BAIKAL, "q": "What lives in a lake and its rivers?", "a": "Seals."}, None),
    ({"fields": ["q", "a"], "subject": "title"}, {**BAIKAL, "q": "What is the starter used for?", "a": "For bread."}, "1 times"),
]  # fmt: skip
