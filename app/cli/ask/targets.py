"""The options --toward, --minus and --direction, which name the logit that a command takes apart."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from annotate_transformer.store.errors import BadQuestion

Toward = Annotated[
    list[str] | None,
    typer.Option(
        help="Show the terms of the logit of this token: the next token (next), the top prediction (top), or "
        "another token, by its text or by its token id as id=N. If repeated, show the terms of the mean "
        "logit of the tokens.",
        metavar="TOKEN",
    ),
]
Minus = Annotated[
    list[str] | None,
    typer.Option(
        help="Subtract the logit of this token; if repeated, subtract the mean logit of the tokens.",
        metavar="TOKEN",
    ),
]
Logprob = Annotated[
    bool,
    typer.Option(
        "--logprob",
        help="Show the terms along the gradient of the log-probability of the --toward token: the effects on "
        "the log-probability to first order.",
    ),
]
Along = Annotated[
    Path | None,
    typer.Option(
        "--direction",
        help="Show the terms along the direction in this .npy file: d_model numbers, such as the weights of "
        "a probe. The direction multiplies the normalised residual stream, as a column of W_U does.",
    ),
]


def target_of(toward: list[str] | None, minus: list[str] | None, direction: Path | None) -> tuple[Any, Any]:
    """Return the target and the target to subtract for `Store.expression`; each is None if it is not given.

    Raises:
        BadQuestion: the options contradict each other, or the file has no array of finite numbers.
    """
    if direction is not None:
        if toward or minus:
            raise BadQuestion("--direction is a target of its own: leave --toward and --minus out.")
        return _numbers(direction), None
    if minus and not toward:
        raise BadQuestion("--minus is subtracted from a target: name it with --toward.")
    return _tokens(toward), _tokens(minus)


def _tokens(texts: list[str] | None) -> str | int | list[str | int] | None:
    tokens = [int(text[3:]) if re.fullmatch(r"id=\d+", text) else text for text in texts or ()]
    return tokens[0] if len(tokens) == 1 else tokens or None


def _numbers(file: Path) -> Any:
    """Return the numbers of a .npy file; raise BadQuestion if it has no array of finite numbers."""
    import numpy as np

    try:
        found = np.load(file, allow_pickle=False)
    except OSError as error:
        raise BadQuestion(f"{file} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise BadQuestion(f"{file} is no .npy file of numbers: save one with numpy.save.") from error
    if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind not in "fiu":
        raise BadQuestion(f"{file} must have one array of d_model numbers, saved with numpy.save.")
    if not np.isfinite(found).all():
        raise BadQuestion(f"{file} has NaN or infinite numbers.")
    return found
