"""The page that a browser gets at `/`: one file, no script, nothing from elsewhere."""

from html import escape

_STYLE = """
:root { color-scheme: light dark; }
body { font: 1.05rem/1.6 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 2rem; }
code, pre { font: 0.95rem/1.5 ui-monospace, monospace; }
pre { border: 1px solid; border-radius: 0.3rem; padding: 0.75rem 1rem; overflow-x: auto; }
"""

_REGISTRATION = {
    "open": "Anybody may register an account here.",
    "token": "Registering an account takes a registration token from the operator.",
    "closed": "No new accounts can be registered here.",
}


def front_page(server_name: str, base_url: str, registration: str) -> str:
    """The HTML of the page. `server_name` and `base_url` may be empty where they are not known yet."""
    title = f"{server_name}, a Matrix homeserver" if server_name else "A Matrix homeserver"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p>This is Eigenserver. It keeps conversations of the Matrix network; there is nothing to see here in a browser.</p>
{_how_to_talk(server_name, base_url, registration)}
</main>
</body>
</html>
"""


def _how_to_talk(server_name: str, base_url: str, registration: str) -> str:
    if not server_name:
        return "<p>It has no name yet, so nobody can have an account: the operator has to set the server name.</p>"
    user = escape(f"@you:{server_name}")
    if not base_url:
        return f"<p>User IDs here look like <code>{user}</code>.</p>"
    url = escape(base_url)
    return f"""<h2>With a Matrix client</h2>
<p>Give your client this homeserver address: <code>{url}</code><br>
Your user ID is then <code>{user}</code>. {_REGISTRATION[registration]}</p>
<h2>With curl</h2>
<pre tabindex="0" role="region" aria-label="Command"><code>curl {url}/_matrix/client/versions</code></pre>"""
