"""How jobs are cut into batches: by position alone, whole, in order, not too far ahead. Which strategy runs them."""

from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.batch.jobs import Job
from edgeclf.runtime.batch.strategies import Batcher, choose_strategy


def jobs(count, frames=()):
    return [Job(str(number), lambda: None, number if number in frames else None) for number in range(count)]


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 5))
def test_batches_are_the_jobs_in_order_and_the_end_is_shared(count, size, workers):
    source = jobs(count)
    batches = [list(batch) for batch in Batcher(source, size, workers)]
    assert [job for batch in batches for job in batch] == source
    assert all(1 <= len(batch) <= size for batch in batches)
    sizes = [len(batch) for batch in batches]
    # Whole batches, then equal smaller ones, then perhaps one that is smaller still.
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) <= 3
    if 0 < count < size * workers:
        assert len(batches) <= workers
        assert max(sizes) == -(-count // workers)


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 4))
def test_no_more_is_pulled_than_announced(count, size, workers):
    pulled = []

    def source():
        for job in jobs(count):
            pulled.append(job)
            yield job

    given_out = 0
    for batch in Batcher(source(), size, workers):
        given_out += len(batch)
        assert len(pulled) <= given_out + size * workers


@given(st.sets(st.integers(0, 29)), st.integers(1, 6), st.integers(1, 4))
def test_frames_go_alone_and_are_not_pulled_ahead(frames, size, workers):
    pulled = []

    def source():
        for job in jobs(30, frames):
            pulled.append(job)
            yield job

    seen = []
    for batch in Batcher(source(), size, workers, frames_alone=True):
        assert len(batch) == 1 or all(job.frame is None for job in batch)
        seen.extend(batch)
        assert sum(job.frame is not None for job in pulled[len(seen) :]) <= 1
    assert [job.source for job in seen] == [str(number) for number in range(30)]


@given(st.integers(0, 30), st.integers(1, 6), st.integers(1, 4))
def test_a_short_source_is_known_before_its_first_batch(count, size, workers):
    batches = Batcher(jobs(count), size, workers)
    assert batches.is_short() == (count < size * workers)
    assert [job.source for batch in batches for job in batch] == [str(number) for number in range(count)]


def choice(*, workers=2, is_cpu=True, threads=2, chosen=False):
    return choose_strategy(workers=workers, batch_size=4, is_cpu=is_cpu, threads=threads, threads_were_chosen=chosen)


def test_data_parallel_where_nothing_else_was_asked_and_the_workers_fill_the_cpus():
    assert [choice().name, choice(workers=3).name] == ["data-parallel"] * 2
    assert choice(threads=1, chosen=True).name == "data-parallel"
    assert choice(is_cpu=False).name == choice(is_cpu=False, threads=None).name == "prefetch"
    assert choice(chosen=True).name == "prefetch"
    assert choice(workers=2, threads=8).name == "prefetch"
    assert choice(threads=1, chosen=True, workers=1).name == "prefetch"
    assert choice(threads=1, workers=1).name == "prefetch"


def test_a_strategy_says_what_it_does():
    assert str(choice()) == "2 data-parallel workers, one thread each"
    assert str(choice(chosen=True)) == "2 workers decoding for one inference of 2 threads"
    assert str(choice(workers=1, is_cpu=False, threads=None)) == "1 worker decoding for one inference"
