"""No text of a policy is ever run as code: shown in the source, and by watching the interpreter while it grades."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import k15.rewards.symbolic

ROOM = Path(k15.rewards.symbolic.__file__).parent
EVALUATORS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "sympify",
    "parse_expr",
    "eval_expr",
    "lambdify",
    "S",
}

# Every text holds this name. Were a part of it compiled, the source would be seen to contain it.
MARK = "zqmark"
TEXTS = [
    f'__import__("os").getpid()+{MARK}',
    f"().__class__.__base__.__subclasses__()+{MARK}",
    f'open("/etc/passwd").read()+{MARK}',
    f"{MARK}**2",
    f"f({MARK})+1",
    rf"\frac{{{MARK}}}{{2}}",
    rf"\text{{{MARK}}}+1",
    rf"\max({MARK}, 1)",
    rf"\mathrm{{{MARK}}}(x)",
    rf"\sum_{{k=1}}^{{3}} {MARK}_k",
    rf"\begin{{pmatrix}} {MARK} & 1 \\ 2 & 3 \end{{pmatrix}}",
    rf"{MARK} < 3",
    rf"{MARK} = 3",
    rf"\{{{MARK}, 1\}}",
    rf"[{MARK}, 5)",
    f"3.5e7{MARK}",
    f"0x10{MARK}",
    f"10_2{MARK}",
    f"lambda: {MARK}",
    f"x if {MARK} else y",
    f"'{MARK}'",
    f'"""{MARK}"""',
    f"{MARK}!",
    rf"\sqrt[{MARK}]{{2}}",
    rf"\operatorname{{{MARK}}}(1)",
    rf"\input{{{MARK}}}",
    rf"1 {MARK}",
    rf"5 \text{{ {MARK}}}",
]
WATCH = """
import json, sys
texts, mark, seen = json.loads(sys.argv[1]), sys.argv[2], []

def watch(event, arguments):
    if event in ("compile", "exec"):
        source = arguments[0]
        source = source if isinstance(source, (str, bytes)) else ""
        if mark in (source.decode(errors="replace") if isinstance(source, bytes) else source):
            seen.append([event, str(source)[:200]])
    elif is_grading and (event.startswith(("os.", "subprocess.", "socket.", "shutil.")) or event == "import"):
        if mark in repr(arguments) or event != "import":
            seen.append([event, repr(arguments)[:200]])
    elif is_grading and event == "open" and "passwd" in repr(arguments):
        seen.append([event, repr(arguments)[:200]])

is_grading = False
sys.addaudithook(watch)
import sympy
from k15.rewards.symbolic import compare_job, real_value
is_grading = True
rules = [None, {"type": "number", "decimals": 2, "convert_units": True}, {"type": "interval"}, {"type": "set"},
         {"type": "choice", "choices": ["1", "2"]}, {"type": "text"}, {"log": "e", "require": ["reduced", "base"]}]
for text in texts:
    for gold in ("x/2", "(1, 2)", text):
        for row in rules:
            compare_job([gold, text, row])
            compare_job([text, gold, row])
    real_value(text)
    try:
        sympy.sympify(text)  # even if a library handed it there
    except ValueError:
        pass
is_grading = False
graded = list(seen)
eval(f"'{mark}'")  # the watch works: this one is seen
print(json.dumps([graded, len(seen) - len(graded)]))
"""


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.name)
def test_the_room_calls_no_evaluator(path):
    """`worker.py` imports the function that it is started for, and nothing else is imported by name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in EVALUATORS, f"{path.name}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            is_pattern = ast.unparse(node.func) == "re.compile"
            assert is_pattern or node.func.attr not in EVALUATORS, f"{path.name}:{node.lineno}"
            is_loader = node.func.attr == "import_module"
            assert not is_loader or path.name == "worker.py", f"{path.name}:{node.lineno}"


def test_nothing_of_an_answer_is_compiled_while_it_is_judged():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", WATCH, json.dumps(TEXTS), MARK]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    seen, num_control = json.loads(done.stdout.splitlines()[-1])
    assert seen == []
    assert num_control >= 1
