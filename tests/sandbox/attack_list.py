"""The attacks A01-A58, A69 as programs. Each tries one thing.

A program here prints "in" (as a word of its own) if it got what it must not get, and "42" is never what its
test expects, so that OK means a right answer only where `OK` is among the verdicts and nothing is expected.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from k15.sandbox.base import Job, Limits, Program, RunVerdict, StdinTest

OK, WA, RE, TLE, MLE, OLE, SV, CE = (
    RunVerdict(name) for name in ("OK", "WA", "RE", "TLE", "MLE", "OLE", "SV", "CE")
)
ORDINARY = Job(Program("python", "print(int(input()) * 2)"), (StdinTest("21", "42"),))
LIMITS = Limits(cpu_seconds=0.5, wall_seconds=3.0, memory_mb=128, processes=32, output_bytes=1 << 18)

# got(f): f was not refused. A program says "in" about what it got.
PRELUDE = """
import ctypes, os, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def got(f):
    try:
        return f() is not False
    except (OSError, ValueError, AttributeError):
        return False
def say(name, f):
    if got(f): print("in", name)
def call(*words):
    return libc.syscall(*words) >= 0
"""


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        name: id and title.
        code: the program.
        verdicts: what is accepted.
        language: of the program.
        limits: if other than the usual ones.
        says: words that standard output must have, as proof that the program got that far.
    """

    name: str
    code: str
    verdicts: tuple[RunVerdict, ...]
    language: str = "python"
    limits: Limits = field(default=LIMITS)
    says: tuple[str, ...] = ()


def python(name: str, code: str, *verdicts: RunVerdict, says: tuple[str, ...] = ()) -> Attack:
    return Attack(name, PRELUDE + code, verdicts, says=says)


def cpp(name: str, code: str, *verdicts: RunVerdict) -> Attack:
    return Attack(name, code, verdicts, "cpp")


def bash(name: str, code: str, *verdicts: RunVerdict) -> Attack:
    return Attack(name, code, verdicts, "bash")


