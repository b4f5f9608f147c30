"""Wrong passwords are counted by user and address, tickets and grants end when they should."""

from __future__ import annotations

import pytest

from overread.access import Person, Role
from overread.server.access import grants, limits, tickets
from overread.server.access.grants import Grants
from overread.server.access.limits import (
    MOST_OF_ADDRESS,
    MOST_OF_BOTH,
    MOST_OF_NAME,
    WINDOW_S,
    Attempts,
    TooManyAttemptsError,
)
from overread.server.access.tickets import LIFETIME_S, MOST_A_USER, Tickets


def test_after_five_wrong_passwords_somebody_waits_until_the_first_is_forgotten():
    attempts = Attempts()
    for second in range(MOST_OF_BOTH):
        attempts.begin("anna", "here", float(second))
    with pytest.raises(TooManyAttemptsError, match="try again in 296 s") as waits:
        attempts.begin("Anna", "here", 4.0)
    assert waits.value.headers == {"Retry-After": "296"}
    attempts.begin("anna", "at her desk", 5.0)
    attempts.begin("anna", "here", WINDOW_S)


def test_a_right_password_clears_the_count():
    attempts = Attempts()
    for _ in range(3):
        for _ in range(MOST_OF_BOTH):
            attempts.begin("anna", "here", 0.0)
        attempts.succeeded("anna", "here")


def test_an_address_that_tries_many_names_waits_for_all():
    attempts = Attempts()
    for number in range(MOST_OF_ADDRESS):
        attempts.begin(f"user{number}", "there", 0.0)
    with pytest.raises(TooManyAttemptsError):
        attempts.begin("anna", "there", 1.0)
    attempts.begin("anna", "here", 1.0)


def test_a_user_who_is_guessed_from_many_addresses_is_guarded_at_last():
    attempts = Attempts()
    for number in range(MOST_OF_NAME):
        attempts.begin("anna", f"10.0.0.{number}", 0.0)
    with pytest.raises(TooManyAttemptsError):
        attempts.begin("anna", "10.0.1.1", 1.0)


def test_a_flood_of_names_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(limits, "MOST_REMEMBERED", 30)
    attempts = Attempts()
    for number in range(100):
        attempts.begin(f"user{number}", f"10.0.0.{number}", float(number))
    assert len(attempts._failed) == 30


def test_a_ticket_is_good_for_a_shift_and_no_longer():
    kept = Tickets()
    secret = kept.issue("anna", "hash", 0.0)
    assert kept.find(secret, LIFETIME_S - 1).name == "anna"
    assert kept.find(secret, LIFETIME_S) is None
    assert kept.find("another", 0.0) is None
    kept.drop(secret)
    assert kept.find(secret, 0.0) is None


def test_a_user_with_too_many_logins_loses_the_oldest(monkeypatch):
    monkeypatch.setattr(tickets, "MOST_A_USER", 3)
    assert MOST_A_USER > 3
    kept = Tickets()
    other = kept.issue("bo", "hash", 0.0)
    secrets = [kept.issue("anna", "hash", float(number)) for number in range(5)]
    assert [kept.find(secret, 10.0) is not None for secret in secrets] == [False, False, True, True, True]
    assert kept.find(other, 10.0) is not None


def test_a_grant_is_for_one_image_one_address_and_some_minutes():
    person = Person("anna", Role.READER)
    granted = Grants()
    granted.give(person, "here", "case", 0.0)
    assert granted.person("here", "case", grants.LIFETIME_S - 1) == person
    assert granted.person("here", "case", grants.LIFETIME_S) is None
    assert granted.person("there", "case", 1.0) is None
    assert granted.person("here", "other", 1.0) is None
    granted.give(person, "", "case", 0.0)
    assert granted.person("", "case", 1.0) is None
