"""What `make build` makes, and what stands before a deployment: packages, processor, bytecode, sizes, refusals."""

import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

import deploy
import functions_table
from export_requirements import EXPORT, LOCK, NOT_NEEDED, closure, export, locked_packages
from infrastructure.templates import FUNCTIONS, ROOT, STACK

MEGABYTE = 1024 * 1024
AARCH64 = 183  # e_machine of an ELF header
SERVICES = {"dynamodb", "lambda", "s3", "scheduler", "sesv2", "sns", "sqs", "ssm", "stepfunctions", "sts"}


# ── What is committed is current ────────────────────────────────────────────────────────────────────


def test_the_exported_requirements_are_those_of_the_lock() -> None:
    assert EXPORT.read_text(encoding="utf-8") == export(LOCK.read_text(encoding="utf-8"))


def test_the_table_of_functions_is_that_of_the_template() -> None:
    assert functions_table.PAGE.read_text(encoding="utf-8") == functions_table.table(STACK)


def test_the_layer_has_what_the_functions_import_and_nothing_of_the_tests_or_the_local_run() -> None:
    names = {package.name for package in closure(locked_packages(LOCK.read_text(encoding="utf-8")))}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[dependency-groups]")[0]
    direct = set(re.findall(r'^    "([a-z0-9-]+)(?:\[[a-z]+\])?[>=]', project, re.MULTILINE))
    assert {"boto3", "fastapi"} <= direct
    assert direct - names == set()
    assert {"botocore", "pydantic-core", "starlette", "cffi", "urllib3", "cryptography"} <= names
    assert names & {"ministack", "moto", "pytest", "uvicorn", "authlib", "playwright", "pyyaml", *NOT_NEEDED} == set()


def test_a_closure_follows_dependents_and_stops_at_what_others_wanted() -> None:
    lock = """\
a==1 \\
    --hash=sha256:00
    # via eigenserver (pyproject.toml)
b==2 ; sys_platform == 'linux' \\
    --hash=sha256:11 \\
    --hash=sha256:22
    # via
    #   a
    #   t
t==3 \\
    --hash=sha256:33
    # via eigenserver (pyproject.toml:test)
"""
    assert [package.name for package in closure(locked_packages(lock))] == ["a", "b"]
    assert export(lock).splitlines()[-3:] == [
        "b==2 ; sys_platform == 'linux' \\",
        "    --hash=sha256:11 \\",
        "    --hash=sha256:22",
    ]


def test_every_requirement_of_the_build_and_of_its_tools_is_pinned_with_hashes_and_names_no_index() -> None:
    for path in (EXPORT, ROOT / "infra" / "tools-requirements.txt"):
        text = path.read_text(encoding="utf-8")
        blocks = re.split(r"^(?=[a-z0-9])", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)[1:]
        assert len(blocks) > 20
        assert [block for block in blocks if "==" not in block.splitlines()[0] or "--hash=sha256:" not in block] == []
        assert not re.search(r"^--|^ *-i |https?://", text, re.MULTILINE)


# ── What a deployment refuses ───────────────────────────────────────────────────────────────────────


def module(build: Path, name: str, *, bytecode: bool) -> None:
    path = build / "Layer" / "python" / f"{name}.py"
    (path.parent / "__pycache__").mkdir(parents=True, exist_ok=True)
    path.touch()
    if bytecode:
        (path.parent / "__pycache__" / f"{name}.cpython-313.pyc").touch()


def test_a_build_without_bytecode_is_not_deployed(tmp_path: Path) -> None:
    with pytest.raises(deploy.Refused, match="holds no build"):
        deploy.check_bytecode(tmp_path)
    module(tmp_path, "compiled", bytecode=True)
    deploy.check_bytecode(tmp_path)
    module(tmp_path, "bare", bytecode=False)
    with pytest.raises(deploy.Refused, match=r"1 of 2 modules .* such as Layer/python/bare\.py"):
        deploy.check_bytecode(tmp_path)


