"""A number is as short as it may be, and never looks like a bound that it is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sae_guard.render.numbers import distinct_numbers, number


@given(
    st.floats(-1e6, 1e6).filter(lambda v: v != 0.1),
    st.sampled_from([0.1, 0.25, 60.0]),
)
def test_a_value_is_never_rounded_onto_a_bound_that_it_is_not(value: float, bound: float) -> None:
    assert (float(number(value, beside=bound)) == bound) == (value == bound)


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_two_numbers_read_the_same_only_if_they_are_equal(one: float, other: float) -> None:
    one_text, other_text = distinct_numbers(one, other)
    assert (one_text == other_text) == (one == other)


def test_two_numbers_have_no_more_digits_than_tell_them_apart() -> None:
    assert distinct_numbers(0.1306, 0.2098) == ("0.1306", "0.2098")
    assert distinct_numbers(0.150312, 0.150348) == ("0.15031", "0.15035")
    assert distinct_numbers(12.2345, 10.718, digits=3) == ("12.2", "10.7")
