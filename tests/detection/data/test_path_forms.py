"""The index of names against a comparison with every name, by hypothesis."""

import time

from hypothesis import given
from hypothesis import strategies as st

from detection.data.path_forms import COMPARISONS, NameIndex, in_common

parts = st.sampled_from(["a", "b", "A", "c%20d", "0a1b2c3d-a", "a.jpg", "a.JPEG", ".."])
paths = st.lists(parts, min_size=1, max_size=4).map("/".join) | st.lists(st.just("a"), max_size=20).map("/".join)


@given(st.lists(paths, max_size=20), paths, st.booleans())
def test_the_index_finds_what_a_comparison_finds(names: list[str], name: str, base_alone: bool) -> None:
    expected: list[int] = []
    for own_form, form in COMPARISONS:
        own = own_form(name)
        common = {index: in_common(form(text), own) for index, text in enumerate(names) if form(text)[-1] == own[-1]}
        most = max(common.values(), default=0)
        if common and (most or base_alone):
            best = [index for index, count in common.items() if count == most]
            expected = [index for index in best if len(form(names[index])) <= len(own)] or best
            break
    assert NameIndex(names).fits(name, base_alone) == expected


def test_many_files_of_one_base_name_take_no_longer() -> None:
    names = [f"seq{number}/image.jpg" for number in range(5000)]  # compared with each other: 25 s
    index, start = NameIndex(names), time.process_time()
    assert [index.fits(f"photos/{name}", base_alone=False) for name in names] == [[n] for n in range(5000)]
    assert time.process_time() - start < 2
