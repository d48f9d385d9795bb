"""Writes the manual pages and the shells' completions from the table of commands: manpages.py [FOLDER]"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from admit_cli import grammar, table, teach  # noqa: E402
from admitd import __version__  # noqa: E402

COMPLETIONS: Final = {"bash": "admit.bash", "zsh": "_admit", "fish": "admit.fish"}
ENVIRONMENT: Final = (
    ("ADMIT_CONFIG", "The capacity.yaml to go by, where --config names none."),
    ("ADMIT_PORT", "The daemon's port, instead of 2189."),
    ("ADMIT_STATE_DIR", "Where reservations are written down, instead of the machine's own place for them."),
    ("ADMIT_PROCESS_READER", "How the process table is read: linux or ps."),
    ("ADMIT_LOG", "A file for what the daemon says; it is rotated. For launchd."),
    ("ADMIT_DEBUG", "1: a stack trace with each error."),
)
FILES: Final = (
    ("~/.config/admit/capacity.yaml", "Which services there are, and what they need."),
    ("~/.local/state/admit/", "The token, the daemon's socket, the journal, the logs of what was loaded."),
    ("~/Library/Application Support/admit/", "The same, on macOS."),
)


def roff(text: str) -> str:
    """Text as troff prints it unchanged: hyphens that can be copied, nothing at the start of a line that commands."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.splitlines())


def heading(name: str, said: str) -> list[str]:
    title = name.upper().replace(" ", "-")
    page = f'.TH "{roff(title)}" "1" "" "admit {__version__}" "admit"'
    return [page, ".SH NAME", f"{roff(name.replace(' ', '-'))} \\- {roff(said.rstrip('.'))}"]


def listed(title: str, rows: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> list[str]:
    lines = [f".SH {title}"]
    for term, said in rows:
        lines += [".TP", f"\\fB{roff(term)}\\fR", roff(said)]
    return lines if rows else []


def shown(argument: grammar.Argument) -> str:
    words = teach._shown(argument)
    words = f"-- {words}" if argument.rest else words
    return f"[{words}]" if argument.optional else words


def first_sentence(text: str) -> str:
    return text.partition(". ")[0].partition(": ")[0]


def command_page(command: grammar.Command) -> str:
    name = "admit " + " ".join(command.path)
    words = " ".join(shown(argument) for argument in command.arguments)
    options = [(f"{option.flag} {option.metavar}".strip(), option.help) for option in command.options]
    arguments = [(teach._shown(argument), argument.help) for argument in command.arguments]
    lines = heading(name, first_sentence(command.help))
    lines += [".SH SYNOPSIS", f"\\fB{roff(name)}\\fR [OPTIONS] {roff(words)}".rstrip()]
    lines += [".SH DESCRIPTION", roff(command.help)]
    lines += listed("ARGUMENTS", arguments) + listed("OPTIONS", options)
    lines += [".SH EXAMPLES", ".nf", *(roff(example) for example in command.examples), ".fi"]
    lines += [".SH EXIT STATUS", roff(teach._EPILOG.removeprefix("Exit codes: ")), ".SH SEE ALSO", "\\fBadmit\\fR(1)"]
    return "\n".join(lines) + "\n"


def overview() -> str:
    lines = heading("admit", "admission control for the memory of one machine")
    lines += [".SH SYNOPSIS", "\\fBadmit\\fR COMMAND [OPTIONS]", ".SH DESCRIPTION"]
    lines += [
        "Several heavy services share one machine's memory. Each declares a budget in capacity.yaml; what is loaded",
        "is read off the live process table; a load is admitted only if it fits, and a refusal says why, and which",
        "command makes room.",
    ]
    pages = [(f"{page_name(command)}(1)", first_sentence(command.help) + ".") for command in table.COMMANDS]
    lines += listed("COMMANDS", pages)
    lines += listed("ENVIRONMENT", ENVIRONMENT) + listed("FILES", FILES)
    lines += [".SH EXIT STATUS", roff(teach._EPILOG.removeprefix("Exit codes: "))]
    return "\n".join(lines) + "\n"


def page_name(command: grammar.Command) -> str:
    return "-".join(("admit", *command.path))


def completion(shell: str) -> str:
    """What `admit` itself answers that shell."""
    environ = {**os.environ, "_ADMIT_COMPLETE": f"source_{shell}", "PYTHONPATH": str(ROOT)}
    asked = [sys.executable, "-c", "from admit_cli.main import main; main()"]
    said = subprocess.run(asked, env=environ, capture_output=True, text=True, check=True).stdout.strip() + "\n"
    if shell == "zsh":
        # As a file in fpath it is the function's body: the first Tab must complete, and not only define.
        called = 'if [[ $zsh_eval_context[-1] == loadautofunc ]]; then\n  _admit_completion "$@"\nelse\n  {}\nfi'
        said = said.replace("compdef _admit_completion admit", called.format("compdef _admit_completion admit"))
    return said


def files() -> dict[str, str]:
    """Every file that is made, by its path, and what is in it."""
    pages = {f"man/{page_name(command)}.1": command_page(command) for command in table.COMMANDS}
    scripts = {f"completions/{name}": completion(shell) for shell, name in COMPLETIONS.items()}
    return {"man/admit.1": overview(), "man/admitd.1": ".so man1/admit-daemon-run.1\n", **pages, **scripts}


def main(folder: Path) -> None:
    made = files()
    for kind in ("man", "completions"):
        for old in (folder / kind).glob("*"):
            if f"{kind}/{old.name}" not in made:
                old.unlink()
    for name, text in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(f"wrote {len(made)} files below {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
