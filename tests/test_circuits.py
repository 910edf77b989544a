"""Heads' circuits: equal to plain NumPy in float64 on raw weights, and found where they were planted.

The reference makes every product in full; nothing of it comes from `ingest` or TransformerLens.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

import planted as models
from annotate_transformer import store
from annotate_transformer.app.cli.make import read_weights
from annotate_transformer.app.present.columns import SEEN_IN
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import resolve
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.ingest.weights import circuits
from annotate_transformer.ingest.weights.tables import annotate_weights
from folded import Array, Folded
from models import N_TOKENS, annotated, random_model, token_ids
from reference import Reference

TOKENS = torch.tensor([3, 70, 71, 282, 400, 999, 2602, 3296, 4000, 4095])


REAL = np.arange(N_TOKENS)


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Folded]:
    """Everything drawn at random, LayerNorms and biases too; most of its vocabulary is padding."""
    from transformers import GPTNeoXForCausalLM

    folder = random_model("pythia-14m", tmp_path_factory.mktemp("model") / "random")
    return Model(resolve(str(folder))), Folded(GPTNeoXForCausalLM.from_pretrained(folder))


def close(found: torch.Tensor, expected: Array, relative: float = 1e-4) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.numpy() - expected).max() <= relative * np.abs(expected).max()


def test_ov_circuit(random: tuple[Model, Folded]) -> None:
    model, folded = random
    found = circuits.ov_circuit(model, 2, 3, TOKENS, k=5)
    effect = folded.read_embedding(TOKENS) @ folded.W_OV(2, 3) @ folded.W_U[:, :N_TOKENS]
    close(found.effect, -np.sort(-effect, axis=1)[:, :5])
    assert (found.token.numpy() == np.argsort(-effect, axis=1)[:, :5]).all()
    own = effect[np.arange(len(TOKENS)), TOKENS]
    assert found.own_rank.tolist() == (1 + (effect > own[:, None]).sum(1)).tolist()


def test_qk_circuit_of_the_first_layer_is_the_models_own_attention(random: tuple[Model, Folded]) -> None:
    """softmax(scores) over a window is what Hugging Face's model attends to, rotary and biases included."""
    model, folded = random
    reference = Reference(folded.hf.name_or_path, N_TOKENS)
    pattern = reference.window(TOKENS.tolist()).pattern[0]  # (head, position, source)
    last = len(TOKENS) - 1
    for head in range(model.n_heads):
        scores = [
            circuits.qk_circuit(model, 0, head, TOKENS[last:], TOKENS[[source]], last - source)
            for source in range(len(TOKENS))
        ]
        close(torch.cat(scores, 1)[0].softmax(0), pattern[head, last].numpy())


def test_copying_and_matching_by_all_eigenvalues(random: tuple[Model, Folded]) -> None:
    model, folded = random
    layer, head = 4, 1
    for found, circuit, read in (
        (
            circuits.copying(model).score,
            folded.W_OV(layer, head),
            folded.W_U[:, :N_TOKENS] @ folded.W_E[:N_TOKENS],
        ),
        (
            circuits.matching(model).score,
            folded.W_QK(layer, head),
            folded.W_E[:N_TOKENS].T @ folded.W_E[:N_TOKENS],
        ),
    ):
        # Those of the (token, token) matrix W_E circuit W_U and of (d_model, d_model) differ in zeros alone.
        eigenvalues = np.linalg.eigvals(circuit @ read)
        expected = eigenvalues.real.sum() / np.abs(eigenvalues).sum()
        assert found[layer, head].item() == pytest.approx(expected, abs=1e-5)


def test_composition(random: tuple[Model, Folded]) -> None:
    model, folded = random
    found = circuits.Factors.of(model).composition()
    norm = np.linalg.norm
    (earlier, later) = (1, 2), (4, 3)
    ov, ov_later, qk_later = folded.W_OV(*earlier), folded.W_OV(*later), folded.W_QK(*later)
    for kind, read in enumerate((qk_later, qk_later.T, ov_later)):
        expected = norm(ov @ read) / (norm(ov) * norm(read))
        assert found[(kind, *earlier, *later)].item() == pytest.approx(expected, rel=1e-5)
    layer = torch.arange(model.n_layers)
    there = (layer[:, None] < layer)[None, :, None, :, None].expand_as(found)
    assert (found.isnan() == ~there).all(), "a head composes with later layers' heads, and with no others"


