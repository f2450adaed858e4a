import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from homeserver.matrix.email_address import MAX_LENGTH, normalised

_ATOM = string.ascii_letters + string.digits + "!#$%&'*+/=?^_`{|}~-"
_LETTERS = string.ascii_letters + string.digits
_atoms = st.text(_ATOM, min_size=1, max_size=12)
_labels = st.builds(
    lambda first, middle, last: first + middle + last,
    st.sampled_from(_LETTERS),
    st.text(_LETTERS + "-", max_size=12),
    st.sampled_from(_LETTERS),
)
_addresses = st.builds(
    lambda local, labels, last: f"{'.'.join(local)}@{'.'.join([*labels, last])}",
    st.lists(_atoms, min_size=1, max_size=3),
    st.lists(_labels, min_size=1, max_size=3),
    st.text(string.ascii_letters, min_size=2, max_size=6),
)


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("alice@example.org", "alice@example.org"),
        ("Alice.Liddell+Matrix@Example.ORG", "alice.liddell+matrix@example.org"),
        ("o'brien/x=y@mail.example", "o'brien/x=y@mail.example"),
        ("a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
        ("\u212a@example.org", "k@example.org"),  # the Kelvin sign is a K, also for Unicode
    ],
)
def test_an_address_is_compared_in_lower_case(written, compared):
    assert normalised(written) == compared


@pytest.mark.parametrize(
    "refused",
    [
        "",
        "@",
        "alice",
        "alice@",
        "@example.org",
        "alice@example",
        "alice@@example.org",
        "alice@b@example.org",
        " alice@example.org",
        "alice@example.org ",
        "alice@example.org\n",
        "alice@example.org\r\nBcc: bob@example.org",
        "alice\r\nBcc:bob@example.org",
        "alice\0@example.org",
        "al ice@example.org",
        "<alice@example.org>",
        "Alice <alice@example.org>",
        "alice@example.org,bob",
        '"alice"@example.org',
        "alice(comment)@example.org",
        ".alice@example.org",
        "alice.@example.org",
        "al..ice@example.org",
        "älice@example.org",
        "alice@[192.0.2.1]",
        "alice@192.0.2.1",
        "alice@example..org",
        "alice@.example.org",
        "alice@example.org.",
        "alice@-example.org",
        "alice@example-.org",
        "alice@exam_ple.org",
        "alice@example.org:25",
        "alice@example.org/x",
        "alice@example\uff0eorg",
        "a" * 65 + "@example.org",
        "alice@" + "a" * 64 + ".org",
        "alice@" + "a." * 130 + "org",
        "\u202ealice@example.org",
    ],
)
def test_what_no_mail_can_be_sent_to_without_doubt_is_refused(refused):
    with pytest.raises(ValueError, match=r"\.\Z"):
        normalised(refused)


def test_a_domain_in_another_script_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match="ASCII form"):
        normalised("alice@bücher.example")


def test_the_longest_address_is_taken_and_one_character_more_is_not():
    domain = ".".join(["d" * 63] * 3)
    longest = "a" * (MAX_LENGTH - len(domain) - 5) + "@" + domain + ".org"
    assert (len(longest), normalised(longest)) == (254, longest)
    with pytest.raises(ValueError, match="at most 254"):
        normalised("a" + longest)


@given(_addresses)
def test_every_plain_address_is_taken_and_stays_as_it_is_the_second_time(address):
    once = normalised(address)
    assert once == address.lower()
    assert normalised(once) == once
    assert normalised(address.swapcase()) == once


@given(st.one_of(st.text(), st.builds(lambda a, b: f"{a}@{b}.org", st.text(), st.text())))
@example("İ@example.org")
@example("alice@ﬀ.org")
def test_whatever_is_taken_has_no_character_that_a_header_a_path_or_html_could_stumble_over(text):
    try:
        address = normalised(text)
    except ValueError:
        return
    assert address.isascii()
    assert address.isprintable()
    assert not set(address) & set(' \t\r\n<>"()[]\\,;:')
    assert address.count("@") == 1
    assert len(address) <= MAX_LENGTH
    assert normalised(address) == address
