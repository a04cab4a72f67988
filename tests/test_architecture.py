"""The rules that no linter knows: import direction, packaging, what may be committed, README against tree."""

import ast
import importlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_TRACKED_BYTES = 24 * 2**20

# Package -> the packages of this repository that it must not import: latentcodec <- eval <- train.
FORBIDDEN = {"latentcodec": {"eval", "train", "tests"}, "eval": {"train", "tests"}, "train": {"tests"}}

# The extension points: (module, name). Each is a plain dict from a name to an imported object.
REGISTRIES = [
    ("latentcodec.cli", "COMMANDS"),
    ("latentcodec.anomaly.detector", "ERRORS"),
    ("latentcodec.anomaly.detector", "VECTORS"),
    ("latentcodec.augmentation", "KINDS"),
    ("latentcodec.images.sources", "SOURCES"),
    ("latentcodec.interpolation", "METHODS"),
    ("latentcodec.store.export_formats", "EXPORT_FORMATS"),
    ("latentcodec.vae.presets", "PRESETS"),
    ("eval.anomaly", "DEFECTS"),
    ("eval.metrics", "METRICS"),
    ("eval.rate.registry", "CODECS"),
    ("eval.symbols.measure", "GENERAL"),
    ("train.adversarial", "GAN_LOSSES"),
    ("train.discriminators", "DISCRIMINATORS"),
    ("train.losses", "TERMS"),
]

# Written so that no pattern matches its own source.
MACHINE_PATH = re.compile(r"(?<![\w.~$}>-])/(?:home|root|Users|tmp|work|mnt|scratch)/[\w.<{$-]")
REGISTRY_HOST = re.compile(
    r"pypi\.org|pythonhosted\.org|pypi\.python\.org|download\.pytorch\.org|pypi\.nvidia\.com|registry\.npmjs"
    r"|conda\.anaconda\.org|deb\.debian\.org|--(?:extra-)?index-url\b|--find[-]links\b"
)


def tracked_files() -> list[Path]:
    """Files that git tracks, or would after `git add -A`, and that still exist in the work tree."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    paths = [ROOT / name for name in listing.decode().split("\0") if name]
    assert paths, "git tracks no file here"
    return [path for path in paths if path.is_file()]


def tracked_texts() -> list[tuple[str, str]]:
    """(path relative to the root, content) of every tracked file that is UTF-8 text."""
    texts = []
    for path in tracked_files():
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            texts.append((path.relative_to(ROOT).as_posix(), data.decode("utf-8")))
    return texts


def python_files(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def imported_modules(source: str, package: str) -> list[tuple[int, str]]:
    """(line, absolute module name) of every import statement in `source`, which lives in the dotted `package`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            found.append((node.lineno, ".".join([*parents, *([node.module] if node.module else [])])))
    return found


def test_imported_modules_sees_every_form() -> None:
    lines = [
        "import eval.metrics",
        "def f():",
        "    from train.losses import TERMS",
        "from ..vae import x",
        "from . import y",
    ]
    assert sorted(imported_modules("\n".join(lines), "latentcodec.images")) == [
        (1, "eval.metrics"),
        (3, "train.losses"),
        (4, "latentcodec.vae"),
        (5, "latentcodec.images"),
    ]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_flow_one_way(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in python_files(package)
        for line, module in imported_modules(path.read_text("utf-8"), ".".join(path.relative_to(ROOT).parent.parts))
        if module.split(".")[0] in FORBIDDEN[package]
    ]
    assert not wrong, "imports must flow latentcodec <- eval <- train:\n" + "\n".join(wrong)


def test_nobody_imports_the_name_eval() -> None:
    """`import eval` would hide the builtin; `from eval.metrics import psnr` does not."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("latentcodec", "eval", "train", "tests")
        for path in python_files(folder)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "eval" for alias in node.names)
    ]
    assert not wrong, f"write `from eval.metrics import psnr`, never `import eval`: {wrong}"


def test_wheel_lists_every_package_and_no_application() -> None:
    folders = {path.parent for path in python_files("latentcodec")}
    for folder in folders:
        assert (folder / "__init__.py").is_file(), f"{folder.relative_to(ROOT)} holds Python files but no __init__.py"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    listed = project["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(".".join(folder.relative_to(ROOT).parts) for folder in folders)


def test_no_tracked_file_is_large() -> None:
    large = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked_files()}
    large = {name: size for name, size in large.items() if size > MAX_TRACKED_BYTES}
    assert not large, f"over {MAX_TRACKED_BYTES} bytes: {large}"


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY_HOST], ids=["machine path", "registry host"])
def test_tracked_text_names_no_machine(pattern: re.Pattern[str]) -> None:
    wrong = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in tracked_texts()
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not wrong, "paths of one machine and registry hosts stay out of the repository:\n" + "\n".join(wrong)


def test_machine_patterns_match_what_they_are_for() -> None:
    folder = "/ho" + "me"
    assert MACHINE_PATH.search(f'open("{folder}/ann/vae")')
    assert MACHINE_PATH.search(f"cd {folder}/ann")
    assert not MACHINE_PATH.search(f"docs{folder}/ann and https://example.com{folder}/ann")
    assert REGISTRY_HOST.search("https://pypi." + "org/simple")


@pytest.mark.parametrize(("module", "name"), REGISTRIES)
def test_registries_are_plain_dicts_of_objects(module: str, name: str) -> None:
    registry = getattr(importlib.import_module(module), name)
    assert type(registry) is dict
    assert registry
    assert all(isinstance(key, str) for key in registry)
    assert not any(isinstance(value, str) for value in registry.values()), "register objects, not dotted names"


def readme() -> str:
    return (ROOT / "README.md").read_text("utf-8")


def readme_code() -> str:
    """Everything that the README shows as code: fenced blocks and `inline` spans."""
    text = readme()
    fenced = re.findall(r"^```.*?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return "\n".join([*fenced, *inline])


def test_readme_make_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", readme_code()))
    assert {"demo", "test"} <= named
    assert named <= targets, f"the README names make targets that the Makefile lacks: {named - targets}"


def test_readme_commands_name_existing_files() -> None:
    named = re.findall(r"\b((?:latentcodec|train|eval|tests)/[\w/.-]+\.\w+)", readme_code())
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def readme_tree() -> list[str]:
    """Paths in the README's commented tree: two spaces of indentation a level, then a name, then a comment."""
    block = re.search(r"^## Map of the repository\n.*?^```\w*\n(.*?)^```", readme(), flags=re.MULTILINE | re.DOTALL)
    assert block, "README.md has no tree under '## Map of the repository'"
    paths, parents = [], []
    for line in filter(str.strip, block[1].splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        if depth > len(parents):
            continue  # a comment that goes on from the line before
        names = re.split(r"\s{2,}", line.strip())[0].split()
        parents = [*parents[:depth], names[0].rstrip("/")] if names[0].endswith("/") else parents[:depth]
        above = parents[:depth]
        paths += ["/".join([*above, name]) for name in names]
    return paths


def test_readme_tree_is_the_tree() -> None:
    paths = readme_tree()
    files = [path.relative_to(ROOT) for path in tracked_files()]
    there = {file.as_posix() for file in files} | {f"{folder.as_posix()}/" for file in files for folder in file.parents}
    missing = [path for path in paths if path not in there]
    assert not missing, f"the README's tree names what is not there: {missing}"
    top = {file.parts[0] for file in files if len(file.parts) > 1}
    unnamed = top - {path.split("/")[0] for path in paths}
    assert not unnamed, f"the README's tree leaves out {sorted(unnamed)}"
