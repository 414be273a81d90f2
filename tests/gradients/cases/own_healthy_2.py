"""More healthy programs, written to see whether the tool generalises."""

# ruff: noqa: E501

CASES = {
    "decoder with a cache of keys, trained by teacher forcing": """
        class Decoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.emb, self.qkv, self.out = nn.Embedding(15, 12), nn.Linear(12, 36), nn.Linear(12, 15)
            def forward(self, ids):
                keys, values, logits = [], [], []
                for t in range(ids.shape[1]):
                    q, k, v = self.qkv(self.emb(ids[:, t])).chunk(3, -1)
                    keys.append(k)
                    values.append(v)
                    w = torch.einsum("bd,btd->bt", q, torch.stack(keys, 1)).softmax(-1)
                    logits.append(self.out(torch.einsum("bt,btd->bd", w, torch.stack(values, 1))))
                return torch.stack(logits, 1)
        model = Decoder()
        ids = torch.randint(0, 15, (8, 7))
        with trace_gradients(model) as trace:
            logits = model(ids)
            F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "encoder-decoder of torch.nn": """
        model = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)
        src, tgt = torch.randn(4, 6, 16), torch.randn(4, 5, 16)
        pad = torch.zeros(4, 6, dtype=torch.bool)
        pad[0, 4:] = True
        with trace_gradients(model) as trace:
            mask = model.generate_square_subsequent_mask(5)
            out = model(src, tgt, tgt_mask=mask, src_key_padding_mask=pad)
            out.square().mean().backward()
        check = [p.grad for p in model.parameters()]
        """,
    "DDPG": """
        actor, critic = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2), nn.Tanh()), nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
        ta, tc = copy.deepcopy(actor), copy.deepcopy(critic)
        model = nn.ModuleDict({"actor": actor, "critic": critic, "ta": ta, "tc": tc})
        oa, oc = torch.optim.Adam(actor.parameters()), torch.optim.Adam(critic.parameters())
        with trace_gradients(model) as trace:
            for _ in range(2):
                s, a, r, s2 = torch.randn(64, 4), torch.rand(64, 2), torch.randn(64, 1), torch.randn(64, 4)
                y = r + 0.9 * tc(torch.cat([s2, ta(s2)], 1)).detach()
                lc = F.mse_loss(critic(torch.cat([s, a], 1)), y)
                oc.zero_grad()
                lc.backward()
                oc.step()
                la = -critic(torch.cat([s, actor(s)], 1)).mean()
                oa.zero_grad()
                la.backward()
                oa.step()
                for net, target in ((actor, ta), (critic, tc)):
                    for p, q in zip(net.parameters(), target.parameters()):
                        q.data.copy_(0.005 * p.data + 0.995 * q.data)
        check = list(model.parameters())
        """,
    "A2C with entropy, a rollout and bootstrapping": """
        class AC(nn.Module):
            def __init__(self):
                super().__init__()
                self.body, self.pi, self.v = nn.Linear(3, 24), nn.Linear(24, 2), nn.Linear(24, 1)
            def forward(self, s):
                h = torch.tanh(self.body(s))
                return torch.distributions.Categorical(logits=self.pi(h)), self.v(h).squeeze(-1)
        model = AC()
        adam = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            s, logps, values, rewards, entropies = torch.randn(8, 3), [], [], [], []
            for t in range(5):
                d, v = model(s)
                a = d.sample()
                logps.append(d.log_prob(a))
                values.append(v)
                entropies.append(d.entropy())
                rewards.append(torch.from_numpy((a.numpy() == 1).astype("float32")))
                s = s + 0.1 * torch.randn(8, 3)
            with torch.no_grad():
                ret = model(s)[1]
            returns = []
            for r in reversed(rewards):
                ret = r + 0.99 * ret
                returns.insert(0, ret)
            returns, values = torch.stack(returns), torch.stack(values)
            advantage = returns - values
            loss = -(torch.stack(logps) * advantage.detach()).mean() + 0.5 * advantage.pow(2).mean()
            loss = loss - 0.01 * torch.stack(entropies).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        check = list(model.parameters())
        """,
    "random network distillation": """
        target = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 4))
        model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 4))
        x = torch.randn(64, 5)
        with trace_gradients(model) as trace:
            error = (model(x) - target(x).detach()).pow(2).sum(1)
            bonus = (error.detach() - error.detach().mean()) / error.detach().std()
            error.mean().backward()
        check = [p.grad for p in model.parameters()]
        """,
    "DINO with a centre": """
        student = nn.Sequential(nn.Linear(10, 24), nn.GELU(), nn.Linear(24, 8))
        teacher = copy.deepcopy(student)
        model = nn.ModuleDict({"student": student, "teacher": teacher})
        centre = torch.zeros(8)
        adam = torch.optim.AdamW(student.parameters())
        with trace_gradients(model) as trace:
            for _ in range(2):
                x = torch.randn(32, 10)
                s = student(x + 0.1 * torch.randn_like(x)) / 0.1
                t = ((teacher(x) - centre) / 0.04).softmax(-1).detach()
                loss = -(t * s.log_softmax(-1)).sum(-1).mean()
                adam.zero_grad()
                loss.backward()
                adam.step()
                with torch.no_grad():
                    for p, q in zip(student.parameters(), teacher.parameters()):
                        q.data.mul_(0.99).add_((1 - 0.99) * p.detach().data)
                    centre = 0.9 * centre + 0.1 * teacher(x).mean(0)
        check = list(model.parameters())
        """,
    "Barlow twins": """
        model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 6))
        norm = nn.BatchNorm1d(6, affine=False)
        x = torch.randn(64, 8)
        with trace_gradients(model) as trace:
            a, b = norm(model(x + 0.1 * torch.randn_like(x))), norm(model(x + 0.1 * torch.randn_like(x)))
            c = a.T @ b / 64
            on = (c.diagonal() - 1).square().sum()
            off = c.masked_fill(torch.eye(6, dtype=torch.bool), 0).square().sum()
            (on + 0.005 * off).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "soft actor with a temperature and a hinge penalty that is satisfied": """
        model = nn.Linear(4, 4)
        s = torch.randn(32, 4)
        with trace_gradients(model) as trace:
            mu, log_std = model(s).chunk(2, -1)
            log_std = -5 + 0.5 * 7 * (torch.tanh(log_std) + 1)
            d = torch.distributions.Normal(mu, log_std.exp())
            u = d.rsample()
            a = torch.tanh(u)
            logp = (d.log_prob(u) - torch.log(1 - a.square() + 1e-6)).sum(-1)
            far = F.relu(mu.abs() - 50).mean()
            (0.2 * logp - a.sum(-1)).mean().add(far).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "bits back: VAE with a Bernoulli decoder and annealing": """
        class VAE(nn.Module):
            def __init__(self):
                super().__init__()
                self.e, self.m, self.s, self.d = nn.Linear(12, 16), nn.Linear(16, 3), nn.Linear(16, 3), nn.Linear(3, 12)
            def forward(self, x):
                h = F.relu(self.e(x))
                q = torch.distributions.Normal(self.m(h), F.softplus(self.s(h)) + 1e-4)
                z = q.rsample()
                return torch.distributions.Bernoulli(logits=self.d(z)), q
        model = VAE()
        adam = torch.optim.Adam(model.parameters())
        prior = torch.distributions.Normal(0.0, 1.0)
        with trace_gradients(model) as trace:
            for step in range(3):
                x = (torch.rand(64, 12) > 0.5).float()
                p, q = model(x)
                kl = torch.distributions.kl_divergence(q, prior)
                beta = step / 3
                loss = -p.log_prob(x).sum(1).mean() + beta * torch.clamp(kl.sum(1), min=1.0).mean()
                elbo = -loss.item()
                adam.zero_grad()
                loss.backward()
                adam.step()
        check = list(model.parameters())
        """,
    "Gumbel softmax, hard, and a load-balancing loss": """
        model = nn.ModuleList([nn.Linear(6, 3), nn.ModuleList(nn.Linear(6, 2) for _ in range(3))])
        x, y = torch.randn(48, 6), torch.randint(0, 2, (48,))
        with trace_gradients(model) as trace:
            gate = F.gumbel_softmax(model[0](x), tau=0.7, hard=True)
            out = torch.stack([e(x) for e in model[1]], 1)
            logits = (gate[..., None] * out).sum(1)
            balance = (gate.mean(0) - 1 / 3).square().sum()
            (F.cross_entropy(logits, y) + 0.1 * balance).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "binary weights, straight-through and clipped": """
        class Binary(nn.Linear):
            def forward(self, x):
                w = self.weight
                hard = torch.sign(w)
                soft = torch.clamp(w, -1, 1)
                return F.linear(x, soft + (hard - soft).detach(), self.bias)
        model = nn.Sequential(Binary(8, 16), nn.Hardtanh(), nn.Linear(16, 2))
        x, y = torch.randn(64, 8), torch.randint(0, 2, (64,))
        with trace_gradients(model) as trace:
            F.cross_entropy(model(x), y).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "a custom Function with a surrogate slope": """
        class Spike(torch.autograd.Function):
            @staticmethod
            def forward(ctx, v, width):
                ctx.save_for_backward(v)
                ctx.width = width
                return (v > 0).float()
            @staticmethod
            def backward(ctx, g):
                (v,) = ctx.saved_tensors
                return g / (1 + ctx.width * v.abs()) ** 2, None
        model = nn.ModuleList([nn.Linear(5, 16), nn.Linear(16, 2)])
        x, y = torch.rand(32, 5), torch.randint(0, 2, (32,))
        with trace_gradients(model) as trace:
            v, out = torch.zeros(32, 16), 0
            for _ in range(4):
                v = 0.9 * v + model[0](x)
                s = Spike.apply(v - 1, 10.0)
                v = v * (1 - s.detach())
                out = out + model[1](s)
            rate = s.detach().mean().item()
            F.cross_entropy(out, y).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "gradient reversal": """
        class Reverse(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, scale):
                ctx.scale = scale
                return x.view_as(x)
            @staticmethod
            def backward(ctx, g):
                return -ctx.scale * g, None
        f, c, d = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 2)
        model = nn.ModuleList([f, c, d])
        x, y, domain = torch.randn(40, 6), torch.randint(0, 3, (40,)), torch.randint(0, 2, (40,))
        with trace_gradients(model) as trace:
            h = torch.tanh(f(x))
            loss = F.cross_entropy(c(h), y) + F.cross_entropy(d(Reverse.apply(h, 0.3)), domain)
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    "spectral normalisation by hand": """
        w = nn.Linear(6, 5)
        u = F.normalize(torch.randn(5), dim=0)
        x, y = torch.randn(32, 6), torch.randn(32, 5)
        with trace_gradients(w) as trace:
            with torch.no_grad():
                for _ in range(2):
                    v = F.normalize(w.weight.T @ u, dim=0)
                    u = F.normalize(w.weight @ v, dim=0)
            sigma = u @ w.weight @ v
            F.mse_loss(F.linear(x, w.weight / sigma, w.bias), y).backward()
        check = [p.grad for p in w.parameters()]
        """,
    "SAM, two passes a step": """
        model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 2))
        sgd = torch.optim.SGD(model.parameters(), 0.1)
        with trace_gradients(model) as trace:
            for _ in range(2):
                x, y = torch.randn(64, 6), torch.randint(0, 2, (64,))
                F.cross_entropy(model(x), y).backward()
                with torch.no_grad():
                    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
                    step = [0.05 * p.grad / (norm + 1e-12) for p in model.parameters()]
                    for p, e in zip(model.parameters(), step):
                        p.add_(e)
                sgd.zero_grad()
                F.cross_entropy(model(x), y).backward()
                with torch.no_grad():
                    for p, e in zip(model.parameters(), step):
                        p.sub_(e)
                sgd.step()
                sgd.zero_grad()
        check = list(model.parameters())
        """,
    "influence of one example: per-sample gradients": """
        from torch.func import functional_call, grad, vmap
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        x, y = torch.randn(16, 4), torch.randint(0, 2, (16,))
        with trace_gradients(model) as trace:
            params = {k: v.detach() for k, v in model.named_parameters()}
            def one(p, a, b):
                return F.cross_entropy(functional_call(model, p, (a[None],)), b[None])
            each = vmap(grad(one), in_dims=(None, 0, 0))(params, x, y)
            norms = torch.stack([g.flatten(1).norm(dim=1) for g in each.values()]).norm(dim=0)
            weight = (1 / norms.clamp(min=0.1)).clamp(max=1)
            loss = (F.cross_entropy(model(x), y, reduction="none") * weight).mean()
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    "k-means loss, hard assignment": """
        model = nn.Linear(6, 2)
        centre = nn.Parameter(torch.randn(3, 2))
        both = nn.ParameterList([*model.parameters(), centre])
        x = torch.randn(64, 6)
        with trace_gradients(both) as trace:
            z = model(x)
            d = torch.cdist(z, centre)
            hard = d.argmin(1)
            loss = (z - centre[hard]).square().sum(1).mean() + 0.1 * z.var(0).reciprocal().sum()
            loss.backward()
        check = [p.grad for p in both]
        """,
    "online hard example mining, focal, label smoothing": """
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        x, y = torch.rand(64, 3, 10, 10), torch.randint(0, 4, (64,))
        with trace_gradients(model) as trace:
            out = model(x)
            ce = F.cross_entropy(out, y, reduction="none", label_smoothing=0.1)
            worst = ce.sort(descending=True)[0][:16].mean()
            pt = out.softmax(1).gather(1, y[:, None]).squeeze(1)
            focal = ((1 - pt) ** 2 * ce).mean()
            confusion = torch.bincount(y * 4 + out.argmax(1), minlength=16).view(4, 4)
            (worst + focal).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "dynamic loss weights and early stopping by numbers": """
        model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 2))
        adam = torch.optim.Adam(model.parameters())
        best, patience, ema = math.inf, 0, None
        with trace_gradients(model) as trace:
            for _ in range(4):
                x, y = torch.randn(32, 5), torch.randn(32, 2)
                out = model(x)
                a, b = F.mse_loss(out[:, 0], y[:, 0]), F.l1_loss(out[:, 1], y[:, 1])
                ema = a.item() if ema is None else 0.9 * ema + 0.1 * a.item()
                scale = max(0.1, min(10.0, ema))
                loss = a / scale + b
                adam.zero_grad()
                loss.backward()
                adam.step()
                value = float(loss.detach())
                best, patience = (value, 0) if value < best else (best, patience + 1)
        check = list(model.parameters())
        """,
    "ReLU outputs for counts, well placed": """
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4), nn.ReLU())
        model[2].bias.data.fill_(0.5)
        x, y = torch.randn(128, 6), torch.poisson(torch.ones(128, 4))
        with trace_gradients(model) as trace:
            F.mse_loss(model(x), y).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "deep network with dropout, one pass of evaluation between": """
        model = nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.3))), nn.Linear(16, 2))
        adam = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            for _ in range(2):
                x, y = torch.rand(32, 16), torch.randint(0, 2, (32,))
                adam.zero_grad()
                F.cross_entropy(model(x), y).backward()
                adam.step()
                model.eval()
                with torch.inference_mode():
                    scores = model(x).softmax(1)[:, 1].numpy()
                    auc = np.mean(scores[y.numpy() == 1][:, None] > scores[y.numpy() == 0][None])
                model.train()
        check = list(model.parameters())
        """,
    "a log barrier and a Lagrange multiplier": """
        model = nn.Linear(4, 2)
        dual = nn.Parameter(torch.tensor(0.5))
        both = nn.ModuleDict({"m": model})
        primal, ascent = torch.optim.SGD(model.parameters(), 0.1), torch.optim.SGD([dual], 0.1)
        x = torch.randn(64, 4)
        with trace_gradients(both) as trace:
            for _ in range(2):
                out = model(x)
                limit = out.square().mean() - 5.0
                loss = -out[:, 0].mean() + dual.detach() * limit
                primal.zero_grad()
                loss.backward()
                primal.step()
                ascent.zero_grad()
                (-dual * limit.detach()).backward()
                ascent.step()
                with torch.no_grad():
                    dual.clamp_(min=0)
        check = [*both.parameters(), dual]
        """,
    "points on a grid, bilinear": """
        model = nn.Linear(5, 6)
        image, y = torch.rand(12, 2, 9, 9), torch.rand(12, 2, 9, 9)
        with trace_gradients(model) as trace:
            theta = 0.1 * model(torch.randn(12, 5)).view(-1, 2, 3) + torch.eye(2, 3)
            grid = F.affine_grid(theta, image.shape, align_corners=False)
            F.mse_loss(F.grid_sample(image, grid, align_corners=False), y).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "a Neural ODE by Euler steps with a stop by number": """
        f = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))
        x, y = torch.randn(32, 2), torch.randn(32, 2)
        with trace_gradients(f) as trace:
            z, t = x, 0.0
            while t < 1.0:
                dz = f(torch.cat([z, torch.full((32, 1), t)], 1))
                h = min(0.25, 1.0 / (1e-3 + dz.detach().norm(dim=1).max().item()), 1.0 - t + 1e-9)
                z, t = z + h * dz, t + h
            F.mse_loss(z, y).backward()
        check = [p.grad for p in f.parameters()]
        """,
}
