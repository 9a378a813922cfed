"""How figures are written."""

from __future__ import annotations

from hcompile.report import words


def test_figures_keep_three_digits() -> None:
    assert [words.milliseconds(us) for us in (5.0, 1234.0, 123_456.0, 2_345_678.0)] == [
        "0.00500",
        "1.23",
        "123",
        "2346",
    ]
    assert words.figure(0.0023719) == "0.00237"


def test_shares_durations_and_lists() -> None:
    plain = [words.percent(0.8213), words.confidence(0.955), words.seconds(185.2), words.count(2, "row")]
    assert [text.replace(words.SPACE, " ") for text in plain] == ["82.1 %", "95.5 %", "3 min 05 s", "2 rows"]
    assert words.listed(["a"]) == "a" and words.listed(["a", "b", "c"]) == "a, b and c"
    assert words.numbers([0, 2, 3, 4, 9]) == "0, 2\N{EN DASH}4, 9"
