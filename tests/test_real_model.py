"""SmolLM2-135M-Instruct, a trained model: its decomposition closes, and is of Hugging Face's predictions."""

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from annotate_transformer import store
from annotate_transformer.ingest.models.load import Loaded, load
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import SMOLLM2, SMOLLM2_PACKAGE, resolve
from answers import sql
from models import annotated

TEXT = (
    "The capital of France is Paris. The capital of Germany is Berlin. The capital of Italy is Rome. "
    "Paris is the capital of France. Rome is the capital of Italy. Berlin is the capital of"
)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[store.Store, torch.Tensor]:
    """The text's store, and Hugging Face's log-probabilities of it, of shape (position, d_vocab)."""
    try:
        metadata.distribution(SMOLLM2_PACKAGE)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{SMOLLM2_PACKAGE} is not installed")
    seen: list[torch.Tensor] = []

    def loaded(*arguments: Any) -> Loaded:
        """Load the model as usual, and keep its predictions before TransformerLens changes its weights."""
        found = load(*arguments)
        ids = found.tokenizer(TEXT, return_tensors="pt", add_special_tokens=False).input_ids
        with torch.inference_mode():
            seen.append(found.model(ids).logits[0].log_softmax(-1))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("annotate_transformer.ingest.models.model.load", loaded)
        model = Model(resolve(SMOLLM2))
    assert model.dequantised_from == "Q4_1, Q8_0"
    folder: Path = tmp_path_factory.mktemp("real") / "store"
    return annotated([TEXT], model, folder, samples=0, top=1), seen[0]


def test_berlin_is_the_capital_of_germany(real: tuple[store.Store, torch.Tensor]) -> None:
    s, logprob = real
    rows = s.sql("FROM positions ORDER BY position")
    assert (rows.token.iloc[-1], rows.top_token.iloc[-1]) == (" of", " Germany")
    top = torch.tensor(rows.top_token_id.to_numpy())
    assert torch.equal(top, logprob.argmax(-1))
    expected = logprob.gather(1, top[:, None])[:, 0].numpy()
    assert abs(rows.top_logprob - expected).max() < 1e-4
    following = torch.tensor(rows.next_token_id[:-1].to_numpy(int))
    expected = logprob[:-1].gather(1, following[:, None])[:, 0].numpy()
    assert abs(rows.next_logprob[:-1] - expected).max() < 1e-4


def test_it_closes_within_the_bound(real: tuple[store.Store, torch.Tensor]) -> None:
    run = real[0].runs().iloc[0]
    assert run.worst_closure_ratio < 1 and run.hf_difference < 1e-4


def test_the_store_says_that_the_weights_are_dequantised(real: tuple[store.Store, torch.Tensor]) -> None:
    [(config,)] = sql(Path(real[0].path), "SELECT config FROM base.model")
    assert '"dequantised_from": "Q4_1, Q8_0"' in config
