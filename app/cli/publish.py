"""The command `annotate publish`, which makes a folder to share from a store."""

from pathlib import Path
from typing import Annotated

import typer

from annotate_transformer.app.cli.options import Quiet
from annotate_transformer.app.cli.options import WrittenDb as StoreFile
from annotate_transformer.app.cli.progress import Watch
from annotate_transformer.app.present.console import Console

commands = typer.Typer(rich_markup_mode=None)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@commands.command(epilog="Example: annotate publish to-share --db demo.duckdb --license cc-by-4.0")
def publish(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the files.")],
    db: StoreFile,
    title: Annotated[
        str | None, typer.Option(help="Title of the data set [default: the folder's name].")
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="License of the text, as the hub names it, such as cc-by-4.0.")
    ] = None,
    upload: Annotated[
        str | None,
        typer.Option(
            help="Also upload the folder into this data-set repository of the Hugging Face hub.",
            metavar="USER/NAME",
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private, if it does not exist.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Make a folder to share: the store, a card that describes it, and checksums.

    The store is copied and checked like with `annotate verify`. It has the whole text and the paths of the
    files that it was made from. Anyone can open the file of a public data set by its address, without a
    download: `annotate runs --db https://…/store.duckdb`.
    """
    from annotate_transformer.app import publishing

    about = publishing.About(title or folder.resolve().name, license, upload)
    files = publishing.make_folder(db, folder, about, Watch(err, quiet).say)
    size = sum(file.stat().st_size for file in files)
    _tell(f"{len(files)} files, {size / 1e6:,.1f} MB in {folder}.", quiet)
    if upload:
        _tell(f"Uploaded: {publishing.upload(folder, upload, private=private)}", quiet)


def _tell(line: str, quiet: bool) -> None:
    if not quiet:
        out.print(line, soft_wrap=True, markup=False)
