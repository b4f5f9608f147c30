"""A registry finds what was entered, and says what there is where a name is wrong."""

import pytest

from overread.domain import NotFoundError, Registry


def test_finds_what_was_entered_in_the_order_of_entry():
    fruits: Registry[int] = Registry("fruit")
    assert fruits.add("pear", 2) == 2
    fruits.add("apple", 1)
    assert fruits["pear"] == 2
    assert list(fruits) == ["pear", "apple"]
    assert len(fruits) == 2
    assert "apple" in fruits
    assert "plum" not in fruits


def test_the_decorator_returns_the_function_it_entered():
    verbs: Registry = Registry("verb")

    @verbs.register("twice")
    def twice(number: int) -> int:
        return 2 * number

    assert twice(4) == 8
    assert verbs["twice"] is twice


def test_a_wrong_name_is_answered_with_the_names_there_are():
    fruits: Registry[int] = Registry("fruit")
    fruits.add("pear", 2)
    fruits.add("apple", 1)
    with pytest.raises(NotFoundError, match="no fruit is called 'plum'; there are apple, pear"):
        fruits["plum"]


def test_a_name_is_given_once():
    fruits: Registry[int] = Registry("fruit")
    fruits.add("pear", 2)
    with pytest.raises(ValueError, match="fruit 'pear' is registered twice"):
        fruits.add("pear", 3)
    assert fruits["pear"] == 2
