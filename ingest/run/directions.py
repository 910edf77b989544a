"""Build rows that hold for every position: effects of biases, rows of W_out, and columns of W_U."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.run.rows import float32


def layer_biases(model: Model, model_id: int) -> pa.Table:
    """Return the rows of base.layer_bias: each layer's bias effects on each token's logit at σ = 1."""
    attn, mlp = model.bias_toward[:, :, : model.n_tokens]
    n = attn.numel()
    return pa.table(
        {
            "model_id": np.full(n, model_id, dtype=np.int32),
            "layer": np.repeat(np.arange(model.n_layers, dtype=np.uint8), model.n_tokens),
            "token_id": np.tile(np.arange(model.n_tokens, dtype=np.int32), model.n_layers),
            "attn": float32(attn).ravel(),
            "mlp": float32(mlp).ravel(),
        }
    )


def neuron_directions(model: Model, model_id: int) -> Iterator[pa.Table]:
    """Yield the rows of base.neuron_direction (each neuron's row of W_out), one layer at a time."""
    for layer in range(model.n_layers):
        W_out = float32(model.writing(layer)[1])
        yield pa.table(
            {
                "model_id": np.full(model.d_mlp, model_id, dtype=np.int32),
                "layer": np.full(model.d_mlp, layer, dtype=np.uint8),
                "neuron": np.arange(model.d_mlp, dtype=np.uint16),
                "W_out": _vectors(W_out),
            }
        )


def token_directions(model: Model, model_id: int, tokens: NDArray[np.int64]) -> pa.Table:
    """Return the rows of base.token_direction: for each of the `tokens`, its centred column of W_U."""
    u = model.W_U[:, torch.from_numpy(tokens).to(model.device)].T
    return pa.table(
        {
            "model_id": np.full(len(tokens), model_id, dtype=np.int32),
            "token_id": tokens.astype(np.int32),
            "u": _vectors(float32(model.centred(u))),
        }
    )


def _vectors(rows: NDArray[np.float32]) -> pa.Array:
    n, size = rows.shape
    return pa.ListArray.from_arrays(np.arange(0, n * size + 1, size, dtype=np.int32), rows.ravel())
