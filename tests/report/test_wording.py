from __future__ import annotations

import pytest

from adcgan.report.wording import counted, duration, percent, printable, rounded, value


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (0.9731, 1, "97.3%"),
        (0.01, 1, "1%"),
        (1, 1, "100%"),
        (0, 0, "0%"),
        (0.1, 0, "10%"),
        (-0.0001, 1, "0%"),
        (-0.333, 1, "-33.3%"),
    ],
)
def test_percent(share, digits, text):
    assert percent(share, digits) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (40, "40 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (600, "10 min"),
        (7800, "2 h 10 min"),
        (7200, "2 h"),
        (47 * 3600, "47 h"),
        (76 * 3600, "3 days 4 h"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_counted():
    assert [counted(n, "image") for n in (0, 1, 1200)] == ["0 images", "1 image", "1,200 images"]


def test_value():
    shown = [value(thing) for thing in (True, False, None, 0.123456, 3, "sum")]
    assert shown == ["yes", "no", "None", "0.1235", "3", "sum"]


def test_printable_escapes_what_a_terminal_cannot_show():
    assert printable("a\nb\x1b[31m\udcff é") == r"a\nb\x1b[31m\udcff é"


@pytest.mark.parametrize(
    ("number", "text"),
    [(8776.4, "8,780"), (12.49, "12.5"), (0.03124, "0.0312"), (2_345_678, "2,350,000"), (0, "0")],
)
def test_rounded(number, text):
    assert rounded(number) == text
