"""Personal data: what has a form, and a checksum where there is one. Pure.

Sources: ISO 13616 (IBAN, mod 97), ISO/IEC 7812 (cards, Luhn), RFC 5321 (the lengths of an address), E.164 (telephone).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from gateway.validation.check import Pattern, PatternCheck

NAME: Final = "personal_data"
_IBAN_LENGTHS: Final = {
    country: int(length)
    for pair in [
        "AD24",
        "AE23",
        "AT20",
        "BE16",
        "BG22",
        "BR29",
        "CH21",
        "CY28",
        "CZ24",
        "DE22",
        "DK18",
        "EE20",
        "ES24",
        "FI18",
        "FR27",
        "GB22",
        "GE22",
        "GI23",
        "GR27",
        "HR21",
        "HU28",
        "IE22",
        "IL23",
        "IS26",
        "IT27",
        "KW30",
        "LI21",
        "LT20",
        "LU20",
        "LV21",
        "MC27",
        "MD24",
        "ME22",
        "MK19",
        "MT31",
        "NL18",
        "NO15",
        "PL28",
        "PT25",
        "RO24",
        "RS22",
        "SA24",
        "SE24",
        "SI19",
        "SK24",
        "SM27",
        "TN24",
        "TR26",
        "UA29",
    ]
    for country, length in [(pair[:2], pair[2:])]
}


def _iban(text: str) -> int | None:
    length = _IBAN_LENGTHS.get(text[:2])
    places = [at for at, letter in enumerate(text, start=1) if letter != " "]
    if length is None or len(places) < length or text[places[length - 1] :][:1].isalnum():
        return None
    end = places[length - 1]
    plain = text[:end].replace(" ", "")
    turned = "".join(str(int(letter, 36)) for letter in plain[4:] + plain[:4])
    return end if int(turned) % 97 == 1 else None


def _card(text: str) -> int | None:
    digits = [int(letter) for letter in text if letter.isdigit()]
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[-2::-2]]
    return len(text) if (sum(doubled) + sum(digits[-1::-2])) % 10 == 0 and digits[0] in range(2, 7) else None


def _ssn(text: str) -> int | None:
    area, group, serial = text.split("-")
    return None if area in ("000", "666") or area[0] == "9" or group == "00" or serial == "0000" else len(text)


def _address(text: str) -> int | None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return None
    return len(text)


def _pattern(kind: str, whole: str, begun: str) -> Pattern:
    ends = {"iban": _iban, "card": _card, "us_ssn": _ssn, "ip_address": _address}.get(kind, len)
    return Pattern(kind, re.compile(whole, re.ASCII), re.compile(rf"(?:{begun})\Z", re.ASCII), ends)


CHECK: Final = PatternCheck(
    NAME,
    (
        _pattern(
            "email",
            r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}(?![\w-])",
            r"(?<![\w.+-])[\w.+-]{1,64}(?:@[A-Za-z0-9.-]{0,284})?",
        ),
        _pattern(
            "iban",
            r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}",
            r"(?<![A-Za-z0-9])[A-Z](?:[A-Z](?:[0-9](?:[0-9](?: ?[A-Z0-9]){0,30} ?)?)?)?",
        ),
        _pattern(
            "card",
            r"(?<![0-9])(?<![0-9][ -])[0-9](?:[ -]?[0-9]){12,18}(?![ -]?[0-9])",
            r"(?<![0-9])[0-9](?:[ -]?[0-9]){0,18}[ -]?",
        ),
        _pattern(
            "us_ssn",
            r"(?<![0-9-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![0-9-])",
            r"(?<![0-9-])[0-9]{1,3}(?:-(?:[0-9]{1,2}(?:-[0-9]{0,4})?)?)?",
        ),
        _pattern(
            "ip_address",
            r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\.?[0-9])",
            r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{0,3}){0,3}\.?",
        ),
        _pattern(
            "ip_address",
            r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])",
            r"(?<![\w:])[0-9A-Fa-f:]{1,40}",
        ),
        _pattern(
            "phone",
            r"(?<![\w+])\+[0-9](?:[ ().-]{0,2}[0-9]){7,14}(?![0-9])",
            r"(?<![\w+])\+(?:[0-9](?:[ ().-]{0,2}[0-9]){0,14}[ ().-]{0,2})?",
        ),
        _pattern(
            "phone",
            r"(?<![\w.-])(?:\([0-9]{3}\) ?|[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}(?![0-9])",
            r"(?<![\w.-])(?:\([0-9]{0,3}|(?:\([0-9]{3}\) ?|[0-9]{3}[ .-])(?:[0-9]{0,3}|[0-9]{3}[ .-][0-9]{0,4})"
            r"|[0-9]{1,3})",
        ),
    ),
)
