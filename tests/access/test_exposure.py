"""No address that other machines reach is listened on without users, unless that is said."""

import pytest

from overread.access.exposure import check_exposure, is_loopback
from overread.domain import BadInputError


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_users(host):
    assert is_loopback(host)
    check_exposure(host, has_users=False, allow_anonymous=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "", "192.0.2.1", "no such name.invalid"])
def test_other_addresses_need_users_or_a_word(host):
    assert not is_loopback(host)
    with pytest.raises(BadInputError, match="nobody would have to log in: add users"):
        check_exposure(host, has_users=False, allow_anonymous=False)
    check_exposure(host, has_users=True, allow_anonymous=False)
    check_exposure(host, has_users=False, allow_anonymous=True)


def test_users_and_no_login_contradict_each_other():
    with pytest.raises(BadInputError, match="there are users, so that everybody has to log in"):
        check_exposure("127.0.0.1", has_users=True, allow_anonymous=True)
