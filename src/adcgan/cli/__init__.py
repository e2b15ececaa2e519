"""The command line: ``adcgan COMMAND …``.

Nothing here imports torch, scikit-learn or matplotlib until a command runs, so that help is
quick. Exit codes: 0 done, 2 the user's input is wrong, 3 training diverged, 4 the system failed
(a full disk, no permission), 130 interrupted; any other error is a bug and shows its traceback.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from adcgan.cli import (
    audit,
    benchmark,
    compare,
    data,
    demo,
    detectors,
    evaluate,
    export,
    fit,
    report,
    score,
    serve,
    tables,
)
from adcgan.cli.failures import failure_line, wrong_path_line
from adcgan.cli.terminal import one_line_warnings, quiet_matplotlib, say
from adcgan.cli.version import installation
from adcgan.errors import DivergedError, InputError, MissingExtraError
from adcgan.threads import share_the_cores

_RESUMED_BY = {
    **dict.fromkeys(("fit", "demo", "compare"), "the same command with --resume continues"),
    "benchmark": "the same command continues",
}


class _Commands(TyperGroup):
    """Turns the errors that a user can meet into one line and an exit code."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters, for help without the rarer option for shell completion."""
        params: Any = super().get_params(ctx)
        for param in params:
            if param.name == "show_completion":
                param.hidden = True
        return params

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read the command line; some options, such as those on shell completion, act on it."""
        try:
            return super().make_context(*arguments, **options)
        except OSError as error:
            raise _of_the_system(error, "") from None

    def invoke(self, ctx: Any) -> Any:
        """Run the command that `ctx` names."""
        try:
            with one_line_warnings(), quiet_matplotlib():
                return super().invoke(ctx)
        except (InputError, MissingExtraError) as error:
            raise _ended(f"error: {error}", 2) from None
        except DivergedError as error:
            raise _ended(f"error: {error}", 3) from None
        except ModuleNotFoundError as error:
            # Installed without torch, only scoring of exported files and the service work.
            if error.name is None or error.name.split(".")[0] == "adcgan":
                raise
            raise _ended(f"error: this command needs {error.name}: pip install adcgan", 2) from None
        except KeyboardInterrupt:
            hint = _RESUMED_BY.get(ctx.invoked_subcommand)
            raise _ended(f"interrupted{f'; {hint}' if hint else ''}", 130) from None
        except Exception as error:
            raise _of_the_system(error, ctx.invoked_subcommand) from None


def _of_the_system(error: Exception, command: str) -> Exception:
    """Return the exit for an error of the system or a refused path; else the error itself."""
    line = failure_line(error, _RESUMED_BY.get(command, "give the same command again"))
    if line is not None:
        return _ended(f"error: {line}", 4)
    line = wrong_path_line(error)
    return error if line is None else _ended(f"error: {line}", 2)


def _ended(line: str, code: int) -> typer.Exit:
    """Show one line and return the exception that ends the program with `code`."""
    say(" ".join(line.split()))
    return typer.Exit(code)


def _show_version(wanted: bool) -> None:
    """Print the versions and exit, for --version."""
    if wanted:
        for name, found in installation().items():
            typer.echo(f"{name} {found}")
        raise typer.Exit


app = typer.Typer(
    name="adcgan",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(epilog="Start here: adcgan demo")
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show versions and device."
        ),
    ] = False,
) -> None:
    """Learn what normal images look like, and score new images for anomalies."""
    del version  # its callback has done the work


app.command(epilog="Example: adcgan demo --out adcgan-demo")(demo.demo)
app.command(
    epilog="Examples: adcgan compare photos/normal --out comparison\n\n"
    "adcgan compare photos/normal --anomalies photos/broken --minutes 30 --out comparison"
)(compare.compare)
app.command(
    epilog="Examples: adcgan fit photos/normal --out models/m1\n\n"
    "adcgan fit mnist --normal 4 --out models/four --set width=0.25 --resume"
)(fit.fit)
app.command(
    epilog="Examples: adcgan score models/m1 photos/new --out scores.csv --heatmaps heatmaps\n\n"
    "adcgan score models/m1 s3://BUCKET/photos --ray auto --out s3://BUCKET/scores"
)(score.score)
app.command(
    epilog="Examples: adcgan evaluate models/m1 photos/test --out results/m1\n\n"
    "adcgan evaluate models/four mnist --normal 4 --out results/four"
)(evaluate.evaluate)
app.command(
    epilog="Examples: adcgan benchmark --dataset mnist --detectors adcgan,alad --out results/mnist"
    "\n\nadcgan benchmark --dataset digits --detectors adcgan,pixel-pca --classes 0-2 --seeds 0 "
    "--set adcgan.width=0.25 --epochs 2 --out results/digits\n\n"
    "adcgan benchmark --dataset mvtec --classes bottle,cable --detectors patch-pca "
    "--out results/mvtec"
)(benchmark.benchmark)
app.command(
    epilog="Example: adcgan tables results/mnist --format markdown --out tables.md --plots plots"
)(tables.tables)
app.command(epilog="Example: adcgan audit models/four mnist --normal 4 --out audits/four")(
    audit.audit
)
app.command(epilog="Example: adcgan report models/m1")(report.report)
app.command(epilog="Example: adcgan export models/m1 --out m1.onnx")(export.export)
app.command(
    epilog="Examples: adcgan serve models/m1.onnx\n\n"
    "ADCGAN_API_KEY=… adcgan serve models/m1 --host 0.0.0.0 --port 80"
)(serve.serve)
app.add_typer(data.app, name="data")
app.command(epilog="Example: adcgan detectors")(detectors.detectors)


def main() -> None:
    """Run the command line."""
    share_the_cores()
    app()
