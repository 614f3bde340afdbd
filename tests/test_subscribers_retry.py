"""When a failed event is tried again: the waits that `Retry` draws."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.subscribers.retry import Retry

SECONDS = st.floats(min_value=0, max_value=1e6)
RETRIES = st.builds(
    Retry,
    attempts=st.integers(min_value=1, max_value=10_000),
    first_seconds=SECONDS,
    factor=st.floats(min_value=1, max_value=1e6),
    longest_seconds=SECONDS,
)
DRAWS = st.floats(min_value=0, max_value=1)
ATTEMPTS = st.integers(min_value=1, max_value=10_000)


@given(retry=RETRIES, attempts=ATTEMPTS, draw=DRAWS)
def test_a_wait_is_never_negative_and_never_longer_than_the_longest(retry: Retry, attempts: int, draw: float) -> None:
    assert 0 <= retry.wait_seconds(attempts, draw=lambda: draw) <= retry.longest_seconds


@given(retry=RETRIES, attempts=ATTEMPTS)
def test_the_jitter_is_full(retry: Retry, attempts: int) -> None:
    longest = retry.wait_seconds(attempts, draw=lambda: 1.0)
    assert retry.wait_seconds(attempts, draw=lambda: 0.0) == 0
    assert retry.wait_seconds(attempts, draw=lambda: 0.5) == pytest.approx(longest / 2)


@given(retry=RETRIES, attempts=ATTEMPTS)
def test_later_attempts_wait_at_least_as_long(retry: Retry, attempts: int) -> None:
    assert retry.wait_seconds(attempts, draw=lambda: 1.0) <= retry.wait_seconds(attempts + 1, draw=lambda: 1.0)


def test_the_waits_double_until_the_longest() -> None:
    retry = Retry(first_seconds=1, factor=2, longest_seconds=10)
    assert [retry.wait_seconds(attempts, draw=lambda: 1.0) for attempts in range(1, 7)] == [1, 2, 4, 8, 10, 10]


@given(retry=RETRIES)
def test_attempts_are_spent_with_the_last_one(retry: Retry) -> None:
    assert retry.spent(retry.attempts)
    assert not retry.spent(retry.attempts - 1)


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": -1},
        {"first_seconds": -0.1},
        {"factor": 0.9},
        {"longest_seconds": -1.0},
        {"first_seconds": float("nan")},
        {"factor": float("nan")},
        {"longest_seconds": float("inf")},
        {"longest_seconds": 1e12},
        {"attempts": "3"},
        {"attempts": 2.5},
        {"attempts": None},
        {"first_seconds": "1"},
        {"factor": True},
        {"final": ValueError},
        {"final": [ValueError]},
        {"final": ("ValueError",)},
    ],
    ids=str,
)
def test_a_retry_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Retry(**options)