def test_distance_scores(random: tuple[Model, Folded]) -> None:
    """The mean embedding's query and key, turned as a rotation of complex numbers."""
    model, folded = random
    found = circuits.distance_scores(model, 5)
    mean, layer, head, turned = folded.read_embedding(REAL).mean(0), 3, 2, 8
    (W_Q, b_Q), (W_K, b_K) = (folded.read(layer, head, which) for which in (0, 1))
    q, k = mean @ W_Q + b_Q, mean @ W_K + b_K
    as_complex = [v[: turned // 2] + 1j * v[turned // 2 : turned] for v in (q, k)]
    turn = np.exp(1j * 10_000.0 ** -(np.arange(0, turned, 2) / turned))
    for distance in range(5):
        rotary = (as_complex[0] * turn**distance * as_complex[1].conj()).real.sum()
        expected = (rotary + q[turned:] @ k[turned:]) / np.sqrt(len(q))
        assert found[layer, head, distance].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_skip_trigrams_are_the_strongest_of_all(random: tuple[Model, Folded]) -> None:
    model, folded = random
    layer, head, k = 1, 0, 7
    attention = circuits.qk_circuit(model, layer, head, TOKENS, TOKENS, 4).softmax(1)
    found = circuits.skip_trigrams(attention, TOKENS, circuits.ov_circuit(model, layer, head, TOKENS, k), k)
    effect = folded.read_embedding(TOKENS) @ folded.W_OV(layer, head) @ folded.W_U[:, :N_TOKENS]
    every = attention.double().numpy()[:, :, None] * effect  # (destination, source, output)
    order = np.argsort(-every, axis=None)[:k]
    destination, source, output = np.unravel_index(order, every.shape)
    close(found.strength, every.flat[order])
    assert found.destination.tolist() == TOKENS[destination].tolist()
    assert found.source.tolist() == TOKENS[source].tolist()
    assert found.output.tolist() == output.tolist()


def test_behaviour_is_the_mass_of_head_detectors_patterns(random: tuple[Model, Folded]) -> None:
    """Over the positions that have such a source: TransformerLens divides by all positions instead."""
    from transformer_lens import head_detector as detector

    model, folded = random
    tokens = circuits.repeated_tokens(model)[:2]
    assert (tokens[:, :25] == tokens[:, 75:]).all() and len(tokens[0, :25].unique()) == 25
    found = circuits.behaviour(model, tokens)
    reference = Reference(folded.hf.name_or_path, N_TOKENS)
    patterns = [reference.window(ids.tolist()).pattern for ids in tokens]
    for column, make in (
        (1, detector.get_previous_token_head_detection_pattern),
        (4, detector.get_duplicate_token_head_detection_pattern),
        (5, detector.get_induction_head_detection_pattern),
    ):
        wanted = [make(ids[None]).double() for ids in tokens]
        mass = sum((pattern * where).sum((-2, -1)) for pattern, where in zip(patterns, wanted, strict=True))
        places = sum(int((where.sum(1) > 0).sum()) for where in wanted)
        close(found[:, column], (mass / places).numpy())
    every = torch.stack(patterns)[..., 1:, :]  # (sequence, layer, head, position, source) without the first
    close(found[:, 0], every.diagonal(1, -2, -1).mean((0, -1)).numpy())
    close(found[:, 3], torch.special.entr(every).sum(-1).mean((0, -1)).numpy())


def test_induction_appears_between_steps_1000_and_2000() -> None:
    """The strongest head's score on random tokens, above what it gives the duplicates themselves."""
    strongest = {}
    for revision in ("step512", "step1000", "step2000", "main"):
        model = Model(resolve("neox-2m", revision))
        masses = circuits.behaviour(model, circuits.repeated_tokens(model))
        strongest[revision] = float((masses[:, 5] - masses[:, 4]).max())
    assert strongest["step512"] < 0.05 and strongest["step1000"] < 0.05
    assert strongest["step2000"] > 0.5 and strongest["main"] > 0.7


# Planted ---------------------------------------------------------------------------------------------

TEXT = " keep this in mind, and the city in mind; keep the Congress in mind, and keep this in the city."


MODELS: dict[str, tuple[models.Circuit, ...]] = {
    "two heads": (models.induction,),  # and the previous-token head that it needs
    "one unit": (models.copying, models.skip_trigram, models.next_token_neuron, models.erasing_neuron),
    "twin": (),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, store.Store]:
    """A store for each model, of a text and of the weights."""
    folder, stores = tmp_path_factory.mktemp("planted"), {}
    for name, circuit in MODELS.items():
        model = Model(resolve(str(models.planted(folder / name / "model", *circuit))))
        stores[name] = annotated([TEXT], model, folder / name / "text", keep_neurons=10**8, samples=5)
        annotate_weights(model, str(stores[name].path))
    return stores


def head(place: tuple[int, int]) -> dict[str, int]:
    return {"layer": place[0], "head": place[1]}


PAIR = {"kind": "K", **head(models.INDUCTION_HEAD), "earlier_layer": 0, "earlier_head": 0}
TRIGRAM = {"source_token": " keep", "destination_token": " in", "output_token": " mind"}
FOUND = [  # the model, the view and its column that ranks, and what stands first there
    ("two heads", "head_behaviour", "weights_previous", head(models.PREVIOUS_HEAD)),
    ("two heads", "head_behaviour", "random_previous", head(models.PREVIOUS_HEAD)),
    ("two heads", "head_behaviour", "corpus_previous", head(models.PREVIOUS_HEAD)),
    ("two heads", "head_behaviour", "weights_induction", head(models.INDUCTION_HEAD)),
    ("two heads", "head_behaviour", "random_induction", head(models.INDUCTION_HEAD)),
    ("two heads", "head_behaviour", "corpus_induction", head(models.INDUCTION_HEAD)),
    ("two heads", "head_composition", "z", PAIR),
    ("one unit", "weight_stats", "copying", head(models.COPYING_HEAD)),
    ("one unit", "weight_stats", "1 / copying_rank", head(models.COPYING_HEAD)),
    ("one unit", "skip_trigrams", "strength", head(models.TRIGRAM_HEAD) | TRIGRAM),
    ("one unit", "neuron_vocabulary", "congruence", {"layer": 1, "neuron": 5, "token": " mind"}),
    ("one unit", "weight_stats", "-cosine", {"layer": 1, "neuron": 9}),
]


@pytest.mark.some(3)
@pytest.mark.parametrize(("model", "view", "rank", "what"), FOUND)
def test_a_planted_circuit_is_first_and_its_twin_has_none(
    planted: dict[str, store.Store], model: str, view: str, rank: str, what: dict[str, object]
) -> None:
    query = f"SELECT *, {rank} AS figure FROM {view} ORDER BY figure DESC NULLS LAST LIMIT 2"
    (first, second), twin = planted[model].sql(query).to_dict("records"), planted["twin"].sql(query)
    assert what.items() <= first.items()
    assert first["figure"] > second["figure"] and first["figure"] > 3 * twin.figure[0]


def test_python_asks_for_the_same(planted: dict[str, store.Store]) -> None:
    pair, units = planted["two heads"].weights(), planted["one unit"].weights()
    assert PAIR.items() <= pair.compositions("K", 1).iloc[0].to_dict().items()
    reader, read = pair.head_compositions("L1H1", 1).iloc[0], pair.head_compositions("L0H0", 1).iloc[0]
    assert (reader.how, reader.layer, reader["head"]) == ("reads", 0, 0)
    assert (read.how, read.layer, read["head"]) == ("is read by", 1, 1)
    assert len(pair.behaviour()) == 6 and list(pair.head_behaviour("L1H1").seen_in) == [*SEEN_IN]
    behaviour, every = pair.head_behaviour("L1H1"), pair.behaviour().set_index(["layer", "head"]).loc[1, 1]
    for row in behaviour.to_dict("records"):
        for name in {*row} - {"seen_in"}:
            expected = every.get(f"{row['seen_in']}_{name}", np.nan)
            assert row[name] == pytest.approx(expected, nan_ok=True)
    assert behaviour.induction[1] > 0.9 and behaviour.self.notna().sum() == 2
    assert pair.head_distances("L0H0", 1).distance[0] == 1
    copies = units.head_vocabulary("L1H0", 5)
    assert [tokens[0] for tokens in copies.tokens] == copies.source_token.tolist()
    assert units.head_stats("L1H0").copying_rank[0] == 1
    found = units.skip_trigrams("L1H2", 1), units.head_pairs("L1H2", 1)
    assert [f.source_token[0] for f in found] == [" keep"] * 2 and found[1].destination_token[0] == " in"
    with pytest.raises(store.NoSuchUnit, match="L1N5 is not a head"):
        units.skip_trigrams("L1N5")
    with pytest.raises(store.BadQuestion, match="Q, K, V"):
        units.compositions("X")


def test_skip_trigrams_stand_beside_their_places_in_the_text(planted: dict[str, store.Store]) -> None:
    s, ids = planted["one unit"], token_ids(TEXT)
    found = s.weights().skip_trigrams("L1H2", 20)
    effects = s.sql("FROM heads WHERE layer = 1 AND head = 2 ORDER BY position_id").toward_next
    assert found.places[0] > 1
    for row in found.itertuples():
        places = [
            p for p in range(len(ids) - 1)
            if (ids[p], ids[p + 1]) == (row.destination_token_id, row.output_token_id)
            and row.source_token_id in ids[max(0, p - 16) : max(0, p - 1)]
        ]  # fmt: skip
        assert row.places == len(places)
        assert row.mean_toward_next == pytest.approx(effects[places].mean(), nan_ok=True)


@pytest.mark.soak
def test_circuits_are_asked_about_the_commonest_tokens_or_the_first_merges(
    planted: dict[str, store.Store], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "SELECT DISTINCT source_token_id AS id FROM head_vocabulary ORDER BY id"
    assert planted["twin"].sql(query).id.tolist() == sorted(set(token_ids(TEXT)))
    model, db = Model(resolve(str(tiny_model))), tmp_path / "x.duckdb"
    annotate_weights(model, str(db), top=2, distance=2)
    s = store.open(db)
    merges = s.sql(
        "SELECT token_id AS id FROM vocabulary WHERE octet_length(bytes) > 1 AND id > 1 ORDER BY id"
    )
    first = merges.id.tolist()[:256]
    assert s.sql(query).id.tolist() == first
    pair = s.sql("FROM head_pairs WHERE layer = 1 AND head = 0 AND rank = 1").iloc[0]
    tokens = torch.tensor(first)
    attention = circuits.qk_circuit(model, 1, 0, tokens, tokens, distance=2).softmax(1)
    assert (pair.distance, pair.attention) == (2, pytest.approx(attention.max().item()))
    (tmp_path / "a.txt").write_text(TEXT)
    with Corpus([str(tmp_path / "a.txt")]) as corpus:
        ingest(corpus, model, str(db), Settings(context=16, samples=5, top=2))
    unasked = len(set(token_ids(TEXT)) - set(first))
    read_weights(model, db, quiet=False)
    assert f"{unasked} of today's are missing" in " ".join(capsys.readouterr().out.split())
    assert annotate_weights(model, str(db), top=2, fresh=True).unasked == 0
    assert s.sql(query).id.tolist() == sorted(set(token_ids(TEXT)))


@pytest.mark.parametrize(("model", "view"), [("two heads", "heads"), ("one unit", "neurons")])
def test_ablation_takes_away_the_direct_effect(
    planted: dict[str, store.Store], model: str, view: str
) -> None:
    """In the last layer nothing reads a component later: its ablation changes the logit by its term.

    At frozen σ, as all direct effects are; a head is ablated to its constant part, the value bias.
    """
    s, ids = planted[model], token_ids(TEXT)
    reference = Reference(s.path.parent.parent / "model", N_TOKENS)
    layer = reference.model.gpt_neox.layers[1]
    if view == "heads":
        number, unit, reads = models.INDUCTION_HEAD[1], "head", layer.attention.dense
        values = layer.attention.query_key_value.bias.view(models.HEADS, 3, -1)[:, 2]
        constant, part = values[number], slice(number * models.D_HEAD, (number + 1) * models.D_HEAD)
    else:
        number, unit, reads = models.NEXT_TOKEN_NEURON[1], "neuron", layer.mlp.dense_4h_to_h
        constant, part = torch.zeros(1), slice(number, number + 1)

    def ablate(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        changed = inputs[0].clone()
        changed[..., part] = constant
        return (changed,)

    whole = next_logits_and_scale(reference, ids)
    with reads.register_forward_pre_hook(ablate):
        without = next_logits_and_scale(reference, ids)
    change = whole[0] - without[0] * without[1] / whole[1]
    query = f"SELECT toward_next FROM {view} WHERE layer = 1 AND {unit} = {number} ORDER BY position_id"
    effect = s.sql(query).toward_next[:-1]  # nothing follows the last
    assert change.abs().max() > 1
    assert effect.to_numpy() == pytest.approx(change.numpy(), abs=1e-3)


def next_logits_and_scale(reference: Reference, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The centred logit of each next token, and σ there: (T − 1,) each"""
    final: list[torch.Tensor] = []
    norm = reference.model.gpt_neox.final_layer_norm
    with norm.register_forward_pre_hook(lambda module, inputs: final.append(inputs[0][0, :-1])):
        logits = reference.model(torch.tensor([ids])).logits[0, :-1]
    centred = logits - logits.mean(1, keepdim=True)
    return centred.gather(1, torch.tensor(ids[1:])[:, None])[:, 0], reference.scale(final[0])
