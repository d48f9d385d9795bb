"""Matching: what a command line is, and what it only mentions. Charging takes both, signalling only the first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admitd.processes import matching, naming
from admitd.processes.matching import HELPER_TAIL, Judgement, Matcher, Remembered, Role
from tests.processes.crowd import matcher, noting, nul, service

MLX = r"mlx_lm[. ]server"
LM_STUDIO = "/Applications/LM Studio.app/Contents/MacOS/LM Studio"
HELPER_APP = "/Applications/LM Studio.app/Contents/Frameworks/LM Studio Helper.app/Contents/MacOS/LM Studio Helper"


def word(judgement: Judgement | None) -> str:
    """What one service's claim comes to: is, mentions, other (program), or nothing."""
    if judgement is None or not judgement.claims:
        return "nothing"
    (claim,) = judgement.claims
    return "other" if claim.other_program else "mentions" if claim.mention else "is"


IT_IS = [
    ("the program itself", MLX, ["mlx_lm.server", "--model", "Qwen"]),
    ("by its path", MLX, ["/opt/bin/mlx_lm.server", "--model", "Qwen"]),
    ("a script behind its interpreter", MLX, ["/usr/bin/python3.11", "/x/bin/mlx_lm.server", "--model", "Qwen"]),
    ("a script of a free-threaded python", MLX, ["python3.14t", "/x/mlx_lm.server"]),
    ("a module", MLX, ["python", "-m", "mlx_lm", "server", "--model", "Qwen"]),
    ("a module of a dotted name", MLX, ["python", "-m", "mlx_lm.server"]),
    ("a module written to its option", MLX, ["python", "-mmlx_lm.server"]),
    ("a module behind other letters", MLX, ["python", "-uIm", "mlx_lm.server"]),
    ("a module behind options with values", MLX, ["python", "-W", "ignore", "-X", "dev", "-m", "mlx_lm.server"]),
    ("a script behind a long option", MLX, ["python", "--check-hash-based-pycs", "never", "mlx_lm.server"]),
    ("a script after the end of options", MLX, ["bash", "--", "mlx_lm.server"]),
    ("Python as macOS names it", MLX, [LM_STUDIO.replace("LM Studio", "Python"), "/x/bin/mlx_lm.server"]),
    ("a shell script", "serve-qwen", ["/bin/bash", "-eu", "/home/u/bin/serve-qwen"]),
    ("a shell script behind a shell option", "serve-qwen", ["bash", "-o", "pipefail", "serve-qwen"]),
    ("a node script", r"server\.js", ["node", "--require", "tracing.js", "--max-old-space-size=9", "/srv/server.js"]),
    ("a jar", r"model\.jar", ["java", "-Xmx4g", "-cp", "lib", "-jar", "/srv/model.jar"]),
    ("a Java class", "com.acme.Serve", ["java", "-cp", "/srv/x.jar", "-Dx=y", "com.acme.Serve"]),
    ("a perl script behind letters", r"serve\.pl", ["perl", "-Mstrict", "-w", "/srv/serve.pl"]),
    ("a ruby script", r"serve\.rb", ["ruby3.2", "-I", "lib", "serve.rb"]),
    ("a PHP script by -f", r"serve\.php", ["php", "-d", "a=b", "-f", "serve.php"]),
    ("a title that the program gave itself", "mlx_lm.server", ["mlx_lm.server: loading Qwen"]),
    ("a title in capitals", "VLLM::EngineCore", ["VLLM::EngineCore"]),
    ("a login shell", "zsh", ["-zsh"]),
    ("a pattern that begins with anything", ".*" + MLX, ["/opt/bin/mlx_lm.server"]),
    ("a flag before the anything", "(?i).*MLX_LM.SERVER", ["mlx_lm.server", "mlx_lm.server"]),
    ("an anchor before the anything", "^.+bin/llama-server", ["/opt/bin/llama-server"]),
    ("the program and its arguments", r"llama-server .*--port 8081( |$)", ["llama-server", "--port", "8081"]),
    ("a folder of the program's name", "mlx_lm", ["/v/mlx_lm/bin/python", "-m", "mlx_lm", "server"]),
    ("its name again in an argument", "vllm", ["vllm", "serve", "--model", "vllm"]),
    ("a whole path", "^/opt/mlx/bin/server", ["/opt/mlx/bin/server", "-v"]),
    ("a name beyond ASCII before it", "llama-server", ["/opt/é€😀/llama-server", "--port", "1"]),
    ("qemu", r"qemu-system-[a-z0-9_]+ .*-name (guest=)?b(,| |$)", ["qemu-system-x86_64", "-name", "guest=b,x=y"]),
]

