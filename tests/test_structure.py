"""The architecture, the schema's comments and the documents are what they say they are."""

import ast
import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import duckdb
import pytest

from annotate_transformer import app, ingest, store
from annotate_transformer.ingest.attribution.behaviours import BEHAVIOURS
from annotate_transformer.ingest.models.families import FAMILIES
from annotate_transformer.ingest.run.run_summary import LISTS
from annotate_transformer.ingest.weights.circuits import COMPOSITIONS
from annotate_transformer.store.catalogue import catalogue, every_block
from annotate_transformer.store.database import create
from annotate_transformer.store.layout import members
from annotate_transformer.store.queries import named, schema
from tools import docs

ROOT = Path(__file__).parent.parent
PACKAGE = "annotate_transformer"
HEAVY = {"torch", "transformer_lens", "transformers", "datasets", "tokenizers"}


def imports(file: Path) -> set[str]:
    """Every module a file imports, wherever in it; of our own, without the package's name."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.module == PACKAGE):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name.removeprefix(f"{PACKAGE}.") for name in found}


def packages(file: Path) -> set[str]:
    """The packages that a file imports; of our own, the folder."""
    return {name.split(".")[0] for name in imports(file)}


def test_store_imports_neither_of_the_others_nor_torch() -> None:
    for file in (ROOT / "store").rglob("*.py"):
        assert not packages(file) & ({"ingest", "app", "streamlit"} | HEAVY), file


def modules() -> dict[str, Path]:
    """Return our modules' files by name, without the package's."""
    files = [file for folder in ("app", "ingest", "store") for file in (ROOT / folder).rglob("*.py")]
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


def imported(file: Path) -> set[str]:
    """Return our modules that a file imports, wherever in it: those of `from folder import module`, too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix(f"{PACKAGE}.") for name in found} & modules().keys()


# In ingest and below, selection and summaries, and checkpoint and model, still import each other.
UNTANGLED = ("app", "ingest", "store")


def test_no_modules_import_each_other() -> None:
    """Whatever a module imports, directly or not, does not import it: packages aside."""
    graph = {
        name: imported(file)
        for name, file in modules().items()
        if file.name != "__init__.py" and name.startswith(UNTANGLED)
    }
    while leaves := {name for name, needed in graph.items() if not needed & graph.keys()}:
        graph = {name: needed for name, needed in graph.items() if name not in leaves}
    assert not graph


def test_private_names_are_used_in_their_own_module_alone() -> None:
    """But for Python's own (os._exit, and _replace and _asdict of a NamedTuple), and numba's in one file."""
    pythons = {"_exit", "_replace", "_asdict"}
    numbas = {"_cache", "_cache_file", "_cache_path", "_index_name", "_data_name"}
    numbas |= {"_load_index", "_save_index", "_save_data"}
    for name, file in modules().items():
        if not name.startswith(UNTANGLED):
            continue
        nodes = [*ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
        own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)} | {
            node.attr if isinstance(node, ast.Attribute) else node.id
            for node in nodes
            if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store)
        }
        used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        used |= {
            alias.name
            for node in nodes
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE)
            for alias in node.names
        }
        private = {word for word in used if word.startswith("_") and not word.startswith("__")}
        allowed = pythons | numbas if file.name == "bits.py" else pythons
        assert not private - own - allowed, file


def test_what_tests_share_is_in_no_test_file() -> None:
    for file in (ROOT / "tests").glob("*.py"):
        assert not {name for name in imports(file) if name.startswith("test_")}, file


STORE_IN_INGEST = {  # by the file that imports it
    "pipeline.py": {"store.writer"}, "run.py": {"store.writer"}, "provenance.py": {"store.writer"},
    "shard.py": {"store.writer"}, "plan.py": {"store.whole", "store.writer"},
    "merge.py": {"store.database", "store.errors", "store.location", "store.parts", "store.writer"},
    "workers.py": {"store.closure"}, "tables.py": {"store.writer"},
    "prompts.py": {"store.writer", "store.windows"},
    "codes.py": {"store.layout"}, "steps.py": {"store.layout"}, "run_summary.py": {"store.layout"},
    "ablation.py": {"store.scores", "store.writer"}, "explain.py": {"store.writer"},
    "condition.py": {"store.metadata"},
    "errors.py": {"store.errors"}, "toward.py": {"store.running"}, "runner.py": {"store.running"},
    "ablate.py": {"store.running"}, "patch.py": {"store.running"},
    "unit_effects.py": {"store.means", "store.writer"},
    "contrasts.py": {"store.running", "store.writer"},
    "head_scores.py": {"store.running"}, "patterns.py": {"store.running"},
    "moved.py": {"store.running"}, "inputs.py": {"store.running"},
    "ioi.py": {"store.names", "store.running"}, "induction_heads.py": {"store.names"},
    "prompt.py": {"store.errors"}, "next_token_scores.py": {"store"},
    "deep.py": {
        "store.arrow", "store.catalogue", "store.database", "store.elsewhere.place", "store.layout",
        "store.queries", "store.session", "store.verify",
    },
}  # fmt: skip


