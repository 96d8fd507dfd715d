"""A condition in the words of a template."""

CASES = [
    ({"true": "{{ solved }}"}, {"solved": True}, None),
    ({"true": "{{ solved }}"}, {"solved": False}, "{{ solved }} is not true"),
    ({"true": "{{ solved }}"}, {"solved": "No"}, "is not true"),
    ({"true": "{{ solved }}"}, {"solved": None}, "is not true"),
    ({"true": "{{ gap >= 1 }}"}, {"gap": 1}, None),
    ({"true": "{{ gap >= 1 }}"}, {"gap": 0.5}, "{{ gap >= 1 }} is not true"),
    ({"true": "{{ gap >= 1 }}"}, {"gap": "wide"}, "{{ gap >= 1 }} has no text"),
    ({"true": "{{ scores.judge >= 7 }}"}, {"meta": {"scores": {"judge": 7}}}, None),
    ({"true": "{{ scores['judge'] >= 7 }}"}, {"meta": {"scores": {"judge": 6}}}, "is not true"),
]
