"""A number is as short as it may be, and never looks like a bound that it is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sae_guard.render import number


@given(
    st.floats(-1e6, 1e6).filter(lambda v: v != 0.1),
    st.sampled_from([0.1, 0.25, 60.0]),
)
def test_a_value_is_never_rounded_onto_a_bound_that_it_is_not(value: float, bound: float) -> None:
    assert (float(number(value, beside=bound)) == bound) == (value == bound)
