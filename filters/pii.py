"""Personal data in a form that can be checked. Names and postal addresses have no such form: use a judge for
those.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal

from distillgen import FieldName, Filter, Record
from distillgen.extras import need

Kind = Literal["email", "phone", "card", "iban", "ip", "ssn"]
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}\b")
CARD = re.compile(r"(?<![\d.,-])[2-6](?:[ -]?\d){12,18}(?![\d])")
IBAN = re.compile(r"\b[A-Z]{2}\d\d(?: ?[A-Z0-9]){11,32}")
IP = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[\da-fA-F:]{2,39})(?![\w:]|\.\d)")
SSN = re.compile(r"(?<![\w-])\d{3}-\d\d-\d{4}(?![\w-])")


def pii(
    *,
    fields: list[FieldName],
    kinds: list[Kind] = ["email", "phone", "card", "iban", "ip", "ssn"],
    region: str = "US",
) -> Filter:
    """Drop records with e-mail addresses, phone, payment card, account (IBAN) or US social security numbers,
    or public IP addresses. Costs 2 ms a page.

    Measures how many of each there are; the reason never shows them. Candidates are verified: Luhn digits,
    IBAN check digits and lengths, numbering plans. `region` is the country whose national notation of phone
    numbers is recognised. In each text, up to 200 candidates are examined as phone numbers.

    Options:
        fields: the texts to search
        kinds: the kinds of personal data to search
        region: the country, as an ISO 3166 code, whose phone numbers are also recognised without +
    """
    need("pii", "phonenumbers", "stdnum")
    from phonenumbers import SUPPORTED_REGIONS, PhoneNumberMatcher
    from stdnum import iban, luhn
    from stdnum.us import ssn

    if region not in SUPPORTED_REGIONS:
        raise ValueError(
            f"there is no region {region!r} with phone numbers; it takes ISO 3166 codes such as US, GB, DE"
        )

    def account(text: str) -> bool:
        compact = text.replace(" ", "")  # words in capitals may follow
        return any(iban.is_valid(compact[:size]) for size in range(15, len(compact) + 1))

    def address(text: str) -> bool:
        with suppress(ValueError):
            return ipaddress.ip_address(text).is_global
        return False

    def counted(pattern: re.Pattern[str], valid: Callable[[str], object]) -> Callable[[str], int]:
        return lambda text: sum(bool(valid(match[0])) for match in pattern.finditer(text))

    counters: dict[Kind, Callable[[str], int]] = {
        "email": counted(EMAIL, bool),
        "phone": lambda text: sum(1 for _ in PhoneNumberMatcher(text, region, max_tries=200)),
        "card": counted(CARD, lambda digits: luhn.is_valid(re.sub("[ -]", "", digits))),
        "iban": counted(IBAN, account),
        "ip": counted(IP, address),
        "ssn": counted(SSN, ssn.is_valid),
    }

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        texts = ["\n".join(r.text(name) for name in fields) for r in records]
        return [{kind: counters[kind](text) for kind in kinds} for text in texts]

    def decide(numbers: dict[str, float]) -> str | None:
        return ", ".join(f"{kind} {count:.0f} times" for kind, count in numbers.items() if count) or None

    return Filter(measure, decide)
