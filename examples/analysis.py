# %% [markdown]
# # When does induction appear, and what is it worth?
#
# Four training steps of the embedded model read the same text into one store. Where a token stands
# that stood in its window before, an induction head looks at what followed it then (Olsson et al.
# 2022). Three questions: at which step does a head begin to do so; how much loss does the model
# save where the continuation repeats itself; and how large is the head's direct effect there?
#
#     python examples/analysis.py [--db steps.duckdb] [--out pictures] [--limit-tokens N]
#
# The lines `# %%` make cells of it in Jupyter, VS Code and Spyder.

# %%
import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from annotate_transformer import store
from annotate_transformer.ingest.corpus.sources import Corpus
from annotate_transformer.ingest.models.model import Model
from annotate_transformer.ingest.models.names import EMBEDDED, resolve
from annotate_transformer.ingest.run.pipeline import ingest
from annotate_transformer.ingest.run.settings import Settings
from annotate_transformer.store.names import head_name

CORPUS = EMBEDDED / "corpus.jsonl"
STEPS = ("step512", "step1000", "step2000", "main")

# Of the tokens that stood in this window before: did the same token follow then as follows now?
REPEATS = """
WITH pair AS (
    SELECT p.run_id, p.position_id, max(e.position_id) AS earlier
    FROM positions p JOIN positions e
      ON e.run_id = p.run_id AND e.window_id = p.window_id AND e.token_id = p.token_id
     AND e.position_id < p.position_id
    WHERE p.next_token_id IS NOT NULL
    GROUP BY p.run_id, p.position_id
)
SELECT r.step, p.run_id, p.position_id, -p.next_logprob AS loss,
       e.next_token_id = p.next_token_id AS repeats
FROM pair JOIN positions p USING (run_id, position_id)
JOIN positions e ON e.run_id = pair.run_id AND e.position_id = pair.earlier
JOIN runs r ON r.run_id = p.run_id
"""


# %%
def annotated(db: Path, limit: int | None) -> store.Store:
    """The store with a run a step; a run that is there already is not made again."""
    for step in STEPS:
        with Corpus([str(CORPUS)]) as corpus:
            ingest(corpus, Model(resolve("neox-2m", step)), str(db), Settings(limit_tokens=limit))
    return store.open(db)


# %% [markdown]
# ## Which heads look at what followed the token last time?


# %%
def induction_by_step(s: store.Store) -> pd.DataFrame:
    """Mean attention to what followed an earlier occurrence: a row a step, a column a head."""
    stats = s.sql("SELECT step, layer, head, attention_induction FROM head_stats JOIN runs USING (run_id)")
    stats["name"] = [head_name(layer, head) for layer, head in zip(stats.layer, stats["head"], strict=True)]
    return stats.pivot(index="step", columns="name", values="attention_induction")


# %% [markdown]
# ## What is it worth? Loss where the continuation repeats itself, and where it does not


# %%
def loss_by_step(s: store.Store) -> pd.DataFrame:
    """Mean loss in nats over tokens seen before, by whether what followed then follows now."""
    rows = s.sql(REPEATS)
    return rows.pivot_table(index="step", columns="repeats", values="loss", aggfunc="mean")


def effect_by_step(s: store.Store, head: str) -> pd.DataFrame:
    """The head's mean direct effect on the next token, logits, over the same two groups."""
    layer, number = head[1:].split("H")
    effects = s.sql(
        "SELECT run_id, position_id, toward_next FROM heads WHERE layer = $layer AND head = $head",
        {"layer": int(layer), "head": int(number)},
    )
    rows = s.sql(REPEATS).merge(effects, on=["run_id", "position_id"])
    return rows.pivot_table(index="step", columns="repeats", values="toward_next", aggfunc="mean")


# %%
def draw(frame: pd.DataFrame, title: str, unit: str, file: Path) -> None:
    """A line a column over training steps."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    last = frame.iloc[-1].sort_values()
    for name in last.index:
        strong = name == last.index[-1] or len(last) <= 2
        style = {"label": name} if strong else {"color": "0.75"}
        axes.plot(frame.index, frame[name], marker="o", **style)
    axes.set(title=title, xlabel="training step", ylabel=unit)
    axes.legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


# %%
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--db", type=Path, default=Path("steps.duckdb"))
    parser.add_argument("--out", type=Path, default=Path("pictures"))
    parser.add_argument("--limit-tokens", type=int)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with annotated(options.db, options.limit_tokens) as s:
        induction = induction_by_step(s)
        head = induction.iloc[-1].idxmax()
        names = {True: "it repeats itself", False: "it does not"}
        loss, effect = (frame.rename(columns=names) for frame in (loss_by_step(s), effect_by_step(s, head)))
    title = "Attention to what followed the token last time"
    draw(induction, title, "mean attention", options.out / "induction.png")
    draw(loss, "Loss after a token seen before, by what follows", "nats", options.out / "loss.png")
    draw(effect, f"Direct effect of {head} there", "logits", options.out / "effect.png")
    print(f"The head that looks at what followed last time is {head}: {induction[head].round(2).to_dict()}")
    print(f"\nLoss after a token seen before, nats\n{loss.round(2)}")
    print(f"\nMean direct effect of {head} on the next token there, logits\n{effect.round(2)}")


if __name__ == "__main__":
    main()
