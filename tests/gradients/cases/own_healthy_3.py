"""A third round of healthy programs."""

# ruff: noqa: E501

CASES = {
    "returns from numbers, generalised advantages": """
        class AC(nn.Module):
            def __init__(self):
                super().__init__()
                self.pi, self.v = nn.Linear(3, 2), nn.Linear(3, 1)
        model = AC()
        adam = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            for _ in range(2):
                s, rows = torch.randn(3), []
                for t in range(6):
                    d = torch.distributions.Categorical(logits=model.pi(s))
                    a = d.sample()
                    rows.append((s, a.item(), float(a.item() == 1), model.v(s).item(), d.log_prob(a).item()))
                    s = 0.9 * s + 0.1 * torch.randn(3)
                advantage, last, out = 0.0, 0.0, []
                for _, _, r, v, _ in reversed(rows):
                    advantage = r + 0.99 * last - v + 0.9 * advantage
                    last = v
                    out.insert(0, advantage)
                states = torch.stack([row[0] for row in rows])
                actions = torch.tensor([row[1] for row in rows])
                values, old = torch.tensor([row[3] for row in rows]), torch.tensor([row[4] for row in rows])
                adv = torch.tensor(out)
                d = torch.distributions.Categorical(logits=model.pi(states))
                ratio = torch.exp(d.log_prob(actions) - old)
                v = model.v(states).squeeze(1)
                loss = -torch.min(ratio * adv, ratio.clamp(0.8, 1.2) * adv).mean() + (v - (adv + values)).pow(2).mean()
                adam.zero_grad()
                loss.backward()
                adam.step()
        check = list(model.parameters())
        """,
    "flooding and a running mean by number": """
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        adam = torch.optim.Adam(model.parameters())
        mean = None
        with trace_gradients(model) as trace:
            for _ in range(3):
                x, y = torch.randn(48, 4), torch.randint(0, 3, (48,))
                ce = F.cross_entropy(model(x), y)
                mean = ce.item() if mean is None else 0.9 * mean + 0.1 * ce.item()
                if math.isnan(mean):
                    continue
                loss = (ce - 0.05).abs() + 0.05
                adam.zero_grad()
                loss.backward()
                adam.step()
        check = list(model.parameters())
        """,
    "gradients combined by hand": """
        body, a, b = nn.Linear(5, 16), nn.Linear(16, 1), nn.Linear(16, 1)
        model = nn.ModuleList([body, a, b])
        adam = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            for _ in range(2):
                h = torch.tanh(body(torch.randn(32, 5)))
                losses = [a(h).square().mean(), (b(h) - 1).square().mean()]
                grads = [torch.autograd.grad(l, list(model.parameters()), retain_graph=True, allow_unused=True) for l in losses]
                adam.zero_grad()
                for p, *gs in zip(model.parameters(), *grads):
                    p.grad = sum(g for g in gs if g is not None)
                adam.step()
        check = list(model.parameters())
        """,
    "gradient descent written out": """
        w = torch.randn(5, 3, requires_grad=True)
        x, y = torch.randn(64, 5), torch.randint(0, 3, (64,))
        with trace_gradients() as trace:
            for _ in range(3):
                loss = F.cross_entropy(x @ w, y)
                (g,) = torch.autograd.grad(loss, w)
                with torch.no_grad():
                    w -= 0.1 * g
        check = [w]
        """,
    "a mask of pruned weights, made anew": """
        class Pruned(nn.Linear):
            def forward(self, x):
                bound = self.weight.abs().flatten().kthvalue(6)[0]
                mask = (self.weight.abs() > bound).float()
                return F.linear(x, self.weight * mask, self.bias)
        model = nn.Sequential(Pruned(4, 8), nn.ReLU(), nn.Linear(8, 2))
        x, y = torch.randn(48, 4), torch.randint(0, 2, (48,))
        with trace_gradients(model) as trace:
            F.cross_entropy(model(x), y).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "hooks on gradients": """
        model = nn.Sequential(nn.Embedding(8, 6), nn.Flatten(), nn.Linear(18, 2))
        keep = torch.ones(8, 1)
        keep[0] = 0
        model[0].weight.register_hook(lambda g: g * keep)
        x, y = torch.randint(0, 8, (32, 3)), torch.randint(0, 2, (32,))
        with trace_gradients(model) as trace:
            h = model[0](x)
            h.register_hook(lambda g: g.clamp(-0.1, 0.1))
            F.cross_entropy(model[1:](h), y).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "Jacobian penalty with create_graph": """
        model = nn.Sequential(nn.Linear(3, 12), nn.Softplus(), nn.Linear(12, 2))
        x = torch.randn(6, 3)
        with trace_gradients(model) as trace:
            j = torch.autograd.functional.jacobian(lambda p: model(p).sum(0), x, create_graph=True)
            v = torch.randn(6, 3)
            (model(x).square().mean() + 0.1 * (j * v[None]).square().mean()).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "supervised contrastive loss": """
        model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 8))
        x, y = torch.randn(40, 6), torch.randint(0, 4, (40,))
        with trace_gradients(model) as trace:
            z = F.normalize(model(x), dim=1)
            s = z @ z.T / 0.1
            s = s - s.max(1, keepdim=True)[0].detach()
            other = ~torch.eye(40, dtype=torch.bool)
            same = (y[:, None] == y[None]) & other
            logp = s - s.masked_fill(~other, float("-inf")).logsumexp(1, keepdim=True)
            (-(logp * same).sum(1) / same.sum(1).clamp(min=1)).mean().backward()
        check = [p.grad for p in model.parameters()]
        """,
    "quantile regression with crossing penalty": """
        model = nn.Sequential(nn.Linear(4, 16), nn.ELU(), nn.Linear(16, 3))
        q = torch.tensor([0.1, 0.5, 0.9])
        x, y = torch.randn(64, 4), torch.randn(64, 1)
        model[2].bias.data = torch.tensor([-9.0, 0.0, 9.0])
        with trace_gradients(model) as trace:
            out = model(x)
            e = y - out
            pinball = torch.max(q * e, (q - 1) * e).mean()
            crossing = F.relu(out[:, :-1] - out[:, 1:]).mean()
            (pinball + 10 * crossing).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "packed sequences": """
        model = nn.ModuleDict({"e": nn.Embedding(12, 6), "r": nn.LSTM(6, 8, batch_first=True), "o": nn.Linear(8, 2)})
        ids, n = torch.randint(0, 12, (5, 7)), torch.tensor([7, 6, 4, 4, 2])
        with trace_gradients(model) as trace:
            packed = nn.utils.rnn.pack_padded_sequence(model["e"](ids), n, batch_first=True)
            out, (h, c) = model["r"](packed)
            padded, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
            F.cross_entropy(model["o"](h[-1]), torch.randint(0, 2, (5,))).add(1e-3 * padded.square().mean()).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "Switch routing with a capacity": """
        class Switch(nn.Module):
            def __init__(self):
                super().__init__()
                self.r, self.e = nn.Linear(6, 3), nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
            def forward(self, x):
                p = self.r(x).softmax(-1)
                top, where = p.max(-1)
                place = (F.one_hot(where, 3).cumsum(0) - 1).gather(1, where[:, None]).squeeze(1)
                kept = place < 12
                out = torch.zeros_like(x)
                for i, expert in enumerate(self.e):
                    rows = kept & (where == i)
                    out[rows] = expert(x[rows]) * top[rows, None]
                return x + out, (F.one_hot(where, 3).float().mean(0) * p.mean(0)).sum() * 3
        model = Switch()
        x = torch.randn(48, 6)
        with trace_gradients(model) as trace:
            out, aux = model(x)
            (F.mse_loss(out, x.flip(1)) + 0.01 * aux).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "Sinkhorn in the log domain with forbidden pairs": """
        model = nn.Linear(4, 4)
        a, b = torch.randn(7, 4), torch.randn(7, 4)
        ok = torch.rand(7, 7) > 0.3
        ok.fill_diagonal_(True)
        with trace_gradients(model) as trace:
            s = (model(a) @ b.T).masked_fill(~ok, float("-inf"))
            for _ in range(5):
                s = s - s.logsumexp(1, keepdim=True)
                s = s - s.logsumexp(0, keepdim=True)
            plan = s.exp()
            (-(plan.diagonal()).clamp(min=1e-9).log().mean()).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "Lookahead and gradient noise by hand": """
        model = nn.Linear(4, 2)
        slow = [p.detach().clone() for p in model.parameters()]
        sgd = torch.optim.SGD(model.parameters(), 0.1)
        with trace_gradients(model) as trace:
            for step in range(4):
                x, y = torch.randn(16, 4), torch.randint(0, 2, (16,))
                sgd.zero_grad()
                F.cross_entropy(model(x), y).backward()
                for p in model.parameters():
                    p.grad.add_(0.01 * torch.randn_like(p))
                sgd.step()
                if step % 2:
                    for p, s in zip(model.parameters(), slow):
                        s.add_(0.5 * (p.data - s))
                        p.data.copy_(s)
        check = list(model.parameters())
        """,
    "Mixup, label smoothing by KL, top-5": """
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))
        x, y = torch.rand(64, 3, 4, 4), torch.randint(0, 10, (64,))
        with trace_gradients(model) as trace:
            lam, perm = np.random.default_rng(0).beta(1, 1), torch.randperm(64)
            out = model(lam * x + (1 - lam) * x[perm])
            target = torch.full((64, 10), 0.01).scatter_(1, y[:, None], 0.91)
            loss = lam * F.kl_div(out.log_softmax(1), target, reduction="batchmean") + (1 - lam) * F.cross_entropy(out, y[perm])
            top5 = out.topk(5, 1).indices.eq(y[:, None]).any(1).float().mean().item()
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    "Lovasz hinge": """
        model = nn.Conv2d(2, 1, 3, padding=1)
        x, y = torch.randn(3, 2, 8, 8), (torch.rand(3, 8, 8) > 0.5).float()
        with trace_gradients(model) as trace:
            logits, labels = model(x).flatten(), y.flatten()
            errors = 1 - logits * (2 * labels - 1)
            sorted_errors, order = errors.sort(descending=True)
            gt = labels[order]
            union = gt.sum() + (1 - gt).cumsum(0)
            jaccard = 1 - (gt.sum() - gt.cumsum(0)) / union
            jaccard[1:] = jaccard[1:] - jaccard[:-1].clone()
            (F.relu(sorted_errors) * jaccard).sum().backward()
        check = [p.grad for p in model.parameters()]
        """,
    "sparse embeddings with SparseAdam": """
        table, out = nn.Embedding(30, 8, sparse=True), nn.Linear(8, 2)
        model = nn.ModuleList([table, out])
        first, second = torch.optim.SparseAdam(table.parameters()), torch.optim.Adam(out.parameters())
        with trace_gradients(model) as trace:
            for _ in range(2):
                ids, y = torch.randint(0, 30, (16,)), torch.randint(0, 2, (16,))
                loss = F.cross_entropy(out(table(ids)), y)
                first.zero_grad()
                second.zero_grad()
                loss.backward()
                first.step()
                second.step()
        check = [table.weight, *out.parameters()]
        """,
    "evidence lower bound of a mixture, straight from logits": """
        class GMM(nn.Module):
            def __init__(self):
                super().__init__()
                self.logit, self.mu, self.s = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.zeros(3, 2))
            def forward(self, x):
                mix = torch.distributions.Categorical(logits=self.logit)
                part = torch.distributions.Independent(torch.distributions.Normal(self.mu, F.softplus(self.s) + 1e-3), 1)
                return torch.distributions.MixtureSameFamily(mix, part).log_prob(x)
        model = GMM()
        x = torch.randn(128, 2)
        with trace_gradients(model) as trace:
            loss = -model(x).mean()
            hard = (x[:, None] - model.mu).square().sum(-1).argmin(1).bincount(minlength=3)
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    "relaxed Bernoulli, hard in the forward pass": """
        class Gate(nn.Module):
            def __init__(self):
                super().__init__()
                self.logit, self.f = nn.Parameter(torch.zeros(8)), nn.Linear(8, 2)
            def forward(self, x):
                soft = torch.distributions.RelaxedBernoulli(torch.tensor(0.5), logits=self.logit).rsample()
                hard = (soft > 0.5).float()
                gate = hard - soft.detach() + soft
                return self.f(x * gate)
        model = Gate()
        x, y = torch.randn(32, 8), torch.randint(0, 2, (32,))
        with trace_gradients(model) as trace:
            F.cross_entropy(model(x), y).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "an actor that is not stepped while the critic warms up": """
        actor, critic = nn.Linear(4, 2), nn.Linear(6, 1)
        model = nn.ModuleDict({"actor": actor, "critic": critic})
        oa, oc = torch.optim.Adam(actor.parameters()), torch.optim.Adam(critic.parameters())
        with trace_gradients(model) as trace:
            for step in range(2):
                s, a, y = torch.randn(32, 4), torch.rand(32, 2), torch.randn(32, 1)
                with torch.no_grad():
                    nxt = critic(torch.cat([s, actor(s)], 1))
                loss = F.mse_loss(critic(torch.cat([s, a], 1)), y + 0.9 * nxt)
                oc.zero_grad()
                loss.backward()
                oc.step()
                if step > 5:
                    oa.zero_grad()
                    (-critic(torch.cat([s, actor(s)], 1)).mean()).backward()
                    oa.step()
        check = list(model.parameters())
        """,
    "a perceptual loss of a frozen network": """
        vgg = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3)).requires_grad_(False).eval()
        model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 1, 3, padding=1))
        x = torch.rand(4, 1, 12, 12)
        with trace_gradients(model) as trace:
            fake = model(x)
            with torch.no_grad():
                target = vgg(x)
            (F.l1_loss(fake, x) + 0.1 * F.mse_loss(vgg(fake), target)).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "a deep equilibrium by a hook": """
        w, u, out = nn.Linear(6, 6), nn.Linear(4, 6), nn.Linear(6, 2)
        w.weight.data.mul_(0.3)
        model = nn.ModuleList([w, u, out])
        x, y = torch.randn(16, 4), torch.randint(0, 2, (16,))
        def f(z): return torch.tanh(w(z) + u(x))
        with trace_gradients(model) as trace:
            with torch.no_grad():
                z = torch.zeros(16, 6)
                for _ in range(15):
                    z = f(z)
            z = f(z)
            z0 = z.clone().detach().requires_grad_()
            f0 = f(z0)
            def solve(g):
                v = g
                for _ in range(10):
                    v = torch.autograd.grad(f0, z0, v, retain_graph=True)[0] + g
                return v
            z.register_hook(solve)
            F.cross_entropy(out(z), y).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "a hinge GAN step on the critic alone": """
        G, D = nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
        adam = torch.optim.Adam(D.parameters())
        with trace_gradients(D) as trace:
            for _ in range(2):
                fake = G(torch.randn(32, 4)).detach()
                loss = F.relu(1 - D(torch.randn(32, 6))).mean() + F.relu(1 + D(fake)).mean()
                adam.zero_grad()
                loss.backward()
                adam.step()
        check = list(D.parameters())
        """,
}
