"""Settings are held against the types of their fields and against bounds, and numbers that are equal become one."""

from dataclasses import dataclass
from typing import Any

import pytest

from runtime import typed


@dataclass(frozen=True)
class Settings:
    rows: int = 1
    look_back_s: float = 2.0
    device: str = "cpu"
    compile: bool = False

    def __post_init__(self) -> None:
        typed.check_fields(self, at_least={"rows": 0}, above={"look_back_s": 0}, one_of={"device": ("cpu", "cuda")})


def test_whole_numbers_become_what_their_field_is() -> None:
    made = Settings(rows=4.0, look_back_s=3)  # type: ignore[arg-type]
    assert (made.rows, type(made.rows), made.look_back_s, type(made.look_back_s)) == (4, int, 3.0, float)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows": "x"}, "rows must be a whole number, 0 or more, not 'x'"),
        ({"rows": -1}, "rows must be a whole number, 0 or more, not -1"),
        ({"rows": 1.5}, "rows must be a whole number, 0 or more, not 1.5"),
        ({"rows": True}, "rows must be a whole number, 0 or more, not True"),
        ({"look_back_s": 0}, "look_back_s must be a number of seconds above 0, not 0.0"),
        ({"look_back_s": float("nan")}, "look_back_s must be a finite number of seconds above 0, not nan"),
        ({"device": "tpu"}, "device must be one of 'cpu', 'cuda', not 'tpu'"),
        ({"compile": 1}, "compile must be true or false, not 1"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_with_what_it_must_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)