def test_a_server_keeps_its_name() -> None:
    deploy.check_server_name({"ServerName": "example.org"}, {})
    deploy.check_server_name({"ServerName": "example.org"}, {"ServerName": ""})
    deploy.check_server_name({"ServerName": "example.org"}, {"ServerName": "example.org"})
    deploy.check_server_name({"LogLevel": "DEBUG"}, {"ServerName": "example.org"})
    for changed in ("example.com", ""):
        with pytest.raises(deploy.Refused, match=r"server name is example\.org"):
            deploy.check_server_name({"ServerName": changed}, {"ServerName": "example.org"})


def test_concurrency_is_reserved_only_where_the_account_has_it() -> None:
    deploy.check_concurrency(0, 10)
    deploy.check_concurrency(900, 1000)
    with pytest.raises(deploy.Refused, match="the account has 1000 executions"):
        deploy.check_concurrency(901, 1000)


def test_parameters_are_checked_before_anything_is_uploaded() -> None:
    declared = STACK.template["Parameters"]
    assert deploy.given_parameters(["ServerName=example.org", "Registration=open"], declared) == {
        "ServerName": "example.org",
        "Registration": "open",
    }
    with pytest.raises(deploy.Refused, match="'Servername=x' is no parameter"):
        deploy.given_parameters(["Servername=x"], declared)
    with pytest.raises(deploy.Refused, match="Registration must be one of open, token, closed"):
        deploy.given_parameters(["Registration=everybody"], declared)


def test_a_secret_can_be_typed_instead_of_staying_in_the_shells_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getpass", lambda prompt: f"typed at {prompt}")
    given = deploy.given_parameters(["RegistrationSharedSecret=-"], STACK.template["Parameters"])
    assert given == {"RegistrationSharedSecret": "typed at RegistrationSharedSecret: "}


