"""The header with which servers sign requests: what is read, and what is refused because it has two meanings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.errors import Unauthorized
from homeserver.matrix.request_signing import sign_request
from homeserver.matrix.signing import SigningKey
from homeserver.matrix.x_matrix import MOST_SIGNATURES, RequestSignatures, parse_x_matrix

PLAIN = RequestSignatures("a.org", "b.org", {"ed25519:1": "c2ln"})


@pytest.mark.parametrize(
    "header",
    [
        'X-Matrix origin="a.org",destination="b.org",key="ed25519:1",sig="c2ln"',
        "X-Matrix origin=a.org,destination=b.org,key=ed25519:1,sig=c2ln",
        'x-matrix origin=a.org,destination="b.org",key="ed25519:1",sig=c2ln',
        'X-MATRIX   Origin="a.org" , DESTINATION="b.org"\t,\tKey="ed25519:1" ,sig="c2ln" ',
        'X-Matrix sig="c2ln",key="ed25519:1",origin="a.org",destination="b.org"',
        'X-Matrix origin="a.org",more="1, 2 = 3",destination="b.org",key="ed25519:1",sig="c2ln",more=x',
        r'X-Matrix origin="a\.org",destination="\b.org",key="ed25519:1",sig="c2ln"',
        'X-Matrix origin = "a.org", destination= "b.org",key ="ed25519:1",sig=c2ln',
        'X-Matrix ,origin="a.org",,destination="b.org",key="ed25519:1",sig="c2ln",',
        'X-Matrix origin="a.org",destination="b.org",key="ed25519:1",signature="c2ln"',
    ],
)
def test_every_spelling_of_the_grammar_is_read_alike(header: str) -> None:
    assert parse_x_matrix(header) == PLAIN


def test_old_servers_do_not_name_the_destination() -> None:
    assert parse_x_matrix('X-Matrix origin=a.org,key="ed25519:1",sig="c2ln"').destination is None


def test_names_with_ports_and_addresses_need_no_quotes() -> None:
    read = parse_x_matrix("X-Matrix origin=[2001:db8::1]:8448,destination=b.org:443,key=ed25519:a_1,sig=a+b/c=")
    assert read == RequestSignatures("[2001:db8::1]:8448", "b.org:443", {"ed25519:a_1": "a+b/c="})


def test_several_headers_are_several_signatures_of_one_server() -> None:
    header = (
        'X-Matrix origin=a.org,destination=b.org,key="ed25519:1",sig="c2ln",'
        "X-Matrix origin=a.org,destination=b.org,key=ed25519:2,sig=Z2lz, "
        "x-matrix origin=a.org,destination=b.org,key=ecdsa:3,sig=eA"
    )
    assert parse_x_matrix(header) == RequestSignatures("a.org", "b.org", {"ed25519:1": "c2ln", "ed25519:2": "Z2lz"})


@pytest.mark.parametrize(
    "header",
    [
        "",
        "   ",
        "X-Matrix",
        "X-Matrix ",
        "Bearer abc",
        "Basic dXNlcjpwYXNz",
        "X-Matrixorigin=a.org,key=ed25519:1,sig=c2ln",
        "origin=a.org,key=ed25519:1,sig=c2ln",
        "X-Matrix key=ed25519:1,sig=c2ln",
        "X-Matrix origin=a.org,sig=c2ln",
        "X-Matrix origin=a.org,key=ed25519:1",
        "X-Matrix origin=,key=ed25519:1,sig=c2ln",
        'X-Matrix origin="a b",key=ed25519:1,sig=c2ln',
        'X-Matrix origin="a.org/x",key=ed25519:1,sig=c2ln',
        'X-Matrix origin="a.org,key="ed25519:1",sig="c2ln"',
        'X-Matrix origin="a.org',
        'X-Matrix origin="a.org"x,key=ed25519:1,sig=c2ln',
        "X-Matrix origin=a.org key=ed25519:1 sig=c2ln",
        "X-Matrix origin=a.org;key=ed25519:1;sig=c2ln",
        "X-Matrix origin=a.org,key=ecdsa:1,sig=c2ln",
        "X-Matrix origin=a.org,key=ed25519:,sig=c2ln",
        'X-Matrix origin=a.org,key="ed25519:a b",sig=c2ln',
        "X-Matrix origin=a.org,key=ed25519:1,sig=c2ln,\x00",
        "X-Matrix (origin)=a.org",
    ],
)
def test_what_is_no_signature_is_refused(header: str) -> None:
    with pytest.raises(Unauthorized) as refused:
        parse_x_matrix(header)
    assert (refused.value.status, refused.value.errcode) == (401, "M_UNAUTHORIZED")


@pytest.mark.parametrize(
    "header",
    [
        "X-Matrix origin=a.org,origin=evil.org,key=ed25519:1,sig=c2ln",
        "X-Matrix origin=a.org,ORIGIN=a.org,key=ed25519:1,sig=c2ln",
        "X-Matrix origin=a.org,destination=b.org,destination=c.org,key=ed25519:1,sig=c2ln",
        "X-Matrix origin=a.org,key=ed25519:1,key=ed25519:2,sig=c2ln",
        "X-Matrix origin=a.org,key=ed25519:1,sig=c2ln,sig=Z2lz",
        "X-Matrix origin=a.org,key=ed25519:1,sig=c2ln,signature=Z2lz",
        "X-Matrix origin=a.org,key=ed25519:1,sig=c2ln,X-Matrix origin=evil.org,key=ed25519:1,sig=c2ln",
        "X-Matrix origin=a.org,key=ed25519:1,sig=c2ln,X-Matrix origin=a.org,key=ed25519:1,sig=Z2lz",
        "X-Matrix origin=a.org,destination=b.org,key=ed25519:1,sig=a,X-Matrix origin=a.org,key=ed25519:2,sig=b",
        "X-Matrix origin=a.org,key=ed25519:1,sig=c2ln,Bearer abc",
        "Bearer abc,X-Matrix origin=a.org,key=ed25519:1,sig=c2ln",
    ],
)
def test_what_has_two_meanings_is_refused(header: str) -> None:
    with pytest.raises(Unauthorized):
        parse_x_matrix(header)


def test_more_keys_than_anybody_has_are_refused() -> None:
    one = "X-Matrix origin=a.org,key=ed25519:{},sig=c2ln"
    fitting = ",".join(one.format(number) for number in range(MOST_SIGNATURES))
    assert len(parse_x_matrix(fitting).signatures) == MOST_SIGNATURES
    with pytest.raises(Unauthorized):
        parse_x_matrix(f"{fitting},{one.format('more')}")


def test_what_this_server_writes_is_read_back() -> None:
    key = SigningKey.generate("a_B1", bytes(range(32)))
    header = sign_request("GET", "/x", origin="a.org:8448", destination="[::1]:1", key=key)
    read = parse_x_matrix(header)
    assert (read.origin, read.destination, set(read.signatures)) == ("a.org:8448", "[::1]:1", {"ed25519:a_B1"})


@given(st.text(max_size=80))
def test_no_text_does_anything_but_be_read_or_refused(text: str) -> None:
    for header in (text, f"X-Matrix {text}", f'X-Matrix origin=a.org,key=ed25519:1,sig="{text}"'):
        try:
            read = parse_x_matrix(header)
        except Unauthorized:
            continue
        assert read.origin
        assert read.signatures
