"""What weights say: against plain NumPy in float64 on Hugging Face's raw weights, folded here by hand.

The bigrams' figures are made again from the positions by brute force over the whole vocabulary.
"""

import hashlib
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from annotate_transformer import store
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.weights.bigrams import Bigrams, agreement
from annotate_transformer.ingest.weights.slices import largest
from annotate_transformer.ingest.weights.tables import annotate_weights
from annotate_transformer.store import Weights
from answers import differences, sql
from folded import Array, Folded
from models import N_TOKENS, annotated, random_model
from processes import annotate, start, until
from small import SETTINGS, corpus, text

TOP, LAYER = 7, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything drawn at random, LayerNorms and biases too; 4,096 tokens in 50,304 rows."""
    return random_model("pythia-14m", tmp_path_factory.mktemp("model") / "random")


@pytest.fixture(scope="module")
def folded(folder: Path) -> Folded:
    from transformers import GPTNeoXForCausalLM

    return Folded(GPTNeoXForCausalLM.from_pretrained(folder))


@pytest.fixture(scope="module")
def weights(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Of a store with the model and a run of it over 40 sentences that repeat themselves."""
    model = Model(resolve(str(folder)))
    s = annotated([text(40, 0)], model, tmp_path_factory.mktemp("run") / "store", samples=5, top=2)
    report = annotate_weights(model, str(s.path), top=TOP)
    assert (report.annotated, report.runs) == (True, [1])
    return s.weights()


def close(found: object, expected: Array, relative: float = 1e-4) -> None:
    values = np.asarray(found, dtype=np.float64)
    assert values.shape == expected.shape
    assert np.abs(values - expected).max() <= relative * np.abs(expected).max()


# Neurons


def test_vocabulary_holds_the_extremes_of_each_neurons_congruence(weights: Weights, folded: Folded) -> None:
    congruence = folded.W_out(LAYER) @ folded.W_U[:, :N_TOKENS]
    ordered = np.sort(congruence, axis=1)
    query = """FROM neuron_vocabulary WHERE layer = $layer AND direction::VARCHAR = $direction
               ORDER BY neuron, rank"""
    for direction, expected in (("promotes", ordered[:, ::-1]), ("suppresses", ordered)):
        found = weights.session.sql(query, {"layer": LAYER, "direction": direction})
        close(found.congruence.to_numpy().reshape(-1, TOP), expected[:, :TOP])
        tokens = found.token_id.to_numpy().reshape(-1, TOP)
        close(np.take_along_axis(congruence, tokens, axis=1), expected[:, :TOP])
    every = weights.session.sql(
        "SELECT count(*) AS rows, max(token_id) AS token_id FROM neuron_vocabulary"
    ).iloc[0]
    layers, d_mlp = folded.hf.config.num_hidden_layers, len(congruence)
    assert every.rows == layers * d_mlp * 2 * TOP
    assert every.token_id < N_TOKENS


def test_statistics(weights: Weights, folded: Folded) -> None:
    found = weights.session.sql(
        "FROM weight_stats WHERE layer = $layer AND head IS NULL ORDER BY neuron", {"layer": LAYER}
    )
    W_in, W_out = folded.W_in(LAYER), folded.W_out(LAYER)
    norms = np.linalg.norm(W_in, axis=1), np.linalg.norm(W_out, axis=1)
    close(found.in_norm, norms[0])
    close(found.out_norm, norms[1])
    close(found.cosine, (W_in * W_out).sum(1) / norms[0] / norms[1])
    close(found.bias, folded.b_in(LAYER))
    first = weights.session.sql(
        "FROM neuron_vocabulary WHERE direction = 'promotes' AND rank = 1 AND layer = 3"
    )
    assert found.next_token_id.tolist() == first.sort_values("neuron").token_id.tolist()
    erasing = weights.erasing_neurons(5)
    every = weights.session.sql("SELECT cosine FROM weight_stats WHERE head IS NULL").cosine
    assert erasing.cosine.tolist() == sorted(every)[:5]


@pytest.mark.parametrize("component", ["head", "neuron"])
def test_reads_are_the_strongest_virtual_weights_from_before(
    weights: Weights, folded: Folded, component: str
) -> None:
    query = f"""SELECT *, source_layer * $units + source_{component} AS source FROM neuron_reads
                WHERE layer = $layer AND component = '{component}' ORDER BY neuron, rank"""
    if component == "head":
        W_O = np.concatenate([folded.W_O(layer) for layer in range(LAYER)])
        weight = np.linalg.norm(W_O @ folded.W_in(LAYER).T, axis=1).T
    else:
        weight = folded.W_in(LAYER) @ np.concatenate([folded.W_out(layer) for layer in range(LAYER)]).T
    units = weight.shape[1] // LAYER
    found = weights.session.sql(query, {"units": units, "layer": LAYER})
    source = found.source.to_numpy(dtype=np.int64).reshape(len(weight), TOP)
    close(found.weight.to_numpy().reshape(source.shape), np.take_along_axis(weight, source, axis=1))
    close(np.abs(found.weight.to_numpy().reshape(source.shape)), -np.sort(-np.abs(weight), axis=1)[:, :TOP])
    assert weights.neuron_reads("L0N0").empty


