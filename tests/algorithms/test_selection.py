"""Each selection method keeps its guarantee, compared with brute force on small sets."""

import itertools
import math
import resource

import numpy as np
import pytest

from distillgen.algorithms import selection
from distillgen.algorithms.selection import facility_location, herding, in_turn, k_center, k_means, leaders

SEEDS = range(20)


def unit(seed, count=11, dimensions=3):
    vectors = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def first(order, n):
    return list(itertools.islice(order, n))


def radius(vectors, chosen):
    """The largest distance to the nearest chosen one."""
    return np.linalg.norm(vectors[:, None] - vectors[list(chosen)], axis=2).min(1).max()


def covered(vectors, chosen):
    return np.maximum(vectors @ vectors[list(chosen)].T, 0).max(1).sum()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_k_center_is_within_twice_the_best_radius(seed, n):
    vectors = unit(seed, 12)
    best = min(radius(vectors, chosen) for chosen in itertools.combinations(range(12), n))
    found = first(k_center(vectors), n)
    assert len(set(found)) == n and radius(vectors, found) <= 2 * best + 1e-5


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_facility_location_is_within_1_less_1_over_e_of_the_best_sum(seed, n):
    vectors = unit(seed)
    best = max(covered(vectors, chosen) for chosen in itertools.combinations(range(11), n))
    assert covered(vectors, first(facility_location(vectors, n), n)) >= (1 - 1 / math.e) * best


@pytest.mark.parametrize("seed", SEEDS)
def test_facility_location_is_the_plain_greedy_choice(seed, monkeypatch):
    monkeypatch.setattr(selection, "BLOCK", 4)
    vectors, chosen = unit(seed), []
    for picked in first(facility_location(vectors, 6), 6):
        gains = [covered(vectors, [*chosen, i]) if i not in chosen else -1 for i in range(len(vectors))]
        assert gains[picked] == pytest.approx(max(gains), abs=1e-5)
        chosen.append(picked)


@pytest.mark.parametrize("seed", range(3))
def test_facility_location_from_samples_comes_near_the_greedy_choice(seed, monkeypatch):
    vectors = unit(seed, 400, 6)
    sampled = first(facility_location(vectors, 30, seed=seed), 30)
    assert (
        sampled
        == first(facility_location(vectors, 30, seed=seed), 30)
        != first(facility_location(vectors, 30, seed=seed + 1), 30)
    )
    chance = np.random.default_rng(seed)
    monkeypatch.setattr(selection, "SAMPLE", 400)
    greedy = covered(vectors, first(facility_location(vectors, 30), 30))
    assert (
        covered(vectors, sampled)
        > 0.97 * greedy
        > max(covered(vectors, chance.permutation(400)[:30]) for _ in range(50))
    )


def test_herding_keeps_the_mean_better_than_chance():
    for seed in SEEDS:
        vectors = unit(seed, 200, 8) + np.float32(0.3)
        chance = np.random.default_rng(seed)
        for n in (5, 20, 50):
            off = np.linalg.norm(vectors[first(herding(vectors), n)].mean(0) - vectors.mean(0))
            others = [
                np.linalg.norm(vectors[chance.permutation(200)[:n]].mean(0) - vectors.mean(0))
                for _ in range(50)
            ]
            assert off < np.mean(others) / 2


ALL = [k_center, herding, lambda vectors: facility_location(vectors, 3)]


@pytest.mark.parametrize("choose", ALL)
def test_every_item_comes_once_also_where_many_are_the_same(choose):
    vectors = np.concatenate([unit(0, 5), np.repeat(unit(1, 2), 10, axis=0)])
    assert sorted(choose(vectors)) == list(range(25))
    assert list(choose(vectors)) == list(choose(vectors))
    assert len({tuple(vectors[i]) for i in first(k_center(vectors), 7)}) == 7


def test_groups_in_turn():
    groups = [[0, 1, 2, 3, 4, 5], [10, 11], [20]]
    assert list(in_turn(groups, proportional=False)) == [0, 10, 20, 1, 11, 2, 3, 4, 5]
    assert sorted(in_turn(groups, proportional=True)) == [0, 1, 2, 3, 4, 5, 10, 11, 20]


