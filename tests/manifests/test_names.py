"""Names that become parts of paths."""

import pytest
from lakes import write_lake

from manifests.choice import ChoiceError, choose
from manifests.names import checked_name

BAD = ["", ".", "..", "../x", "a/b", "/etc", "a\\b", "a b", "a.b", "é", "a\0", "a\n", "-rf", "x" * 65, 5, None, ["a"]]


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_is_no_plain_word_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="letters"):
        checked_name(name, "the split")


@pytest.mark.parametrize("name", ["train", "CD-SLM_2", "0", "_", "x" * 64])
def test_a_plain_word_is_a_name(name: str) -> None:
    assert checked_name(name, "the split") == name


@pytest.mark.parametrize("name", ["../..", "../selections/sel", ".", "a/b", "nope"])
def test_a_selection_and_a_dataset_are_named_by_a_plain_word(tmp_path, name: str) -> None:
    lake = write_lake(tmp_path, [[{"id": "a", "duration_s": 1.0}]])
    for named in ({"selection": name}, {"dataset": name}):
        with pytest.raises(ChoiceError) as caught:
            choose(lake, **named)
        assert caught.value.remedy
