"""Every check of this collection as a session; `./dev` brings the environment that they all share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import nox
import yaml

from testbed import lanes
from testbed.playbooks import run as run_playbooks

ROOT = Path(__file__).parent
CACHE = ROOT / ".cache"
VENV = ROOT / ".venv"
LOGS = CACHE / "logs"
ENGINE_LOCKS = ROOT / "playbooks" / "stacks" / "locks"
# Locked environments beside the shared one, and their Python: the oldest ansible-core, a host's oldest Python, awx.awx.
ENVIRONMENTS = {"core-2.17": "3.12", "host-3.9": "3.9", "awx": "3.12"}
# Run by name only: what needs real GPUs, installs 3 GB more than once, compiles for minutes, or judges how fast an
# engine answers on a machine that does nothing else.
BY_NAME = {
    *("cuda_toolkit", "dkms", "dkms_refuses", "gpu", "llama_cpp_source", "monitoring"),
    *("sglang", "upgrade_vllm", "vllm_hosts"),
}
WITHOUT_BED = (
    *(f"sanity({core})" for core in ("newest", "oldest")),
    *(f"units({on})" for on in ("newest", "host", "oldest")),
    *("lint", "types", "docs", "site", "build"),
)
# They take several times as long as another, so they begin first: none is to run alone at the end.
LONG = {"edge", "nvidia_driver", "offline", "upgrade", "upgrade_faults", "vllm"}
SCENARIOS = sorted({path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")} - BY_NAME)

nox.options.default_venv_backend = "none"
nox.options.error_on_external_run = False


def uv_environment(session: nox.Session, name: str) -> Path:
    """One of ENVIRONMENTS, made or brought up to date."""
    path = CACHE / "venv" / name
    uv = os.environ["UV"]
    if not (path / "bin" / "python").exists():
        session.run(uv, "venv", "--quiet", "--python", ENVIRONMENTS[name], str(path))
    requirements = str(ROOT / "requirements" / f"{name}.txt")
    session.run(
        uv, "pip", "sync", "--quiet", "--python", str(path / "bin" / "python"), "--require-hashes", requirements
    )
    return path


def collection_tree(target: Path) -> Path:
    """Copy what git knows or would know to where ansible-test insists on it, below TARGET/ansible_collections."""
    root = target / "ansible_collections" / "llmfleet" / "serving"
    shutil.rmtree(root, ignore_errors=True)
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    return root


@nox.session
def lint(session: nox.Session) -> None:
    """Format, style and Ansible rules: ruff, yamllint, ansible-lint (profile production, strict)."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("yamllint", "--strict", ".")
    session.run("ansible-lint", "--offline", "--strict")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict, over everything that runs on hosts."""
    session.run("mypy", "-p", "ansible_collections.llmfleet.serving.plugins")


@nox.session
def docs(session: nox.Session) -> None:
    """Documentation of plugins and roles, and the changelog."""
    session.run(
        "antsibull-docs",
        "lint-collection-docs",
        "--plugin-docs",
        "--validate-collection-refs=self",
        ".",
    )
    session.run("antsibull-changelog", "lint")


@nox.session
def site(session: nox.Session) -> None:
    """The documentation site, in .cache/site/html: warnings and dead links are errors. `linkcheck` asks others."""
    session.run("python", "docs/docsite/build.py", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build the collection, install it where nothing else is, read every plugin's and role's documentation there."""
    target = CACHE / "build"
    shutil.rmtree(target, ignore_errors=True)
    tree = collection_tree(target / "source")
    session.run("ansible-galaxy", "collection", "build", "--output-path", str(target), str(tree))
    (archive,) = target.glob("*.tar.gz")
    installed = target / "installed"
    # Without this the link to the checkout would be found, and nothing would be proved of the archive.
    env = {"ANSIBLE_COLLECTIONS_PATH": str(installed), "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "false"}
    session.run("ansible-galaxy", "collection", "install", "--offline", "-p", str(installed), str(archive), env=env)
    names = [f"llmfleet.serving.{path.stem}" for path in sorted((ROOT / "plugins" / "modules").glob("*.py"))]
    session.run("ansible-doc", "--json", *names, env=env, silent=True)
    roles = [path.name for path in sorted((ROOT / "roles").iterdir())]
    for role in roles:
        text = session.run("ansible-doc", "--type", "role", f"llmfleet.serving.{role}", env=env, silent=True)
        if not text or "ENTRY POINT" not in str(text):
            session.error(f"ansible-doc shows no entry point of the role {role}")
    session.log(f"{len(names)} modules and {len(roles)} roles are documented")


def ansible_test_home(core: str) -> Path:
    """A home for a core's ansible-test, in which its environments get pip from the package index or its mirror.

    ansible-test fetches a bootstrap script from a server of its own unless a file of this name is there.
    """
    home = CACHE / "home" / core
    cache = home / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in ("23_1_2", "25_2"):  # what ansible-core 2.17 and 2.21 ask for
        (cache / f"get_pip_{version}.py").write_text(
            "import subprocess, sys\n"
            "subprocess.check_call([sys.executable, '-m', 'ensurepip'])\n"
            "wanted = [word for word in sys.argv[1:] if word not in ('--no-setuptools', '--no-wheel')]\n"
            "subprocess.check_call([sys.executable, '-m', 'pip', 'install', *wanted])\n"
        )
    # It also hides the environment from pip; a file carries over the mirror and the certificates that the user has set.
    known = {"cert": "PIP_CERT", "index-url": "PIP_INDEX_URL", "proxy": "PIP_PROXY"}
    settings = {name: os.environ[variable] for name, variable in known.items() if variable in os.environ}
    config = home / ".config" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    return home


@nox.session
@nox.parametrize("core", ["oldest", "newest"], ids=["oldest", "newest"])
def sanity(session: nox.Session, core: str) -> None:
    """ansible-test sanity, without an ignore file, on the oldest and on the newest ansible-core."""
    binary = (uv_environment(session, "core-2.17") if core == "oldest" else VENV) / "bin"
    tree = collection_tree(CACHE / f"sanity-{core}")
    subprocess.run(["git", "init", "--quiet"], cwd=tree, check=True)
    subprocess.run(["git", "add", "--all"], cwd=tree, check=True)
    session.chdir(tree)
    session.run(
        *(str(binary / "ansible-test"), "sanity", "--requirements", "--color=no", *session.posargs),
        env={"PATH": f"{binary}:{os.environ['PATH']}", "HOME": str(ansible_test_home(core))},
    )


@nox.session
@nox.parametrize("on", ["newest", "oldest", "host"], ids=["newest", "oldest", "host"])
def units(session: nox.Session, on: str) -> None:
    """Unit tests that need no test bed: on the newest ansible-core, the oldest, and a host's oldest Python.

    The oldest ansible-core sees what meets it: modules and what runs beside them. The rest is plain Python.
    """
    environment, tests = VENV, list(session.posargs)
    if on == "oldest":
        environment = uv_environment(session, "core-2.17")
        folders = ("plugins/filter", "plugins/lookup", "plugins/modules", "plugins/plugin_utils", "playbooks", "roles")
        # All of it plain Python, or asking for what only the shared environment has.
        others = (
            "plugins/modules/test_faults",
            "roles/test_cuda_toolkit",
            "roles/test_report",
            "roles/test_report_page",
        )
        tests = [f"tests/unit/{folder}" for folder in folders]
        tests += [f"--ignore=tests/unit/{other}.py" for other in others]
    elif on == "host":
        environment, tests = uv_environment(session, "host-3.9"), ["tests/unit/plugins"]
    env = {}
    if on != "newest":
        tree = str(VENV / "tree")
        env = {"PYTHONPATH": f"{tree}:{ROOT / 'tests'}", "ANSIBLE_COLLECTIONS_PATH": tree}
    session.run(str(environment / "bin" / "pytest"), "-n", "auto", "-m", "not bed", *tests, env=env)


@nox.session
def bed(session: nox.Session) -> None:
    """The test bed: `./dev bed build`, `list`, `remove`, ..."""
    session.run("python", "-m", "testbed", *session.posargs)


@nox.session
def bed_tests(session: nox.Session) -> None:
    """Unit tests that need the test bed: real tools as oracles, the mock under the real nvidia-smi, real servers."""
    session.run("python", "-m", "testbed", "build")
    session.run("pytest", "-m", "bed", *session.posargs)


@nox.session
def molecule(session: nox.Session) -> None:
    """Molecule scenarios: those named, or all that need no GPU."""
    session.run("python", "-m", "testbed", "build")
    for scenario in session.posargs or SCENARIOS:
        outcome = run_playbooks(
            ["molecule", "test", "--scenario-name", scenario], {"MOLECULE_GLOB": "molecule/*/molecule.yml"}
        )
        if outcome.status != 0:
            session.error(f"The scenario {scenario} has failed.")
        if "test_sequence" in (ROOT / "molecule" / scenario / "molecule.yml").read_text():
            continue
        # destroy, create and prepare come first, destroy comes last; see .config/molecule/config.yml
        predicted, made, _again, after = (sum(recap.values()) for recap in outcome.changed[3:7])
        if bool(predicted) != bool(made) or after:
            session.error(f"{scenario}: check mode predicted {predicted} changes, then {after}; {made} were made.")
        session.log(f"{scenario}: check mode predicted {predicted} changes, {made} were made, {after} predicted after")


@nox.session
def awx(session: nox.Session) -> None:
    """What AWX does: awx.awx and `awx export` against a stand-in, the jobs by ansible-runner on a simulated host."""
    session.run("python", "-m", "testbed", "build")
    environment = uv_environment(session, "awx")
    # Its Ansible is a package ansible_collections of its own, so the collection has to be in there.
    (packages,) = environment.glob("lib/python*/site-packages")
    link = packages / "ansible_collections" / "llmfleet" / "serving"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(ROOT)
    env = {"PYTHONPATH": str(ROOT / "tests")}
    session.run(str(environment / "bin" / "pytest"), "tests/awx", *session.posargs, env=env)


@nox.session
def execution_environment(session: nox.Session) -> None:
    """The execution environment: its image, built by ansible-builder, and jobs inside. Run by name only."""
    session.run("python", "-m", "testbed", "build")
    uv_environment(session, "awx")
    session.run("pytest", "tests/execution_environment", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """The main job on two simulated 8x H800 hosts, from bare to a chat answer."""
    session.run("python", "-m", "testbed.demo", *session.posargs)


@nox.session
def oldest(session: nox.Session) -> None:
    """The main job on one simulated host by the oldest ansible-core. Its hosts are those of `demo`."""
    program = uv_environment(session, "core-2.17") / "bin" / "ansible-playbook"
    (packages,) = VENV.glob("lib/python*/site-packages")
    env = {"ANSIBLE_COLLECTIONS_PATH": str(packages)}
    session.run("python", "-m", "testbed.demo", "--short", f"--ansible-playbook={program}", *session.posargs, env=env)


@nox.session
def test(session: nox.Session) -> None:
    """Everything above, several at a time: what CI runs. What each says is in .cache/logs, what failed comes last."""
    for name in ENVIRONMENTS:
        uv_environment(session, name)
    # What needs no test bed comes first: where there is none yet, it is made beside that.
    jobs = [lanes.Job("bed", ("nox", "--session", "bed", "--", "build", "--wheels"))]
    jobs += [lanes.Job(name, ("nox", "--session", name)) for name in (*WITHOUT_BED, "bed_tests", "awx")]
    # One after the other, because their hosts are the same.
    jobs.append(lanes.Job("demo", ("nox", "--session", "demo", "oldest")))
    scenarios = sorted(SCENARIOS, key=lambda name: name not in LONG)
    jobs += [lanes.Job(f"molecule {name}", ("nox", "--session", "molecule", "--", name)) for name in scenarios]
    # One more than there are processors, for each job waits about half of its time.
    if failed := lanes.run(jobs, min((os.cpu_count() or 1) + 1, 8), LOGS):
        session.error("These have failed: " + ", ".join(job.name for job in failed))


@nox.session
def lock(session: nox.Session) -> None:
    """Resolve requirements/*.in (and the roles' own) into exact versions with hashes."""
    sources = [*ROOT.glob("requirements/*.in"), *ROOT.glob("roles/*/files/requirements.in")]
    for source in sources:
        session.run(
            os.environ["UV"],
            *(
                "pip",
                "compile",
                "--quiet",
                "--generate-hashes",
                "--no-annotate",
                "--no-header",
                "--upgrade",
                "--universal",
            ),
            *(
                "--python-version",
                ENVIRONMENTS.get(source.stem, "3.12" if source.parent.name == "requirements" else "3.9"),
            ),
            *(str(source), "--output-file", str(source.with_suffix(".txt"))),
        )


@nox.session
def options(session: nox.Session) -> None:
    """Write anew what options each release of an engine takes, or `--parse`: have its real parser take the examples."""
    session.run("python", "-m", "testbed.options", *session.posargs)


@nox.session
def engine_locks(session: nox.Session) -> None:
    """Resolve what playbooks/stacks/locks/locks.yml names (all, or some by name) into files with versions and hashes.

    `--upgrade` is not an option: the last day that counts is part of the source, so the same day gives the same file.
    """
    sources = yaml.safe_load((ENGINE_LOCKS / "locks.yml").read_text())
    for name in session.posargs or sources:
        requirements = Path(session.create_tmp(), f"{name}.in")
        requirements.write_text("\n".join(sources[name]["requirements"]) + "\n")
        session.run(
            os.environ["UV"],
            *("pip", "compile", "--quiet", "--generate-hashes", "--no-annotate", "--upgrade", "--only-binary=:all:"),
            *("--python-version=3.12", "--python-platform=x86_64-manylinux_2_35"),
            *(
                f"--exclude-newer={sources[name]['until']}",
                str(requirements),
                f"--output-file={ENGINE_LOCKS / name}.txt",
            ),
            # Becomes the file's head, in place of a command with this machine's paths in it.
            env={"UV_CUSTOM_COMPILE_COMMAND": f"./dev engine_locks {name}"},
        )


@nox.session
def engine_environments(session: nox.Session) -> None:
    """Install the engines' lock files (all, or some by name) as a host does, check each, and remove it again."""
    uv = os.environ["UV"]
    for name in session.posargs or sorted(path.stem for path in ENGINE_LOCKS.glob("*.txt")):
        folder = Path(session.create_tmp()).resolve()
        path = folder / name
        module = {"path": str(path), "requirements": str(ENGINE_LOCKS / f"{name}.txt"), "free": 20, "uv": uv}
        # Ten gigabytes that nothing else needs are not to stay in the user's cache.
        env = {"UV_CACHE_DIR": str(folder / "cache")}
        words = ("localhost", "-m", "llmfleet.serving.python_environment", "-a", json.dumps(module))
        try:
            session.run("ansible", *words, env=env)
            python = f"--python={path}/bin/python"
            said = session.run(uv, "pip", "check", python, silent=True, success_codes=[0, 1])
            # The tag in decord's wheel is another one than that in its name, by which it was chosen.
            wrong = {line for line in said.splitlines() if line.startswith("The package")} - {
                "The package `decord` was built for a different platform"
            }
            session.log(f"{name}: {', '.join(sorted(wrong)) or 'each package has what it asks for'}")
            session.run("du", "--summarize", "--human-readable", str(path))
            if wrong:
                session.error(name)
        finally:
            shutil.rmtree(folder)
