"""Replicate the known prediction of Pythia-70m-deduped after "Dublin is the capital of"."""

from annotate_transformer.ingest.attribution.toward import predicted
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.replications.quantity import Quantity, Reference

PROMPT = "Dublin is the capital of"
TOKENS = (" the", " Ireland")

REFERENCES = (
    Reference(
        "Pythia-70m-deduped",
        "reference values of this project for centred logits (tests/test_pythia.py)",
        {
            "logit of ' the', with BOS": 23.82,
            "probability of ' the', with BOS": 0.4222,
            "logit of ' Ireland', with BOS": 22.67,
            "probability of ' Ireland', with BOS": 0.1333,
            "logit of ' the', without BOS": 24.09,
            "probability of ' the', without BOS": 0.3946,
            "logit of ' Ireland', without BOS": 23.27,
            "probability of ' Ireland', without BOS": 0.1731,
        },
    ),
)


def dublin(model: Model) -> list[Quantity]:
    """Return centred logit and probability of " the" and " Ireland" after PROMPT, with and without BOS.

    The value is None with a BOS if the model has no BOS token, and for a word that its tokenizer splits.
    """
    words = model.tokenizer.encode(PROMPT, add_special_tokens=False)
    bos = model.tokenizer.bos_token_id
    quantities = []
    for how, ids in (("with BOS", None if bos is None else [bos, *words]), ("without BOS", words)):
        prediction = None if ids is None else predicted(model, ids)
        for token in TOKENS:
            token_id, logit, probability = _one_token(model, token), None, None
            if prediction is not None and token_id is not None:
                logits, logprobs = prediction
                logit, probability = float(logits[token_id]), float(logprobs[token_id].exp())
            quantities.append(Quantity(f"logit of {token!r}, {how}", "logits", logit))
            quantities.append(Quantity(f"probability of {token!r}, {how}", "fraction", probability))
    return quantities


def _one_token(model: Model, text: str) -> int | None:
    ids = model.tokenizer.encode(text, add_special_tokens=False)
    return ids[0] if len(ids) == 1 else None
