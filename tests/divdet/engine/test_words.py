"""Numbers as text."""

from divdet.engine.words import counted, in_words


def test_lengths_of_time() -> None:
    assert [in_words(seconds) for seconds in (59.4, 60, 3599, 7500)] == [
        "59 s",
        "1 min 0 s",
        "59 min 59 s",
        "2 h 5 min",
    ]


def test_things_are_counted() -> None:
    found = [counted(1, "box", "boxes"), counted(0, "box", "boxes"), counted(12345, "step")]
    assert found == ["1 box", "0 boxes", "12,345 steps"]