RESOURCES = (
    python("A01 fork bomb", "while True: os.fork()", RE, MLE, TLE),
    bash("A01 fork bomb of the shell", ":(){ :|:& };:\nsleep 1; echo in_time", OK, RE, MLE, TLE),
    python(
        "A02 thread bomb",
        "import threading\nfor _ in range(100000): threading.Thread(target=time.sleep, args=(60,)).start()",
        RE,
        MLE,
        TLE,
    ),
    python(
        "A03 children that hold memory and wait",
        "while True:\n    if os.fork() == 0:\n        kept = bytearray(1 << 20)\n        time.sleep(60)",
        RE,
        MLE,
        TLE,
    ),
    python("A04 one huge object", "kept = bytearray(10**12)", MLE),
    python("A04 a growing list", "kept = []\nwhile True: kept.append(bytes(1 << 20))", MLE),
    python(
        "A04 mapped and touched",
        "import mmap\nm = mmap.mmap(-1, 1 << 30)\nfor i in range(0, 1 << 30, 4096): m[i] = 1",
        MLE,
    ),
    cpp("A04 from C++", "#include <vector>\nint main() { std::vector<char*> v; for (;;) { char* p = new char[1 << 20];"
        " for (int i = 0; i < 1 << 20; i += 512) p[i] = 1; v.push_back(p); } }", MLE),
    python(
        "A05 memory as files",
        "for place in ('/dev/shm/x', '/tmp/x'):\n    with open(place, 'wb') as file:\n"
        "        for _ in range(1000): file.write(bytes(1 << 20))",
        RE,
        OLE,
        MLE,
    ),
    python(
        "A05 memory without a name",
        "file = os.memfd_create('x')\nfor _ in range(1000): os.write(file, bytes(1 << 20))\nprint('in')",
        MLE,
        OLE,
        RE,
    ),
    python(
        "A05 System V shared memory left behind",
        "number = libc.shmget(0x6b3135, 1 << 24, 0o1666)\nlibc.shmat.restype = ctypes.c_void_p\n"
        "address = libc.shmat(number, None, 0)\nctypes.memset(address, 1, 1 << 24)\nprint('made')",
        OK,
        RE,
    ),
    python(
        "A06 only a child is killed for memory",
        "if os.fork() == 0:\n    kept = []\n    while True: kept.append(bytearray(1 << 20))\nos.wait()\nprint('in')",
        MLE,
    ),
    python(
        "A07 one big file",
        "with open('/tmp/x', 'wb') as file:\n    for _ in range(4096): file.write(bytes(1 << 20))",
        RE,
        OLE,
        MLE,
    ),
    python(
        "A07 empty files without end",
        "i = 0\nwhile True:\n    os.close(os.open(f'/tmp/{i}', os.O_CREAT))\n    i += 1",
        RE,
        TLE,
        MLE,
    ),
    python("A07 a sparse file", "os.truncate(os.open('/tmp/x', os.O_CREAT | os.O_RDWR), 1 << 40)", RE, OLE),
    python(
        "A07 folders in folders",
        "for _ in range(100000):\n    os.mkdir('d')\n    os.chdir('d')",
        OK,
        RE,
        TLE,
        MLE,
    ),
    python("A08 output without end", "while True: print('y' * 100)", OLE),
    python("A08 output without a line end", "while True: os.write(1, b'y' * 65536)", OLE),
    python("A08 a hundred megabytes in one write", "sys.stdout.buffer.write(bytes(10**8))", OLE, MLE),
    python("A08 errors without end", "while True: os.write(2, b'y' * 65536)", OLE),
    python(
        "A08 no text",
        "os.write(1, b'made \\x00\\xff\\xfe\\x1b[2J\\x1b]52;c;eA==\\x07')",
        OK,
        says=("made",),
    ),
    python("A09 a byte a second", "while True:\n    os.write(1, b'y')\n    time.sleep(1)", TLE),
    python(
        "A09 a daemon that keeps the pipe open",
        "if os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n    os._exit(0)\nprint('made')",
        OK,
        says=("made",),
    ),
    python("A10 a busy loop", "while True: pass", TLE),
    python("A10 a sleep", "time.sleep(60)", TLE),
    cpp("A10 a busy loop in C++", "int main() { for (volatile int i = 0;; i++) ; }", TLE),
    Attack(
        "A11 CPU time in many children",
        PRELUDE + "for _ in range(24):\n    if os.fork() == 0:\n        while True: pass\ntime.sleep(60)",
        (TLE,),
    ),
    python("A12 deep recursion", "sys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1) + 1\nf(0)", RE, MLE),
    cpp("A12 the stack of C++", "int f(int n) { volatile char c[4096]; c[0] = n; return f(n + 1) + c[0]; }\n"
        "int main() { return f(0); }", RE, MLE),
    python("A13 a slow pattern", "import re\nre.match('(a+)+$', 'a' * 40 + 'b')", TLE),
    python("A13 a huge power", "print(len(str(10 ** 10 ** 10)))", TLE, MLE, RE),
    python("A13 a huge number as text", "sys.set_int_max_str_digits(0)\nstr(1 << (1 << 24))", TLE),
    python(
        "A14 a bomb unpacked in the box",
        "import zlib\nkept = zlib.compress(bytes(1 << 20)) \nkept = [zlib.decompress(kept) for _ in range(10000)]",
        MLE,
        TLE,
    ),
    python("A15 files without end", "kept = []\nwhile True: kept.append(open('/dev/null'))", RE),
    python("A15 sockets without end", "kept = []\nwhile True: kept.append(socket.socket())", RE),
    python(
        "A15 epolls and watches without end",
        "import select\nkept = []\nwhile True:\n    kept.append(select.epoll())\n"
        "    assert libc.inotify_init() >= 0",
        RE,
    ),
    python(
        "A16 a core dump",
        "import resource\nsay('limit', lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30)))\n"
        "os.abort()",
        RE,
    ),
)  # fmt: skip