@pytest.mark.parametrize("seed", SEEDS)
def test_shares_are_those_of_the_groups(seed):
    sizes = np.random.default_rng(seed).integers(1, 400, 6)
    groups = [[place] * size for place, size in enumerate(sizes)]
    for n in (10, 100, int(sizes.sum()) // 2):
        found = np.bincount(first(in_turn(groups, proportional=True), n), minlength=6)
        assert np.abs(found - n * sizes / sizes.sum()).max() < 1 and found.sum() == n


def webster(sizes):
    """The control: by the largest size / (places + 1/2), as groups were taken before."""
    taken = [0] * len(sizes)
    for _ in range(sum(sizes)):
        place = max(
            range(len(sizes)), key=lambda i: sizes[i] / (taken[i] + 0.5) if taken[i] < sizes[i] else 0
        )
        taken[place] += 1
        yield place


def furthest_off(places, sizes):
    taken, furthest = [0] * len(sizes), 0.0
    for n, place in enumerate(places, 1):
        taken[place] += 1
        furthest = max(
            furthest, *(abs(own - n * size / sum(sizes)) for own, size in zip(taken, sizes, strict=True))
        )
    return furthest


@pytest.mark.parametrize(
    "sizes", [[100] + [1] * 30, [1] * 50 + [7, 7], [60, 1, 1, 2, 3], [5], [1, 1], [33, 1, 33, 1, 33]]
)
def test_no_group_is_off_its_share_by_one_after_any_number(sizes):
    groups = [[place] * size for place, size in enumerate(sizes)]
    assert furthest_off(in_turn(groups, proportional=True), sizes) < 1
    assert sorted(in_turn(groups, proportional=True)) == sorted(place for group in groups for place in group)


def test_websters_method_is_off_by_more_than_one():
    assert furthest_off(webster([100] + [1] * 30), [100] + [1] * 30) > 5


@pytest.mark.parametrize("block", [3, 7, 1024])
@pytest.mark.parametrize("min_cosine", [0.5, 0.8, 0.95])
def test_leaders_are_those_of_the_plain_loop(monkeypatch, block, min_cosine):
    monkeypatch.setattr(selection, "BLOCK", block)
    vectors = unit(3, 60)
    leader, cosine = leaders(vectors, min_cosine)
    leading = []
    for i, vector in enumerate(vectors):
        cosines = vectors[leading] @ vector if leading else np.array([-2.0])
        if cosines.max() >= min_cosine:
            assert leader[i] == leading[cosines.argmax()] and cosine[i] == pytest.approx(
                cosines.max(), abs=1e-6
            )
        else:
            assert leader[i] == i and cosine[i] == 1
            leading.append(i)
    among = vectors[leading] @ vectors[leading].T
    assert 3 <= len(leading) < 60 and (among - 2 * np.eye(len(leading))).max() < min_cosine


def test_nothing_and_one():
    one = unit(0, 1)
    assert [list(choose(one)) for choose in ALL] == [[0]] * 3
    assert leaders(one, 0.9)[0].tolist() == [0] and leaders(one[:0], 0.9)[0].tolist() == []
    assert list(in_turn([], proportional=True)) == list(in_turn([], proportional=False)) == []
    assert list(in_turn([[], [3], []], proportional=True)) == [3]


@pytest.mark.slow
def test_a_hundred_thousand_vectors_take_no_square_of_memory():
    before = resource.getrusage(
        resource.RUSAGE_SELF
    ).ru_maxrss  # kilobytes: other tests load models into this process
    vectors = unit(0, 100_000, 64)
    for order in (k_center(vectors), herding(vectors), facility_location(vectors, 10_000)):
        assert len(set(first(order, 20))) == 20
    leader, _ = leaders(np.concatenate([vectors[:50_000]] * 2), 0.9)
    assert (leader[50_000:] == leader[:50_000]).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 1e6  # the square is 40 GB


def test_k_means_finds_planted_groups_and_numbers_them_by_their_first_vectors():
    centres, chance = np.eye(4, 8), np.random.default_rng(3)
    groups = np.array([2, 0, 0, 3, 1, *chance.integers(0, 4, 200)])
    vectors = centres[groups] + chance.normal(scale=0.1, size=(len(groups), 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    found = k_means(vectors, 4)
    order = {2: 0, 0: 1, 3: 2, 1: 3}
    assert found.tolist() == [order[group] for group in groups.tolist()]
    assert k_means(vectors, 4).tolist() == found.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_k_means_ends_where_every_vector_is_nearest_to_the_mean_of_its_own_cluster(seed):
    vectors = unit(seed, 200)
    found = k_means(vectors, 5)
    means = np.array([vectors[found == i].mean(0) for i in range(5)])
    cosines = vectors @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    assert (cosines.argmax(1) == found).all()


def test_k_means_of_few_vectors():
    vectors = unit(0, 3)
    assert k_means(vectors, 3).tolist() == [0, 1, 2]
    assert k_means(vectors, 5).tolist() == [0, 1, 2]
    assert k_means(np.repeat(vectors[:1], 4, 0), 2).tolist() == [0, 0, 0, 0]
