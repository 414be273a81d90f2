"""A third round of faults, after a look at more threads."""

# ruff: noqa: E501

CASES = {
    "triplets picked in NumPy": """
        model = nn.Linear(6, 4)
        x = torch.randn(30, 6)
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            out = model(x)
            hard = np.array([0, 3, 5])
            anchor = torch.from_numpy(out.cpu().data.numpy()[hard])  #! cut
            other = torch.from_numpy(out.cpu().data.numpy()[hard + 1])  #= cut
            loss = (anchor - other).square().sum(1).mean()
            loss.backward()
        """,
    "a policy loss of numbers": """
        model = nn.Linear(4, 3)
        obs, reward = torch.randn(5, 4), [1.0, 0.5, 0.2, 0.9, 0.1]
        with trace_gradients(model) as trace:
            logp, total = model(obs).log_softmax(-1), 0
            for t in range(5):
                total -= logp[t, t % 3].item() * reward[t]  #! cut
            loss = torch.tensor(total / 5, requires_grad=True)
            loss.backward()
        """,
    "a meta-loss from under no_grad": """
        model = nn.Linear(3, 2)
        x, y = torch.randn(20, 3), torch.randint(0, 2, (20,))
        losses = [0, 0]
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            for k in range(1):
                with torch.no_grad():
                    logits = model(x)  #! cut
                    losses[k + 1] += F.cross_entropy(logits, y)
            (losses[-1] / 4).backward()
        """,
    "a criterion on output.data": """
        from torch.autograd import Variable
        model = nn.Linear(3, 2)
        x, y = torch.randn(20, 3), torch.randint(0, 2, (20,))
        with trace_gradients(model) as trace:
            out = Variable(model(x).data, requires_grad=True)  #! cut
            F.cross_entropy(out, y).backward()
        """,
    "a step that returns its loss detached": """
        class Task(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
            def training_step(self, x, y):
                loss = F.mse_loss(self.net(x), y)
                return {"loss": loss.detach()}  #! cut
        model = Task()
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            out = model.training_step(torch.randn(8, 4), torch.randn(8, 1))
            out["loss"].backward()
        """,
    "one-hot of an argmax, mean of losses by float": """
        model = nn.Sequential(nn.Linear(6, 4))
        head = nn.Linear(4, 2)
        both = nn.ModuleList([model, head])
        x, y = torch.randn(32, 6), torch.randint(0, 2, (32,))
        with trace_gradients(both) as trace:
            choice = F.one_hot(model(x).max(-1)[1], 4).float()  #! cut
            F.cross_entropy(head(choice), y).backward()
        """,
    "the initial state is detached": """
        enc, rnn, out = nn.Linear(5, 8), nn.GRU(3, 8, batch_first=True), nn.Linear(8, 1)
        model = nn.ModuleDict({"enc": enc, "rnn": rnn, "out": out})
        with trace_gradients(model) as trace:
            h0 = torch.tanh(enc(torch.randn(10, 5)))[None].detach().clone()  #! cut
            y, _ = rnn(torch.randn(10, 4, 3), h0)
            out(y).square().mean().backward()
        """,
    "weights used by their .data": """
        class Cosine(nn.Module):
            def __init__(self):
                super().__init__()
                self.f, self.weight = nn.Linear(6, 5), nn.Parameter(torch.randn(3, 5))
            def forward(self, x):
                return F.linear(F.normalize(self.f(x)), F.normalize(self.weight.data))  #! cut
        model = Cosine()
        x, y = torch.randn(32, 6), torch.randint(0, 3, (32,))
        with trace_gradients(model) as trace:
            F.cross_entropy(model(x), y).backward()
        """,
    "a layer that is copied in forward": """
        class Shared(nn.Module):
            def __init__(self):
                super().__init__()
                self.block, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
            def forward(self, x):
                twin = copy.deepcopy(self.block)  #! cut
                return self.head(torch.tanh(twin(x)))
        model = Shared()
        x, y = torch.randn(32, 6), torch.randint(0, 2, (32,))
        with trace_gradients(model) as trace:
            F.cross_entropy(model(x), y).backward()
        """,
    "nonzero of a learned score": """
        model = nn.ModuleDict({"score": nn.Linear(5, 1), "head": nn.Linear(5, 2)})
        x, y = torch.randn(40, 5), torch.randint(0, 2, (40,))
        with trace_gradients(model) as trace:
            keep = (model["score"](x).squeeze(1) > 0).nonzero().squeeze(1)  #! cut
            F.cross_entropy(model["head"](x[keep]), y[keep]).backward()
        """,
    "a learned radius in a mask": """
        radius = nn.Parameter(torch.tensor(1.0))
        model = nn.ParameterDict({"radius": radius})
        points, value = torch.randn(100, 2), torch.rand(100)
        w = nn.Parameter(torch.tensor(0.5))
        with trace_gradients(model) as trace:
            inside = points.norm(dim=1) < radius  #! cut
            mean = (value * inside).sum() / inside.sum()
            (w * mean - 0.3).square().backward()
        """,
    "a mean of logged losses": """
        model = nn.Linear(4, 2)
        with trace_gradients(model) as trace:
            logged = []
            for _ in range(3):
                x, y = torch.randn(8, 4), torch.randint(0, 2, (8,))
                logged.append(F.cross_entropy(model(x), y).detach())  #! cut
            loss = torch.stack(logged).mean().requires_grad_()
            loss.backward()
        """,
    "as_tensor of an array of items": """
        model = nn.Linear(4, 1)
        x = torch.randn(10, 4)
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            values = np.array([v.item() for v in model(x).squeeze(1)])  #! cut
            loss = torch.as_tensor(values).square().mean()
            loss.backward()
        """,
    "rounded probabilities in the loss": """
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1), nn.Sigmoid())
        x, y = torch.randn(32, 4), torch.randint(0, 2, (32, 1)).float()
        with trace_gradients(model) as trace:
            predicted = torch.round(model(x))  #! zeroed
            F.mse_loss(predicted, y).backward()
        """,
    "trunc in the middle of a network": """
        model = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 1)])
        x, y = torch.randn(32, 4), torch.randn(32, 1)
        with trace_gradients(model) as trace:
            h = (3 * model[0](x)).trunc()  #! zeroed
            F.mse_loss(model[1](h), y).backward()
        """,
    "a soft argmax that is too sharp": """
        model = nn.Linear(4, 5)
        model.weight.data.mul_(10)
        x, y = torch.randn(32, 4), torch.rand(32)
        with trace_gradients(model) as trace:
            p = torch.softmax(1e4 * model(x), 1)  #! zeroed
            F.mse_loss(p @ torch.arange(5.0), y).backward()
        """,
    "every label is ignored": """
        model = nn.Linear(4, 5)
        x, y = torch.randn(32, 4), torch.full((32,), -100)
        with trace_gradients(model) as trace:
            loss = F.cross_entropy(model(x), y, ignore_index=-100)  #! not finite
            loss.backward()
        """,
    "CTC with targets that are too long": """
        model = nn.Linear(4, 6)
        x = torch.randn(5, 2, 4)
        with trace_gradients(model) as trace:
            logp = model(x).log_softmax(-1)
            loss = F.ctc_loss(logp, torch.randint(1, 6, (2, 8)), torch.full((2,), 5), torch.full((2,), 8))  #! not finite
            loss.backward()
        """,
    "divided by a number of valid rows that is 0": """
        model = nn.Linear(4, 1)
        x, valid = torch.randn(32, 4), torch.zeros(32)
        with trace_gradients(model) as trace:
            each = model(x).squeeze(1).square()
            loss = (each * valid).sum() / valid.sum()  #! not finite
            loss.backward()
        """,
    "eigenvalues that coincide": """
        w = nn.Parameter(torch.eye(3))
        with trace_gradients(nn.ParameterList([w])) as trace:
            values, vectors = torch.linalg.eigh(w @ w.T)  #! not finite
            (vectors[:, 0] - 0.3).square().sum().backward()
        """,
    "reciprocal square root of 0": """
        model = nn.Linear(4, 3)
        model.weight.data.zero_()
        model.bias.data.zero_()
        with trace_gradients(model) as trace:
            z = model(torch.randn(16, 4))
            scale = torch.rsqrt(z.square().mean(1, keepdim=True))  #! not finite
            (z * scale).sum().backward()
        """,
    "where with an infinite branch": """
        a = nn.Parameter(torch.tensor([100.0, -1.0]))
        with trace_gradients(nn.ParameterList([a])) as trace:
            grown = torch.exp(a)  #! not finite
            torch.where(a <= 0, grown, 1 + a).sum().backward()
        """,
    "log-sum-exp of nothing": """
        model = nn.Linear(4, 5)
        keep = torch.ones(6, 5, dtype=torch.bool)
        keep[2] = False
        with trace_gradients(model) as trace:
            scores = model(torch.randn(6, 4)).masked_fill(~keep, -math.inf)
            free = torch.logsumexp(scores, 1)  #! not finite
            free[keep.any(1)].mean().backward()
        """,
}