PROCESSES = (
    python(
        "A17 a daemon that outlives the run",
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(2)\n"
        "        os.write(1, b' in ')\n    os._exit(0)\nos.wait()\nprint('made')",
        OK,
        says=("made",),
    ),
    python("A18 kill everybody", "import signal\nos.kill(-1, signal.SIGKILL)\nprint('made')", OK, RE, SV),
    python(
        "A18 kill the parent and the first process",
        "import signal\nfor number in (signal.SIGKILL, signal.SIGSTOP):\n"
        "    for target in (os.getppid(), 1):\n"
        "        try: os.kill(target, number)\n        except OSError: pass\nprint('made')",
        OK,
        RE,
        TLE,
    ),
    python("A18 stop everybody", "import signal\nos.kill(0, signal.SIGSTOP)", TLE, OK),
    python(
        "A19 ignore every signal",
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nsignal.setitimer(signal.ITIMER_REAL, 0)\nwhile True: pass",
        TLE,
    ),
    python("A20 trace the first process", "libc.ptrace(16, 1, 0, 0)\nprint('in')", SV),
    python("A20 write into another process", "call(311, 1, 0, 0, 0, 0, 0)\nprint('in')", SV),
    python(
        "A20 the first process has no right that the program has not",  # it may be written into, for what it is worth
        "status = open('/proc/1/status').read()\n"
        "for line in ('CapEff:\\t0000000000000000', 'CapBnd:\\t0000000000000000', 'NoNewPrivs:\\t1', 'Seccomp:\\t2'):\n"
        "    if line not in status: print('in', line)",
        OK,
    ),
    python(
        "A21 ten thousand zombies",
        "for _ in range(10000):\n    if os.fork() == 0: os._exit(0)\nprint('in')",
        RE,
        TLE,
    ),
    python(
        "A22 games with prctl",
        "libc.prctl(1, 0)\nlibc.prctl(36, 1)\nlibc.prctl(4, 0)\nif os.fork() == 0:\n    os.setsid()\n"
        "    time.sleep(60)\nprint('made')",
        OK,
        says=("made",),
    ),
    python(
        "A23 a higher priority",
        "say('nice', lambda: os.nice(-20))\n"
        "say('fifo', lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)))\n"
        "say('ionice', lambda: call(251, 1, 0, 1 << 13))",
        OK,
        RE,
    ),
    python(
        "A24 the machine itself",
        "say('reboot', lambda: call(169, 0xfee1dead, 672274793, 0x1234567))\n"
        "say('swapoff', lambda: call(168, b'/swap'))\n"
        "say('sysrq', lambda: open('/proc/sysrq-trigger', 'w').write('h'))",
        OK,
    ),
    python("A24 another kernel", "call(246, 0, 0, 0, 0)\nprint('in')", SV),
)  # fmt: skip

