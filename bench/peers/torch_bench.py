"""The benchmarks' work in PyTorch, eager mode or compiled.

Reads a JSON list of items on standard input and prints a JSON list: of each item the figure in the unit that Tandem
uses (GFLOP/s, tokens/s), or null for a kind that is not known here. `--version` prints PyTorch's version.
"""

import json
import resource
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

RUNS = 7
MIN_SECONDS = 0.03


def seconds_each(work):
    """Median of seven runs of at least 30 ms, after a warm-up: the procedure of src/bench/timing.ts."""

    def timed(repeat):
        start = time.perf_counter()
        for _ in range(repeat):
            work()
        return time.perf_counter() - start

    timed(1)
    repeat = 1
    last = timed(1)
    while last < MIN_SECONDS:
        repeat = max(repeat + 1, int(repeat * MIN_SECONDS * 1.2 / last) + 1)
        last = timed(repeat)
    return statistics.median(timed(repeat) for _ in range(RUNS)) / repeat


TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def matmul(item):
    m, k, n = item["m"], item["k"], item["n"]
    dtype = TYPES[item["dtype"]]

    def random(rows, columns):
        return (torch.rand(rows, columns) - 0.5).to(dtype)

    a = random(k, m).t() if item["transA"] else random(m, k)
    b = random(k, n)
    c = torch.empty(m, n, dtype=dtype)
    with torch.inference_mode():
        return 2 * m * k * n / seconds_each(lambda: torch.mm(a, b, out=c)) / 1e9


def rotate(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Layer(nn.Module):
    def __init__(self, item):
        super().__init__()
        hidden, inner = item["hidden"], item["inner"]
        self.heads, self.kv_heads, self.head_dim = item["heads"], item["kv_heads"], item["head_dim"]
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.sizes = [queries, keys, keys]
        self.qkv = nn.Linear(hidden, sum(self.sizes), bias=False)
        self.out = nn.Linear(queries, hidden, bias=False)
        self.gate_up = nn.Linear(hidden, 2 * inner, bias=False)
        self.down = nn.Linear(inner, hidden, bias=False)
        self.norm1, self.norm2 = nn.RMSNorm(hidden, eps=1e-6), nn.RMSNorm(hidden, eps=1e-6)
        self.norm_q, self.norm_k = nn.RMSNorm(self.head_dim, eps=1e-6), nn.RMSNorm(self.head_dim, eps=1e-6)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape

        def split(t, heads):
            return t.view(batch, length, heads, self.head_dim)

        q, k, v = self.qkv(self.norm1(x)).split(self.sizes, -1)
        q = rotate(self.norm_q(split(q, self.heads)).transpose(1, 2), cos, sin)
        k = rotate(self.norm_k(split(k, self.kv_heads)).transpose(1, 2), cos, sin)
        v = split(v, self.kv_heads).transpose(1, 2)
        grouped = self.kv_heads != self.heads
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        x = x + self.out(a.transpose(1, 2).reshape(batch, length, -1))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    """Qwen3 with tied embeddings."""

    def __init__(self, item):
        super().__init__()
        self.embed = nn.Embedding(item["vocabulary"], item["hidden"])
        nn.init.normal_(self.embed.weight, std=item["hidden"] ** -0.5)
        self.layers = nn.ModuleList(Layer(item) for _ in range(item["layers"]))
        self.norm = nn.RMSNorm(item["hidden"], eps=1e-6)
        frequencies = item["rope_theta"] ** (-torch.arange(0, item["head_dim"], 2) / item["head_dim"])
        angles = torch.outer(torch.arange(item["length"]), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return F.linear(self.norm(x), self.embed.weight)


def training(item):
    """A whole training step as a function, and its number of tokens."""
    model = Model(item)
    forward = torch.compile(model) if item.get("compile") else model
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters,
        lr=item["learning_rate"],
        betas=(item["adam_beta1"], item["adam_beta2"]),
        eps=item["adam_epsilon"],
        weight_decay=item["weight_decay"],
        fused=True,
    )
    ids = torch.randint(item["vocabulary"], (item["sequences"], item["length"]))
    targets = ids.reshape(-1).roll(-1)

    narrow = item["dtype"] == "bf16"

    def step():
        # With bf16, weights and their updates stay in f32.
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = F.cross_entropy(forward(ids).reshape(-1, item["vocabulary"]), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, item["max_grad_norm"])
        optimizer.step()
        loss.item()

    return step, ids.numel()


def train_step(item):
    step, tokens = training(item)
    return tokens / seconds_each(step)


def memory(item):
    """Megabytes by which training raises the process's peak of resident memory over what it had before."""
    with open("/proc/self/statm") as statm:
        before = int(statm.read().split()[1]) * resource.getpagesize()
    step, _ = training(item)
    for _ in range(3):
        step()
    return (1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6


KINDS = {"matmul": matmul, "train-step": train_step, "memory": memory}


def main():
    if sys.argv[1:] == ["--version"]:
        print(torch.__version__)
        return
    torch.manual_seed(0)
    values = []
    for item in json.load(sys.stdin):
        torch.set_num_threads(item["threads"])
        measure = KINDS.get(item["kind"])
        values.append(None if measure is None else measure(item))
    print(json.dumps(values))


main()
