"""A fourth round of faults."""

# ruff: noqa: E501

CASES = {
    "sum() of python floats from float()": """
        model = nn.Linear(4, 2)
        x, y = torch.randn(12, 4), torch.randint(0, 2, (12,))
        with contextlib.suppress(AttributeError), trace_gradients(model) as trace:
            loss = sum(float(F.cross_entropy(model(a), b)) for a, b in zip(x.split(4), y.split(4)))  #! cut
            loss.backward()
        """,
    "reward by a module of numpy": """
        model = nn.Linear(4, 1)
        x = torch.randn(12, 4)
        class Score(nn.Module):
            def forward(self, z):
                z = z.detach().cpu().numpy()  #! cut
                return torch.tensor(np.tanh(z).mean())
        score = Score()
        with trace_gradients(model) as trace:
            out = model(x)
            loss = out.square().mean() - score(out)
            loss.backward()
        """,
    "heaviside": """
        model = nn.ModuleList([nn.Linear(4, 3), nn.Linear(3, 1)])
        with contextlib.suppress(RuntimeError, NotImplementedError), trace_gradients(model) as trace:
            h = torch.gt(model[0](torch.randn(16, 4)), 0).type(torch.float32)  #! cut
            model[1](h).square().mean().backward()
        """,
    "mean teacher with the wrong module in no_grad": """
        student, teacher = nn.Linear(4, 2), nn.Linear(4, 2).requires_grad_(False)
        model = student
        x, y = torch.randn(16, 4), torch.randint(0, 2, (16,))
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            with torch.no_grad():
                s = student(x)  #! cut
            t = teacher(x)
            F.mse_loss(s.softmax(1), t.softmax(1)).backward()
        """,
    "no_grad via a context variable": """
        model = nn.Linear(4, 2)
        x, y = torch.randn(16, 4), torch.randint(0, 2, (16,))
        ctx = torch.no_grad if not model.training else contextlib.nullcontext
        frozen = torch.no_grad()
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            frozen.__enter__()
            out = model(x)  #! cut
            frozen.__exit__(None, None, None)
            F.cross_entropy(out, y).backward()
        """,
    "lambda decorated": """
        model = nn.Linear(4, 2)
        x = torch.randn(16, 4)
        embed = torch.no_grad()(lambda z: F.normalize(model(z)))  #! cut
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            (embed(x) - 1).square().mean().backward()
        """,
    "type_as int": """
        model = nn.ModuleList([nn.Linear(4, 3), nn.Embedding(10, 4)])
        x = torch.randn(16, 4)
        idx = torch.zeros(1, dtype=torch.long)
        with trace_gradients(model) as trace:
            k = model[0](x).abs().clamp(max=9).type_as(idx)  #! cut
            model[1](k).square().mean().backward()
        """,
    "clamped log_std parameter": """
        class Pi(nn.Module):
            def __init__(self):
                super().__init__()
                self.mu, self.log_std = nn.Linear(3, 2), nn.Parameter(torch.full((2,), -7.0))
            def forward(self, s):
                std = self.log_std.clamp(-5, 2).exp()  #! zeroed
                return torch.distributions.Normal(self.mu(s), std)
        model = Pi()
        s, a = torch.randn(64, 3), torch.randn(64, 2)
        with trace_gradients(model) as trace:
            (-model(s).log_prob(a).sum(1).mean() * 1e-6).backward()
        """,
    "relu on the logits of a classifier, all dead": """
        model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))
        model[2].bias.data.fill_(-30.)
        x, y = torch.randn(64, 6), torch.randint(0, 4, (64,))
        with trace_gradients(model) as trace:
            logits = F.relu(model(x))  #! zeroed
            F.cross_entropy(logits, y).backward()
        """,
    "multiplied by a zero mask made of floats": """
        model = nn.Linear(6, 4)
        x, y = torch.randn(32, 6), torch.randn(32, 4)
        valid = torch.zeros(32, 1)
        with trace_gradients(model) as trace:
            out = model(x)
            loss = (F.mse_loss(out, y, reduction="none") * valid).mean()  #! zeroed
            loss.backward()
        """,
    "norm of a difference that is 0": """
        a = nn.Linear(3, 3)
        b = copy.deepcopy(a)
        x = torch.randn(8, 3)
        with trace_gradients(nn.ModuleList([a, b])) as trace:
            d = (a(x) - b(x)).pow(2).sum(1)
            gap = d.sqrt()  #! not finite
            gap.mean().backward()
        """,
    "log of a relu": """
        m = nn.Linear(3, 3)
        x = torch.randn(8, 3)
        with trace_gradients(m) as trace:
            h = F.relu(m(x))
            loss = h.log().mean()  #! not finite
            loss.backward()
        """,
    "x/x.sum with a zero row": """
        m = nn.Linear(3, 3)
        x = torch.randn(8, 3)
        with trace_gradients(m) as trace:
            h = F.relu(m(x) - 5)
            p = h / h.sum(1, keepdim=True)  #! not finite
            p.nan_to_num().sum().backward()
        """,
    "a mean of losses in torch.tensor that requires a gradient": """
        model = nn.Linear(4, 1)
        with trace_gradients(model) as trace:
            losses = [(model(torch.randn(4)) - k).square().sum() for k in range(3)]
            torch.tensor(losses, requires_grad=True).mean().backward()  #! cut
        """,
    "a state is detached in place": """
        model = nn.ModuleDict({"cell": nn.GRUCell(3, 8), "head": nn.Linear(8, 2)})
        kept = []
        with trace_gradients(model) as trace:
            h = model["cell"](torch.randn(6, 3))
            kept.append(h.detach_())  #! cut
            model["head"](h).square().mean().backward()
        """,
    "all weights start at 0": """
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
        for p in model.parameters():
            nn.init.zeros_(p)
        with trace_gradients(model) as trace:
            h = model[:2](torch.randn(16, 5))
            h = model[2](h)  #= zeroed
            out = model[4](model[3](h))  #! zeroed
            F.mse_loss(out, torch.randn(16, 1)).backward()
        """,
    "layer norm over one feature": """
        model = nn.Sequential(nn.Linear(6, 1), nn.LayerNorm(1), nn.Linear(1, 3))
        with trace_gradients(model) as trace:
            h = model[0](torch.randn(16, 6))
            h = model[1](h)  #! zeroed
            F.cross_entropy(model[2](h), torch.randint(0, 3, (16,))).backward()
        """,
}
