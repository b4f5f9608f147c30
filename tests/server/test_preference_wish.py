"""Whether a case begins in its reader's usual style: as they say, else as the server's administrator says."""

from __future__ import annotations

import pytest

from overread.domain import BadInputError
from overread.server.meduhip.preferences import Wish


@pytest.mark.parametrize(("is_usual", "style"), [(True, "my usual style"), (False, "off")])
def test_the_administrator_decides_where_the_reader_says_nothing(is_usual: bool, style: str):
    assert Wish.options(is_usual)["preference"][0] == style
    assert set(Wish.options(is_usual)["preference"]) == {"my usual style", "off"}
    assert Wish.read({}, is_usual) == Wish(style, "diagnosis")
    # A client that did not show the table sends it back whole.
    assert Wish.read(Wish.options(is_usual), is_usual) == Wish(style, "diagnosis")


@pytest.mark.parametrize("is_usual", [True, False])
def test_what_the_reader_says_goes_before(is_usual: bool):
    for style in ("my usual style", "off"):
        assert Wish.read({"preference": style, "purpose": " radiotherapy "}, is_usual) == Wish(
            style, "radiotherapy"
        )
    with pytest.raises(BadInputError, match="preference"):
        Wish.read({"preference": "always"}, is_usual)
