"""The function that sends mails, in template.yaml."""

import pytest

from infrastructure.templates import FUNCTIONS, STACK, TEMPLATE, as_list
from local.template import Stack

WORKER = FUNCTIONS["mail_worker"]
IDENTITY = "arn:aws:ses:us-east-1:000000000000:identity/"


def test_nothing_polls_for_mails_and_nothing_is_tried_after_the_code_in_it_ran_out() -> None:
    assert WORKER.properties.get("Events", {}) == {}
    assert WORKER.properties["EventInvokeConfig"] == {"MaximumRetryAttempts": 2, "MaximumEventAgeInSeconds": 600}


def test_nobody_else_knows_the_mail_server_or_may_send() -> None:
    assert {name for name, f in FUNCTIONS.items() if "SMTP_URL" in f.environment} == {"mail_worker"}
    assert STACK.template["Parameters"]["SmtpUrl"]["NoEcho"] is True
    senders = {
        name
        for name, f in FUNCTIONS.items()
        for s in f.statements
        for action in as_list(s["Action"])
        if action.startswith("ses:")
    }
    assert senders == {"mail_worker"}


def test_who_asks_for_mails_may_invoke_the_worker_and_is_told_its_name() -> None:
    told = {name for name, f in FUNCTIONS.items() if "MAIL_WORKER_FUNCTION" in f.environment}
    arn = STACK.resolve({"Fn::GetAtt": ["MailWorkerFunction", "Arn"]})
    may = {n for n, f in FUNCTIONS.items() for s in f.statements if arn in as_list(s["Resource"])}
    assert told == may
    assert "client_login" in told
    assert all("MAIL_FROM" in FUNCTIONS[name].environment for name in told)


@pytest.mark.parametrize(
    ("sender", "domain"),
    [
        ("", "none.invalid"),
        ("chat@example.org", "example.org"),
        ("Example <chat@example.org>", "example.org"),
        ("Example GmbH <chat@mail.example.org>", "mail.example.org"),
    ],
)
def test_it_may_send_for_the_domain_of_the_sender_only(sender: str, domain: str) -> None:
    stack = Stack(TEMPLATE, {"MailFrom": sender})
    (statement,) = [s for p in WORKER.raw["Policies"] for s in p["Statement"] if s["Sid"] == "SendMail"]
    assert stack.resolve(statement["Resource"]) == [IDENTITY + domain, f"{IDENTITY}*@{domain}"]


@pytest.mark.parametrize(
    ("arn", "layers"),
    [
        ("", ["DependenciesLayer", "HomeserverLayer"]),
        ("arn:aws:lambda:eu-west-1:1:layer:mail:3", ["DependenciesLayer", "HomeserverLayer", "layer:mail:3"]),
    ],
)
def test_the_operators_templates_are_a_layer_of_it(arn: str, layers: list[str]) -> None:
    found = Stack(TEMPLATE, {"MailTemplatesLayer": arn}).resolve(WORKER.raw["Layers"])
    assert len(found) == len(layers)
    assert all(expected in name for name, expected in zip(found, layers, strict=True))
