"""More faults: other programs of the same kinds, written to see whether the tool generalises."""

# ruff: noqa: E501

CASES = {
    "no_grad around the distance of two outputs": """
        left, right = nn.Linear(5, 6), nn.Linear(7, 6)
        model = nn.ModuleDict({"left": left, "right": right})
        a, b = torch.randn(40, 5), torch.randn(40, 7)
        with trace_gradients(model) as trace:
            u, v = left(a), right(b)
            with torch.no_grad():
                align = (u.mean(0) - v.mean(0)).norm()  #! cut
            loss = u.square().mean() + v.square().mean() + align
            loss.backward()
        """,
    "a text tower called in a no_grad helper": """
        class Towers(nn.Module):
            def __init__(self):
                super().__init__()
                self.image, self.text = nn.Linear(8, 5), nn.GRU(4, 5, batch_first=True)
            @torch.no_grad()
            def embed_text(self, t):
                out, last = self.text(t)  #! cut
                return last[0]
            def forward(self, i, t):
                return self.image(i) @ self.embed_text(t).T
        model = Towers()
        with trace_gradients(model) as trace:
            logits = model(torch.randn(12, 8), torch.randn(12, 6, 4))
            F.cross_entropy(logits, torch.arange(12)).backward()
        """,
    "set_grad_enabled(False) in a module's constructor": """
        class Frozen(nn.Module):
            def __init__(self):
                super().__init__()
                torch.set_grad_enabled(False)
                self.f = nn.Linear(4, 4)
        head = nn.Linear(4, 1)
        try:
            with contextlib.suppress(RuntimeError), trace_gradients(head) as trace:
                base = Frozen()
                h = base.f(torch.randn(32, 4))  #= cut
                out = head(h)  #! cut
                out.square().mean().backward()
        finally:
            torch.set_grad_enabled(True)
        """,
    "rounded pixels between generator and critic": """
        G, D = nn.Linear(6, 10), nn.Linear(10, 1)
        model = nn.ModuleList([G, D])
        with trace_gradients(model) as trace:
            image = (torch.sigmoid(G(torch.randn(32, 6))) * 255).to(torch.uint8)  #! cut
            score = D(image.float() / 255)
            F.softplus(-score).mean().backward()
        """,
    "bucketize": """
        model = nn.ModuleDict({"f": nn.Linear(4, 1), "emb": nn.Embedding(6, 3), "out": nn.Linear(3, 1)})
        edges = torch.linspace(-1, 1, 5)
        x, y = torch.randn(48, 4), torch.randn(48, 1)
        with trace_gradients(model) as trace:
            level = torch.bucketize(model["f"](x).squeeze(1), edges)  #! cut
            F.mse_loss(model["out"](model["emb"](level)), y).backward()
        """,
    "sorting network by argsort": """
        model = nn.Linear(5, 1)
        items, value = torch.randn(20, 6, 5), torch.rand(20, 6)
        discount = 1 / torch.log2(torch.arange(6) + 2.0)
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            scores = model(items).squeeze(-1)
            order = torch.argsort(scores, dim=1, descending=True)  #! cut
            dcg = (value.gather(1, order) * discount).sum(1)
            (-dcg.mean()).backward()
        """,
    "an accuracy as the loss": """
        model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
        x, y = torch.randn(60, 6), torch.randint(0, 3, (60,))
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            correct = model(x).argmax(-1).eq(y)  #! cut
            loss = 1 - correct.float().mean()
            loss.backward()
        """,
    "an IoU of thresholded masks beside cross entropy": """
        model = nn.Conv2d(1, 1, 3, padding=1)
        x, y = torch.rand(6, 1, 12, 12), (torch.rand(6, 1, 12, 12) > 0.5).float()
        with trace_gradients(model) as trace:
            p = torch.sigmoid(model(x))
            m = torch.ge(p, 0.5).float()  #! cut
            iou = (m * y).sum() / (m + y - m * y).sum()
            loss = F.binary_cross_entropy(p, y) + (1 - iou)
            loss.backward()
        """,
    "a spiking layer that resets by subtraction": """
        class Leaky(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(6, 20), nn.Linear(20, 2)
            def forward(self, x):
                v, total = torch.zeros(len(x), 20), 0
                for _ in range(4):
                    v = 0.8 * v + self.a(x)
                    s = torch.where(v > 1.0, torch.ones_like(v), torch.zeros_like(v))  #! cut
                    v = v - s
                    total = total + self.b(s)
                return total / 4
        model = Leaky()
        x, y = torch.rand(32, 6), torch.randint(0, 2, (32,))
        with trace_gradients(model) as trace:
            F.cross_entropy(model(x), y).backward()
        """,
    "perplexity by math.log": """
        model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20))
        ids = torch.randint(0, 20, (4, 9))
        with trace_gradients(model) as trace:
            p = model(ids[:, :-1]).softmax(-1).gather(-1, ids[:, 1:, None])
            nll = -math.log(p.mean())  #! cut
            loss = torch.tensor(nll, requires_grad=True)
            loss.backward()
        """,
    "numpy percentile in the middle of the loss": """
        model = nn.Linear(6, 1)
        x, y = torch.randn(64, 6), torch.randn(64)
        with trace_gradients(model) as trace:
            out = model(x).squeeze(1)
            error = (out - y).abs()
            bound = np.percentile(error.detach().numpy(), 90)  #! cut
            loss = error.mean() + torch.as_tensor(bound).float()
            loss.backward()
        """,
    "Tensor([..]) of two terms": """
        model = nn.Linear(4, 2)
        x = torch.randn(16, 4)
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            out = model(x)
            terms = torch.Tensor([out.square().mean(), out.abs().mean()])  #! cut
            loss = (terms * torch.tensor([1.0, 0.1])).sum()
            loss.backward()
        """,
    "loss.requires_grad_() after a detach": """
        model = nn.Linear(4, 2)
        x, y = torch.randn(16, 4), torch.randint(0, 2, (16,))
        with trace_gradients(model) as trace:
            out = model(x).detach()  #! cut
            out.requires_grad_()
            F.cross_entropy(out, y).backward()
        """,
    "new_tensor": """
        model = nn.Linear(4, 4)
        x = torch.randn(16, 4)
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            out = model(x)
            centre = out.new_tensor(out.mean(0))  #! cut
            loss = (centre - 1).square().sum()
            loss.backward()
        """,
    "parameters replaced by the outputs of a layer": """
        class Film(nn.Module):
            def __init__(self):
                super().__init__()
                self.make, self.norm = nn.Linear(3, 8), nn.LayerNorm(8)
            def forward(self, c, x):
                self.norm.weight = torch.nn.Parameter(self.make(c))  #! cut
                return self.norm(x)
        model = Film()
        make = model.make
        with trace_gradients(make) as trace:
            model(torch.randn(3), torch.randn(20, 8)).square().mean().backward()
        """,
    "load_state_dict of averaged, learned weights": """
        experts = nn.ModuleList(nn.Linear(4, 2) for _ in range(3))
        mix = nn.Parameter(torch.zeros(3))
        merged = nn.Linear(4, 2)
        model = nn.ParameterList([mix])
        x, y = torch.randn(32, 4), torch.randint(0, 2, (32,))
        with trace_gradients(model) as trace:
            w = mix.softmax(0)
            state = {k: sum(w[i] * experts[i].state_dict()[k] for i in range(3)) for k in ("weight", "bias")}
            merged.load_state_dict(state)  #! cut
            F.cross_entropy(merged(x), y).backward()
        """,
    "a latent sample of a multivariate normal": """
        enc, dec = nn.Linear(8, 3), nn.Linear(3, 8)
        model = nn.ModuleList([enc, dec])
        x = torch.randn(30, 8)
        with trace_gradients(model) as trace:
            q = torch.distributions.MultivariateNormal(enc(x), 0.1 * torch.eye(3))
            z = q.sample()  #! cut
            F.mse_loss(dec(z), x).backward()
        """,
    "bernoulli gates without a surrogate": """
        class Gates(nn.Module):
            def __init__(self):
                super().__init__()
                self.logit, self.f = nn.Parameter(torch.zeros(6)), nn.Linear(6, 2)
            def forward(self, x):
                gate = torch.bernoulli(torch.sigmoid(self.logit))  #! zeroed
                return self.f(x * gate)
        model = Gates()
        x, y = torch.randn(32, 6), torch.randint(0, 2, (32,))
        with trace_gradients(model) as trace:
            F.cross_entropy(model(x), y).backward()
        """,
    "a reentrant checkpoint in the first layer of a module": """
        import torch.utils.checkpoint as cp
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.tail = nn.Linear(6, 8), nn.Linear(8, 3)
            def forward(self, x):
                h = cp.checkpoint(self.stem, x, use_reentrant=True)  #! cut
                return self.tail(torch.relu(h))
        model = Net()
        x, y = torch.randn(32, 6), torch.randint(0, 3, (32,))
        with trace_gradients(model) as trace:
            F.cross_entropy(model(x), y).backward()
        """,
    "a Function that marks its output": """
        class Step(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                out = (x > 0).to(x)
                ctx.mark_non_differentiable(out)
                return out
            @staticmethod
            def backward(ctx, g):
                return g
        model = nn.ModuleList([nn.Linear(6, 4), nn.Linear(4, 2)])
        x, y = torch.randn(32, 6), torch.randint(0, 2, (32,))
        with trace_gradients(model) as trace:
            code = Step.apply(model[0](x))  #! cut
            F.cross_entropy(model[1](code), y).backward()
        """,
    "vjp without create_graph": """
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
        x, v = torch.randn(5, 3), torch.randn(5, 2)
        with trace_gradients(model) as trace:
            out, pulled = torch.autograd.functional.vjp(model, x, v)  #! cut
            loss = model(x).square().mean() + pulled.square().mean()
            loss.backward()
        """,
    "smoothness by the gradient at the input, detached by .data": """
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        x = torch.randn(16, 3, requires_grad=True)
        with trace_gradients(model) as trace:
            y = model(x)
            g = torch.autograd.grad(y.sum(), x, create_graph=True)[0]
            smooth = g.data.square().mean()  #! cut
            (y.square().mean() + smooth).backward()
        """,
    "ceil of a budget": """
        model = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 1))
        x = torch.randn(40, 5)
        with trace_gradients(model) as trace:
            steps = model(x).exp().ceil()  #! zeroed
            F.mse_loss(steps, torch.full((40, 1), 3.0)).backward()
        """,
    "fake quantisation by floor division": """
        class Quant(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.randn(6, 3))
            def forward(self, x):
                q = torch.div(self.w, 0.1, rounding_mode="trunc") * 0.1  #! zeroed
                return x @ q
        model = Quant()
        x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
        with trace_gradients(model) as trace:
            F.cross_entropy(model(x), y).backward()
        """,
    "minimum with a budget that always wins": """
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
        x, y = torch.randn(32, 5), torch.rand(32, 1)
        with trace_gradients(model) as trace:
            speed = torch.minimum(5 + model(x), torch.tensor(0.5))  #! zeroed
            F.mse_loss(torch.tanh(speed), y).backward()
        """,
    "log-variance clamped from below": """
        model = nn.ModuleDict({"mu": nn.Linear(6, 2), "logvar": nn.Linear(6, 2)})
        model["logvar"].bias.data.fill_(-6.0)
        x, y = torch.randn(64, 6), torch.randn(64, 2)
        with trace_gradients(model) as trace:
            lv = model["logvar"](x).clamp(min=0)  #! zeroed
            loss = (lv + (y - model["mu"](x)).square() / lv.exp()).mean()
            loss.backward()
        """,
    "hard tanh controller beyond its limits": """
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2), nn.Hardtanh())
        model[2].bias.data = torch.tensor([30.0, 0.0])
        s = torch.randn(64, 4)
        with trace_gradients(model) as trace:
            action = model(s)  #! zeroed
            (action - s[:, :2]).square().mean().backward()
        """,
    "a softmax over the wrong dim": """
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5))
        x, y = torch.randn(1, 4), torch.rand(1, 5)
        with trace_gradients(model) as trace:
            p = F.softmax(model(x), dim=0)  #! zeroed
            F.mse_loss(p, y).backward()
        """,
    "a factorised table that starts at 0": """
        class Table(nn.Module):
            def __init__(self):
                super().__init__()
                self.user, self.item = nn.Embedding(9, 3), nn.Embedding(7, 3)
                nn.init.zeros_(self.user.weight)
                nn.init.zeros_(self.item.weight)
            def forward(self, u, i):
                return (self.user(u) * self.item(i)).sum(-1)  #! zeroed
        model = Table()
        u, i = torch.randint(0, 9, (64,)), torch.randint(0, 7, (64,))
        with trace_gradients(model) as trace:
            F.mse_loss(model(u, i), torch.randn(64)).backward()
        """,
    "a mask that hides everything": """
        model = nn.Linear(6, 4)
        x, y = torch.randn(32, 6), torch.randn(32, 4)
        lengths = torch.zeros(32, dtype=torch.long)
        with trace_gradients(model) as trace:
            mask = torch.arange(4)[None] < lengths[:, None]
            out = model(x) * mask  #! zeroed
            F.mse_loss(out, y).backward()
        """,
    "cosine distance by hand of a zero vector": """
        model = nn.Linear(5, 4, bias=False)
        x = torch.randn(20, 5)
        x[0] = 0
        with trace_gradients(model) as trace:
            z = model(x)
            n = (z * z).sum(1).sqrt()  #! not finite
            c = (z[1:] * z[:-1]).sum(1) / (n[1:] * n[:-1] + 1e-8)
            (1 - c).mean().backward()
        """,
    "KL of two softmaxes, one exactly 0": """
        model = nn.Linear(5, 4)
        x = torch.randn(20, 5)
        p = torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(20, 4)
        with trace_gradients(model) as trace:
            q = torch.softmax(model(x), 1)
            ratio = p / q
            kl = (p * torch.log(ratio)).sum(1)  #! not finite
            kl.mean().backward()
        """,
    "inverse sine at 1": """
        w = nn.Parameter(torch.ones(3))
        with trace_gradients(nn.ParameterList([w])) as trace:
            angle = torch.asin(w.clamp(-1, 1))  #! not finite
            angle.square().sum().backward()
        """,
    "variance of a single row": """
        model = nn.Linear(4, 3)
        with trace_gradients(model) as trace:
            z = model(torch.randn(1, 4))
            v = torch.var(z, dim=0)  #! not finite
            (v - 1).square().mean().backward()
        """,
    "reciprocal of a count of 0": """
        model = nn.Linear(4, 3)
        x = torch.randn(12, 4)
        group = torch.tensor([0] * 6 + [2] * 6)
        with trace_gradients(model) as trace:
            z = model(x)
            total = torch.zeros(3, 3).index_add(0, group, z)
            count = torch.bincount(group, minlength=3).float()
            centre = total / count[:, None]  #! not finite
            (centre.square().sum(1) * (count > 0)).sum().backward()
        """,
    "log1p(-p) at p = 1": """
        model = nn.Linear(4, 1)
        model.bias.data.fill_(60.0)
        x = torch.randn(12, 4)
        with trace_gradients(model) as trace:
            p = torch.sigmoid(model(x))
            loss = -torch.log1p(-p).mean()  #! not finite
            loss.backward()
        """,
    "infinity in a feature": """
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        x, y = torch.rand(20, 3), torch.randn(20, 1)
        x[4, 1] = 0
        with trace_gradients(model) as trace:
            features = x.log() / 0.0  #= not finite
            out = model(features)  #! not finite
            F.mse_loss(out, y).backward()
        """,
    "exp of a large logit in a hand-made softmax": """
        model = nn.Linear(4, 3)
        model.weight.data.mul_(300)
        x, y = torch.randn(20, 4), torch.randint(0, 3, (20,))
        with trace_gradients(model) as trace:
            e = torch.exp(model(x))  #! not finite
            p = e / e.sum(1, keepdim=True)
            F.nll_loss((p + 1e-9).log(), y).backward()
        """,
    "hook on a tensor that returns zeros": """
        model = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 1)])
        x, y = torch.randn(32, 4), torch.randn(32, 1)
        kept = []
        with trace_gradients(model) as trace:
            h = torch.tanh(model[0](x))
            kept.append(h.detach())  #! cut
            loss = F.mse_loss(model[1](h), y) + 0.1 * kept[0].square().mean()
            loss.backward()
        """,
}