def test_next_token_neurons(weights: Weights) -> None:
    first = weights.session.sql("FROM neuron_vocabulary WHERE direction = 'promotes' AND rank = 1")
    words = first[first.token.str.match(r"^ ..")].sort_values("congruence", ascending=False)
    found = weights.next_token_neurons(k=2)
    assert len(found) == 2 * len(set(first.layer))
    for layer, rows in found.groupby("layer"):
        assert rows.neuron.tolist() == words[words.layer == layer].head(2).neuron.tolist()
    token = words.token.iloc[0]
    same = first[first.token == token].sort_values("congruence", ascending=False)
    assert weights.next_token_neurons(token).congruence.tolist() == same.congruence.tolist()


def test_equal_values_are_in_the_order_of_their_columns() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 4, (50, 40), generator=generator).float()
    for k in (1, 7, 39, 40):
        found, columns = largest(values, k)
        expected = np.argsort(-values.numpy(), axis=1, kind="stable")[:, :k]
        assert columns.tolist() == expected.tolist()
        assert found.tolist() == np.take_along_axis(values.numpy(), expected, axis=1).tolist()


# The direct path


def test_direct_path(weights: Weights, folded: Folded) -> None:
    tokens = np.arange(0, N_TOKENS, 97)
    expected = folded.direct_path(tokens)[:, :N_TOKENS]
    query = "FROM direct_path WHERE token_id % 97 = 0 ORDER BY token_id, rank"
    found = weights.session.sql(query)
    close(found.logprob.to_numpy().reshape(-1, TOP), -np.sort(-expected, axis=1)[:, :TOP])
    next_ids = found.next_token_id.to_numpy().reshape(-1, TOP)
    close(np.take_along_axis(expected, next_ids, axis=1), -np.sort(-expected, axis=1)[:, :TOP])


@pytest.fixture(scope="module")
def positions(weights: Weights) -> pd.DataFrame:
    return weights.session.sql("FROM positions WHERE next_token_id IS NOT NULL")


def test_bigrams_are_those_of_the_positions(weights: Weights, positions: pd.DataFrame) -> None:
    found = weights.session.sql("FROM bigrams").set_index(["token", "next_token"]).sort_index()
    counted = positions.groupby(["token", "next_token"]).size()
    assert found["count"].to_dict() == counted.to_dict()
    share = counted / counted.groupby("token").transform("sum")
    close(found.share, share.sort_index().to_numpy())


def test_direct_path_beside_the_bigrams(weights: Weights, positions: pd.DataFrame) -> None:
    found = weights.direct_path(" saw", k=3)
    following = positions[positions.token == " saw"].next_token_id.value_counts()
    assert found[found.corpus_rank <= 3]["count"].tolist() == following.head(3).tolist()
    assert found["rank"].tolist()[:3] == [1, 2, 3]
    kept = weights.session.sql("FROM direct_path WHERE token = ' saw'").set_index("next_token_id")["rank"]
    assert found["rank"].fillna(0).tolist() == kept.reindex(found.next_token_id).fillna(0).tolist()
    in_corpus = found[found.next_token_id.isin(following.index)]
    assert in_corpus["count"].tolist() == following[in_corpus.next_token_id].tolist()
    assert found[~found.next_token_id.isin(following.index)]["count"].isna().all()


