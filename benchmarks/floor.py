"""What the products of each measurement cost at least, in FLOPs: what our seconds are held against.

A product with a matrix of w entries costs 2 · rows · w. With P pairs of T tokens that differ from position f on, of
L layers with n heads of width e (q = n e, n' key-value heads, u = n' e), width d and an MLP of m parameters:

    B      = 2 d q + 2 d u + m                              a block: q and o, k and v, MLP
    A(s)   = 4 P q Σ_{t=s…T−1} (t + 1)                      scores and mixing, of the queries s … T−1, causal
    end(r) = 2 r P · 2 d u + 4 P q T + 2 P (2 d q + m)      last layer: k, v of r rows a pair; all else at the end only
    run(s) = (L − 1) (2 P (T − s) B + A(s)) + end(T − s)    a pass over positions s …, read at the end

A patch that has reached all rows from s on, before layer l, costs

    all(l, s) = (L − 1 − l) (2 P (T − s) B + A(s)) + end(T − s)                                     0 for l = L

and one that stands at position s alone spares the q, k and v of the rows behind it in its first layer:

    one(l, s) = 2 P (2 d u + d q) + A(s) + 2 P (T − s) (d q + m) + all(l + 1, s)                    l < L − 1
    one(L − 1, s) = end(1), less 2 P d q of queries where s is not the end

    resid_pre(l, s) = one(l, s)        mlp_out(l, s) = one(l + 1, s)
    attn_out(l, s)  = 2 P m + one(l + 1, s)                 in the last layer only for s = T − 1
    z(l, h)         = 2 P (T − f) (e d + m) + all(l + 1, f) in the last layer one row a pair instead of T − f
    v, pattern      = the same and the mixing of one head (v: of the heads that share it) anew, A(f) / 2 n

    six sweeps  = run(0) + run(f) + the sum of these over layers, positions from f on, and heads
    backward(s) = run(s) + (L − 1) A(s)                     by the activations only; attention's products cost twice
    attribution = run(0) + run(f) + backward(f)
    direct      = run(0) + 2 P L q d                        the direction through each W_O
    EAP         = run(0) + run(f) + back + edges            back: backward(f) down to the first layer's q, k and v, which
                                                            spares their matrices, 2 P (T − f) (d q + 2 d u)
    EAP-IG      = the same with k back, and k − 1 run(f) more (one step is at an end) or k (none is: midpoint)
    edges       = 2 P (T − f) L d (2 q + 2 u) + 2 d P ((T − f) E + E')    writes, gradients through W, and the edges:
                                                            E of all rows, E' that end at the last token
    a circuit   = run(0) + run(f) + its readers' columns of q, k and v, their heads' attention and output, its MLPs

Blocks are sequential (no benchmark has parallel ones). Norms, activations, softmax and sums are left out, and of a
product nothing that is shared between patches is spared further: a floor of this algorithm, not of all conceivable ones.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Floor:
    """The letters of the formulas above."""

    P: int
    T: int
    f: int
    L: int
    n: int
    n_kv: int
    e: int
    d: int
    m: int

    @classmethod
    def of(cls, config: Any, pairs: int, length: int, first: int) -> "Floor":
        """From a transformers configuration."""
        d, n = config.hidden_size, config.num_attention_heads
        gated = config.model_type == "llama"
        wide = config.intermediate_size if gated else (config.n_inner or 4 * d)
        n_kv = config.num_key_value_heads if gated else n
        return cls(pairs, length, first, config.num_hidden_layers, n, n_kv, d // n, d, (3 if gated else 2) * d * wide)

    @property
    def q(self) -> int:
        return self.n * self.e

    @property
    def u(self) -> int:
        return self.n_kv * self.e

    def attend(self, s: int) -> int:
        """A(s)."""
        return 4 * self.P * self.q * sum(t + 1 for t in range(s, self.T))

    def whole_layer(self, s: int) -> int:
        block = 2 * self.d * (self.q + self.u) + self.m
        return 2 * self.P * (self.T - s) * block + self.attend(s)

    def end(self, rows: int) -> int:
        keys = 2 * rows * self.P * 2 * self.d * self.u
        return keys + 4 * self.P * self.q * self.T + 2 * self.P * (2 * self.d * self.q + self.m)

    def run(self, s: int) -> int:
        return self.all(0, s)

    def all(self, layer: int, s: int) -> int:
        if layer == self.L:
            return 0
        return (self.L - 1 - layer) * self.whole_layer(s) + self.end(self.T - s)

    def one(self, layer: int, s: int) -> int:
        if layer == self.L:
            return 0
        if layer == self.L - 1:
            return self.end(1) - (2 * self.P * self.d * self.q if s < self.T - 1 else 0)
        projected = 2 * self.P * (2 * self.d * self.u + self.d * self.q)
        behind = 2 * self.P * (self.T - s) * (self.d * self.q + self.m)
        return projected + self.attend(s) + behind + self.all(layer + 1, s)

    def by_position(self) -> int:
        total = 0
        for layer in range(self.L):
            for s in range(self.f, self.T):
                after = self.one(layer + 1, s)
                middle = 2 * self.P * self.m if layer < self.L - 1 or s == self.T - 1 else 0
                total += self.one(layer, s) + middle + 2 * after
        return total

    def by_head(self) -> int:
        total = 0
        for layer in range(self.L):
            rows = self.T - self.f if layer < self.L - 1 else 1
            mixing = self.attend(self.f) if layer < self.L - 1 else 4 * self.P * self.q * self.T
            after = 2 * self.P * rows * self.m + self.all(layer + 1, self.f)
            written = 2 * self.P * rows * self.e * self.d
            total += self.n * (2 * (written + after) + mixing // (2 * self.n))
            shared = self.n // self.n_kv
            total += self.n_kv * (shared * written + after + shared * mixing // (2 * self.n))
        return total

    def backward(self, s: int) -> int:
        return self.run(s) + (self.L - 1) * self.attend(s)

    def sweeps(self) -> int:
        return self.run(0) + self.run(self.f) + self.by_position() + self.by_head()

    def attribution(self) -> int:
        return self.run(0) + self.run(self.f) + self.backward(self.f)

    def direct(self) -> int:
        return self.run(0) + 2 * self.P * self.L * self.q * self.d

    def edges(self, steps: int = 1, at_an_end: bool = True) -> int:
        """EAP, or EAP-IG of some steps; `at_an_end`: one of them is the clean or the corrupted run."""
        rows, more = self.T - self.f, steps - 1 if at_an_end else steps
        sources = [1 + layer * (self.n + 1) for layer in range(self.L + 1)]
        per_layer = [(self.n + 2 * self.n_kv) * s + s + self.n for s in sources[:-1]]
        last = self.n * sources[-2] + sources[-2] + self.n
        whole = sum(per_layer) - last
        pulled = 2 * self.P * rows * self.L * self.d * (2 * self.q + 2 * self.u)
        products = 2 * self.d * self.P * (rows * whole + last + sources[-1])
        back = self.backward(self.f) - 2 * self.P * rows * (self.d * self.q + 2 * self.d * self.u)
        return self.run(0) + (1 + more) * self.run(self.f) + steps * back + pulled + products

    def circuit(self, graph: Any, mask: np.ndarray) -> int:
        """One circuit, from the mask over edges of its `instar.circuits.graph.Graph`."""
        read, total = mask.any(0), self.run(0) + self.run(self.f)
        for layer in range(self.L):
            last = layer == self.L - 1
            rows = 1 if last else self.T - self.f
            mixing = 4 * self.P * self.q * self.T if last else self.attend(self.f)
            for projection, heads in (("q", self.n), ("k", self.n_kv), ("v", self.n_kv)):
                begin = graph.reads(layer, projection)
                own = rows if projection == "q" else self.T - self.f
                total += int(read[begin : begin + heads].sum()) * 2 * self.P * own * self.d * self.e
            reached = graph.feeds[:, graph.head(layer) : graph.mlp(layer)][read].any(0).sum()
            total += int(reached) * (mixing // self.n + 2 * self.P * rows * self.e * self.d)
            total += 2 * self.P * rows * self.m if read[graph.mlp_reads(layer)] else 0
        return total
