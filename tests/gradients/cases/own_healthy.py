"""Programs that people have, in which nothing is wrong: none may be accused, and no bit changed."""

# ruff: noqa: E501

CASES = {
    "encoder layer with padding and a causal mask": """
        model = nn.ModuleDict({
            "embed": nn.Embedding(40, 16, padding_idx=0),
            "layer": nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True),
            "out": nn.Linear(16, 40),
        })
        adam = torch.optim.AdamW(model.parameters())
        ids = torch.randint(1, 40, (8, 12))
        ids[2:, 9:] = 0
        causal = torch.triu(torch.full((12, 12), float("-inf")), 1)
        with trace_gradients(model) as trace:
            for _ in range(2):
                h = model["layer"](model["embed"](ids), src_mask=causal, is_causal=True)
                logits = model["out"](h)
                loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)
                right = (logits[:, :-1].argmax(-1) == ids[:, 1:])[ids[:, 1:] != 0].float().mean()
                adam.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                adam.step()
                print(f"{loss.item():.3f} {right:.2f}")
        check = list(model.parameters())
        """,
    "additive -inf padding by hand": """
        model = nn.Linear(8, 24)
        x, pad = torch.randn(6, 7, 8), torch.zeros(6, 7)
        pad[1, 5:] = float("-inf")
        with trace_gradients(model) as trace:
            q, k, v = model(x).chunk(3, -1)
            scores = q @ k.transpose(1, 2) / 8 ** 0.5 + pad[:, None]
            weight = scores.contiguous().float().softmax(-1)
            loss = (weight @ v)[pad == 0].square().mean()
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    "REINFORCE with a baseline": """
        policy, value = nn.Linear(4, 3), nn.Linear(4, 1)
        model = nn.ModuleList([policy, value])
        adam = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            for _ in range(2):
                obs, table = torch.randn(64, 4), torch.randn(3)
                d = torch.distributions.Categorical(logits=policy(obs))
                action = d.sample()
                reward = table[action]
                v = value(obs).squeeze(-1)
                advantage = reward - v.detach()
                loss = -(d.log_prob(action) * advantage).mean() + (reward - v).square().mean()
                loss = loss - 0.01 * d.entropy().mean()
                adam.zero_grad()
                loss.backward()
                adam.step()
        check = list(model.parameters())
        """,
    "PPO with masked actions": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(nn.Linear(5, 32), nn.Tanh())
                self.pi, self.v = nn.Linear(32, 4), nn.Linear(32, 1)
            def forward(self, x, legal):
                h = self.body(x)
                logits = self.pi(h).masked_fill(~legal, -1e9)
                return torch.distributions.Categorical(logits=logits), self.v(h).squeeze(-1)
        model = Net()
        adam = torch.optim.Adam(model.parameters(), 3e-4)
        obs, legal = torch.randn(128, 5), torch.rand(128, 4) > 0.3
        legal[:, 0] = True
        with torch.no_grad():
            d, v0 = model(obs, legal)
            action = d.sample()
            old = d.log_prob(action)
        returns = torch.randn(128)
        with trace_gradients(model) as trace:
            for _ in range(3):
                d, v = model(obs, legal)
                ratio = (d.log_prob(action) - old).exp()
                a = returns - v0
                a = (a - a.mean()) / (a.std() + 1e-8)
                surrogate = torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a).mean()
                clipped = v0 + (v - v0).clamp(-0.2, 0.2)
                critic = torch.max((v - returns).square(), (clipped - returns).square()).mean()
                loss = -surrogate + 0.5 * critic - 0.01 * d.entropy().mean()
                kl = (old - d.log_prob(action)).mean().item()
                adam.zero_grad()
                loss.backward()
                adam.step()
                if kl > 1.5:
                    break
        check = list(model.parameters())
        """,
    "Gaussian policy gradient": """
        model = nn.Linear(3, 4)
        obs = torch.randn(64, 3)
        with trace_gradients(model) as trace:
            mu, log_std = model(obs).chunk(2, 1)
            d = torch.distributions.Normal(mu, log_std.clamp(-5, 2).exp())
            action = d.sample()
            reward = -(action - 1).square().sum(1)
            loss = -(d.log_prob(action).sum(1) * (reward - reward.mean())).mean()
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    "mean teacher, one module": """
        student = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        class Both(nn.Module):
            def __init__(self):
                super().__init__()
                self.student, self.teacher = student, copy.deepcopy(student)
        model = Both()
        sgd = torch.optim.SGD(model.student.parameters(), 0.1)
        with trace_gradients(model) as trace:
            for _ in range(2):
                x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
                with torch.no_grad():
                    target = model.teacher(x + 0.1 * torch.randn_like(x)).softmax(1)
                out = model.student(x)
                loss = F.cross_entropy(out, y) + F.mse_loss(out.softmax(1), target)
                sgd.zero_grad()
                loss.backward()
                sgd.step()
                with torch.no_grad():
                    for t, s in zip(model.teacher.parameters(), model.student.parameters()):
                        t.mul_(0.99).add_(s, alpha=0.01)
        check = list(model.parameters())
        """,
    "a target network that is not synchronised in the block": """
        q = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
        model = nn.ModuleDict({"q": q, "target": copy.deepcopy(q)})
        adam = torch.optim.Adam(model["q"].parameters())
        with trace_gradients(model) as trace:
            for _ in range(2):
                s, a, r, s2 = torch.randn(64, 4), torch.randint(0, 2, (64,)), torch.randn(64), torch.randn(64, 4)
                with torch.no_grad():
                    y = r + 0.9 * model["target"](s2).max(1).values
                chosen = model["q"](s)[torch.arange(64), a]
                loss = (chosen - y).pow(2).mean()
                adam.zero_grad()
                loss.backward()
                adam.step()
        check = list(model.parameters())
        """,
    "SimSiam": """
        encoder = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))
        head = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8))
        model = nn.ModuleList([encoder, head])
        x = torch.randn(64, 10)
        with trace_gradients(model) as trace:
            a, b = encoder(x + 0.1 * torch.randn(64, 10)), encoder(x + 0.1 * torch.randn(64, 10))
            loss = -(F.cosine_similarity(head(a), b.detach()).mean() + F.cosine_similarity(head(b), a.detach()).mean()) / 2
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    "MoCo with a queue": """
        query = nn.Linear(12, 6)
        key = copy.deepcopy(query).requires_grad_(False)
        model = nn.ModuleDict({"query": query, "key": key})
        queue = F.normalize(torch.randn(6, 64), dim=0)
        sgd = torch.optim.SGD(query.parameters(), 0.1)
        with trace_gradients(model) as trace:
            for i in range(2):
                x = torch.randn(16, 12)
                q = F.normalize(query(x), dim=1)
                with torch.no_grad():
                    for k, p in zip(key.parameters(), query.parameters()):
                        k.data = k.data * 0.99 + p.data * 0.01
                    k = F.normalize(key(x + 0.1), dim=1)
                positive = torch.einsum("nc,nc->n", q, k)[:, None]
                negative = torch.einsum("nc,ck->nk", q, queue.clone().detach())
                loss = F.cross_entropy(torch.cat([positive, negative], 1) / 0.1, torch.zeros(16, dtype=torch.long))
                sgd.zero_grad()
                loss.backward()
                sgd.step()
                queue[:, 16 * i:16 * i + 16] = k.T
        check = list(model.parameters())
        """,
    "GAN, two optimizers, one detach": """
        G = nn.Sequential(nn.Linear(8, 32), nn.LeakyReLU(0.2), nn.Linear(32, 12), nn.Tanh())
        D = nn.Sequential(nn.Linear(12, 32), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(32, 1))
        model = nn.ModuleList([G, D])
        og, od = torch.optim.Adam(G.parameters(), 2e-4), torch.optim.Adam(D.parameters(), 2e-4)
        bce = nn.BCEWithLogitsLoss()
        with trace_gradients(model) as trace:
            for _ in range(2):
                real, fake = torch.randn(32, 12), G(torch.randn(32, 8))
                od.zero_grad()
                d_loss = bce(D(real), torch.ones(32, 1)) + bce(D(fake.detach()), torch.zeros(32, 1))
                d_loss.backward()
                od.step()
                og.zero_grad()
                g_loss = bce(D(fake), torch.ones(32, 1))
                g_loss.backward()
                og.step()
                accuracy = ((D(real) > 0).float().mean() + (D(fake) < 0).float().mean()).item() / 2
        check = list(model.parameters())
        """,
    "WGAN with clipped weights": """
        critic, G = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1)), nn.Linear(3, 6)
        model = nn.ModuleList([critic, G])
        oc, og = torch.optim.RMSprop(critic.parameters(), 5e-5), torch.optim.RMSprop(G.parameters(), 5e-5)
        with trace_gradients(model) as trace:
            for _ in range(2):
                with torch.no_grad():
                    fake = G(torch.randn(64, 3))
                loss = critic(fake).mean() - critic(torch.randn(64, 6)).mean()
                oc.zero_grad()
                loss.backward()
                oc.step()
                for p in critic.parameters():
                    p.data.clamp_(-0.01, 0.01)
            loss = -critic(G(torch.randn(64, 3))).mean()
            og.zero_grad()
            loss.backward()
            og.step()
        check = list(model.parameters())
        """,
    "MAML by hand, second order": """
        w = [nn.Parameter(torch.randn(1, 16)), nn.Parameter(torch.zeros(16)), nn.Parameter(torch.randn(16, 1) / 4)]
        model = nn.ParameterList(w)
        adam = torch.optim.Adam(model.parameters())
        def net(x, w): return torch.tanh(x @ w[0] + w[1]) @ w[2]
        with trace_gradients(model) as trace:
            total = 0
            for _ in range(3):
                x, phase = torch.randn(10, 1), torch.rand(1)
                inner = F.mse_loss(net(x, w), torch.sin(x + phase))
                g = torch.autograd.grad(inner, w, create_graph=True)
                fast = [p - 0.1 * d for p, d in zip(w, g)]
                total = total + F.mse_loss(net(x + 1, fast), torch.sin(x + 1 + phase))
            adam.zero_grad()
            total.backward()
            adam.step()
        check = w
        """,
    "Reptile": """
        model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
        with trace_gradients(model) as trace:
            for _ in range(2):
                fast = copy.deepcopy(model)
                sgd = torch.optim.SGD(fast.parameters(), 0.02)
                for _ in range(3):
                    x = torch.randn(10, 1)
                    loss = F.mse_loss(fast(x), x.sin())
                    sgd.zero_grad()
                    loss.backward()
                    sgd.step()
                with torch.no_grad():
                    for p, q in zip(model.parameters(), fast.parameters()):
                        p += 0.1 * (q - p)
        check = list(model.parameters())
        """,
    "VQ-VAE with a learned codebook": """
        class VQ(nn.Module):
            def __init__(self):
                super().__init__()
                self.e, self.d, self.book = nn.Linear(10, 4), nn.Linear(4, 10), nn.Embedding(16, 4)
            def forward(self, x):
                z = self.e(x)
                distance = z.square().sum(1, keepdim=True) - 2 * z @ self.book.weight.T + self.book.weight.square().sum(1)
                index = torch.argmin(distance, dim=1)
                q = self.book(index)
                loss = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
                used = len(index.unique())
                return self.d(z + (q - z).detach()), loss
        model = VQ()
        adam = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            for _ in range(2):
                x = torch.rand(64, 10)
                out, vq = model(x)
                loss = F.mse_loss(out, x) + vq
                adam.zero_grad()
                loss.backward()
                adam.step()
        check = list(model.parameters())
        """,
    "finite scalar quantisation": """
        model = nn.ModuleList([nn.Linear(8, 3), nn.Linear(3, 8)])
        x = torch.rand(64, 8)
        with trace_gradients(model) as trace:
            z = 2 * torch.tanh(model[0](x))
            code = z + (torch.round(z) - z).detach()
            loss = F.mse_loss(model[1](code), x)
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    "free bits": """
        model = nn.ModuleList([nn.Linear(10, 8), nn.Linear(4, 10)])
        x = torch.rand(64, 10)
        with trace_gradients(model) as trace:
            mu, logvar = model[0](x).chunk(2, 1)
            z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
            kl = -0.5 * (1 + logvar - mu.square() - logvar.exp())
            kl = kl.mean(0).clamp(min=2.0).sum()
            loss = F.binary_cross_entropy_with_logits(model[1](z), x) + 0.1 * kl
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    "a KL weight of 0 in the first epoch": """
        model = nn.ModuleList([nn.Linear(10, 8), nn.Linear(4, 10)])
        x = torch.rand(64, 10)
        with trace_gradients(model) as trace:
            for epoch in range(2):
                beta = min(1.0, epoch / 10)
                mu, logvar = model[0](x).chunk(2, 1)
                z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
                kl = (-0.5 * (1 + logvar - mu.square() - logvar.exp())).sum(1).mean()
                loss = F.mse_loss(model[1](z), x) + beta * kl
                loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    "a satisfied hinge is the whole loss": """
        model = nn.Linear(4, 2)
        a, p, n = torch.randn(16, 4), torch.randn(16, 4), torch.randn(16, 4)
        p, n = a + 1e-3 * p, a + 100 * n
        with trace_gradients(model) as trace:
            loss = F.triplet_margin_loss(model(a), model(p), model(n), margin=0.1)
            loss.backward()
        check = [q.grad for q in model.parameters()]
        """,
    "contrastive loss with a margin by hand": """
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
        a, b, same = torch.randn(40, 6), torch.randn(40, 6), torch.randint(0, 2, (40,)).float()
        with trace_gradients(model) as trace:
            d = (model(a) - model(b)).square().sum(1).add(1e-9).sqrt()
            loss = (same * d.square() + (1 - same) * F.relu(0.01 - d).square()).mean()
            loss.backward()
        check = [q.grad for q in model.parameters()]
        """,
    "hard concrete gates": """
        class Gated(nn.Module):
            def __init__(self):
                super().__init__()
                self.w, self.log_alpha = nn.Linear(12, 3), nn.Parameter(torch.randn(12))
            def forward(self, x):
                u = torch.rand_like(self.log_alpha).clamp(1e-6, 1 - 1e-6)
                s = torch.sigmoid((u.log() - (1 - u).log() + self.log_alpha) / (2 / 3))
                gate = (s * 1.2 - 0.1).clamp(0, 1)
                self.open = (gate > 0).float().mean().item()
                return self.w(x * gate), torch.sigmoid(self.log_alpha - 2 / 3 * math.log(0.1 / 1.1)).mean()
        model = Gated()
        x, y = torch.randn(64, 12), torch.randint(0, 3, (64,))
        with trace_gradients(model) as trace:
            out, l0 = model(x)
            loss = F.cross_entropy(out, y) + 0.1 * l0
            loss.backward()
        check = [q.grad for q in model.parameters()]
        """,
    "stochastic depth": """
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.f = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
            def forward(self, x):
                if torch.rand(()) < 0.5:
                    return x
                keep = torch.bernoulli(torch.tensor(0.5))
                return x + self.f(x) * keep / 0.5
        model = nn.Sequential(*(Block() for _ in range(6)), nn.Linear(8, 2))
        x, y = torch.randn(32, 8), torch.randint(0, 2, (32,))
        with trace_gradients(model) as trace:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        check = [q.grad for q in model.parameters()]
        """,
    "mixture of experts, sparse": """
        class MoE(nn.Module):
            def __init__(self):
                super().__init__()
                self.router = nn.Linear(8, 4)
                self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(4))
            def forward(self, x):
                p = self.router(x).softmax(-1)
                weight, index = p.topk(2, -1)
                weight = weight / weight.sum(-1, keepdim=True)
                out = torch.zeros_like(x)
                for e, expert in enumerate(self.experts):
                    row, slot = torch.where(index == e)
                    if len(row) and e != 3:
                        out.index_add_(0, row, expert(x[row]) * weight[row, slot, None])
                share = F.one_hot(index[:, 0], 4).float().mean(0)
                return out, 4 * (share * p.mean(0)).sum()
        model = MoE()
        x = torch.randn(64, 8)
        with trace_gradients(model) as trace:
            out, balance = model(x)
            loss = F.mse_loss(out, x) + 0.01 * balance
            loss.backward()
        check = [q.grad for q in model.parameters()]
        """,
    "mixture of experts, dense masks": """
        router, experts = nn.Linear(8, 4), nn.ModuleList(nn.Linear(8, 3) for _ in range(4))
        model = nn.ModuleDict({"router": router, "experts": experts})
        x, y = torch.randn(48, 8), torch.randint(0, 3, (48,))
        router.bias.data[2] = -50.0
        with trace_gradients(model) as trace:
            p = router(x).softmax(-1)
            top = p.max(1)
            mask = F.one_hot(top.indices, 4).float()
            out = sum(mask[:, e, None] * top.values[:, None] * expert(x) for e, expert in enumerate(experts))
            loss = F.cross_entropy(out, y)
            loss.backward()
        check = [q.grad for q in model.parameters()]
        """,
    "InfoNCE with a learned temperature and accuracy": """
        class Clip(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b, self.s = nn.Linear(6, 8), nn.Linear(5, 8), nn.Parameter(torch.tensor(2.6))
        model = Clip()
        adam = torch.optim.AdamW(model.parameters())
        with trace_gradients(model) as trace:
            za, zb = F.normalize(model.a(torch.randn(32, 6)), dim=1), F.normalize(model.b(torch.randn(32, 5)), dim=1)
            logits = model.s.exp() * za @ zb.T
            t = torch.arange(32)
            loss = (F.cross_entropy(logits, t) + F.cross_entropy(logits.T, t)) / 2
            top = logits.argmax(1).eq(t).float().mean().item()
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                model.s.clamp_(0, math.log(100))
        check = list(model.parameters())
        """,
    "gradient accumulation with a scheduler and logging": """
        model = nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Dropout(0.2), nn.Linear(40, 4))
        sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 10)
        history, best = [], math.inf
        with trace_gradients(model) as trace:
            for step in range(8):
                x, y = torch.randn(32, 10), torch.randint(0, 4, (32,))
                loss = F.cross_entropy(model(x), y) / 4
                loss.backward()
                history.append(loss.item() * 4)
                best = min(best, float(loss))
                if step % 4 == 3:
                    sgd.step()
                    sgd.zero_grad(set_to_none=False)
                    schedule.step()
            model.eval()
            with torch.no_grad():
                valid = F.cross_entropy(model(x), y).item()
        check = list(model.parameters())
        """,
    "distillation without no_grad": """
        teacher = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
        model = nn.Linear(6, 3)
        x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
        with trace_gradients(model) as trace:
            t = teacher(x).detach()
            s = model(x)
            hard = t.argmax(1)
            loss = F.cross_entropy(s, y) + F.cross_entropy(s, hard) + F.mse_loss(s, t)
            loss.backward()
        check = [q.grad for q in model.parameters()]
        """,
    "pseudo-labels above a threshold": """
        model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3))
        x, y, u = torch.randn(16, 6), torch.randint(0, 3, (16,)), torch.randn(64, 6)
        with trace_gradients(model) as trace:
            p = model(u).softmax(1)
            confidence, label = p.max(1)
            mask = confidence.ge(0.5).float()
            loss = F.cross_entropy(model(x), y) + (F.cross_entropy(model(u + 0.1), label, reduction="none") * mask).mean()
            loss.backward()
        check = [q.grad for q in model.parameters()]
        """,
    "TBPTT with a cell by hand": """
        cell, out = nn.LSTMCell(3, 8), nn.Linear(8, 3)
        model = nn.ModuleList([cell, out])
        adam = torch.optim.Adam(model.parameters())
        data = torch.randn(4, 13, 3)
        with trace_gradients(model) as trace:
            state = (torch.zeros(4, 8), torch.zeros(4, 8))
            for start in range(0, 12, 4):
                state = tuple(s.detach() for s in state)
                loss = 0.0
                for t in range(start, start + 4):
                    state = cell(data[:, t], state)
                    loss += F.mse_loss(out(state[0]), data[:, t + 1])
                adam.zero_grad()
                loss.backward()
                adam.step()
        check = list(model.parameters())
        """,
    "autocast on the CPU, with a scaler that is off": """
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
        sgd = torch.optim.SGD(model.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        with trace_gradients(model) as trace:
            for _ in range(2):
                x, y = torch.randn(64, 8), torch.randint(0, 2, (64,))
                sgd.zero_grad()
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = F.cross_entropy(model(x), y)
                scaler.scale(loss).backward()
                scaler.step(sgd)
                scaler.update()
        check = list(model.parameters())
        """,
    "a GradScaler that is on": """
        model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 2))
        sgd = torch.optim.SGD(model.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu")
        with trace_gradients(model) as trace:
            for _ in range(2):
                x, y = torch.randn(64, 8), torch.randint(0, 2, (64,))
                sgd.zero_grad()
                with torch.autocast("cpu", dtype=torch.float16):
                    loss = F.cross_entropy(model(x), y)
                scaler.scale(loss).backward()
                scaler.unscale_(sgd)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(sgd)
                scaler.update()
        check = list(model.parameters())
        """,
    "checkpoints without reentrance": """
        from torch.utils.checkpoint import checkpoint
        blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.1)) for _ in range(3))
        x = torch.randn(32, 8)
        with trace_gradients(blocks) as trace:
            h = x
            for block in blocks:
                h = h + checkpoint(block, h, use_reentrant=False)
            h.square().mean().backward()
        check = [q.grad for q in blocks.parameters()]
        """,
    "a reentrant checkpoint of an embedding": """
        from torch.utils.checkpoint import checkpoint
        model = nn.ModuleList([nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9)])
        ids = torch.randint(0, 9, (16, 5))
        with trace_gradients(model) as trace:
            h = model[0](ids)
            h = checkpoint(lambda z: torch.tanh(model[1](z)), h, use_reentrant=True)
            F.cross_entropy(model[2](h).flatten(0, 1), ids.flatten()).backward()
        check = [q.grad for q in model.parameters()]
        """,
    "physics-informed network": """
        model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
        adam = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            for _ in range(2):
                p = torch.rand(64, 2).requires_grad_()
                u = model(p)
                (g,) = torch.autograd.grad(u, p, torch.ones_like(u), create_graph=True)
                (gx,) = torch.autograd.grad(g[:, 0], p, torch.ones(64), create_graph=True)
                loss = (g[:, 1] - 0.1 * gx[:, 0]).square().mean() + (u - p[:, :1].detach().sin()).square().mean()
                adam.zero_grad()
                loss.backward()
                adam.step()
        check = list(model.parameters())
        """,
    "adversarial training by FGSM": """
        model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3))
        sgd = torch.optim.SGD(model.parameters(), 0.1)
        with trace_gradients(model) as trace:
            for _ in range(2):
                x, y = torch.randn(48, 6), torch.randint(0, 3, (48,))
                delta = torch.zeros_like(x, requires_grad=True)
                F.cross_entropy(model(x + delta), y).backward()
                adversarial = (x + 0.1 * delta.grad.sign()).detach()
                sgd.zero_grad()
                loss = F.cross_entropy(model(adversarial), y)
                loss.backward()
                sgd.step()
        check = list(model.parameters())
        """,
    "a fractional part": """
        model = nn.Linear(3, 2)
        table = nn.Parameter(torch.randn(16))
        both = nn.ParameterList([*model.parameters(), table])
        x = torch.rand(64, 3)
        with trace_gradients(both) as trace:
            at = torch.sigmoid(model(x)) * 14
            low = at.floor()
            part = at - low
            index = low.long()
            value = table[index] * (1 - part) + table[index + 1] * part
            loss = (value.sum(1) - 1).square().mean()
            loss.backward()
        check = [q.grad for q in both]
        """,
    "indicator features": """
        model = nn.ModuleList([nn.Linear(6, 8), nn.Linear(16, 3)])
        x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
        with trace_gradients(model) as trace:
            h = model[0](x)
            features = torch.cat([h, (h > 0).float()], 1)
            F.cross_entropy(model[1](features), y).backward()
        check = [q.grad for q in model.parameters()]
        """,
    "a ReLU gate by comparison": """
        model = nn.Sequential(nn.Linear(6, 16), nn.Identity(), nn.Linear(16, 3))
        x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
        with trace_gradients(model) as trace:
            h = model[0](x)
            on = (h > 0.1).to(h.dtype)
            h = h * on / on.mean().clamp(min=1e-3)
            F.cross_entropy(model[2](h), y).backward()
        check = [q.grad for q in model.parameters()]
        """,
    "TopK autoencoder with dead latents counted": """
        class SAE(nn.Module):
            def __init__(self):
                super().__init__()
                self.e, self.d = nn.Linear(16, 64), nn.Linear(64, 16)
                self.register_buffer("since", torch.zeros(64))
            def forward(self, x):
                pre = self.e(x - self.d.bias)
                top = pre.topk(8, dim=-1)
                code = torch.zeros_like(pre).scatter(-1, top.indices, F.relu(top.values))
                self.since = torch.where((code > 0).any(0), 0.0, self.since + len(x))
                return self.d(code), code
        model = SAE()
        adam = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            for _ in range(3):
                x = torch.randn(128, 16)
                out, code = model(x)
                loss = (out - x).square().mean()
                l0 = (code != 0).sum(-1).float().mean().item()
                explained = 1 - (x - out).var().item() / x.var().item()
                adam.zero_grad()
                loss.backward()
                adam.step()
                with torch.no_grad():
                    model.d.weight /= model.d.weight.norm(dim=0, keepdim=True)
        check = list(model.parameters())
        """,
    "deep ReLU network on images in [0, 1]": """
        model = nn.Sequential(nn.Flatten(), nn.Linear(144, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(),
                              nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        adam = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            for _ in range(3):
                x, y = torch.rand(64, 1, 12, 12), torch.randint(0, 10, (64,))
                loss = F.cross_entropy(model(x), y)
                adam.zero_grad()
                loss.backward()
                adam.step()
        check = list(model.parameters())
        """,
    "U-Net with max-pooling and dice": """
        class UNet(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
                self.up, self.c, self.out = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 1, 1)
            def forward(self, x):
                a = F.relu(self.a(x))
                b = F.relu(self.b(F.max_pool2d(a, 2)))
                return self.out(F.relu(self.c(torch.cat([a, self.up(b)], 1))))
        model = UNet()
        x, y = torch.rand(8, 1, 16, 16), (torch.rand(8, 1, 16, 16) > 0.7).float()
        with trace_gradients(model) as trace:
            p = torch.sigmoid(model(x))
            dice = 1 - (2 * (p * y).sum((1, 2, 3)) + 1) / (p.sum((1, 2, 3)) + y.sum((1, 2, 3)) + 1)
            iou = ((p > 0.5) & (y > 0.5)).sum() / ((p > 0.5) | (y > 0.5)).sum().clamp(min=1)
            loss = dice.mean() + F.binary_cross_entropy(p, y)
            loss.backward()
        check = [q.grad for q in model.parameters()]
        """,
    "LoRA as it should be": """
        class LoRA(nn.Module):
            def __init__(self):
                super().__init__()
                self.base = nn.Linear(8, 8).requires_grad_(False)
                self.a, self.b = nn.Parameter(torch.randn(8, 2) / 8), nn.Parameter(torch.zeros(2, 8))
            def forward(self, x): return self.base(x) + x @ self.a @ self.b
        model = LoRA()
        x = torch.randn(64, 8)
        with trace_gradients(model) as trace:
            F.mse_loss(model(x), torch.randn(64, 8)).backward()
        check = [q.grad for q in model.parameters()]
        """,
    "zero-initialised residual gates": """
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm, self.f, self.gate = nn.LayerNorm(8), nn.Linear(8, 8), nn.Parameter(torch.zeros(()))
            def forward(self, x): return x + self.gate * F.gelu(self.f(self.norm(x)))
        model = nn.Sequential(Block(), Block(), nn.Linear(8, 2))
        nn.init.zeros_(model[2].weight)
        x, y = torch.randn(32, 8), torch.randint(0, 2, (32,))
        with trace_gradients(model) as trace:
            F.cross_entropy(model(x), y).backward()
        check = [q.grad for q in model.parameters()]
        """,
    "GRPO with a reference that is a copy": """
        model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 20))
        reference = copy.deepcopy(model).eval()
        ids, mask = torch.randint(0, 20, (6, 10)), torch.ones(6, 9)
        mask[3, 5:] = 0
        with trace_gradients(model) as trace:
            logp = model(ids[:, :-1]).log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
            with torch.inference_mode():
                old = reference(ids[:, :-1]).log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
            old = old.clone()
            d = old - logp
            kl = d.exp() - d - 1
            reward = torch.randn(6)
            a = (reward - reward.mean()) / (reward.std() + 1e-6)
            ratio = (logp - logp.detach()).exp()
            token = torch.min(ratio * a[:, None], ratio.clamp(0.8, 1.28) * a[:, None])
            loss = -((token - 0.04 * kl) * mask).sum() / mask.sum()
            loss.backward()
        check = [q.grad for q in model.parameters()]
        """,
    "a graph network with max aggregation": """
        lin, out = nn.Linear(5, 16), nn.Linear(16, 2)
        model = nn.ModuleList([lin, out])
        edge, graph = torch.randint(0, 30, (2, 90)), torch.arange(30) // 10
        with trace_gradients(model) as trace:
            h = F.relu(lin(torch.randn(30, 5)))
            m = torch.zeros(30, 16).scatter_reduce(0, edge[1][:, None].expand(-1, 16), h[edge[0]], "amax", include_self=False)
            pooled = torch.zeros(3, 16).index_add_(0, graph, h + m)
            F.cross_entropy(out(pooled), torch.tensor([0, 1, 1])).backward()
        check = [q.grad for q in model.parameters()]
        """,
    "normalising flow": """
        class Coupling(nn.Module):
            def __init__(self, flip):
                super().__init__()
                self.f, self.flip = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 4)), flip
            def forward(self, x):
                a, b = x.chunk(2, 1) if not self.flip else x.chunk(2, 1)[::-1]
                s, t = self.f(a).chunk(2, 1)
                s = torch.tanh(s)
                b = b * s.exp() + t
                return torch.cat([a, b] if not self.flip else [b, a], 1), s.sum(1)
        model = nn.ModuleList([Coupling(False), Coupling(True)])
        base = torch.distributions.Normal(0.0, 1.0)
        x = torch.randn(64, 4)
        with trace_gradients(model) as trace:
            total = 0
            for layer in model:
                x, log_det = layer(x)
                total = total + log_det
            loss = -(base.log_prob(x).sum(1) + total).mean()
            loss.backward()
        check = [q.grad for q in model.parameters()]
        """,
    "diffusion step with an EMA copy": """
        model = nn.Sequential(nn.Linear(9, 32), nn.SiLU(), nn.Linear(32, 8))
        ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
        adam = torch.optim.AdamW(model.parameters())
        alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 50), 0)
        with trace_gradients(model) as trace:
            for _ in range(2):
                x, noise, t = torch.randn(32, 8), torch.randn(32, 8), torch.randint(0, 50, (32,))
                a = alphas[t][:, None]
                noisy = a.sqrt() * x + (1 - a).sqrt() * noise
                loss = F.mse_loss(model(torch.cat([noisy, t[:, None] / 50], 1)), noise)
                adam.zero_grad()
                loss.backward()
                adam.step()
                ema.update_parameters(model)
        check = list(ema.parameters())
        """,
    "NaN in the inputs that is dealt with": """
        model = nn.Linear(5, 1)
        x, y = torch.randn(40, 5), torch.randn(40, 1)
        x[3, 2] = float("nan")
        y[7] = float("nan")
        with trace_gradients(model) as trace:
            missing = x.isnan()
            filled = torch.nan_to_num(x) * (~missing).float()
            out = model(filled)
            ok = ~y.isnan()
            loss = F.mse_loss(out[ok], y[ok])
            loss.backward()
        check = [q.grad for q in model.parameters()]
        """,
    "log-sum-exp with -inf, and a log of a mask": """
        model = nn.Linear(5, 6)
        x = torch.randn(16, 5)
        allowed = torch.tril(torch.ones(16, 6))
        with trace_gradients(model) as trace:
            scores = model(x) + allowed.log()
            free = torch.logsumexp(scores, 1)
            loss = (free - scores[:, 0]).mean()
            loss.backward()
        check = [q.grad for q in model.parameters()]
        """,
    "several heads, one of them unused in this batch": """
        body, heads = nn.Linear(5, 16), nn.ModuleDict({"a": nn.Linear(16, 2), "b": nn.Linear(16, 3)})
        model = nn.ModuleList([body, heads])
        x, y = torch.randn(32, 5), torch.randint(0, 2, (32,))
        with trace_gradients(model) as trace:
            F.cross_entropy(heads["a"](torch.tanh(body(x))), y).backward()
        check = [q.grad for q in model.parameters()]
        """,
    "uncertainty weights and an adaptive weight from numbers": """
        model = nn.ModuleList([nn.Linear(5, 2), nn.Linear(5, 1)])
        s = nn.Parameter(torch.zeros(2))
        x, y, z = torch.randn(32, 5), torch.randint(0, 2, (32,)), torch.randn(32, 1)
        with trace_gradients(model) as trace:
            ce, mse = F.cross_entropy(model[0](x), y), F.mse_loss(model[1](x), z)
            weight = ce.item() / mse.item()
            loss = (-s[0]).exp() * ce + (-s[1]).exp() * weight * mse + s.sum()
            log = {"ce": ce.item(), "mse": mse.item(), "loss": float(loss)}
            loss.backward()
        check = [q.grad for q in model.parameters()]
        """,
}
