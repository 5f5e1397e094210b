"""Personal data and secrets: what is found, what is not, and that a mask leaves nothing of it and nothing else changed."""

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.sensitive import Find, find_personal_data, find_secret, mask

FIND_PERSONAL_DATA: Find = partial(find_personal_data, regions=("DE", "GB", "KR", "US"))

# Each with the words around it, which must stay.
PERSONAL_DATA = [
    ("EMAIL", "write to ", "m.tell+x@mail.example.co.uk", "."),
    ("EMAIL", "<", "jürgen@bücher.example", ">"),
    ("EMAIL", "메일은", "help@example.com", "으로 보내주세요."),
    ("EMAIL", "メールは", "info@example.co.jp", "まで"),
    ("IBAN", "to ", "DE89370400440532013000", ", please"),
    ("IBAN", "", "DE89 3704 0044 0532 0130 00", " ASAP"),
    ("IBAN", "my iban is ", "de89 3704 0044 0532 0130 00", " ok"),
    ("IBAN", "계좌는 ", "GB82WEST12345698765432", "입니다"),
    ("IBAN", "", "FR14 2004 1010 0505 0001 3M02 606", ""),
    ("CARD", "", "4111 1111 1111 1111", " 12/27"),
    ("CARD", "order 3 ", "4111 1111 1111 1111", " x"),
    ("CARD", "", "5500-0000-0000-0004", " 123"),
    ("CARD", "it is ", "378282246310005", "."),
    ("CARD", "카드번호는", "4111111111111111", "입니다"),
    ("PHONE", "", "+49 30 901820", ""),
    ("PHONE", "", "+49 (0) 30 901820", ""),
    ("PHONE", "ring ", "0049 30/901820", " at 5"),
    ("PHONE", "", "020 7946 0018", ""),
    ("PHONE", "", "(201) 555-0123", " on 05.03.2026"),
    ("PHONE", "call ", "201-555-0123", ", thanks"),
    ("PHONE", "전화는 ", "010-1234-5678", "로 주세요"),
    ("PHONE", "번호는", "01012345678", "이에요"),
    ("PHONE", "서울 ", "02-123-4567", ""),
    ("PHONE", "", "+82 10-1234-5678", "입니다"),
    ("PHONE", "", "０１０－１２３４－５６７８", ""),
    ("PHONE", "", "+33 1 42 68 53 00", ""),
]

TOKEN = "aB3dE6gH9jK2mN5pQ8rS"  # put together below, so that no scanner takes this file for a leak
SECRETS = [
    ("key ", "AKIA" + "IOSFODNN7EXAMPLE", "."),
    ("", "aws_secret_access_key = " + TOKEN * 2, "\n"),
    ("", "AIza" + TOKEN + TOKEN[:15], ""),
    ("", "ghp_" + TOKEN * 2, " for CI"),
    ("", "github_pat_" + TOKEN + "_" + TOKEN * 3, ""),
    ("token=", "glpat-" + TOKEN, "&x"),
    ("토큰은", "hf_" + TOKEN * 2, "입니다"),
    ("", "xoxb-" + "1234567890-" + TOKEN, ""),
    ("https://", "hooks.slack.com/" + "services/T0000/B0000/" + TOKEN, ""),
    ("", "sk-" + "proj-" + TOKEN, ", please"),
    ("", "sk-" + "ant-api03-" + TOKEN, ""),
    ("", "sk_" + "live_" + TOKEN, ""),
    ("Bearer ", "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0In0" + "." + TOKEN, ""),
    ("postgres://", "ann:hun@ter2", "@db.example.com/shop"),
    ("see redis://", ":hunter2", "@cache:6379 today"),
    ("a\n", "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE\nab+/\n-----END RSA " + "PRIVATE KEY-----", "\nb"),
    ("a\n", "-----BEGIN " + "PRIVATE KEY-----\nMIIE", ""),
]


@pytest.mark.parametrize(("kind", "before", "find", "after"), PERSONAL_DATA)
def test_personal_data_are_found_and_masked(kind: str, before: str, find: str, after: str) -> None:
    text = f"{before}{find}{after}"
    found = FIND_PERSONAL_DATA(text)
    assert found is not None
    assert found.kind == kind
    assert mask(text, FIND_PERSONAL_DATA) == (f"{before}[{kind}]{after}", {kind})


