"""Generate prompts with a right and a wrong next token, as JSON lines for `annotate ingest`.

python examples/contrast_prompts.py TASK [--model NAME] [--n N] [--seed SEED] > prompts.jsonl
annotate ingest prompts.jsonl --model NAME --db prompts.duckdb --answer-column answer \\
    --distractor-column distractor
annotate contrasts --by template --db prompts.duckdb

TASK is one of

ioi: indirect object identification (Wang et al. 2023): "When Mary and John …, John gave a ring to" → " Mary"
    against " John";
greater-than (Hanna, Liu and Variengien 2023): "… from the year 1732 to the year 17" → a later year against an
    earlier one; the next token is two digits or one, as the vocabulary has it;
agreement: subject-verb agreement (Linzen, Dupoux and Goldberg 2016): "The keys to the cabinet" → " are"
    against " is".

Answers and distractors are single tokens of the model's vocabulary. The same arguments give the same prompts.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

IsToken = Callable[[str], bool]
Prompt = dict[str, str]

NAMES = [
    "Mary", "John", "Tom", "Anna", "Paul", "Sarah", "James", "Emma", "David", "Laura", "Peter", "Alice",
    "Mark", "Helen", "Simon", "Kate", "Robert", "Julia", "Martin", "Rose", "Daniel", "Grace", "Henry", "Jane",
    "Michael", "Lucy", "George", "Clara", "Adam", "Ruth",
]  # fmt: skip
PLACES = ["garden", "station", "market", "library", "office", "school", "kitchen", "hospital", "river"]
THINGS = ["ring", "book", "letter", "drink", "key", "flower", "coat", "map", "stone", "ticket"]
IOI = {  # B, who is named twice, gives; A receives. The labels say who is named first.
    "A and B": "When {A} and {B} went to the {place}, {B} gave a {thing} to",
    "B and A": "When {B} and {A} went to the {place}, {B} gave a {thing} to",
    "A and B, later": "{A} and {B} sat together in the {place} for a while. Then {B} handed a {thing} to",
    "B and A, later": "{B} and {A} sat together in the {place} for a while. Then {B} handed a {thing} to",
}
EVENTS = ["war", "journey", "trial", "drought", "project", "reign", "siege", "strike", "tour", "feud"]
YEARS = {
    "lasted": "The {event} lasted from the year {century}{year} to the year {century}",
    "began": "The {event} began in {century}{year} and did not end before {century}",
}
NOUNS = {  # singular: plural
    "key": "keys", "teacher": "teachers", "letter": "letters", "house": "houses", "student": "students",
    "picture": "pictures", "farmer": "farmers", "car": "cars", "tree": "trees", "doctor": "doctors",
}  # fmt: skip
BETWEEN = {"near": "The {subject} near the {other}", "behind": "The {subject} behind the {other}"}
VERBS = {" is": " are", " was": " were", " has": " have"}  # singular: plural


def ioi(chance: random.Random, is_token: IsToken) -> Prompt:
    """Return a prompt in which B acts twice, so that A must be the receiver."""
    names = [name for name in NAMES if is_token(f" {name}")]
    (label, template), (A, B) = chance.choice([*IOI.items()]), chance.sample(names, 2)
    text = template.format(A=A, B=B, place=chance.choice(PLACES), thing=chance.choice(THINGS))
    return {"text": text, "answer": f" {A}", "distractor": f" {B}", "template": label}


def greater_than(chance: random.Random, is_token: IsToken) -> Prompt:
    """Return a prompt whose next digits must be larger than those of its first year."""
    digits = [f"{number:02}" for number in range(100)]
    if not all(map(is_token, digits)):
        digits = [*"0123456789"]  # the vocabulary has a token for each digit
    least, most = len(digits) // 10 or 1, len(digits) - (len(digits) // 10 or 1) - 1
    at = chance.randint(least, most)
    year = digits[at] if len(digits) == 100 else f"{digits[at]}{chance.randint(2, 8)}"
    (label, template), century = chance.choice([*YEARS.items()]), chance.choice(["16", "17", "18"])
    text = template.format(event=chance.choice(EVENTS), century=century, year=year)
    later, earlier = chance.choice(digits[at + 1 :]), chance.choice(digits[:at])
    return {"text": text, "answer": later, "distractor": earlier, "template": label}


def agreement(chance: random.Random, is_token: IsToken) -> Prompt:
    """Return a prompt whose subject differs in number from the noun before the verb."""
    verbs = [pair for pair in VERBS.items() if all(map(is_token, pair))]
    verb, number = chance.choice(verbs), chance.randint(0, 1)  # 1: the subject is plural
    subject, other = chance.sample([*NOUNS.items()], 2)
    label, template = chance.choice([*BETWEEN.items()])
    text = template.format(subject=subject[number], other=other[1 - number])
    of = "plural" if number else "singular"
    return {
        "text": text,
        "answer": verb[number],
        "distractor": verb[1 - number],
        "template": f"{label}, {of}",
    }


TASKS: dict[str, Callable[[random.Random, IsToken], Prompt]] = {
    "ioi": ioi,
    "greater-than": greater_than,
    "agreement": agreement,
}


def prompts(task: str, tokenizer: Any, n: int, seed: int = 0) -> Iterator[Prompt]:
    """Yield n prompts of a task, in which answers and distractors are single tokens of the vocabulary."""
    chance = random.Random(seed)

    def is_token(text: str) -> bool:
        return len(tokenizer.encode(text, add_special_tokens=False)) == 1

    for _ in range(n):
        yield TASKS[task](chance, is_token)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--model", default="neox-2m", help="its vocabulary decides which words are used")
    parser.add_argument("--n", type=int, default=1000, help="number of prompts")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    from annotate_transformer.ingest.models.load import load_tokenizer
    from annotate_transformer.ingest.models.names import resolve

    tokenizer, _ = load_tokenizer(resolve(asked.model))
    for prompt in prompts(asked.task, tokenizer, asked.n, asked.seed):
        print(json.dumps(prompt))


if __name__ == "__main__":
    main()