IT_MENTIONS = [
    ("tail", MLX, ["tail", "-f", "mlx_lm.server.log"]),
    ("grep", MLX, ["grep", "-r", "mlx_lm.server", "."]),
    ("an editor", MLX, ["vim", "/x/bin/mlx_lm.server"]),
    ("a shell with it in its text", MLX, ["sh", "-c", "mlx_lm.server --model Qwen; echo done"]),
    ("a shell with letters before the text", MLX, ["bash", "-lc", "mlx_lm.server"]),
    ("a shell with letters after the c", MLX, ["bash", "-cx", "mlx_lm.server"]),
    ("a shell with an option's value before", MLX, ["bash", "-o", "pipefail", "-ec", "mlx_lm.server"]),
    ("a shell that reads its text, given an argument", MLX, ["bash", "-s", "mlx_lm.server"]),
    ("python with it in its text", MLX, ["python", "-c", "print('mlx_lm.server')"]),
    ("python with the text at the option", MLX, ["python", "-cprint(1)", "mlx_lm.server"]),
    ("python that reads its text", MLX, ["python", "-", "mlx_lm.server"]),
    ("python -c where the pattern names python", r"python.*mlx_lm\.server", ["python", "-c", "x='mlx_lm.server'"]),
    ("another script where the pattern names python", r"python.*mlx_lm\.server", ["python", "x.py", "mlx_lm.server"]),
    ("a REPL where the pattern names its options", "python3 -i", ["python3", "-i"]),
    ("another script with it as an argument", MLX, ["python", "/srv/train.py", "--like", "mlx_lm.server"]),
    ("another module with it as an argument", MLX, ["python", "-m", "http.server", "mlx_lm.server"]),
    ("a script in a folder of that name", "mlx_lm", ["python", "/home/u/mlx_lm/tool.py"]),
    ("a program in a folder of that name", MLX, ["/opt/mlx_lm.server/bin/tail", "-f", "log"]),
    ("perl with it in its text", MLX, ["perl", "-ne", "print if /mlx_lm.server/", "log"]),
    ("perl with a text of slashes", MLX, ["perl", "-pe", "s/a/mlx_lm.server/", "log"]),
    ("node with it in its text", MLX, ["node", "-e", "mlx_lm.server"]),
    ("node with it in its long text", MLX, ["node", "--eval=1", "mlx_lm.server"]),
    ("uv run", MLX, ["uv", "run", "mlx_lm.server", "--model", "Qwen"]),
    ("caffeinate", MLX, ["caffeinate", "-i", "mlx_lm.server"]),
    ("ssh", MLX, ["ssh", "manoir", "mlx_lm.server"]),
    ("only an argument of the real one", "--port 8080", ["llama-server", "--port", "8080"]),
    ("anything, then an argument of the real one", ".*--port 8080", ["llama-server", "--port", "8080"]),
    ("no program at all", MLX, ["", "mlx_lm.server"]),
    ("a folder as the program", MLX, ["/x/", "mlx_lm.server"]),
]

BY_PS_ALONE = [
    ("LM Studio", "MacOS/LM Studio", LM_STUDIO, "is"),
    ("LM Studio with options", r"MacOS/LM Studio( |$)", f"{LM_STUDIO} --type=renderer", "is"),
    ("LM Studio's helper", "LM Studio Helper", f"{HELPER_APP} --type=gpu-process", "is"),
    ("a bundle whose program has another name", "lms-core", "/Applications/X.app/Contents/MacOS/lms-core -v", "is"),
    ("opening LM Studio", "MacOS/LM Studio", f"/usr/bin/open {LM_STUDIO}", "mentions"),
    ("a disk with a blank: who it is, is a guess", "llama-server", "/Volumes/My Disk/llama-server -p 1", "mentions"),
    ("only the kernel's name of it", "llama-server", "(llama-server)", "mentions"),
    ("a process without arguments", "llama-server", "[llama-server]", "mentions"),
    ("ps on a newline in a path", MLX, "/opt/a^Jb/mlx_lm.server", "is"),
]


