"""MONAI Label's own OpenID mode works with today's PyJWT, and trusts no token that the realm did not sign."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from monailabel.config import settings as monai_settings
from monailabel.endpoints.user import auth as monai_auth

from overread.access import Person, Role
from overread.server.access.authority import OpenId, ProviderError, role_in

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


def signed(key: object = KEY, algorithm: str = "RS256", **changed: object) -> str:
    """A token as Keycloak writes it."""
    said = {
        "preferred_username": "anna",
        "realm_access": {"roles": ["offline_access", "monailabel-annotator", "monailabel-reviewer"]},
        "exp": time.time() + 60,
        "aud": "account",
    }
    return jwt.encode(said | changed, key, algorithm)


class Realm(BaseHTTPRequestHandler):
    """As much of Keycloak as MONAI Label asks for."""

    def do_GET(self) -> None:
        if self.path.endswith("openid-configuration"):
            self._answer(200, {"token_endpoint": f"http://127.0.0.1:{self.server.server_port}/token"})
        else:
            self._answer(200, {"public_key": "".join(PUBLIC.decode().split("\n")[1:-2])})

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        right = form == {
            "client_id": ["monailabel-app"],
            "username": ["anna"],
            "password": ["secret"],
            "grant_type": ["password"],
        }
        self._answer(200, {"access_token": signed()}) if right else self._answer(
            401, {"error": "invalid_grant"}
        )

    def _answer(self, status: int, content: dict) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenId]:
    """MONAI Label's settings point to a realm that answers."""
    with HTTPServer(("127.0.0.1", 0), Realm) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        uri = f"http://127.0.0.1:{server.server_port}/realms/ward"
        monkeypatch.setattr(monai_settings, "MONAI_LABEL_AUTH_REALM_URI", uri)
        yield OpenId()
        server.shutdown()
        thread.join()


def person(provider: OpenId, token: str) -> Person | None:
    return asyncio.run(provider.person(token))


def test_monai_label_itself_refuses_every_token(provider, monkeypatch):
    """The day this fails, `OpenId` may be given back to MONAI Label."""
    monkeypatch.setattr(monai_settings, "MONAI_LABEL_AUTH_ENABLE", True)
    with pytest.raises(jwt.DecodeError, match="algorithms"):
        monai_auth.from_token(signed())


def test_a_signed_token_says_who_it_is_and_the_highest_role_counts(provider):
    assert person(provider, signed()) == Person("anna", Role.REVIEWER)


def test_a_login_is_passed_on(provider):
    token, who = provider.log_in("anna", "secret")
    assert who == person(provider, token) == Person("anna", Role.REVIEWER)
    assert provider.log_in("anna", "wrong") is None


def test_no_other_token_is_good(provider):
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert person(provider, signed(other)) is None
    assert person(provider, signed(exp=time.time() - 1)) is None
    assert person(provider, signed(None, "none")) is None
    # A signature made with the public key as if it were a shared secret.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jwt.algorithms.HMACAlgorithm, "prepare_key", lambda _, key: key)
        assert person(provider, signed(PUBLIC, "HS256")) is None
    assert person(provider, signed(realm_access={"roles": ["offline_access"]})) is None
    assert person(provider, signed(preferred_username=None)) is None
    assert person(provider, "not a token") is None
    without_end = jwt.encode(
        {"preferred_username": "anna", "realm_access": {"roles": ["monailabel-admin"]}}, KEY, "RS256"
    )
    assert person(provider, without_end) is None


@pytest.mark.parametrize("said", [{}, {"realm_access": []}, {"realm_access": {"roles": "monailabel-admin"}}])
def test_roles_of_another_form_are_none(said):
    assert role_in(said) is None


def test_a_provider_that_is_down_lets_nobody_in_and_tells_no_password(monkeypatch, caplog):
    monkeypatch.setattr(monai_settings, "MONAI_LABEL_AUTH_REALM_URI", "http://127.0.0.1:9/realms/ward")
    provider = OpenId()
    with pytest.raises(ProviderError, match="cannot be reached"):
        provider.log_in("anna", "secret")
    with pytest.raises(ProviderError, match="cannot be reached"):
        person(provider, signed())
    assert "secret" not in caplog.text
