"""The command `annotate replicate`: compute a known result again, and show it beside reference values."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import typer

from annotate_transformer.app.cli.make import MODEL, REVISION, Device, Dtype
from annotate_transformer.app.cli.progress import Watch
from annotate_transformer.app.present.columns import replication
from annotate_transformer.app.present.printed import dump, err, print_table, records
from annotate_transformer.store.errors import one_of

if TYPE_CHECKING:
    from annotate_transformer.ingest.models.names import Checkpoint
    from annotate_transformer.ingest.replications.quantity import Quantity, Reference

commands = typer.Typer(rich_markup_mode=None)

NAMES = ("dublin", "induction-heads", "ioi", "next-token")
# HUB maps the name of a model in `Reference.model` to the name that `resolve` takes. It has the models for
# which there are reference values.
HUB = {
    "Pythia-70m-deduped": "pythia-70m-deduped",
    "Pythia-160m": "pythia-160m",
    "GPT-2 small": "openai-community/gpt2",
}


@commands.command(epilog="Example: annotate replicate induction-heads --model neox-2m")
def replicate(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"The result: {', '.join(NAMES)}.")],
    model: Annotated[
        str | None, typer.Option(help=f"{MODEL} [default: the model with the reference values].")
    ] = None,
    revision: Annotated[str | None, typer.Option(help=REVISION)] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compute a known result again, and show the computed values beside reference values.

    With --model, another model is measured; the reference values remain those of their own model.
    """
    from annotate_transformer.ingest.models.devices import check_device, check_dtype
    from annotate_transformer.ingest.models.model import Model
    from annotate_transformer.ingest.models.names import resolve
    from annotate_transformer.ingest.replications.listed import REPLICATIONS

    one_of("NAME", name, NAMES)
    chosen = REPLICATIONS[name]
    source = resolve(model or HUB[chosen.references[0].model], revision)
    where, precision = check_device(device), check_dtype(dtype)
    reference = next((p for p in chosen.references if _is_of(source, p)), chosen.references[0])
    Watch(err, quiet=False).say(f"loading {source.name}")
    loaded = Model(source, device=where, dtype=precision)
    found = beside(chosen.measure(loaded), reference, same_model=_is_of(source, reference))
    if as_json:
        about = {"replication": name, "model": source.name, "revision": source.revision}
        about |= {"reference_model": reference.model, "source": reference.source}
        dump(about | {"same_model": _is_of(source, reference), "rows": records(found)})
        return
    title = f"{name}: ours are of {source.name}, reference values of {reference.model}. "
    print_table(f"{title}Source: {reference.source}", found, replication(reference.model))


def _is_of(source: "Checkpoint", reference: "Reference") -> bool:
    """Return whether the reference values were measured on the checkpoint `source`."""
    from annotate_transformer.ingest.models.names import resolve

    of = resolve(HUB[reference.model])
    return (source.path, source.revision) == (of.path, of.revision)


def beside(quantities: "list[Quantity]", reference: "Reference", *, same_model: bool) -> pd.DataFrame:
    """Return a row per quantity: the computed and the reference value and, if `same_model`, the difference.

    A class, such as "name mover", is in the column `claim`, a number in `reference`.
    """
    rows = []
    for quantity in quantities:
        known = reference.values.get(quantity.name)
        claim, number = (known, None) if isinstance(known, str) else (None, known)
        ours, difference = quantity.value, None
        if same_model and ours is not None and number is not None:
            difference = ours - number
        rows.append(asdict(quantity) | {"reference": number, "claim": claim, "difference": difference})
    return pd.DataFrame(rows)