@pytest.mark.parametrize(("pattern", "argv"), [pytest.param(p, a, id=name) for name, p, a in IT_IS])
def test_it_is_the_service(pattern: str, argv: list[str]) -> None:
    judge = matcher(s=pattern).judge
    assert word(judge(nul(*argv))) == "is"
    assert word(judge(" ".join(argv).encode())) == "is", "as ps prints it"


@pytest.mark.parametrize(("pattern", "argv"), [pytest.param(p, a, id=name) for name, p, a in IT_MENTIONS])
def test_it_only_mentions_the_service(pattern: str, argv: list[str]) -> None:
    judge = matcher(s=pattern).judge
    assert word(judge(nul(*argv))) == "mentions"
    assert word(judge(" ".join(argv).encode())) == "mentions", "as ps prints it"


@pytest.mark.parametrize(
    ("pattern", "line", "said"), [pytest.param(p, line, said, id=name) for name, p, line, said in BY_PS_ALONE]
)
def test_a_line_that_ps_printed(pattern: str, line: str, said: str) -> None:
    assert word(matcher(s=pattern).judge(line.encode())) == said


@pytest.mark.parametrize(
    ("line", "program", "why"),
    [
        (nul("/opt/LM Studio/lm-studio"), "lm-studio", "one argument is a path that may hold blanks"),
        (b"/opt/x/chrome --type=gpu --dir=/home/u/LM Studio\0", "chrome", "Chromium writes its whole line over argv"),
        (b"nginx: master process /usr/sbin/nginx\0\0\0\0", "nginx", "a title ends at its colon"),
        (nul("-zsh"), "zsh", "a login shell"),
        (nul("---"), "---", "a name of dashes"),
        (b"(sd-pam)\0", "(sd-pam)", "a name in parentheses that is argv all the same"),
    ],
)
def test_the_program(line: bytes, program: str, why: str) -> None:
    assert naming.read(line).program == program, why


NARROWED = [
    ("argv[0]", "llama-server", nul("/opt/llama-server", "--port", "1"), "is"),
    ("the script", "main.py", nul("python3", "/srv/main.py", "main.py"), "is"),
    ("the interpreter", "python3", nul("python3", "/srv/main.py"), "is"),
    ("the module", "mlx_lm", nul("python", "-m", "mlx_lm", "main.py"), "is"),
    ("a whole path", "/opt/llama-server", nul("/opt/llama-server", "main.py"), "is"),
    ("an argument", "main.py", nul("vim", "main.py"), "other"),
    ("another's argument, by ps", "main.py", b"vim main.py", "other"),
    ("part of a name", "llama", nul("/opt/llama-server"), "other"),
    ("by ps, behind a blank in a path", "llama-server", b"/Volumes/My Disk/llama-server main.py", "mentions"),
    ("by ps, a script behind a blank", "main.py", b"python3 /Users/u/My Things/main.py --port 1", "mentions"),
    ("by ps, a name it holds nowhere", "qemu", b"/Volumes/My Disk/llama-server main.py", "other"),
]


@pytest.mark.parametrize(
    ("program", "line", "said"), [pytest.param(p, line, said, id=name) for name, p, line, said in NARROWED]
)
def test_program_narrows_to_what_really_is_it(program: str, line: bytes, said: str) -> None:
    narrowed = Matcher([service("s", r"llama|main\.py", program=program)])
    assert word(narrowed.judge(line)) == said


LOAD = "cd /srv && exec mlx_lm.server --model 'a b'"
COMMANDS = [
    service("a", MLX, load_cmd=LOAD, loaded_check_cmd="lms ps | grep -q coder", unload_cmd="lms unload é\n\tcoder."),
    service("b", None, loaded_check_cmd=("/opt/bin/lms-ready", "b c"), load_cmd="start-b mlx_lm.server"),
    service("c", "c-server", load_cmd=("/bin/bash", "-c", "c-server | tee mlx_lm.server.log")),
]

