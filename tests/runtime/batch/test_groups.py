"""How jobs are cut into inferences: by position alone, whole, in order, and not too far ahead."""

from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.batch.groups import Groups
from edgeclf.runtime.batch.jobs import Job


def jobs(count, frames=()):
    return [Job(str(number), lambda: None, number if number in frames else None) for number in range(count)]


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 5))
def test_groups_are_the_jobs_in_order_and_the_end_is_shared(count, size, workers):
    source = jobs(count)
    groups = [list(group) for group in Groups(source, size, workers)]
    assert [job for group in groups for job in group] == source
    assert all(1 <= len(group) <= size for group in groups)
    sizes = [len(group) for group in groups]
    # Whole groups, then equal smaller ones, then perhaps one that is smaller still.
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) <= 3
    if 0 < count < size * workers:
        assert len(groups) <= workers
        assert max(sizes) == -(-count // workers)


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 4))
def test_no_more_is_pulled_than_announced(count, size, workers):
    pulled = []

    def source():
        for job in jobs(count):
            pulled.append(job)
            yield job

    given_out = 0
    for group in Groups(source(), size, workers):
        given_out += len(group)
        assert len(pulled) <= given_out + size * workers


@given(st.sets(st.integers(0, 29)), st.integers(1, 6), st.integers(1, 4))
def test_frames_go_alone_and_are_not_pulled_ahead(frames, size, workers):
    pulled = []

    def source():
        for job in jobs(30, frames):
            pulled.append(job)
            yield job

    seen = []
    for group in Groups(source(), size, workers, frames_alone=True):
        assert len(group) == 1 or all(job.frame is None for job in group)
        seen.extend(group)
        assert sum(job.frame is not None for job in pulled[len(seen) :]) <= 1
    assert [job.source for job in seen] == [str(number) for number in range(30)]