FILES = (
    python(
        "A26 files of the host",
        "for path in ('/etc/shadow', '/root', '/home', '/var', '/srv', '/opt', '/run/secrets', '/work', '/sys',\n"
        "             '/boot', '/.dockerenv', os.path.expanduser('~/.ssh'), '/etc/hostname', '/etc/resolv.conf'):\n"
        "    if os.path.exists(path): print('in', path)\n"
        "print('made', *sorted(os.listdir('/')))",
        OK,
        says=("made",),
    ),
    python(
        "A28 links in the place of files",
        "os.symlink('/etc/shadow', '/tmp/out')\nos.mkfifo('/tmp/pipe')\nos.link('/tmp/out', '/tmp/hard')\n"
        "os.symlink('/proc/1/root', '/tmp/root')\nprint('made')",
        OK,
        RE,
    ),
    python(
        "A29 a race of links against the end",
        "end = time.time() + 0.3\nwhile time.time() < end:\n"
        "    try:\n        os.symlink('/', '/tmp/a'); os.rename('/tmp/a', '/tmp/b'); os.unlink('/tmp/b')\n"
        "        os.mkdir('/tmp/b'); os.rmdir('/tmp/b')\n    except OSError: pass\nprint('made')",
        OK,
        TLE,
        says=("made",),
    ),
    python(
        "A30 strange names",
        "for name in (b'a\\nb', b'-rf', b'\\xff\\xfe', b' ', b'x' * 255, b'$(id)'):\n"
        "    open(b'/tmp/' + name, 'w').close()\n"
        "say('long', lambda: open(b'/tmp/' + b'x' * 4096, 'w'))\nprint('made')",
        OK,
        says=("made",),
    ),
    python(
        "A32 a program with the rights of root",
        "import shutil, subprocess\nshutil.copy('/usr/bin/id', '/tmp/id')\nos.chmod('/tmp/id', 0o6755)\n"
        "before = os.geteuid()\nsaid = subprocess.run(['/tmp/id', '-u'], capture_output=True, text=True).stdout\n"
        "if int(said) != before or before == 0: print('in', said)\n"
        "say('capability', lambda: os.setxattr('/tmp/id', 'security.capability', b'\\x01' * 20))\n"
        "status = open('/proc/self/status').read()\n"
        "if 'NoNewPrivs:\\t1' not in status or 'CapEff:\\t0000000000000000' not in status: print('in caps')",
        OK,
    ),
    python(
        "A33 folders that cannot be deleted",
        "os.mkdir('/tmp/a')\nopen('/tmp/a/b', 'w').close()\nos.chmod('/tmp/a', 0)\n"
        "for i in range(2000):\n    os.mkdir('d' * 200)\n    os.chdir('d' * 200)\nprint('made')",
        OK,
        RE,
        TLE,
        MLE,
    ),
    python(
        "A34 another interpreter for the next run",
        "import site, sysconfig\n"
        "for path in (sys.executable, os.__file__, sysconfig.get_path('purelib') + '/sitecustomize.py',\n"
        "             '/box/main.py', '/box/sitecustomize.py', '/etc/ld.so.preload', '/usr/bin/python3'):\n"
        "    say(path, lambda: os.path.realpath(path) != '/tmp' and open(path, 'r+').write('x'))\n"
        "    say(path, lambda: os.unlink(path))\n"
        "os.makedirs(site.getusersitepackages(), exist_ok=True)\n"
        "open(site.getusersitepackages() + '/usercustomize.py', 'w').write('print(\"in\")')\nprint('made')",
        OK,
        says=("made",),
    ),
    python(
        "A35 out of the root",
        "os.mkdir('/tmp/x')\nsay('chroot', lambda: os.chroot('/tmp/x'))\n"
        "for path in ('/proc/1/root/etc/shadow', '/proc/self/cwd/../../../../etc/shadow', '/../../etc/shadow'):\n"
        "    if os.path.exists(path): print('in', path)",
        OK,
    ),
    python("A35 another root", "call(155, b'/tmp', b'/tmp')\nprint('in')", SV),
    python("A36 mount", "call(165, b'none', b'/tmp', b'tmpfs', 0, 0)\nprint('in')", SV),
    python(
        "A36 devices",
        "import stat\nsay('mknod', lambda: os.mknod('/tmp/mem', 0o600 | stat.S_IFCHR, os.makedev(1, 1)))\n"
        "for path in ('/dev/mem', '/dev/kmem', '/dev/sda', '/dev/vda', '/dev/kvm', '/dev/kmsg', '/dev/fuse'):\n"
        "    if os.path.exists(path): print('in', path)",
        OK,
    ),
    python(
        "A37 locks on files that others see",
        "import fcntl\nfile = open('/usr/bin/env', 'rb')\n"
        "say('flock', lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB))\n"
        "say('lockf', lambda: fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB))\n"
        "say('lease', lambda: fcntl.fcntl(file, 1024, fcntl.F_RDLCK))",
        OK,
    ),
)  # fmt: skip

