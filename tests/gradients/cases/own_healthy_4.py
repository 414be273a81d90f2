"""A fourth round of healthy programs."""

# ruff: noqa: E501

CASES = {
    "frozen backbone in no_grad, model is all": """
        body, head = nn.Linear(4, 8).requires_grad_(False), nn.Linear(8, 2)
        model = nn.Sequential(body, head)
        x, y = torch.randn(16, 4), torch.randint(0, 2, (16,))
        with trace_gradients(model) as trace:
            with torch.no_grad():
                h = body(x)
            F.cross_entropy(head(h), y).backward()
        check = [p.grad for p in head.parameters()]
        """,
    "linear probe with its own optimizer": """
        body, head, probe = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 3)
        model = nn.ModuleList([body, head, probe])
        adam = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            x, y, z = torch.randn(16, 4), torch.randint(0, 2, (16,)), torch.randint(0, 3, (16,))
            h = torch.tanh(body(x))
            loss = F.cross_entropy(head(h), y) + F.cross_entropy(probe(h.detach()), z)
            adam.zero_grad(); loss.backward(); adam.step()
        check = list(model.parameters())
        """,
    "CEM / evolution, no backward of the model but of another": """
        model, other = nn.Linear(4, 2), nn.Linear(4, 2)
        x = torch.randn(16, 4)
        with trace_gradients(other) as trace:
            with torch.no_grad():
                score = model(x).sum().item()
            other(x).square().mean().backward()
        check = [p.grad for p in other.parameters()]
        """,
    "weights initialised in the block": """
        with trace_gradients() as trace:
            model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
            for p in model.parameters():
                if p.ndim > 1: nn.init.xavier_uniform_(p)
            nn.init.constant_(model[0].bias, 0.1)
            model[2].weight.data.normal_(0, 0.02)
            opt = torch.optim.Adam(model.parameters())
            for _ in range(2):
                x, y = torch.randn(16, 4), torch.randint(0, 2, (16,))
                loss = F.cross_entropy(model(x), y); opt.zero_grad(); loss.backward(); opt.step()
        check = list(model.parameters())
        """,
    "pixel augmentations and normalised inputs": """
        model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        with trace_gradients(model) as trace:
            x = torch.rand(8, 3, 12, 12)
            x = torch.where(torch.rand(8, 1, 1, 1) < 0.5, x.flip(-1), x)
            x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
            x = x + 0.1 * torch.randn_like(x)
            x.clamp_(-3, 3).round(decimals=2)
            F.cross_entropy(model(x), torch.randint(0, 2, (8,))).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "learned positions and a clipped exponent": """
        class M(nn.Module):
            def __init__(self):
                super().__init__()
                self.pos, self.t, self.f = nn.Parameter(torch.randn(1, 6, 8) * .02), nn.Parameter(torch.tensor(1.0)), nn.Linear(8, 8)
            def forward(self, x):
                h = F.normalize(self.f(x + self.pos), dim=-1)
                return h @ h.transpose(1, 2) * self.t.clamp(max=4.6).exp()
        model = M()
        with trace_gradients(model) as trace:
            model(torch.randn(4, 6, 8)).softmax(-1).diagonal(dim1=1, dim2=2).log().mean().neg().backward()
        check = [p.grad for p in model.parameters()]
        """,
    "anomaly detection and a profiler around": """
        model = nn.Linear(4, 2)
        with trace_gradients(model) as trace:
            with torch.autograd.detect_anomaly(check_nan=True):
                model(torch.randn(8, 4)).square().mean().backward()
        check = [p.grad for p in model.parameters()]
        """,
    "a schedule-free EMA in-place with lerp_": """
        model = nn.Linear(4, 2); shadow = copy.deepcopy(model)
        both = nn.ModuleList([model, shadow])
        opt = torch.optim.SGD(model.parameters(), 0.1)
        with trace_gradients(both) as trace:
            for _ in range(2):
                x = torch.randn(8, 4)
                loss = (model(x) - shadow(x).detach()).square().mean() + model(x).square().mean()
                opt.zero_grad(); loss.backward(); opt.step()
                with torch.no_grad():
                    torch._foreach_lerp_(list(shadow.parameters()), list(model.parameters()), 0.1)
        check = list(both.parameters())
        """,
    "distance correlation, sorted Wasserstein, soft histogram": """
        model = nn.Linear(4, 1)
        x, y = torch.randn(64, 4), torch.randn(64)
        with trace_gradients(model) as trace:
            z = model(x).squeeze(1)
            w = (z.sort()[0] - y.sort()[0]).abs().mean()
            h = torch.exp(-(z[:, None] - torch.linspace(-2, 2, 9)).square() / 0.1).mean(0)
            (w + (h - h.mean()).square().sum()).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "a GradScaler whose first steps overflow": """
        model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 2))
        sgd = torch.optim.SGD(model.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
        with trace_gradients(model) as trace:
            for _ in range(3):
                x, y = torch.randn(64, 8), torch.randint(0, 2, (64,))
                sgd.zero_grad()
                with torch.autocast("cpu", dtype=torch.float16):
                    loss = F.cross_entropy(model(x), y)
                scaler.scale(loss).backward()
                scaler.step(sgd)
                scaler.update()
        check = list(model.parameters())
        """,
    "a fit that is perfect": """
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        teacher = copy.deepcopy(model)
        x = torch.randn(32, 4)
        with trace_gradients(model) as trace:
            with torch.no_grad():
                y = teacher(x)
            F.mse_loss(model(x), y).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "a head that starts at 0, and a spread that is wanted": """
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        nn.init.zeros_(model[2].weight)
        x = torch.randn(64, 4)
        with trace_gradients(model) as trace:
            d = torch.distributions.Categorical(logits=model(x))
            action = d.sample()
            loss = -(d.log_prob(action) * torch.randn(64)).mean() - 0.01 * d.entropy().mean()
            (loss + F.relu(1 - (model(x).var(0) + 1e-4).sqrt()).mean()).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "NaN that a selection keeps from every parameter": """
        model = nn.Linear(6, 6)
        x, pad = torch.randn(4, 5, 6), torch.zeros(4, 5, dtype=torch.bool)
        pad[2] = True
        with trace_gradients(model) as trace:
            z = torch.relu(model(x))
            entropy = torch.where(z > 0, z * z.log(), torch.zeros_like(z)).sum()
            a = (model(x) @ x.mT).masked_fill(pad[:, None], float("-inf")).softmax(-1)
            (((a @ x)[~pad] - x[~pad]).square().mean() + entropy).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "a probability kept away from 0 by a comparison": """
        model = nn.Linear(4, 3)
        with trace_gradients(model) as trace:
            p = model(torch.randn(32, 4)).softmax(-1)
            (p * torch.log(p + (p == 0).float() * 1e-8)).sum(1).mean().backward()
        check = [p.grad for p in model.parameters()]
        """,
}
