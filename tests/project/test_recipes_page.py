"""Every block of docs/recipes.md runs, and does what the page says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saetools import activation_frequency, frequency_penalty, top_k_margins

pytestmark = pytest.mark.slow
DOCS = Path(__file__).resolve().parents[2] / "docs"
SECTION = re.compile(r"^## (.+?)\n(?:(?!^## ).)*?^```python\n(.+?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = dict(SECTION.findall((DOCS / "recipes.md").read_text("utf-8")))
# Lightning 2.6 uses what torch 2.13 is about to drop.
RHO = {"In a scikit-learn pipeline": 0.3}  # elsewhere 0.2
NEEDS = {"Spiking neurons of snnTorch": "snntorch"}  # what no environment of ours installs
LIGHTNING = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


def test_every_section_has_a_block():
    page = (DOCS / "recipes.md").read_text("utf-8")
    assert list(BLOCKS) == re.findall(r"^## (.+)", page, re.MULTILINE)
    assert len(BLOCKS) == page.count("```python") == 12


@LIGHTNING
@pytest.mark.parametrize("title", BLOCKS)
def test_each_unit_ends_near_the_asked_rate(title):
    if title in NEEDS:
        pytest.importorskip(NEEDS[title])
    with torch.random.fork_rng():  # the blocks seed torch's global generator
        names = {"__name__": "__main__"}
        exec(BLOCKS[title], names)
    frequency = names["frequency"]
    assert frequency.ndim == 1
    assert ((frequency - RHO.get(title, 0.2)).abs() <= 0.05).all(), frequency


def test_without_reviving_dead_units_stay_dead():
    block = BLOCKS["Dead units, begun again"]
    names = {}
    with torch.random.fork_rng():
        exec(block.replace("step % 100 == 0", "False"), names)
    assert names["frequency"][:3].tolist() == [0, 0, 0]


def test_the_block_on_ddp_does_so_on_two_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(BLOCKS["With DDP"], encoding="utf-8")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*run, str(script)], capture_output=True, text=True, check=True)
    printed = re.findall(r"tensor\(\[(.+?)\]\)", done.stdout)
    assert len(printed) == 2
    assert printed[0] == printed[1]  # both processes know the frequency of the whole
    shares = [float(share) for share in printed[0].split(",")]
    assert len(shares) == 8
    assert all(abs(share - 0.2) <= 0.05 for share in shares)


@pytest.mark.parametrize("k", [1, 2])
def test_what_the_page_says_of_transformers(k):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "router_aux_loss_coef": 0.0}
    experts = {"num_local_experts": 5 * k, "num_experts_per_tok": k, "output_router_logits": True}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.MixtralConfig(**sizes, **heads, **experts)
        model = transformers.MixtralForCausalLM(config)
        tokens = torch.randint(0, 50, (16, 20))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(40):
            out = model(input_ids=tokens, labels=tokens)
            loss = out.loss
            for logits in out.router_logits:
                margins = top_k_margins(logits, k=k)
                wide = 0.3 * margins.std().item()
                loss = loss + 0.1 * frequency_penalty(margins, rho=0.2, temperature=wide)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for logits in out.router_logits:
        load = activation_frequency(top_k_margins(logits, k=k))
        assert ((load - 0.2).abs() <= 0.05).all(), load


def test_what_the_page_says_of_the_pipelines_score(capsys):
    for seed in range(2):
        exec(BLOCKS["In a scikit-learn pipeline"].replace("state=0", f"state={seed}"), {})
        assert 0.6 <= float(capsys.readouterr().out) <= 0.67
