"""When an engine that says nothing is asked, and when it is left."""

from bokilog.client.silence import UNANSWERED_MAX, EngineSilence


def test_it_owes_something_once_something_was_sent() -> None:
    silence = EngineSilence()
    silence.heard(1)
    assert not silence.owes(1)
    assert silence.owes(2)
    silence.heard(2)
    assert not silence.owes(2)


def test_it_is_asked_once_and_left_if_it_does_not_answer() -> None:
    silence = EngineSilence()
    looks = [silence.look() for _ in range(3 + UNANSWERED_MAX)]
    assert looks == ["wait", "ask", *["wait"] * UNANSWERED_MAX, "leave"]


def test_one_that_says_anything_is_not_left() -> None:
    """A read may wait for a record for longer than that, and an append for the next term."""
    silence = EngineSilence()
    for sent_count in range(100):
        assert {silence.look(), silence.look()} == {"wait", "ask"}
        silence.heard(sent_count)