def modules_of_ingest() -> list[Path]:
    """All but the package's own file, whose function `open` imports what it opens."""
    return sorted({*(ROOT / "ingest").rglob("*.py")} - {ROOT / "ingest" / "__init__.py"})


def test_in_ingest_only_the_paths_import_the_store() -> None:
    for file in modules_of_ingest():
        allowed = STORE_IN_INGEST.get(file.name, set())
        assert {name for name in imports(file) if name.split(".")[0] == "store"} == allowed, file
        assert not packages(file) & {"app", "streamlit"}, file


IN_ORDER = (
    "corpus", "models", "attribution", "interventions", "run", "weights", "live", "next_token",
    "replications",
)  # fmt: skip
FOR_ALL = {"errors", "quiet"}  # modules at the top of ingest


def test_a_folder_of_ingest_imports_only_folders_before_it() -> None:
    for file in modules_of_ingest():
        own = file.relative_to(ROOT / "ingest").parts[0]
        before = IN_ORDER[: IN_ORDER.index(own) + 1] if own in IN_ORDER else ()
        imported = {name.split(".")[1] for name in imports(file) if name.startswith("ingest.")}
        assert imported <= FOR_ALL.union(before), file
        assert "ingest" not in imports(file), f"{file} must import a module by its folder"


def test_only_two_files_know_transformer_lens() -> None:
    users = {file.name for file in (ROOT / "ingest").rglob("*.py") if "transformer_lens" in packages(file)}
    assert users == {"model.py", "other.py"}


NORMS_AND_ACTIVATIONS = r"layer_?norm|rms_?norm|gelu|relu|hidden_act"


def test_only_one_folder_of_ingest_knows_model_families() -> None:
    names = [name for family in FAMILIES for name in (rf"[\"']{family.name}[\"']", family.architecture)]
    known = re.compile("|".join([*names, "gpt.?neox", NORMS_AND_ACTIVATIONS]), re.IGNORECASE)
    families = set((ROOT / "ingest" / "models" / "families").glob("*.py"))
    assert any(known.search(file.read_text(encoding="utf-8")) for file in families)
    names_of_models = ROOT / "ingest" / "models" / "names.py"  # gpt2 is a model and a family
    for file in set((ROOT / "ingest").rglob("*.py")) - families - {names_of_models}:
        assert not known.findall(file.read_text(encoding="utf-8")), file


def test_app_imports_ingest_only_inside_functions() -> None:
    for file in (ROOT / "app").rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            assert not (
                isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}.ingest")
            ), file


@pytest.fixture
def empty() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    create(con)
    return con


def test_every_table_view_and_macro_has_a_comment(empty: duckdb.DuckDBPyConnection) -> None:
    bare = empty.execute(
        """SELECT table_name FROM duckdb_tables() WHERE comment IS NULL
           UNION ALL SELECT view_name FROM duckdb_views() WHERE NOT internal AND comment IS NULL
           UNION ALL SELECT function_name FROM duckdb_functions()
           WHERE NOT internal AND schema_name = 'main' AND comment IS NULL"""
    ).fetchall()
    assert bare == []


def test_every_public_number_has_a_comment_with_its_unit(
    empty: duckdb.DuckDBPyConnection,
) -> None:
    bare = empty.execute(
        """SELECT c.table_name || '.' || c.column_name FROM duckdb_columns() c
           JOIN duckdb_views() v ON v.view_name = c.table_name AND v.schema_name = c.schema_name
           WHERE c.schema_name = 'main' AND NOT v.internal AND c.comment IS NULL
             AND c.data_type IN ('FLOAT', 'DOUBLE') ORDER BY 1"""
    ).fetchall()
    assert [name for (name,) in bare] == []