ROLES = [
    ("admit", nul("admit", "load", "a"), Role.OWN),
    ("admit behind python", nul("/v/bin/python", "/v/bin/admit", "run", "a", "--", "mlx_lm.server"), Role.OWN),
    ("admitd", nul("/v/bin/python", "/v/bin/admitd"), Role.OWN),
    ("admitd as a module", nul("python3", "-m", "admitd"), Role.OWN),
    ("by ps, behind a blank", b"/Volumes/My Disk/v/bin/python /Volumes/My Disk/v/bin/admit run a -- b", Role.OWN),
    ("by ps, a guess, and admit in an argument", b"/Volumes/My Disk/x -- /bin/admit load", Role.FOREIGN),
    ("a script of admit's folder", nul("python", "/srv/admit/server.py", "mlx_lm.server"), Role.FOREIGN),
    ("the shell of a load command", nul("/bin/sh", "-c", LOAD), Role.LOADER),
    ("the shell of a load command, renamed", nul("sh", "-c", LOAD), Role.LOADER),
    ("the same, by ps", f"/bin/sh -c {LOAD}".encode(), Role.LOADER),
    ("of a service without a pattern", nul("/bin/sh", "-c", "start-b mlx_lm.server"), Role.LOADER),
    ("a list that is a shell", nul("/bin/bash", "-c", "c-server | tee mlx_lm.server.log"), Role.LOADER),
    ("another command of the same beginning", nul("/bin/sh", "-c", LOAD + " --x"), Role.FOREIGN),
    ("the same, by ps", f"/bin/sh -c {LOAD} --x".encode(), Role.FOREIGN),
    ("another's mention of it", nul("echo", "-c", LOAD), Role.FOREIGN),
    ("a check", nul("/bin/sh", "-c", "lms ps | grep -q coder" + HELPER_TAIL), Role.HELPER),
    ("a check, by macOS's ps", b"/bin/sh -c lms ps | grep -q coder^Jexit $?", Role.HELPER),
    ("a check, by Linux's ps", b"/bin/sh -c lms ps | grep -q coder exit $?", Role.HELPER),
    ("a check by hand, without the tail", nul("/bin/sh", "-c", "lms ps | grep -q coder mlx_lm.server"), Role.FOREIGN),
    ("an unload", nul("/bin/sh", "-c", "lms unload é\n\tcoder." + HELPER_TAIL), Role.HELPER),
    ("an unload, by macOS's ps", rb"/bin/sh -c lms unload \M-C\M-)^J^Icoder.^Jexit $?", Role.HELPER),
    ("an unload, by Linux's ps", b"/bin/sh -c lms unload ?? .coder. exit $?", Role.HELPER),
    ("a list", nul("/opt/bin/lms-ready", "b c"), Role.HELPER),
    ("a list, by ps", b"/opt/bin/lms-ready b c", Role.HELPER),
    ("a list that is a script", nul("/bin/bash", "/opt/bin/lms-ready", "b c"), Role.HELPER),
    ("a list and more", nul("/opt/bin/lms-ready", "b c", "mlx_lm.server"), Role.FOREIGN),
]


@pytest.mark.parametrize(("line", "role"), [pytest.param(line, role, id=name) for name, line, role in ROLES])
def test_what_is_admits_own(line: bytes, role: Role) -> None:
    judged = Matcher(COMMANDS).judge(line)
    assert (Role.FOREIGN if judged is None else judged.role) is role


def test_a_command_of_many_lines_ends_in_a_newline_in_yaml_and_not_in_a_command_line() -> None:
    judge = Matcher([service("a", "x", load_cmd="one\ntwo mlx\n")]).judge
    for line in (nul("/bin/sh", "-c", "one\ntwo mlx\n"), b"/bin/sh -c one two mlx ", b"/bin/sh -c one^Jtwo mlx^J"):
        judged = judge(line)
        assert judged is not None and judged.role is Role.LOADER, line