def test_agreement_with_every_direct_path(weights: Weights, folded: Folded, positions: pd.DataFrame) -> None:
    """Each token beside all tokens' direct paths: its own, and one other a token for the baseline."""
    found = weights.bigram_agreement().sort_values("token_id")
    tokens = np.sort(positions.token_id.unique())
    assert found.token_id.tolist() == tokens.tolist()
    logprob = folded.direct_path(tokens)[:, :N_TOKENS]
    ranks = pd.DataFrame(logprob).rank(axis=1).to_numpy()
    others = []
    for own, row in enumerate(found.itertuples()):
        following = positions[positions.token_id == row.token_id].next_token_id
        counts = np.bincount(following, minlength=N_TOKENS)
        assert (row.count, row.next_tokens) == (counts.sum(), (counts > 0).sum())
        p = counts / counts.sum()
        there = p > 0
        divergence = (p[there] * (np.log(p[there]) - logprob[:, there])).sum(1)
        correlation = [np.corrcoef(pd.Series(counts).rank(), rank)[0, 1] for rank in ranks]
        often = set(np.lexsort((np.arange(N_TOKENS), -counts))[: min(10, there.sum())])
        overlap = [len(often & {*np.argsort(-path)[:10]}) / len(often) for path in logprob]
        figures = np.stack([correlation, divergence, overlap], 1)  # (path, figure)
        close([row.rank_correlation, row.divergence, row.overlap], figures[own])
        shuffled = [row.shuffled_rank_correlation, row.shuffled_divergence, row.shuffled_overlap]
        others.append(int(np.abs(figures - shuffled).sum(1).argmin()))
        close(shuffled, figures[others[-1]])
    assert sorted(others) == [*range(len(tokens))], "each token's path is another's baseline once"
    assert not any(other == own for own, other in enumerate(others))


def test_overlap_is_of_the_ten_most_frequent_next_tokens() -> None:
    """Of token 0 these are the ten top predictions, in this order; of token 1 none is."""
    n = 20
    logits = torch.zeros(n, n)
    logits[0], logits[1] = -torch.arange(n), torch.arange(n)
    model = SimpleNamespace(
        W_E=torch.eye(n), W_U=logits, b_U=torch.zeros(n), d_vocab=n, device="cpu", logit_cap=None,
        scale=lambda rows: None, normalized=lambda rows, scale: rows,
    )  # fmt: skip
    first, second = np.repeat([0, 1], [12, 3]), np.array([*range(12), 5, 6, 7])
    found = agreement(model, Bigrams(first, second, np.array([*range(12, 0, -1), 3, 2, 1]), n))  # type: ignore[arg-type]
    assert found["overlap"].tolist() == [1, 0]
    assert found["shuffled_overlap"].tolist() == [0, 1]


def test_agreement_of_one_token(weights: Weights) -> None:
    each = weights.bigram_agreement().set_index("token")
    found = weights.bigram_agreement(token=" saw").set_index("token")
    pd.testing.assert_frame_equal(found, each.loc[[" saw"]])
    absent = weights.session.sql(
        "FROM vocabulary ANTI JOIN positions USING (token_id) ORDER BY token_id DESC"
    )
    assert weights.bigram_agreement(token=absent.token[0]).empty


def test_summary_is_the_mean_over_positions(weights: Weights) -> None:
    each, whole = weights.bigram_agreement(10**6), weights.bigram_summary().iloc[0]
    assert (whole.tokens, whole.positions) == (len(each), each["count"].sum())
    for figure in ("rank_correlation", "divergence", "overlap"):
        for name in (figure, f"shuffled_{figure}"):
            assert whole[name] == pytest.approx(np.average(each[name], weights=each["count"]), rel=1e-5)


def test_distances(weights: Weights, folded: Folded, positions: pd.DataFrame) -> None:
    first, second = (np.sort(positions[name].unique()) for name in ("token_id", "next_token_id"))
    counts = pd.crosstab(positions.token_id, positions.next_token_id).loc[first, second].to_numpy()
    read, write = folded.read_embedding(first), folded.W_U[:, second]
    inner = read @ write
    cosine = inner / np.linalg.norm(read, axis=1)[:, None] / np.linalg.norm(write, axis=0)
    found = weights.bigram_distances()
    assert found.bigrams.sum() == counts.size
    for row in found.itertuples():
        pairs = (counts >= row.min_count) & (counts <= row.max_count)
        assert row.bigrams == pairs.sum() > 0
        close([row.inner_product], inner[pairs].mean(keepdims=True), 1e-3)
        close([row.cosine, row.cosine_std], np.array([cosine[pairs].mean(), cosine[pairs].std()]), 1e-3)


# The command