INFORMATION = (
    python(
        "A38 the environment",
        "import glob\nallowed = {'PATH', 'HOME', 'LANG', 'PYTHONHASHSEED', 'PYTHONIOENCODING', 'PWD', 'container',\n"
        "           'OPENBLAS_NUM_THREADS', 'LC_CTYPE', 'SHLVL', '_', 'HOSTNAME'}\n"
        "names = set(os.environ)\n"
        "for path in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try: names |= {part.split(b'=')[0].decode() for part in open(path, 'rb').read().split(b'\\0') if part}\n"
        "    except OSError: pass\n"
        "if names - allowed: print('in', names - allowed)\nprint('made')",
        OK,
        says=("made",),
    ),
    python(
        "A39 open files",
        "links = {}\nfor name in os.listdir('/proc/self/fd'):\n"
        "    try: links[name] = os.readlink('/proc/self/fd/' + name)\n    except OSError: pass\n"
        "others = {n: l for n, l in links.items() if not l.startswith(('pipe:', '/proc/', '/box/main.py'))}\n"
        "if others or len(links) > 5: print('in', others, links)\n"
        "print('made', sorted(os.listdir('/tmp') + os.listdir('/dev/shm')))",
        OK,
        says=("made", "[]"),
    ),
    python(
        "A40 what machine this is",
        "if os.uname().nodename != 'box': print('in', os.uname().nodename)\n"
        "for path in ('/etc/machine-id', '/sys/class/dmi/id/product_uuid', '/var/lib/dbus/machine-id'):\n"
        "    if os.path.exists(path): print('in', path)\n"
        "seen = open('/proc/1/cmdline').read() + open('/proc/self/cmdline').read()\n"
        "if '/root' in seen or '/home' in seen or 'k15-' in seen: print('in', seen)",
        OK,
    ),
    python(
        "A42 graphics cards",
        "import glob\nfor pattern in ('/dev/nvidia*', '/dev/dri*', '/tmp/nvidia-mps*'):\n"
        "    if glob.glob(pattern): print('in')",
        OK,
    ),
    python(
        "A43 the network",
        "for family, address in ((socket.AF_INET, '192.0.2.1'), (socket.AF_INET, '169.254.169.254'),\n"
        "                        (socket.AF_INET6, '2001:db8::1')):\n"
        "    say('tcp', lambda: socket.socket(family).connect((address, 80)))\n"
        "    say('udp', lambda: socket.socket(family, socket.SOCK_DGRAM).sendto(b'x', (address, 53)))\n"
        "say('dns', lambda: socket.getaddrinfo('example.com', 80))\n"
        "say('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))\n"
        "print('made', *[name for _, name in socket.if_nameindex()] if got(socket.if_nameindex) else [])",
        OK,
        says=("made",),
    ),
    python(
        "A45 the box's own loopback works",
        "server = socket.create_server(('127.0.0.1', 0))\nclient = socket.create_connection(server.getsockname())\n"
        "client.sendall(b'made')\nprint(server.accept()[0].recv(4).decode())",
        OK,
        says=("made",),
    ),
    *(
        python(f"A46 sockets of family {family}", f"socket.socket({family}, {kind})\nprint('in')", SV)
        for family, kind in ((40, 1), (38, 5), (17, 3), (31, 3), (44, 3))
    ),
    python("A46 netlink", "say('netlink', lambda: socket.socket(16, socket.SOCK_RAW, 0))", OK, SV),
    *(
        python(f"A47 {name}", f"call({words})\nprint('in')", SV)
        for name, words in (
            ("keyctl", "250, 0, -3, 1"),
            ("bpf", "321, 0, 0, 0"),
            ("perf", "298, 0, 0, -1, -1, 0"),
            ("userfaultfd", "323, 0"),
            ("unshare", "272, 0x10000000"),
            ("a new user namespace", "56, 0x10000011, 0, 0, 0, 0"),
            ("setns", "308, 0, 0"),
            ("handles of files", "304, 0, 0, 0"),
        )
    ),
    python("A47 io_uring", "if call(425, 8, ctypes.create_string_buffer(256)): print('in')", OK, SV),
    python("A47 clone3", "if call(435, ctypes.create_string_buffer(88), 88): print('in')", OK, SV),
    cpp("A47 calls of 32 bits", "#include <cstdio>\nint main() { int r;\n"
        "asm volatile(\"int $0x80\" : \"=a\"(r) : \"a\"(20));"
        " if (r > 0) puts(\"in\"); }", SV, RE),
    Attack(
        "A48 a hundred thousand random calls",
        "#include <cstdlib>\n#include <unistd.h>\n#include <sys/syscall.h>\nint main() { srand(7);\n"
        "for (int i = 0; i < 100000; i++) { int n = rand() % 450;\n"
        "if (n == 60 || n == 231 || n == 34 || n == 15) continue;\n"
        "if (fork() == 0) { alarm(1); syscall(n, rand() % 8, rand(), rand() % 64, 0, 0, 0); _exit(0); } } }",
        (OK, RE, SV, TLE, MLE, OLE),
        "cpp",
    ),
    python(
        "A49 code made at run time",
        "import mmap\nm = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "m.write(b'\\xb8\\x2a\\x00\\x00\\x00\\xc3')\n"
        "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n"
        "print('made' if f() == 42 else 'no')",
        OK,
        says=("made",),
    ),
    python(
        "A50 another time",
        "say('clock', lambda: time.clock_settime(time.CLOCK_REALTIME, 0))",
        OK,
    ),
)  # fmt: skip

COMPILERS = (
    cpp("A69 templates without end", "template <int N> struct F { static const int v = F<N - 1>::v + F<N - 2>::v; };\n"
        "template <class T> struct G { typedef G<G<T>> t; typename t::t x; };\nG<int>::t y; int main() {}", CE),
    cpp("A69 a source that never ends", '#include "/dev/zero"\nint main() {}', CE),
    cpp("A69 a file of the host", '#include "/etc/shadow"\nint main() {}', CE),
    cpp("A69 a huge program", "char a[1 << 30] = {1}; int main() { return a[0]; }", CE),
)  # fmt: skip

ATTACKS = (*RESOURCES, *PROCESSES, *FILES, *INFORMATION, *COMPILERS)
