"""Keys: what they choose, and what they ask of a pool."""

from __future__ import annotations

from taskpool.generator.top.model import BatchRow, JobRow, PoolRow, Request
from taskpool.generator.top.view import Section, Sort, View, follow, jobs_of, press


def a_job(seq: int = 1, **fields: object) -> JobRow:
    row = JobRow("night", seq, 1000 + seq, f"b/{seq}", float(seq), f"sleep {seq}")
    return row._replace(**fields)  # type: ignore[arg-type]


def a_pool(jobs: int = 3, state: str = "running") -> PoolRow:
    batches = [BatchRow("night", "b", 0, 9, 9), BatchRow("night", "old", 5, 5, 5)]
    return PoolRow("night", state=state, jobs=[a_job(seq) for seq in range(1, jobs + 1)], batches=batches)


MODEL = [a_pool()]


def pressed(*keys: str, view: View | None = None, model: list[PoolRow] = MODEL) -> tuple[View, list[Request]]:
    view, requests = follow(view or View(), model), []
    for key in keys:
        view, request = press(view, key, model)
        requests += [request] if request is not None else []
    return view, requests


def test_q_quits() -> None:
    assert pressed("q")[0].quit


def test_a_job_is_cancelled_when_it_is_confirmed_twice() -> None:
    assert pressed("down", "c", "y", "y")[1] == [Request("night", "cancel", "b", 2)]


def test_a_batch_is_cancelled_when_it_is_confirmed_twice() -> None:
    assert pressed("tab", "c", "y", "Y")[1] == [Request("night", "cancel", "b", 0)]


def test_any_other_key_cancels_nothing() -> None:
    for keys in (["c", "n"], ["c", "y", "n"], ["c", "y", "enter"], ["c", "c"], ["c", "q"], ["c", "y", "escape"]):
        view, requests = pressed(*keys)
        assert requests == []
        assert view.question is None
        assert view.message == "nothing is cancelled"
        assert not view.quit


def test_what_is_confirmed_is_what_was_asked_about() -> None:
    view, _ = pressed("c")
    # The job ends while the question stands, and another one comes to its place.
    left = [a_pool()._replace(jobs=[a_job(2), a_job(3)])]
    view = follow(view, left)
    _, requests = pressed("y", "y", view=view, model=left)
    assert requests == [Request("night", "cancel", "b", 1)]


def test_nothing_is_cancelled_where_there_is_nothing() -> None:
    view, requests = pressed("c", model=[a_pool(jobs=0)])
    assert (requests, view.question) == ([], None)
    assert "nothing is chosen" in view.message


def test_a_job_whose_name_is_none_is_not_asked_about() -> None:
    model = [a_pool()._replace(jobs=[a_job(job="\x1b[2J")])]
    view, requests = pressed("c", "y", "y", model=model)
    assert requests == []
    assert view.question is None


def test_p_pauses_and_unpauses_the_pool_of_the_row() -> None:
    assert pressed("p")[1] == [Request("night", "pause")]
    assert pressed("p", model=[a_pool(state="paused")])[1] == [Request("night", "unpause")]
    assert pressed("p", model=[a_pool(state="draining")])[1] == []


def test_the_only_pool_is_paused_without_a_row() -> None:
    only = a_pool(jobs=0)
    assert pressed("p", model=[only])[1] == [Request("night", "pause")]
    assert pressed("p", model=[only, only._replace(name="other")])[1] == []


def test_the_cursor_stays_on_its_row() -> None:
    view, _ = pressed("down", "down")
    assert view.cursor == ("night", "b/3")
    fewer = [a_pool()._replace(jobs=[a_job(3)])]
    assert follow(view, fewer).cursor == ("night", "b/3")
    gone = [a_pool(jobs=2)]
    assert follow(view, gone).cursor == ("night", "b/2"), "the last one, where its own is gone"
    assert follow(view, [a_pool(jobs=0)]).cursor is None


def test_the_cursor_does_not_leave_the_rows() -> None:
    assert pressed("up")[0].place == 0
    assert pressed(*["down"] * 9)[0].place == 2
    assert pressed("page down", "page up")[0].place == 0


def test_a_filter_is_typed_kept_and_dropped() -> None:
    view, _ = pressed("/", *"SLEEP 2", "enter")
    assert [row.job for row in jobs_of(MODEL, view)] == ["b/2"]
    assert view.cursor == ("night", "b/2")
    assert not view.typing
    view, _ = pressed("/", "q", "backspace", "c", view=view)
    assert view.filter == "sleep 2c".replace("sleep", "SLEEP"), "keys are letters while it is typed"
    assert pressed("escape", view=view)[0].filter == ""
    assert len(pressed("/", *"x" * 500)[0].filter) == 64


def test_sorting_goes_round() -> None:
    rows = [a_job(1, cpu_percent=5.0, rss_bytes=1), a_job(2, cpu_percent=None), a_job(3, cpu_percent=90.0, rss_bytes=9)]
    model = [PoolRow("night", jobs=rows)]

    def order(sort: Sort) -> list[int]:
        return [row.slot for row in jobs_of(model, View(sort=sort))]

    assert order(Sort.SLOT) == [1, 2, 3]
    assert order(Sort.TIME) == [3, 2, 1]
    assert order(Sort.CPU) == [3, 1, 2]
    assert order(Sort.MEMORY) == [3, 1, 2]
    view, _ = pressed(*["s"] * len(Sort))
    assert view.sort is Sort.SLOT


def test_other_keys_do_nothing() -> None:
    before = follow(View(), MODEL)
    for key in ("x", "key 410", "é", "enter", "backspace"):
        assert press(before, key, MODEL) == (before, None)
    assert before.section is Section.JOBS
