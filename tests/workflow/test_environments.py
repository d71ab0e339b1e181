"""Rules say what they need, environments agree with the lock, and documented results are made. Conda itself cannot be tried without its channels."""

import ast
import importlib
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from snakemake.api import SnakemakeApi
from snakemake.io import strip_wildcard_constraints
from snakemake.settings.enums import Quietness
from snakemake.settings.types import OutputSettings, ResourceSettings

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "workflow/scripts"
ENVIRONMENTS = sorted((ROOT / "workflow/envs").glob("*.yaml"))


def pins(lines, python=None):
    """Version by package of lines such as ``scipy==1.17.1 ; python_full_version < '3.12'``, as they hold for a Python."""
    found = [Requirement(line) for line in lines if line[:1].isalnum()]
    place = {"python_version": python, "python_full_version": f"{python}.0"} if python else None
    return {
        canonicalize_name(each.name): str(each.specifier).removeprefix("==")
        for each in found
        if each.marker is None or each.marker.evaluate(place)
    }


LOCK = (ROOT / "requirements.lock").read_text().splitlines()


def pip_list(environment):
    return yaml.safe_load(environment.read_text())["dependencies"][-1]["pip"]


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda path: path.name)
def test_environments_pin_what_the_lock_pins(environment):
    python = re.search(r"python =(3\.\d+)", environment.read_text())[1]
    lock = pins(LOCK, python)
    listed = pins(pip_list(environment))
    if environment.stem in ("kronfluence", "bergson"):
        # Both declare it and neither imports it: the one difference from the lock.
        assert listed.pop("torchvision")
    for package, version in listed.items():
        assert version == lock.get(package), f"{environment.name}: {package}=={version}, the lock: {lock.get(package)}"


def test_the_lock_has_all_that_is_asked_for():
    lock = pins(LOCK)
    for package, version in pins((ROOT / "requirements.in").read_text().splitlines()).items():
        assert lock.get(package), f"{package} is in requirements.in and not in the lock: make lock"
        assert version in ("", lock[package]), f"requirements.in: {package}=={version}, the lock: {lock[package]}"


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    """The workflow's rules that do something."""
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(
            ResourceSettings(), snakefile=ROOT / "Snakefile", workdir=tmp_path_factory.mktemp("rules")
        )
        workflow.dag()
        return [rule for rule in workflow._workflow.rules if rule.output]


def test_every_rule_says_what_it_needs(rules):
    assert len(rules) > 8
    for rule in rules:
        assert rule.log, f"{rule.name} has no log"
        assert rule.benchmark, f"{rule.name} has no benchmark"
        assert rule.docstring, f"{rule.name} does not say what it does"
        assert {"_cores", "mem_mb", "runtime"} <= set(rule.resources), f"{rule.name} lacks threads, mem_mb or runtime"
        assert environment_of(rule) in ENVIRONMENTS, f"{rule.name} has no environment"
        assert script_of(rule).is_file(), f"{rule.name} has no script"


def test_environments_have_what_scripts_import(rules):
    providers = importlib.metadata.packages_distributions()
    for rule in rules:
        listed = pins(pip_list(environment_of(rule)))
        for module in imports_of(script_of(rule)):
            names = {canonicalize_name(name) for name in providers.get(module, [module])}
            assert names & set(listed), f"{rule.name} imports {module}, which {environment_of(rule).name} does not list"


def test_every_rule_reruns_with_the_code_of_its_script(rules):
    for rule in rules:
        if rule.name.startswith("download_"):
            continue  # What was downloaded stays.
        digest = rule.params["code"]
        assert digest.__closure__[0].cell_contents == script_of(rule).stem, rule.name


def test_documented_results_are_made_by_a_rule(rules):
    outputs = [
        Path("results/report.html"),
        *(Path(strip_wildcard_constraints(each)) for rule in rules for each in rule.output),
    ]
    # What an output folder holds counts as made, and so does a folder that outputs are in.
    made = [pattern(path) + "(/.*)?" for path in outputs] + [pattern(up) for path in outputs for up in path.parents]
    for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), ROOT / "config/README.md"):
        text = page.read_text() if page.exists() else ""
        # Of several names in braces, the first stands for all.
        text = re.sub(r"{([\w-]+),[^}]*}", r"\1", text)
        for path in re.findall(r"(?<![\w/])results/[\w{}./-]*[\w}]", text):
            # Pages link to docs/results/.
            is_page = path.endswith(".md") and (ROOT / "docs" / path).exists()
            assert is_page or any(re.fullmatch(each, path) for each in made), f"{page.name}: {path}"


def pattern(path):
    """As a regular expression, with wildcards for anything but a slash."""
    return re.sub(r"\\{\w+\\}", "[^/]+", re.escape(str(path)))


def environment_of(rule):
    return Path(str(rule.basedir)).joinpath(str(rule.conda_env)).resolve()


def script_of(rule):
    return Path(str(rule.basedir)).joinpath(rule.script).resolve()


def imports_of(path, seen=None):
    """Third-party packages that a script imports as it starts, by itself or through the library."""
    seen = {path} if seen is None else seen
    found = set()
    for name in module_level_imports(path):
        top = name.split(".")[0]
        if top != "factlife":
            found |= {top} - sys.stdlib_module_names
            continue
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            base = SCRIPTS.joinpath(*parts[:depth])
            for file in (base / "__init__.py", base.with_suffix(".py")):
                if file.is_file() and file not in seen:
                    seen.add(file)
                    found |= imports_of(file, seen)
    return found


def module_level_imports(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from factlife import jobs` names a module, `from factlife.jobs import start` does not: both are looked up.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_report_is_ordered_as_the_story():
    found = {
        category
        for path in (ROOT / "workflow/rules").glob("*.smk")
        for category in re.findall(r'(?<!sub)category="([^"]+)"', path.read_text())
    }
    story = ["Worlds", "Recall", "Dynamics", "Location", "Editing", "Influence", "Collapse", "Ledger", "Costs"]
    assert found == {f"{number}. {name}" for number, name in enumerate(story, 1)}