def test_a_command_longer_than_what_is_looked_at_is_still_known() -> None:
    text = "x" * 3 * naming.LOOKED_AT
    judge = Matcher([service("a", "x", load_cmd=text)]).judge
    for line in (nul("/bin/sh", "-c", text), b"/bin/sh -c " + text.encode()):
        judged = judge(line)
        assert judged is not None and judged.role is Role.LOADER


def test_two_services_may_claim_one_process() -> None:
    judged = matcher(a="llama", b="server", c="--port 1").judge(nul("llama-server", "--port", "1"))
    assert judged is not None
    assert [(claim.service, claim.mention) for claim in judged.claims] == [("a", False), ("b", False), ("c", True)]


def test_the_patterns_are_asked_one_by_one_where_the_set_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    made = matcher(a="llama", b="server", c="nothing")
    monkeypatch.setattr(made, "_set", lambda _line: None)
    judged = made.judge(nul("llama-server"))
    assert judged is not None and [claim.service for claim in judged.claims] == ["a", "b"]


@pytest.mark.parametrize("line", [b"", b"\0", b"\0\0\0", b"   ", b"\n", b"\0 \n\0"])
def test_an_empty_line_is_nothing(line: bytes) -> None:
    assert matcher(s="x").judge(line) is None


def test_a_line_is_looked_at_up_to_a_bound() -> None:
    judge = matcher(s="needle").judge
    assert word(judge(nul("prog", "x" * (naming.LOOKED_AT - 20), "needle"))) == "mentions"
    assert judge(nul("prog", "x" * 100_000, "needle")) is None


@pytest.mark.timeout(30)
@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+b", ".*a.*a.*a.*a.*b", "(?:a*)*c", "(a{1,30}){1,30}b"])
def test_no_pattern_is_slow_on_a_hostile_line(pattern: str) -> None:
    judge = matcher(s=pattern).judge
    for line in (b"a" * 100_000, b"python\0-c\0" + b"a" * 100_000, b"a b/" * 25_000, b"-" * 100_000, b" " * 100_000):
        judge(line + b"!")


@pytest.mark.timeout(30)
def test_taking_a_line_apart_is_linear() -> None:
    for word_ in ("-X", "-W", "a/", "/a", "-c", "", "--x=1", ".app/Contents/MacOS/"):
        for first in ("python", "java", "/Applications/x", "/a b"):
            naming.read("\0".join([first, *[word_] * 8000]).encode())
            naming.read(" ".join([first, *[word_] * 8000]).encode())


WORDS = [b"python", b"-m", b"-c", b"sh", b"\0", b" ", b"mlx_lm.server", b"/", b"-", b"\xff", b"\n", b"(", b")"]
BYTES = st.binary(max_size=300) | st.lists(st.sampled_from(WORDS)).map(b"".join)


@given(BYTES)
def test_any_bytes_have_a_judgement(line: bytes) -> None:
    made = Matcher([*COMMANDS, service("d", "-|m", program="mlx_lm.server"), service("e", ".*server")])
    made.judge(line)
    read = naming.read(line)
    for name in read.names:
        assert 0 <= name.start <= name.end <= len(read.text)


def counting(made: Matcher, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The lines that are really judged from now on."""
    judged: list[bytes] = []
    monkeypatch.setattr(made, "judge", noting(made.judge, judged))
    return judged


def test_a_line_is_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = matcher(s="server")
    judged = counting(made, monkeypatch)
    remembered = Remembered(made)
    lines = [nul("server"), nul("other"), nul("server", "x" * 10_000)]
    for _ in range(3):
        assert [word(remembered.judge(line)) for line in lines] == ["is", "nothing", "is"]
    assert judged == lines


def test_a_short_line_cannot_pass_for_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered = Remembered(matcher(s="server"))
    long = nul("server", "x" * 10_000)
    remembered.judge(long)
    (key,) = remembered.known
    assert isinstance(key, str) and len(key) < matching.REMEMBERED_WHOLE
    assert remembered.judge(key.encode()) is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "REMEMBERED_MAX", 3)
    remembered = Remembered(matcher(s="server"))
    for number in range(10):
        remembered.judge(nul("server", str(number)))
        assert len(remembered.known) <= 3
