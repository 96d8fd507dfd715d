"""Personal data; all numbers are reserved for examples and tests."""

import pytest

CLEAN = (
    "From 1914-1918 about 1,642,000,000 shells (ISBN 978-3-16-148410-0) were made; pi is "
    "3.14159265358979 and version 192.168.0.1 of it, "
    "at 2024-01-02 10:20:30, had order 1234 5678 9012 3456, code GB00ABCD, see user@localhost "
    "or @name, id 123-45-67890, 12:30:45, ::1."
)

CASES = [
    ({"fields": ["x"]}, {"x": CLEAN}, None),
    (
        {"fields": ["q", "x"]},
        {"q": "Who?", "x": "Write to jane.doe+a@mail.example.com, or j@example.org."},
        "email 2 times",
    ),
    ({"fields": ["x"]}, {"x": "Call (650) 253-0000 or +44 20 7946 0958."}, "phone 2 times"),
    ({"fields": ["x"], "region": "DE"}, {"x": "Ruf an: 030 303986300."}, "phone 1 times"),
    ({"fields": ["x"]}, {"x": "Ruf an: 030 303986300."}, None),
    (
        {"fields": ["x"], "kinds": ["card"]},
        {"x": "Card 4111 1111 1111 1111, 3782-822463-10005."},
        "card 2 times",
    ),
    ({"fields": ["x"], "kinds": ["card"]}, {"x": "Card 4111 1111 1111 1112."}, None),
    (
        {"fields": ["x"], "kinds": ["iban"]},
        {"x": "Pay to DE89 3704 0044 0532 0130 00 NOW, GB82WEST12345698765432."},
        "iban 2 times",
    ),
    ({"fields": ["x"], "kinds": ["iban"]}, {"x": "Pay to DE88 3704 0044 0532 0130 00."}, None),
    ({"fields": ["x"]}, {"x": "From 8.8.8.8, and 2606:4700:4700::1111."}, "ip 2 times"),
    ({"fields": ["x"]}, {"x": "From 10.0.0.1, fe80::1, 127.0.0.1 and 999.8.8.8."}, None),
    ({"fields": ["x"], "kinds": ["ssn"]}, {"x": "His number is 536-90-4399."}, "ssn 1 times"),
    ({"fields": ["x"], "kinds": ["ssn"]}, {"x": "The specimen 078-05-1120, and 000-12-3456."}, None),
    ({"fields": ["x"]}, {"x": {"mail": "j@example.org"}}, "email 1 times"),
]


def test_the_reason_names_the_kind_and_never_the_value(reason):
    found = reason("pii", {"fields": ["x"]}, {"x": "j@example.org, 4111 1111 1111 1111, 536-90-4399"})
    assert found == "email 1 times, card 1 times, ssn 1 times"


def test_an_unknown_region_is_told(reason):
    with pytest.raises(ValueError, match="there is no region 'UK' with phone numbers"):
        reason("pii", {"fields": ["x"], "region": "UK"}, {"x": ""})
