"""Texts that point outside themselves."""

PASSAGE = (
    "Lake Baikal, in Siberia, is the deepest lake on Earth, reaching 1,642 metres. Three rivers flow out."
)
BAIKAL = {"title": "Lake Baikal", "passage": PASSAGE}

CASES = [
    (
        {"fields": ["q", "a"], "subject": "title"},
        {**BAIKAL, "q": "How deep is Lake Baikal?", "a": "1,642 metres."},
        None,
    ),
    (
        {"fields": ["q", "a"], "subject": "title"},
        {**BAIKAL, "q": "How deep is it?", "a": "Deep."},
        "points outside itself",
    ),
    (
        {"fields": ["q", "a"], "subject": "title"},
        {**BAIKAL, "q": "What does the passage say of Baikal?", "a": "Much."},
        "1 times",
    ),
    (
        {"fields": ["q", "a"], "subject": "title"},
        {**BAIKAL, "q": "What is Baikal?", "a": "It is a lake."},
        None,
    ),
    (
        {"fields": ["q", "a"], "subject": "title"},
        {**BAIKAL, "q": "What lives in a lake and its rivers?", "a": "Seals."},
        None,
    ),
    (
        {"fields": ["q", "a"], "subject": "title"},
        {**BAIKAL, "q": "What is the starter used for?", "a": "For bread."},
        "1 times",
    ),
    (
        {"fields": ["q", "a"], "subject": "title"},
        {**BAIKAL, "q": "Why do seals thrive in Baikal?", "a": "They find much fish there."},
        None,
    ),
    (
        {"fields": ["q", "a"], "subject": "title"},
        {**BAIKAL, "q": "Why do they thrive there?", "a": "Seals find fish."},
        "points outside",
    ),
    (
        {"fields": ["q", "a"], "subject": "title"},
        {**BAIKAL, "q": "How deep is the lake?", "a": "He says very deep."},
        "1 times",
    ),
    (
        {"fields": ["q", "a"], "subject": "title"},
        {**BAIKAL, "q": "How long does it take to cross Lake Baikal?", "a": "A day."},
        None,
    ),
    (
        {"fields": ["q", "a"], "subject": "title"},
        {**BAIKAL, "q": "Which seal lives in Baikal according to the author?", "a": "The nerpa."},
        "1 times",
    ),
    (
        {"fields": ["q", "a"], "subject": "title"},
        {**BAIKAL, "q": "What does Baikal hold according to Hooke's law?", "a": "Water."},
        None,
    ),
    (
        {"fields": ["q", "a"], "subject": "title"},
        {
            "title": "Copyright",
            "q": "When does copyright end?",
            "a": "Seventy years after the author's death.",
        },
        None,
    ),
    (
        {"fields": ["q", "a"], "subject": "title"},
        {"title": "Contracts", "q": "Must a contract state the document's date?", "a": "No."},
        None,
    ),
    (
        {"fields": ["q", "a"], "subject": "title"},
        {"title": "The Northwest Passage", "q": "Who sailed the passage first?", "a": "Roald Amundsen."},
        None,
    ),
    (
        {"fields": ["q", "a"], "subject": "title"},
        {**BAIKAL, "q": "What does the figure above show of Baikal?", "a": "Fish."},
        "points outside",
    ),
    (
        {"fields": ["q", "a"], "subject": "title"},
        {**BAIKAL, "q": "How deep is Baikal, as mentioned above?", "a": "Deep."},
        "points outside",
    ),
    (
        {"fields": ["a"], "subject": "title"},
        {**BAIKAL, "a": "The lake holds ice in May. It melts in June."},
        None,
    ),
    ({"fields": ["a"], "subject": "title"}, {**BAIKAL, "a": "It melts in June."}, "points outside"),
]
