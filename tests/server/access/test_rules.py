"""The table of who may what: each address of the server has its row, and what has none is for admins."""

from __future__ import annotations

import pytest
from fastapi.routing import APIRoute

from overread.access import Role
from overread.server.access.rules import EVERYTHING_ELSE, RULES, rule_for


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("POST", "/infer/liver", Role.READER),
        ("POST", "/infer/wsi/liver", Role.READER),
        ("HEAD", "/datastore/image", Role.READER),
        ("PUT", "/datastore/label", Role.READER),
        ("PUT", "/datastore/", Role.READER),
        ("DELETE", "/datastore/label", Role.REVIEWER),
        ("PUT", "/datastore/updatelabelinfo", Role.REVIEWER),
        ("DELETE", "/datastore/image", Role.ADMIN),
        ("DELETE", "/datastore/", Role.ADMIN),
        ("POST", "/train/", Role.ADMIN),
        ("GET", "/train/", Role.READER),
        ("GET", "/logs/gpu", Role.ADMIN),
        ("DELETE", "/overread/preferences", Role.READER),
        ("DELETE", "/overread/state", Role.ADMIN),
        ("POST", "/preferences/forget", Role.READER),
        ("GET", "/auth/", None),
        ("GET", "/static/ohif/app.js", None),
        # No part of an address stands for a whole one.
        ("GET", "/static/../datastore", None),
        ("GET", "/staticx", Role.ADMIN),
        ("GET", "/auth/token", Role.ADMIN),
        ("POST", "/activelearning/a/b", Role.ADMIN),
        ("GET", "//info", Role.ADMIN),
        ("PATCH", "/info", Role.ADMIN),
        ("GET", "/session/x\ny", Role.READER),
    ],
)
def test_who_may_what(method, path, role):
    assert rule_for(method, path).role == role


def test_roles_grow():
    assert [Role.ADMIN.covers(role) for role in Role] == [True, True, True]
    assert [Role.REVIEWER.covers(role) for role in Role] == [True, True, False]
    assert [Role.READER.covers(role) for role in Role] == [True, False, False]


def test_whatever_changes_others_work_leaves_a_row_in_the_audit_log():
    # These leave one by what they do: labels, servings, training.
    by_themselves = {
        "/datastore/label",
        "/train/**",
        "/activelearning/*",
        "/infer/**",
        "/session/*",
        "/proxy/**",
        "/overread/preferences",
        "/preferences/forget",
    }
    for rule in RULES:
        if rule.role is not None and set(rule.methods) - {"GET"} and rule.path not in by_themselves:
            assert rule.action, rule


@pytest.mark.parametrize("app", ["radiology", "pathology"])
def test_each_address_of_an_app_has_its_row(app):
    from overread.server.datastore_routes import datastore_router
    from overread.server.front.memory_routes import memory_router
    from overread.server.log_routes import log_router
    from overread.server.preference_routes import preference_router
    from overread.server.slides.routes import slide_router
    from overread.server.volume_routes import volume_router

    # The routes are made without a server behind them: nobody calls them.
    own = volume_router if app == "radiology" else slide_router
    shared = (datastore_router, log_router, preference_router, memory_router)
    for router in (own(None), *(make(None) for make in shared)):
        for route in router.routes:
            assert isinstance(route, APIRoute)
            for method in route.methods:
                assert rule_for(method, route.path) is not EVERYTHING_ELSE, (method, route.path)