def test_the_catalogue_has_every_table_with_its_columns(empty: duckdb.DuckDBPyConnection) -> None:
    columns: dict[str, set[str]] = {}
    for table, column in empty.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE schema_name = 'base' AND table_name IN "
        "(SELECT table_name FROM duckdb_tables())"
    ).fetchall():
        columns.setdefault(table, set()).add(column)
    assert {*catalogue()} == {*columns}
    declared = empty.execute(
        "SELECT table_name, column_name, replace(data_type, 'TIMESTAMP WITH TIME ZONE', 'TIMESTAMPTZ'), "
        "is_nullable FROM duckdb_columns() JOIN duckdb_tables() USING (table_oid, table_name) "
        "WHERE data_type NOT LIKE 'ENUM%' ORDER BY table_oid, column_index"
    ).fetchall()
    assert declared == [
        (table.name, column.name, column.type.replace(", ", ","), column.is_nullable)
        for table in catalogue().values()
        for column in table.columns
        if column.type.isupper()
    ]
    for table in catalogue().values():
        ordered_by = {name.removesuffix(" IS NULL") for name in table.ordered_by}
        assert {*table.key} | ordered_by <= columns[table.name]
        for query in (table.select, table.delete):
            assert empty.execute(f"EXPLAIN {query}", {"id": 1} if "$id" in query else None).fetchall()
    assert empty.execute(every_block()).fetchall() == []


def test_the_enums_of_the_schema_are_the_lists_of_python() -> None:
    assert members("attention_behaviour") == BEHAVIOURS
    assert members("composition_kind") == COMPOSITIONS
    assert {kind for kind, _ in LISTS} < {*members("unit_kind")}
    assert {name for _, name in LISTS} == {*members("unit_list")}


def test_constants_of_the_layout_stand_in_the_schema_alone() -> None:
    constants = "8192|8_192|8193|262144|262_144|1000000000000|8388608|67108864|1048576|1073741824"
    numbers = rf"(?<![\d._])({constants})(?![\d._])"
    files = [*(ROOT / "store").glob("*.sql"), *(ROOT / "app").rglob("*.sql")]
    files += [file for folder in ("app", "ingest", "store") for file in (ROOT / folder).rglob("*.py")]
    assert [file for file in files if re.search(numbers, file.read_text(encoding="utf-8"))] == []
    defined = re.findall(rf"CREATE MACRO base\.\w+\(\) AS {numbers};", schema())
    assert len(defined) == len(set(defined)) == 6 + 1
    assert re.findall(numbers, re.sub(r"CREATE MACRO base\.\w+\(\) AS \d+;", "", schema())) == []


def test_no_query_of_ours_has_the_window_that_duckdb_fails_on() -> None:
    """DuckDB 1.5 now and then raises an internal error for OVER () above a UNION (its issue 25713)."""
    files = [*(ROOT / "store").rglob("*.sql"), *(ROOT / "app").rglob("*.sql")]
    files += [file for folder in ("app", "ingest", "store") for file in (ROOT / folder).rglob("*.py")]
    window = re.compile(r"^(?!.*fails now and then).*OVER *\( *\)", re.MULTILINE | re.IGNORECASE)
    assert len(files) > 100
    assert [file for file in [ROOT / "schema.sql", *files] if window.search(file.read_text("utf-8"))] == []


VIEWS = {
    "runs", "models", "vocabulary", "documents", "positions", "contributions", "contribution_details",
    "heads", "head_sources", "neurons", "lens", "neuron_top", "neuron_windows", "head_top",
    "neuron_samples", "head_samples", "neuron_stats", "head_stats", "closure", "neuron_vocabulary",
    "neuron_reads", "weight_stats", "direct_path", "bigrams", "bigram_agreement", "bigram_summary",
    "bigram_distances", "head_vocabulary", "head_pairs", "skip_trigrams",
    "head_distances", "head_composition", "head_behaviour", "neuron_inputs", "next_token_neurons", "prompts",
    "prompt_inputs", "head_prompts", "ablations", "explanations", "explanation_answers",
    "explanation_scores", "published_scores", "contrasts", "contrast_components", "contrast_heads",
    "contrast_neurons", "contrast_sources", "contrast_details", "parts", "run_documents", "emergence",
}  # fmt: skip


