"""Scorers whose libraries take long to load, and all of them together with a judge."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tasks.evaluation_sections import HYGIENE
from tasks.scorers import CUT, score_replies
from tests.evaluating import section


def score(kind: str, pairs: Sequence[tuple[str, str]]) -> list[float]:
    docs = [{"id": str(number), "reply": reply, "messages": []} for number, (_, reply) in enumerate(pairs)]
    found = score_replies(section(it={"type": kind}), None, Path(), docs, [answer for answer, _ in pairs])
    assert all(list(scores) == ["it", *HYGIENE] for scores in found)
    return [scores["it"] for scores in found]


ROUGE = {
    ("the cat sat", "the cat sat"): 1,
    ("The CAT, sat!", "the cat sat"): 1,
    ("police kill the gunman", "police killed the gunman"): 0.75,  # Lin 2004: 3 of 4 words in order, both ways
    ("the gunman kill police", "police killed the gunman"): 0.5,
    ("a b", "a b c d"): 2 / 3,
    ("", "a"): 0,
    ("x", "a"): 0,
    ("주문을 취소", "주문은 취소"): 0.8,
    ("東京都", "京都"): 0.8,
    ("สวัสดี", "สวัสดี"): 1,
    ("Привет, мир", "привет мир"): 1,
    ("नमस्ते दुनिया", "नमस्ते"): 2 / 3,
}


def test_rouge_l_counts_tokens_in_order_in_any_script() -> None:
    assert score("rouge_l", list(ROUGE)) == pytest.approx(list(ROUGE.values()))


def test_chrf_is_sacrebleus_as_a_share() -> None:
    from sacrebleu import sentence_chrf

    pairs = [
        ("the cat sat on it", "the cat sat"),
        ("환불은 5일 걸려요", "환불은 5일이 걸립니다"),
        ("", "a"),
        ("x", "a"),
        ("the cat", "the cat"),
    ]
    found = score("chrf", pairs)
    assert found[:2] == pytest.approx([sentence_chrf(answer, [reply]).score / 100 for answer, reply in pairs[:2]])
    assert 0 < found[1] < found[0] < 1
    assert found[2:] == [0, 0, 1]


@pytest.mark.parametrize("kind", ["rouge_l", "chrf"])
def test_a_reply_that_was_cut_off_scores_what_it_says(kind: str) -> None:
    assert score(kind, [("the cat sat" + CUT, "the cat sat")]) == [1]
