"""Which texts are of another language than the declared one."""

import pytest

from tasks.conversations import Quarantined
from tasks.errors import ParamsError
from tasks.language import UNKNOWN, language_of, other_language
from tests.unit.test_conversations import asked, judge, said

TEXTS = {
    "en": "Where is my order? I have been waiting for two weeks now.",
    "de": "Wo bleibt meine Bestellung? Ich warte schon seit zwei Wochen.",
    "fr": "Bonjour, je voudrais savoir quand mon colis va enfin arriver.",
    "ko": "주문한 상품은 언제쯤 도착하나요?",
    "ja": "注文をキャンセルしたいのですが、どうすればいいですか。",
    "zh": "我想取消我的订单，请问怎么办理？我已经等了两个星期了。",
    "ru": "Где мой заказ? Я жду уже две недели.",
}


@pytest.mark.parametrize("spoken", TEXTS)
@pytest.mark.parametrize("declared", ["en", "ko"])
def test_a_text_is_told_by_its_language(spoken: str, declared: str) -> None:
    assert other_language(TEXTS[spoken], declared) == (None if spoken == declared else spoken)


@pytest.mark.parametrize("declared", ["en", "ko"])
@pytest.mark.parametrize("text", ["", "4711-2210", "12,900원", "ok merci", "네, 감사", "SELECT * FROM users WHERE id=1", "🙂🙂"])
def test_short_or_ambiguous_texts_pass(text: str, declared: str) -> None:
    assert other_language(text, declared) is None


def test_foreign_words_in_a_text_do_not_count() -> None:
    assert other_language("Order ID A-123, Quillmere support: 배송은 언제 오나요? 아직 문자를 받지 못했어요.", "ko") is None


@pytest.mark.parametrize("spoken", TEXTS)
def test_the_language_of_a_text_is_found(spoken: str) -> None:
    assert language_of(TEXTS[spoken]) == spoken


@pytest.mark.parametrize("text", ["", "4711-2210", "ok merci", "🙂🙂"])
def test_where_nobody_can_tell_it_is_unknown(text: str) -> None:
    assert language_of(text) == UNKNOWN


def test_a_row_of_another_language_is_quarantined() -> None:
    verdict = judge(asked("주문한 상품은 언제쯤 도착하나요? 아직 배송 문자를 받지 못했습니다."), language="en")
    assert isinstance(verdict, Quarantined)
    assert (verdict.reason, verdict.detail) == ("wrong_language", "the text is of language ko, wanted en (validate.language)")


def test_the_system_message_does_not_tell_the_language() -> None:
    english = ("system", "You are the support assistant of a shop. Be friendly, brief and to the point, whatever is asked.")
    korean = [("user", "주문을 취소하고 싶습니다."), ("assistant", "네, 바로 취소해 드리겠습니다.")]
    verdict = judge(said(english, *korean), language="ko")
    assert isinstance(verdict, Quarantined)
    assert verdict.reason == "format"


def test_a_language_that_is_not_known_is_refused_at_once() -> None:
    with pytest.raises(ParamsError, match="'xx', wanted null"):
        judge(asked("Hi"), language="xx")