# ── The build ───────────────────────────────────────────────────────────────────────────────────────


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "-f", "infra/build.mk", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a fresh build, and what the build said."""
    folder = tmp_path_factory.mktemp("build")
    made = make("build", f"BUILD={folder}")
    assert made.returncode == 0, made.stdout + made.stderr
    return folder, made.stderr


@pytest.fixture
def built(build: tuple[Path, str]) -> Path:
    return build[0]


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def zipped_size(folder: Path, target: Path) -> int:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
    return target.stat().st_size


@pytest.mark.slow
def test_the_templates_pass_cfn_lint_and_sam() -> None:
    checked = make("validate")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
def test_the_built_template_is_valid(built: Path) -> None:
    sam = [str(ROOT / ".tools" / "bin" / "sam"), "validate", "--lint", "--template-file", str(built / "template.yaml")]
    environment = os.environ | {"AWS_DEFAULT_REGION": "us-east-1", "SAM_CLI_TELEMETRY": "0"}
    checked = subprocess.run(sam, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
def test_a_functions_artifact_is_its_own_folder_and_small(built: Path) -> None:
    for folder, function in FUNCTIONS.items():
        artifact = built / function.logical_id
        assert [path.name for path in artifact.iterdir()] == [folder]
        sources = {p.relative_to(ROOT / "functions") for p in (ROOT / "functions" / folder).rglob("*.py")}
        assert {p.relative_to(artifact) for p in artifact.rglob("*.py")} == sources
        assert size_of(artifact) < MEGABYTE // 4


@pytest.mark.slow
def test_every_compiled_library_is_for_arm_and_for_this_python(built: Path) -> None:
    libraries = [path for path in built.rglob("*.so*") if path.is_file()]
    names = {path.name.split(".")[0] for path in libraries}
    assert {"orjson", "_pydantic_core", "_cffi_backend", "_sodium"} <= names
    for path in libraries:
        header = path.read_bytes()[:20]
        assert header[:5] == b"\x7fELF\x02", path
        assert int.from_bytes(header[18:20], "little") == AARCH64, path
        assert re.search(r"\.(cpython-313-aarch64-linux-gnu|abi3)\.so$", path.name), path


@pytest.mark.slow
def test_the_layers_fit_their_budgets(built: Path, tmp_path: Path) -> None:
    dependencies, homeserver = built / "DependenciesLayer", built / "HomeserverLayer"
    # A tenth of it is for ID tokens of OAuth providers (cryptography), loaded by who checks one.
    assert size_of(dependencies) < 55 * MEGABYTE
    assert zipped_size(dependencies, tmp_path / "dependencies.zip") < 18 * MEGABYTE
    assert size_of(homeserver) < 6 * MEGABYTE


@pytest.mark.slow
def test_everything_ships_its_bytecode_which_python_never_compares_with_the_source(build: tuple[Path, str]) -> None:
    folder, said = build
    if "no bytecode" in said:
        pytest.skip("there is no Python 3.13 here, and the build said so")
    deploy.check_bytecode(folder)
    compiled = list(folder.rglob("*.pyc"))
    assert len(compiled) > 1000
    # PEP 552: the second word is 1 for "the hash of the source is in here, do not check it".
    assert {path.read_bytes()[4:8] for path in compiled} == {b"\x01\0\0\0"}
    app = folder / "ClientSyncFunction" / "client_sync" / "__pycache__" / "app.cpython-313.pyc"
    assert b"/var/task/client_sync/app.py" in app.read_bytes()
    errors = folder / "HomeserverLayer" / "python" / "homeserver" / "matrix" / "__pycache__" / "errors.cpython-313.pyc"
    assert b"/opt/python/homeserver/matrix/errors.py" in errors.read_bytes()


@pytest.mark.slow
def test_a_build_without_python_3_13_passes_with_a_loud_warning_and_is_not_deployed(tmp_path: Path) -> None:
    made = make("build", f"BUILD={tmp_path}", "PYTHON313=")
    assert made.returncode == 0, made.stderr
    assert "WARNING: no Python 3.13 found: no bytecode: cold starts ~3x" in made.stderr
    with pytest.raises(deploy.Refused, match=r"no Python 3\.13 bytecode"):
        deploy.check_bytecode(tmp_path)


@pytest.mark.slow
def test_the_dependencies_layer_holds_the_locked_packages_and_the_aws_services_we_use(built: Path) -> None:
    python = built / "DependenciesLayer" / "python"
    installed = {tuple(path.name.removesuffix(".dist-info").split("-")) for path in python.glob("*.dist-info")}
    locked = set(re.findall(r"^([a-z0-9-]+)==([^ ]+)", EXPORT.read_text(encoding="utf-8"), re.MULTILINE))
    assert {(name.lower().replace("_", "-"), version) for name, version in installed} == locked
    assert {path.name for path in (python / "botocore" / "data").iterdir() if path.is_dir()} == SERVICES
    assert {"endpoints.json", "partitions.json", "_retry.json"} <= {
        p.name for p in (python / "botocore" / "data").iterdir()
    }


@pytest.mark.slow
def test_the_homeserver_layer_is_the_package_as_it_stands(built: Path) -> None:
    source, layer = ROOT / "layers" / "homeserver" / "python", built / "HomeserverLayer" / "python"
    modules = {path.relative_to(source) for path in source.rglob("*.py")}
    assert {path.relative_to(layer) for path in layer.rglob("*.py")} == modules
    assert all((layer / module).read_bytes() == (source / module).read_bytes() for module in modules)
    templates = sorted(path.name for path in (source / "homeserver" / "mail_templates").iterdir())
    assert "login_code.txt" in templates
    assert sorted(path.name for path in (layer / "homeserver" / "mail_templates").iterdir()) == templates


@pytest.mark.slow
def test_every_aws_service_that_the_code_calls_is_in_the_layer(built: Path) -> None:
    called = set()
    for folder in (ROOT / "functions", ROOT / "layers" / "homeserver" / "python"):
        for path in folder.rglob("*.py"):
            called |= set(re.findall(r'\bclient\(\s*"([a-z0-9]+)"', path.read_text(encoding="utf-8")))
    assert {"dynamodb"} <= called <= SERVICES
