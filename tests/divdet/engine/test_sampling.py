"""Which images a step takes, however many processes share it out, and where a run goes on inside an epoch."""

import pytest

from divdet.engine.sampling import EpochSampler, derived_seed


def indices(sampler: EpochSampler, batch: int) -> list[int]:
    return [index for _, index in sampler.batch(batch)]


def test_a_steps_images_are_the_same_however_they_are_shared_out() -> None:
    whole = EpochSampler(50, 8, seed=3)
    halves = [EpochSampler(50, 4, 3, replica=replica, replicas=2) for replica in (0, 1)]
    parts = EpochSampler(50, 2, 3, accumulate=4)
    for sampler in (whole, parts, *halves):
        sampler.epoch = 5
    for step in range(6):
        images = indices(whole, step)
        assert indices(halves[0], step) + indices(halves[1], step) == images
        assert [index for batch in range(4 * step, 4 * step + 4) for index in indices(parts, batch)] == images
    assert (whole.batches, halves[0].batches, parts.batches) == (6, 6, 24)


def test_an_epoch_goes_on_where_it_was() -> None:
    sampler = EpochSampler(50, 8, seed=3)
    everything = list(sampler)
    sampler.start = 2
    assert list(sampler) == everything[16:]
    assert len(sampler) == 32


@pytest.mark.parametrize(
    ("before", "now", "done", "batch"),
    [
        (EpochSampler(64, 4, 0), EpochSampler(64, 4, 0), 7, 7),
        (EpochSampler(149, 50, 0), EpochSampler(149, 10, 0), 1, 5),  # 50 images are done: the 5 batches of 10
        (EpochSampler(64, 4, 0, accumulate=2), EpochSampler(64, 4, 0, accumulate=4), 10, 8),  # inside the third step
        (EpochSampler(64, 4, 0), EpochSampler(64, 4, 0, replicas=2), 5, 2),
        (EpochSampler(64, 4, 0), EpochSampler(64, 4, 0, replicas=2), 16, 8),  # the epoch's training was done
        (EpochSampler(67, 4, 0), EpochSampler(67, 33, 0), 16, 2),
        (EpochSampler(64, 4, 0, replicas=2), EpochSampler(64, 4, 0), 5, 10),
    ],
)
def test_a_run_under_another_layout_of_steps_skips_no_image(
    before: EpochSampler, now: EpochSampler, done: int, batch: int
) -> None:
    assert now.batch_after(done, before.layout) == batch


def test_sampler_fills_batches_and_depends_on_seed_and_epoch_only() -> None:
    sampler = EpochSampler(10, 4, seed=1)
    first = list(sampler)
    assert len(first) == len(sampler) == 8
    assert len({index for _, index in first}) == 8
    sampler.epoch = 1
    assert {epoch for epoch, _ in sampler} == {1}
    assert [index for _, index in sampler] != [index for _, index in first]
    assert list(EpochSampler(10, 4, seed=1)) == first


def test_a_small_data_set_is_repeated_with_other_numbers() -> None:
    """3 images fill a step of 2 batches of 2 replicas of 4: 16 different keys, 5 or 6 of each image."""
    samplers = [EpochSampler(3, 4, seed=0, accumulate=2, replica=replica, replicas=2) for replica in (0, 1)]
    keys = [key for sampler in samplers for key in sampler]
    assert len(set(keys)) == len(keys) == 16
    images = [image for sampler in samplers for batch in (0, 1) for image in sampler.images(batch)]
    assert sorted(images.count(image) for image in range(3)) == [5, 5, 6]
    assert images == [number % 3 for _, number in keys]
    assert sorted(keys) == sorted(EpochSampler(3, 16, seed=0))
    assert max(number for _, number in EpochSampler(16, 16, seed=0)) == 15


def test_derived_seeds_differ() -> None:
    seeds = {derived_seed(0, name, number) for name in ("a", "b") for number in range(100)}
    assert len(seeds) == 200