def test_the_public_names_are_there(empty: duckdb.DuckDBPyConnection) -> None:
    found = {row[0] for row in empty.execute("SELECT view_name FROM duckdb_views()").fetchall()}
    assert found >= VIEWS
    macros = {row[0] for row in empty.execute("SELECT function_name FROM duckdb_functions()").fetchall()}
    assert macros >= {"neuron_contexts", "head_contexts", "token_occurrences", "phrase", "context"}
    assert macros >= {"active_heads", "relevant_heads", "head_effects_by_document"}
    assert macros >= {"metadata_text", "metadata_number", "metadata_date"}


TEXTS = dict.fromkeys(["weights_sha256", "model", "revision", "sha256", "identity", "text"], "x")
TEXTS |= {"kind": "head", "list": "low", "match": "exact", "side": "high", "schema": "x", "name": "x"}
FILLED = {
    "{neurons}": "neurons",
    "{toward}": "toward_top",
    "{lists}": "base.ranked",
    "{list_sources}": "base.head",
    "{samples}": "base.sample",
}
VALUES = TEXTS | {"position_ids": [1], "layers": [1], "kinds": ["head"], "lists": ["low"]}


@pytest.mark.parametrize("file", ["write.sql", "read.sql", "weights.sql", "verify.sql", "describe.sql"])
def test_every_named_query_can_be_planned(empty: duckdb.DuckDBPyConnection, file: str) -> None:
    for name, text in named(file).items():
        if "FROM rows" in text:
            continue  # needs the Arrow table of that name
        for piece, filled in FILLED.items():
            text = text.replace(piece, filled)
        if re.search(r"\{\w+\}", text):
            continue  # needs another query in its middle
        for query in (statement.query for statement in duckdb.extract_statements(text)):
            names = re.findall(r"\$(\w+)", query)
            values = {name: VALUES.get(name, 1) for name in names}
            assert empty.execute(f"EXPLAIN {query}", values or None).fetchall(), name


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names by which a link reaches a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_generated_tables_are_up_to_date() -> None:
    assert not docs.stale(), "run `python -m tools.docs`"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 9000, "move the details into docs/"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), link
        assert not heading or heading in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_sql_of_the_pages_can_be_planned(empty: duckdb.DuckDBPyConnection, page: Path) -> None:
    for query in blocks(page, "sql"):
        assert empty.execute(f"EXPLAIN {query}").fetchall(), query


@pytest.mark.parametrize("package", [app, ingest, store])
def test_examples_in_docstrings_run(package: object) -> None:
    """In every subfolder but for the scripts, app/browser/server/main.py and app/cli/__main__.py."""
    name = package.__name__  # type: ignore[attr-defined]
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):  # type: ignore[attr-defined]
        if module.name not in (f"{PACKAGE}.app.browser.server.main", f"{PACKAGE}.app.cli.__main__"):
            assert doctest.testmod(importlib.import_module(module.name)).failed == 0, module.name


@pytest.mark.soak
def test_the_python_of_the_pages_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The blocks of one page in order, in one namespace."""
    from annotate_transformer.ingest.corpus.sources import Corpus
    from annotate_transformer.ingest.models.model import Model
    from annotate_transformer.ingest.models.names import EMBEDDED, resolve
    from annotate_transformer.ingest.next_token.prompts import annotate_inputs
    from annotate_transformer.ingest.run.pipeline import ingest
    from annotate_transformer.ingest.run.settings import Settings
    from annotate_transformer.ingest.weights.tables import annotate_weights

    monkeypatch.chdir(tmp_path)
    with Corpus([str(EMBEDDED / "corpus.jsonl")]) as corpus:
        settings = Settings(limit_tokens=1500, samples=10, top=5)
        model = Model(resolve("neox-2m"))
        ingest(corpus, model, "demo.duckdb", settings)
    annotate_weights(model, "demo.duckdb")
    annotate_inputs(model, "demo.duckdb", 1, 1234, (3, 7))
    for page in PAGES:
        if page.name == "tutorial.md":
            continue  # tests/test_notebook.py runs it
        namespace: dict[str, object] = {}
        for block in blocks(page, "python"):
            exec(compile(block, page.name, "exec"), namespace)
    printed = capsys.readouterr().out
    assert "next_logprob" in printed
    assert "mlp_remainder" in printed
    assert "suppresses" in printed
