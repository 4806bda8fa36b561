"""Groups of duplicates: copies of copies are one, parts belong to one whole, and a jingle links nothing."""

import pytest

from manifests.duplicates import Group, Member, grouped


def member(number: int, duration_s: float = 600.0, bandwidth_hz: float = 8000.0, bytes_per_s: float = 8000.0) -> Member:
    return Member(number, f"r{number}", "batch-000000", f"pcm{number}", duration_s, bandwidth_hz, bytes_per_s)


def groups(members: list[Member], links: list[tuple[int, int, float, float]]) -> dict[int, set[int]]:
    """The numbers of all members by that of the one that is kept."""
    made: list[Group] = grouped({one.number: one for one in members}, links, 0.8)
    return {group.best.number: {one.number for one in group.everyone()} for group in made}


def test_copies_of_copies_are_one_group_and_the_best_is_kept() -> None:
    members = [member(0, bandwidth_hz=3400), member(1), member(2, bytes_per_s=16_000), member(3, 100)]
    assert groups(members, [(1, 0, 1.0, 1.0), (2, 1, 0.99, 0.9)]) == {2: {0, 1, 2}}


@pytest.mark.parametrize(("longer_s", "kept"), [(602.0, 0), (606.0, 1)])
def test_length_counts_first_but_for_a_little(longer_s: float, kept: int) -> None:
    members = [member(0, 600), member(1, longer_s, bandwidth_hz=3400)]
    assert groups(members, [(1, 0, 0.9, 1.0)]) == {kept: {0, 1}}


def test_a_jingle_links_nothing_not_even_as_a_recording_of_its_own() -> None:
    members = [member(0), member(1), member(2), member(3, 8)]
    shared = [(1, 0, 0.02, 0.02), (2, 0, 0.02, 0.02), (2, 1, 0.02, 0.02)]
    assert groups(members, shared) == {}
    assert groups(members, [*shared, (3, 0, 1.0, 0.02), (3, 1, 0.99, 0.02), (3, 2, 1.0, 0.02)]) == {0: {0, 3}}


def test_a_part_of_a_copy_belongs_to_the_group_of_its_whole() -> None:
    members = [member(0), member(1, bandwidth_hz=3400), member(2, 60), member(3, 60), member(4, 1800)]
    links = [(1, 0, 1.0, 1.0), (2, 1, 0.95, 0.1), (3, 2, 1.0, 1.0), (4, 0, 0.3, 1.0)]
    assert groups(members, links) == {4: {0, 1, 2, 3, 4}}
    assert groups(members, links[:3]) == {0: {0, 1, 2, 3}}


def test_a_long_chain_of_parts_and_many_copies_are_one_group_each() -> None:
    count = 3000
    chain = [member(number, 100.0 + number) for number in range(count)]
    of_next = [(number + 1, number, 0.5, 1.0) for number in range(count - 1)]
    everyone = set(range(count))
    assert groups(chain, of_next) == {count - 1: everyone}
    copies = [member(number) for number in range(count)]
    of_first = [(number, first, 1.0, 1.0) for number in range(1, count) for first in range(min(number, 8))]
    assert groups(copies, of_first) == {0: everyone}
