"""The login page of browsers."""

from __future__ import annotations

from html import escape

from overread.server.access.headers import closed_policy

STYLE = (
    "body{font:16px sans-serif;background:#101418;color:#e8eaed;display:grid;place-items:center;min-height:90vh}"
    "form{display:grid;gap:.8rem;width:18rem}input,button{font:inherit;padding:.5rem;border-radius:.3rem;"
    "border:1px solid #5f6368}button{background:#2b6cb0;color:#fff;cursor:pointer}p{color:#ffb4a9;margin:0}"
)
POLICY = closed_policy(STYLE)


def login_page(target: str, name: str = "", refusal: str = "") -> str:
    """The page as HTML.

    Args:
        target: where the browser goes then.
        name: what was typed before.
        refusal: why that was not enough.
    """
    said = f'<p role="alert">{escape(refusal)}</p>' if refusal else ""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Overread</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        '<form method="post" action="/login"><h1>Overread</h1>'
        f'{said}<input type="hidden" name="next" value="{escape(target)}">'
        f'<label>Name <input name="username" value="{escape(name)}" autocomplete="username" required autofocus></label>'
        '<label>Password <input name="password" type="password" autocomplete="current-password" required></label>'
        "<button>Log in</button></form></body></html>"
    )
