"""Commands whose errors are messages in four parts on stderr, with exit codes of their kinds; `--debug` adds the trace.

| exit code | |
|---|---|
| 0 | all went well |
| 1 | an error |
| 2 | a command line that cannot be read |
| 3 | a run over samples came to its end, and some of them have failed |
| 130 | stopped with Ctrl-C |
"""

import errno
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from hooked_av.errors import HookedAVError, HookedAVWarning, InputsError

WRONG, NOT_READ, SAMPLES_FAILED, STOPPED = 1, 2, 3, 130
EXIT_CODES = (
    "Exit codes: 0 all went well; 1 an error; 2 a command line that cannot be read; 3 a run came to its end, and "
    "samples have failed; 130 stopped with Ctrl-C. Errors go to stderr."
)
_NO_TEXT = re.compile("[\ud800-\udfff]")  # what Python makes of bytes that are not UTF-8


class Command(click.Command):
    """A command whose texts are texts; `after_stop` says what becomes of a run that is stopped."""

    after_stop = "nothing is kept of it; run the same command again"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for name, value in ctx.params.items():
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and _NO_TEXT.search(text):
                    raise InputsError(
                        f"--{name.replace('_', '-')} holds bytes that are no text",
                        expected="text in UTF-8",
                        got=repr(text[:200]),
                        next_step="save the text as UTF-8, and see that the terminal writes it (LC_ALL=C.UTF-8)",
                    )
        return rest


class ResumedCommand(Command):
    """A command that goes on where it was stopped."""

    after_stop = "what is finished is kept; the same command goes on from there"


class Commands(click.Group):
    """Commands, and what is shown of their errors."""

    command_class = Command

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with self._told(None):
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with self._told(ctx), _plain_warnings():
            return super().invoke(ctx)

    @contextmanager
    def _told(self, ctx: click.Context | None) -> Iterator[None]:
        """Every error as a message; a pipe that was closed, help and exits are click's."""
        try:
            yield
        except (click.exceptions.Exit, click.Abort):
            raise
        except (KeyboardInterrupt, Exception) as error:
            is_piped = isinstance(error, OSError) and error.errno == errno.EPIPE
            is_help = isinstance(error, click.UsageError) and error.message.startswith("Usage: ")
            if is_piped or is_help:
                raise
            if ctx is not None and ctx.params["debug"]:
                click.echo(traceback.format_exc(), err=True)
            name = "" if ctx is None else ctx.invoked_subcommand or ""
            message, code = self._message(error, name)
            click.echo(message, err=True)
            raise click.exceptions.Exit(code) from error

    def _message(self, error: BaseException, name: str) -> tuple[str, int]:
        """What is said, and the exit code."""
        if isinstance(error, KeyboardInterrupt):
            command = self.commands.get(name)
            return f"\nStopped: {command.after_stop if isinstance(command, Command) else 'run it again'}.", STOPPED
        if isinstance(error, click.UsageError):
            return f"Error: {_usage(error)}", NOT_READ
        return f"Error: {error if isinstance(error, HookedAVError) else _foreign(error, name)}", WRONG


def _usage(error: click.UsageError) -> HookedAVError:
    usage = error.ctx.get_usage() if error.ctx else "Usage: hooked-av [OPTIONS] COMMAND"
    path = error.ctx.command_path if error.ctx else "hooked-av"
    return HookedAVError(
        "this command line cannot be read",
        expected=" ".join(usage.removeprefix("Usage: ").split()),
        got=error.format_message(),
        next_step=f"{path} --help says what it takes",
    )


def _foreign(error: BaseException, name: str) -> HookedAVError:
    text = f"{type(error).__name__}: {str(error)[:1000]}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return HookedAVError(
            "there is not enough memory",
            expected="room for the model and for one prompt",
            got=text,
            next_step="take a smaller model, shorter clips, or fewer pixels (--max-pixels, --fps)",
        )
    return HookedAVError(
        "a bug of hooked-av, or of what it is built on",
        expected="a result, or an error that says what to mend",
        got=text,
        next_step=f"please report it, with the trace that hooked-av --debug {name} ... shows",
    )


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Our own warnings without file and line, which would be of no use here."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, HookedAVWarning):
                click.echo(f"Warning: {message}", err=True)
            else:
                shown(message, category, *where, **more)

        warnings.showwarning = show
        yield
