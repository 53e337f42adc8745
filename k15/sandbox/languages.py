"""The languages: how a source file becomes a program, and how the program is started.

A table. A language is there if its programs are: under the host's /usr, or in the image given for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from k15.errors import ConfigError

_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/go/bin"
_HOST_PATHS = ("/etc/ld.so.cache", "/etc/alternatives")


@dataclass(frozen=True, slots=True)
class Language:
    """One language.

    Attributes:
        name: as in `Program.language`.
        source: the source file's name.
        programs: what must be in the image.
        run: program and arguments; {memory_mb} and {main} are filled in.
        compile: a shell command that leaves its result in /tmp/out, or "" for none; {source} and {main}.
        artifact: the result's name in /box.
        package: what to install where it is missing.
        aliases: other names.
        env: more environment.
        host_paths: more of the host that is shown, beside /usr.
        extra_memory_mb: what the runtime takes beyond the program's own memory.
        limit_address_space: false for runtimes that reserve far more memory than they use.
        extra_processes: threads of the runtime.
        main: how to find the main class in the source.
    """

    name: str
    source: str
    programs: tuple[str, ...]
    run: tuple[str, ...]
    compile: str = ""
    artifact: str = ""
    package: str = ""
    aliases: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    host_paths: tuple[str, ...] = ()
    extra_memory_mb: int = 0
    limit_address_space: bool = True
    extra_processes: int = 0
    main: str = ""

    def environment(self) -> dict[str, str]:
        """The whole environment of a box."""
        return {"PATH": _PATH, "HOME": "/tmp", "LANG": "C.UTF-8", **self.env}

    def shown_host_paths(self) -> tuple[str, ...]:
        """What of the host is shown beside /usr, if there is no image."""
        found = [str(path) for pattern in self.host_paths for path in Path("/").glob(pattern)]
        return (*_HOST_PATHS, *sorted(found))

    def main_name(self, code: str) -> str:
        """The main class, for a language that has one."""
        found = re.search(self.main, code) if self.main else None
        return found.group(1) if found else "Main"

    def missing(self, root: Path | None) -> list[str]:
        """Programs that are not in the image, or not under the host's /usr."""
        folders = [
            Path(str(root or ""), folder.lstrip("/")) if root else Path(folder)
            for folder in _PATH.split(":")
        ]
        return [name for name in self.programs if not any(_is_there(f / name) for f in folders)]


_CPP = "g++ -std=gnu++17 -O2 -pipe -o /tmp/out -x c++ {source}"
LANGUAGES = {
    language.name: language
    for language in (
        Language(
            "python",
            "main.py",
            ("python3",),
            ("python3", "-s", "-B", "/box/main.py"),
            package="python3",
            aliases=("python3", "py"),
            env={"PYTHONHASHSEED": "0", "PYTHONIOENCODING": "utf-8", "OPENBLAS_NUM_THREADS": "1"},
        ),
        Language(
            "cpp", "main.cpp", ("g++", "sh", "cat"), ("/box/main",), _CPP, "main", "g++", ("c++", "cxx")
        ),
        Language(
            "c",
            "main.c",
            ("gcc", "sh", "cat"),
            ("/box/main",),
            "gcc -std=gnu17 -O2 -pipe -o /tmp/out {source} -lm",
            "main",
            "gcc",
        ),
        Language(
            "javascript",
            "main.js",
            ("node",),
            ("node", "--max-old-space-size={memory_mb}", "/box/main.js"),
            package="nodejs",
            aliases=("js", "node", "nodejs"),
            extra_memory_mb=96,
            limit_address_space=False,
            extra_processes=16,
        ),
        Language(
            "java",
            "{main}.java",
            ("java", "javac", "jar", "sh", "cat"),
            (
                *("java", "-Xmx{memory_mb}m", "-Xss64m", "-XX:+UseSerialGC", "-XX:-UsePerfData"),
                *("-XX:TieredStopAtLevel=1", "-cp", "/box/main.jar", "{main}"),
            ),
            "mkdir /tmp/classes && javac -J-XX:-UsePerfData -encoding UTF-8 -d /tmp/classes {source} && "
            "jar -J-XX:-UsePerfData -c -f /tmp/out -0 -C /tmp/classes .",
            "main.jar",
            "default-jdk-headless",
            host_paths=("etc/java-*",),
            extra_memory_mb=192,
            limit_address_space=False,
            extra_processes=32,
            main=r"public\s+(?:(?:final|abstract|strictfp)\s+)*class\s+(\w+)",
        ),
        Language(
            "bash",
            "main.sh",
            ("bash",),
            ("bash", "/box/main.sh"),
            package="bash",
            aliases=("sh", "shell"),
        ),
        Language(
            "go",
            "main.go",
            ("go", "sh", "cat"),
            ("/box/main",),
            "cd /tmp/ && go build -o /tmp/out {source}",
            "main",
            "golang-go",
            ("golang",),
            env={
                "GOCACHE": "/tmp/cache",
                "GOPATH": "/tmp/go",
                "GOFLAGS": "-mod=mod",
                "CGO_ENABLED": "0",
            },
            extra_memory_mb=32,
            limit_address_space=False,
            extra_processes=16,
        ),
    )
}
_BY_NAME = {
    name: language for language in LANGUAGES.values() for name in (language.name, *language.aliases)
}


def get_language(name: str) -> Language:
    """The language of a name or alias.

    Raises:
        ConfigError: there is none.
    """
    language = _BY_NAME.get(name.lower())
    if language is None:
        raise ConfigError(f"a language must be one of {', '.join(LANGUAGES)}; got {name!r}.")
    return language


def _is_there(path: Path) -> bool:
    try:
        return path.exists() or path.is_symlink()  # an image's links point to its own root
    except OSError:
        return False
