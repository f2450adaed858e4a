"""What a server says of itself to whoever comes by."""

from e2e.client import Client
from e2e.local_run import Server


def test_the_front_page_tells_a_browser_what_this_is(server: Server) -> None:
    status, headers, body = server.ask("GET", "/", headers={"Accept": "text/html"})
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    page = body.decode()
    assert "<title>" in page
    assert "Eigenserver" in page
    assert "e2e.test" in page


def test_versions_are_told_without_a_token(server: Server) -> None:
    with Client(server.url) as nobody:
        answer = nobody.ask("GET", "/_matrix/client/versions")
    assert answer.status == 200
    assert "v1.1" in answer.json["versions"]


def test_well_known_names_the_address_that_was_asked(server: Server) -> None:
    with Client(server.url) as nobody:
        answer = nobody.ask("GET", "/.well-known/matrix/client")
    assert answer.status == 200
    assert answer.json["m.homeserver"]["base_url"].rstrip("/").endswith(f"127.0.0.1:{server.port}")
