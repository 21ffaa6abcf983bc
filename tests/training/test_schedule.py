"""When the index moves."""

from hypothesis import given
from hypothesis import strategies as st

from ed2rec.training.schedule import IndexSchedule

shares = st.floats(0, 1)


def test_a_schedule_by_hand():
    """100 steps: the LLM alone for 30, the generators until 65, tables after 37, 44, 51, 58 and 65 steps."""
    schedule = IndexSchedule.of(100, 0.3, 0.35, 5)
    assert schedule == IndexSchedule(30, 65, (37, 44, 51, 58, 65))
    assert [schedule.moving(step) for step in (0, 29, 30, 64, 65, 99)] == [False, False, True, True, False, False]


@given(st.integers(1, 500), shares, shares, st.integers(0, 40))
def test_tables_move_only_while_the_generators_learn_and_for_the_last_time_when_they_stop(steps, warm, tail, refreshes):
    schedule = IndexSchedule.of(steps, warm, tail, refreshes)
    assert list(schedule.refreshes) == sorted(set(schedule.refreshes)) and len(schedule.refreshes) <= refreshes
    learning = [step for step in range(steps) if schedule.moving(step)]
    if schedule.refreshes:
        assert learning == list(range(schedule.warm, schedule.freeze))
        assert schedule.refreshes[-1] == schedule.freeze <= steps
        assert all(schedule.warm < point for point in schedule.refreshes)
    else:
        assert learning == [], "static: generators that learn and no table that follows would be wasted work"


@given(st.integers(20, 500), st.integers(1, 5))
def test_refreshes_are_spread_evenly(steps, refreshes):
    points = IndexSchedule.of(steps, 0.2, 0.3, refreshes)
    gaps = [after - before for before, after in zip((points.warm, *points.refreshes), points.refreshes, strict=False)]
    assert len(gaps) == refreshes and max(gaps) - min(gaps) <= 1


@given(st.integers(1, 500), shares, shares)
def test_no_refresh_is_a_static_index(steps, warm, tail):
    assert IndexSchedule.of(steps, warm, tail, 0) == IndexSchedule(0, 0, ())
