"""One family of errors, so that one place can answer for all of them."""

from overread.domain import BadInputError, NotFoundError, OverreadError


def test_what_is_missing_is_bad_input_and_all_are_ours():
    assert issubclass(NotFoundError, BadInputError)
    assert issubclass(BadInputError, OverreadError)


def test_no_built_in_error_is_caught_along_with_ours():
    assert not issubclass(OverreadError, (ValueError, OSError, RuntimeError, LookupError))
