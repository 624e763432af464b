"""A wrong flag is refused before torch is loaded: `import qcifar.flags` is the first import of an experiment.

It does something only in such a script that was started as a program, not where a verb imports one: it reads the
constants and their rules (and a verb's `arguments`) from the script's text and checks the command line. What it cannot
read there is left to `main`, which checks everything again. From here to `main`, a signal ends it in one line.
"""

import sys
from pathlib import Path

from qcifar.declared import NotDeclared, read_script
from qcifar.errors import status_of, stop_in_one_line


def check_command_line(script: Path, argv: list[str]) -> bool:
    """Refuse what `settings_from_constants` will refuse in the script's `main`, without running the script.

    Returns:
        Whether it is a script that has its flags checked so.
    """
    try:
        text = read_script(script)
    except NotDeclared:  # no experiment, or something else than literals
        return False
    if text.early:
        text.settings(argv)
    return text.early


def _check_what_was_started() -> None:
    started = getattr(sys.modules["__main__"], "__file__", None)

    def check() -> None:
        if check_command_line(Path(started), sys.argv[1:]):
            stop_in_one_line()

    if started and (status := status_of(check)):
        sys.exit(status)


_check_what_was_started()
