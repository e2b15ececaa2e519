from __future__ import annotations

import math
from dataclasses import fields

import pytest

from adcgan.errors import InputError
from adcgan.serve.limits import Limits, RefusalError, Room


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
@pytest.mark.parametrize("value", [-1, math.inf, math.nan, "many", True, None])
def test_a_value_that_is_no_limit_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"The '{name}' parameter must be"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", [f.name for f in fields(Limits) if f.name != "max_wait_ms"])
def test_zero_is_no_limit(name):
    with pytest.raises(InputError, match=f"The '{name}' parameter must be"):
        Limits(**{name: 0})


def test_images_need_not_wait_for_others():
    assert Limits(max_wait_ms=0).max_wait_ms == 0


@pytest.mark.parametrize("name", ["max_files", "max_batch", "decode_threads"])
def test_things_are_counted_in_whole_numbers(name):
    with pytest.raises(InputError, match=r"must be an integer of at least 1\. Got 2\.5"):
        Limits(**{name: 2.5})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_file_mb": 65}, "'max_file_mb' parameter must be at most 'max_request_mb', 64"),
        ({"max_request_mb": 600}, "'max_request_mb' parameter must be at most 'max_held_mb', 512"),
        ({"max_files": 2000}, "'max_files' parameter must be at most 'max_queue', 1024"),
    ],
)
def test_what_could_never_be_accepted_is_refused_at_the_start(values, message):
    with pytest.raises(InputError, match=message):
        Limits(**values)


def test_a_room_is_free_again_after_its_hold_even_if_that_fails():
    room = Room(10, "full")
    with room.hold(4) as hold:
        hold.grow(6)
        with pytest.raises(RefusalError, match="full") as caught, room.hold(1):
            pass
        assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "1"})
        assert room.taken == 10
    assert room.taken == 0
    with pytest.raises(ZeroDivisionError), room.hold(3):
        raise ZeroDivisionError
    assert room.taken == 0


def test_a_hold_that_was_released_early_gives_nothing_back_twice():
    room = Room(10, "full")
    with room.hold(4) as hold:
        hold.release()
        assert room.taken == 0
    assert room.taken == 0