@pytest.mark.parametrize(("before", "find", "after"), SECRETS)
def test_secrets_are_found_and_masked(before: str, find: str, after: str) -> None:
    assert mask(f"{before}{find}{after}", find_secret) == (f"{before}[SECRET]{after}", {"SECRET"})


@pytest.mark.parametrize(
    "text",
    [
        "goods 56 + delivery 4.90 = 60.90",
        "2024-11-18 03:12:44,187",
        "from 05.03.2026 19:34 to 06-07-2026, or 03.08. - 26.06.2026",
        "18-11-2024, 3 to 5 working days, 0.50 euros",
        "open 09:00-12:30, 14:00-18:30",
        "2026.03.05 오전 10:30에 1,234,567원을 냈어요",
        "Order 4711-2210",
        "주문번호 20261124-00123",
        "order 2025550143",
        "order 4111111111111112",
        "Bestellung 203-3997548-7879379, INV-0290-342732, #0301234567",
        "tracking 1234567890123456",
        "item 4006381333931",
        "ISBN 978-3-16-148410-0 and 0-306-40615-2",
        "사업자등록번호 123-45-67890, 대표번호 1588-1234",
        "192.168.100.200, v1.22.333.4444, 120 x 200 x 300 mm",
        "+49 12",
        "DE89370400440532013001",
        "we meet @ 5, 3 pieces@4.50, hi @anna",
        "my address ends in .con instead of .com",
        "주문번호 4711-2210 언제 오나요? 12,900원 결제했어요.",
    ],
)
def test_other_numbers_are_no_personal_data(text: str) -> None:
    assert mask(text, FIND_PERSONAL_DATA) == (text, set())


@pytest.mark.parametrize(
    "text",
    [
        "https://shop.example:8080/a@b and http://localhost:3000",
        "postgres://<user>:<password>@host, ${USER}:${PASS}@host",
        "the sk-navigation-bar-with-long-name and a risk-assessment",
        "my password is on a note, the key too",
        "hf_hub_download, xoxo, AKIAN, eyJ",
        "-----BEGIN PUBLIC KEY-----",
        "비밀번호를 잊어버렸어요. https://shop.example/reset",
    ],
)
def test_what_only_looks_like_a_secret_is_none(text: str) -> None:
    assert mask(text, find_secret) == (text, set())


def test_without_regions_only_international_numbers_are_found() -> None:
    find = partial(find_personal_data, regions=())
    assert find("010-1234-5678") is None
    assert find("+82 10-1234-5678") is not None


def test_no_kind_is_found_in_another_ones_mask() -> None:
    text = " ".join(f"[{kind}]" for kind in ("SECRET", "EMAIL", "IBAN", "CARD", "PHONE"))
    assert find_secret(text) is FIND_PERSONAL_DATA(text) is None


PIECES = [find for _, _, find, _ in PERSONAL_DATA] + [find for _, find, _ in SECRETS]
CLEAN = [
    "안녕하세요",
    "order",
    "Order 4711-2210",
    "5 days",
    "@",
    "://",
    "0",
    "12",
    "+",
    "-",
    ".",
    "(",
    "x",
    "\n",
    " ",
    "[EMAIL]",
    "ſ",
]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(PIECES + CLEAN) | st.text(max_size=4), max_size=6), st.sampled_from(["", " ", "-"]))
def test_nothing_is_found_in_a_masked_text(parts: list[str], separator: str) -> None:
    text = separator.join(parts)
    for find in (find_secret, FIND_PERSONAL_DATA):
        masked, kinds = mask(text, find)
        assert find(masked) is None
        assert bool(kinds) is (masked != text)
        text = masked


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(PERSONAL_DATA), st.sampled_from(["안녕하세요", "5 days", "order"])), max_size=4))
def test_words_between_finds_stay(pairs: list[tuple[tuple[str, str, str, str], str]]) -> None:
    text = "\n".join(f"{word}\n{before}{find}{after}" for (_, before, find, after), word in pairs)
    wanted = "\n".join(f"{word}\n{before}[{kind}]{after}" for (kind, before, _, after), word in pairs)
    assert mask(text, FIND_PERSONAL_DATA)[0] == wanted


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_characters="@:", exclude_categories=["Nd", "Cs"]), max_size=40))
def test_a_text_without_digits_and_addresses_is_never_changed(text: str) -> None:
    assert mask(text, FIND_PERSONAL_DATA) == (text, set())