@pytest.fixture(scope="module")
def once(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the tiny model's weights alone."""
    folder = tmp_path_factory.mktemp("once")
    result = annotate("weights", "--model", tiny_model, "--db", "x.duckdb", folder=folder)
    assert (result.status, "Weights of" in result.out) == (0, True), result.err
    return folder / "x.duckdb"


@pytest.mark.soak
def test_the_same_command_adds_nothing(once: Path, tiny_model: Path) -> None:
    before = hashlib.sha256(once.read_bytes()).hexdigest()
    command = ("weights", "--model", tiny_model, "--db", "x.duckdb")
    again = annotate(*command, folder=once.parent)
    assert (again.status, "nothing was added" in again.out) == (0, True)
    assert hashlib.sha256(once.read_bytes()).hexdigest() == before
    assert "all checks pass" in annotate("verify", once, folder=once.parent).out
    with store.open(once) as s:
        assert len(s.weights().neuron_vocabulary("L1N31")) == 2 * 20
        assert s.weights().direct_path(" the", k=2).share.isna().all()
        with pytest.raises(store.NoSuchUnit, match="only L0N0 to L1N31"):
            s.weights().neuron_stats("L1N32")
        with pytest.raises(store.NoWeights, match="annotate weights"):
            s.weights().bigram_summary()
    assert annotate("head", "L1H1", "--db", once, folder=once.parent).out.startswith("By the weights of")


def test_the_default_is_the_model_of_the_last_run(made: Path, tiny_model: Path, tmp_path: Path) -> None:
    db = shutil.copy(made, tmp_path)
    result = annotate("weights", "--top", 3, "--db", db, folder=tmp_path)
    assert (result.status, f"eights of {tiny_model}" in result.out) == (0, True), result
    assert store.open(db).sql("FROM models").model.tolist() == [str(tiny_model)]
    (tmp_path / "empty.duckdb").touch()
    result = annotate("weights", "--top", 3, "--db", "empty.duckdb", folder=tmp_path)
    assert (result.status, "Weights of neox-2m" in result.out) == (0, True), result


def test_a_model_without_a_run_is_asked_beside_one_with(
    weights: Weights, once: Path, tiny_model: Path, tmp_path: Path
) -> None:
    db = Path(shutil.copy(weights.session.path, tmp_path))
    annotate_weights(Model(resolve(str(tiny_model))), str(db))
    with store.open(db) as s, store.open(once) as alone:
        other = s.weights(model=2)
        assert (other.name, other.run, s.weights().run) == (alone.weights().name, None, 1)
        assert s.weights(model=other.name).model.model_id == 2
        for answer in ("erasing_neurons", "compositions", "behaviour"):
            pd.testing.assert_frame_equal(getattr(other, answer)(), getattr(alone.weights(), answer)())
        assert len(s.weights().behaviour()) == len(weights.behaviour())


@pytest.mark.soak
def test_killed_it_leaves_nothing(once: Path, tiny_model: Path, tmp_path: Path) -> None:
    command = ("weights", "--model", tiny_model, "--db", "x.duckdb")
    db, kills = tmp_path / "x.duckdb", 0
    for pause in (0.1, 0.4):
        running = start(*command, folder=tmp_path)
        until(lambda: "reading" in running.said() or not running.alive)  # noqa: B023
        time.sleep(pause)
        running.send(signal.SIGKILL)
        kills += running.wait().status == -signal.SIGKILL
        if db.exists():
            try:
                tables = ("weights", "model", "neuron_vocabulary", "direct_path")
                counts = [sql(db, f"SELECT count(*) > 0 FROM base.{table}") for table in tables]
            except store.NotAStore:
                continue
            assert len({str(count) for count in counts}) == 1, counts
    assert kills >= 1, "it was over before it could be killed"
    assert annotate(*command, "--quiet", folder=tmp_path).status == 0
    assert differences(once, db) == {}


@pytest.mark.soak
def test_an_ingest_reads_the_weights_too(tiny_model: Path, tmp_path: Path) -> None:
    source = corpus(tmp_path / "small.jsonl", (9, 4))
    command = ("ingest", source, "--db", "x.duckdb", "--model", tiny_model, *SETTINGS)
    assert annotate(*command, folder=tmp_path).status == 0
    db = tmp_path / "x.duckdb"
    assert sql(db, "SELECT count(*) FROM base.weights") == [(0,)]
    with pytest.raises(store.NoWeights, match="annotate weights --model"):
        store.open(db).weights()
    result = annotate(*command, "--weights", folder=tmp_path)
    assert "bigrams of run 1" in result.out
    before = hashlib.sha256(db.read_bytes()).hexdigest()
    again = annotate(*command, "--weights", folder=tmp_path)
    assert again.out.count("\n") == 1
    assert hashlib.sha256(db.read_bytes()).hexdigest() == before
    fresh = annotate("weights", "--model", tiny_model, "--db", db, "--fresh", "--top", 3, folder=tmp_path)
    assert "bigrams of run 1" in fresh.out
    assert sql(db, "SELECT max(rank), count(*) FROM neuron_vocabulary") == [(3, 2 * 32 * 2 * 3)]
    assert sql(db, "SELECT count(*) FROM bigram_summary") == [(1,)]


def test_a_list_too_long_is_refused(once: Path, tiny_model: Path) -> None:
    refused = annotate("weights", "--model", tiny_model, "--db", once, "--top", 0, folder=once.parent)
    assert (refused.status, "Traceback" in refused.err) == (2, False)
    assert "--top 0 must lie between 1 and 1000" in refused.err
