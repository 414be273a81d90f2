"""Programs as people have them, in which nothing is wrong."""

# ruff: noqa: E501

CASES = {
    "attention reference": r"""
        # attention in the style of the published LLaMA reference: additive -inf mask, softmax in float32
        class Attention(nn.Module):
            def __init__(self):
                super().__init__()
                self.q, self.k, self.v, self.o = (nn.Linear(32, 32, bias=False) for _ in range(4))
            def forward(self, x, mask):
                b, t, _ = x.shape
                q, k, v = (f(x).view(b, t, 4, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
                scores = q @ k.transpose(2, 3) / math.sqrt(8)
                scores = scores + mask
                scores = F.softmax(scores.float(), dim=-1).type_as(q)
                return self.o((scores @ v).transpose(1, 2).reshape(b, t, 32))
        model = Attention()
        mask = torch.triu(torch.full((10, 10), float("-inf")), diagonal=1)
        x = torch.randn(4, 10, 32)
        with trace_gradients(model) as trace:
            loss = model(x, mask).square().mean()
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    "resnet": r"""
        class Block(nn.Module):
            def __init__(self, i, o, s):
                super().__init__()
                self.c1, self.b1 = nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o)
                self.c2, self.b2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
                self.short = nn.Sequential(nn.Conv2d(i, o, 1, s, bias=False), nn.BatchNorm2d(o)) if s != 1 or i != o else nn.Identity()
                nn.init.zeros_(self.b2.weight)
            def forward(self, x):
                y = F.relu(self.b1(self.c1(x)), inplace=True)
                return F.relu(self.b2(self.c2(y)) + self.short(x), inplace=True)
        model = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True), Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5)
        with trace_gradients(model) as trace:
            for _ in range(2):
                x, y = torch.randn(32, 3, 16, 16), torch.randint(0, 10, (32,))
                out = model(x)
                loss = F.cross_entropy(out, y, label_smoothing=0.1)
                correct = (out.argmax(1) == y).sum().item()
                top5 = out.topk(5)[1].eq(y[:, None]).any(1).float().mean().item()
                optimizer.zero_grad(); loss.backward(); optimizer.step(); scheduler.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "dqn": r"""
        def q(): return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
        model, target = q(), q()
        target.load_state_dict(model.state_dict())
        optimizer = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            for _ in range(3):
                s, a, r, s2, done = torch.randn(64, 8), torch.randint(0, 4, (64, 1)), torch.randn(64), torch.randn(64, 8), (torch.rand(64) < 0.1).float()
                chosen = model(s).gather(1, a).squeeze(1)
                best = model(s2).argmax(1, keepdim=True)          # double DQN
                nxt = target(s2).gather(1, best).squeeze(1).detach()
                y = r + 0.99 * (1 - done) * nxt
                loss = F.smooth_l1_loss(chosen, y)
                optimizer.zero_grad(); loss.backward()
                for p in model.parameters(): p.grad.data.clamp_(-1, 1)
                optimizer.step()
                for p, t in zip(model.parameters(), target.parameters()): t.data.copy_(0.995 * t.data + 0.005 * p.data)
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "wgan gp": r"""
        G, D = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32)), nn.Sequential(nn.Linear(32, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))
        model = nn.ModuleDict({"G": G, "D": D})
        g, d = torch.optim.Adam(G.parameters(), 1e-4), torch.optim.Adam(D.parameters(), 1e-4)
        with trace_gradients(model) as trace:
            for i in range(3):
                real, fake = torch.randn(64, 32), G(torch.randn(64, 16)).detach()
                eps = torch.rand(64, 1)
                mix = (eps * real + (1 - eps) * fake).requires_grad_(True)
                out = D(mix)
                grad = torch.autograd.grad(out, mix, torch.ones_like(out), create_graph=True, retain_graph=True, only_inputs=True)[0]
                gp = ((grad.norm(2, dim=1) - 1) ** 2).mean()
                ld = D(fake).mean() - D(real).mean() + 10 * gp
                d.zero_grad(); ld.backward(); d.step()
            lg = -D(G(torch.randn(64, 16))).mean()
            g.zero_grad(); lg.backward(); g.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "vqvae ema": r"""
        class VQ(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder, self.decoder = nn.Linear(20, 8), nn.Linear(8, 20)
                self.register_buffer("book", torch.randn(16, 8)); self.register_buffer("n", torch.ones(16)); self.register_buffer("m", self.book.clone())
            def forward(self, x):
                z = self.encoder(x)
                index = torch.cdist(z, self.book).argmin(-1); onehot = F.one_hot(index, 16).type(z.dtype)
                q = F.embedding(index, self.book)
                if self.training:
                    self.n.data.mul_(0.99).add_(onehot.sum(0), alpha=0.01)
                    self.m.data.mul_(0.99).add_(onehot.t() @ z.detach(), alpha=0.01)
                    self.book.data.copy_(self.m / (self.n + 1e-5)[:, None])
                commit = F.mse_loss(z, q.detach())
                return self.decoder(z + (q - z).detach()), 0.25 * commit
        model = VQ(); optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        with trace_gradients(model) as trace:
            for _ in range(2):
                x = torch.rand(64, 20); out, commit = model(x)
                loss = F.mse_loss(out, x) + commit
                optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "byol": r"""
        online = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32)); predictor = nn.Linear(32, 32)
        target = copy.deepcopy(online)
        for p in target.parameters(): p.requires_grad = False
        model = nn.ModuleDict({"online": online, "predictor": predictor, "target": target})
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
        with trace_gradients(model) as trace:
            for _ in range(2):
                x = torch.randn(64, 32); a, b = x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)
                p = F.normalize(predictor(online(a)), dim=-1)
                with torch.no_grad(): t = F.normalize(target(b), dim=-1).detach()
                loss = (2 - 2 * (p * t).sum(-1)).mean()
                optimizer.zero_grad(); loss.backward(); optimizer.step()
                for o, m in zip(online.parameters(), target.parameters()): m.data = 0.99 * m.data + 0.01 * o.data
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "maml func": r"""
        from torch.func import functional_call, grad, vmap
        model = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 1)); optimizer = torch.optim.Adam(model.parameters())
        def inner_loss(params, x, y): return F.mse_loss(functional_call(model, params, (x,)), y)
        def task(params, x, y, x2, y2):
            g = grad(inner_loss)(params, x, y)
            fast = {k: params[k] - 0.1 * g[k] for k in g}
            return inner_loss(fast, x2, y2)
        with trace_gradients(model) as trace:
            params = dict(model.named_parameters())
            x, y = torch.randn(4, 10, 1), torch.randn(4, 10, 1)
            losses = vmap(lambda a, b, c, d: task(params, a, b, c, d))(x, y, x + 1, y)
            loss = losses.mean()
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "fomaml": r"""
        # first-order MAML, on purpose without create_graph
        model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 3)); optimizer = torch.optim.Adam(model.parameters())
        from torch.func import functional_call
        with trace_gradients(model) as trace:
            x, y = torch.randn(20, 4), torch.randint(0, 3, (20,))
            fast = dict(model.named_parameters())
            inner = F.cross_entropy(functional_call(model, fast, (x[:10],)), y[:10])
            grads = torch.autograd.grad(inner, list(fast.values()))
            fast = {k: w - 0.1 * g for (k, w), g in zip(fast.items(), grads)}
            outer = F.cross_entropy(functional_call(model, fast, (x[10:],)), y[10:])
            optimizer.zero_grad(); outer.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "lstm tbptt": r"""
        class LM(nn.Module):
            def __init__(self):
                super().__init__()
                self.e, self.r, self.d, self.o = nn.Embedding(50, 32, padding_idx=0), nn.LSTM(32, 64, 2, dropout=0.2, batch_first=True), nn.Dropout(0.2), nn.Linear(64, 50)
            def forward(self, x, h): y, h = self.r(self.d(self.e(x)), h); return self.o(self.d(y)), h
        model = LM(); optimizer = torch.optim.SGD(model.parameters(), 1.0)
        text = torch.randint(1, 50, (8, 61)); text[0, 50:] = 0
        with trace_gradients(model) as trace:
            h, total = None, 0.0
            for i in range(0, 60, 20):
                if h is not None: h = tuple(v.detach() for v in h)
                out, h = model(text[:, i:i + 20], h)
                loss = F.cross_entropy(out.reshape(-1, 50), text[:, i + 1:i + 21].reshape(-1), ignore_index=0)
                optimizer.zero_grad(); loss.backward(); nn.utils.clip_grad_norm_(model.parameters(), 0.25); optimizer.step()
                total += loss.item()
            perplexity = math.exp(total / 3)
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "accumulation": r"""
        model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)); optimizer = torch.optim.Adam(model.parameters())
        running = 0.0
        with trace_gradients(model) as trace:
            for i in range(8):
                x, y = torch.randn(64, 32), torch.randint(0, 10, (64,))
                loss = F.cross_entropy(model(x), y) / 4
                loss.backward(); running += loss.detach() * 4
                if (i + 1) % 4 == 0: optimizer.step(); optimizer.zero_grad()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "losses metrics": r"""
        class Multi(nn.Module):
            def __init__(self):
                super().__init__()
                self.body, self.a, self.b = nn.Sequential(nn.Linear(12, 64), nn.ReLU()), nn.Linear(64, 5), nn.Linear(64, 1); self.s = nn.Parameter(torch.zeros(2))
            def forward(self, x): h = self.body(x); return self.a(h), self.b(h).squeeze(-1)
        model = Multi(); optimizer = torch.optim.Adam(model.parameters()); log = {"ce": 0.0, "mse": 0.0, "acc": [], "f1": []}
        with trace_gradients(model) as trace:
            for _ in range(3):
                x, y, r = torch.randn(64, 12), torch.randint(0, 5, (64,)), torch.randn(64)
                a, b = model(x); ce, mse = F.cross_entropy(a, y), F.mse_loss(b, r)
                focal = ((1 - torch.exp(-F.cross_entropy(a, y, reduction="none"))) ** 2 * F.cross_entropy(a, y, reduction="none")).mean()
                loss = torch.exp(-self_s[0]) * ce + torch.exp(-self_s[1]) * mse + self_s.sum() + 0.1 * focal if (self_s := model.s) is not None else None
                pred = a.argmax(1); acc = (pred == y).float().mean(); log["acc"].append(acc.item()); log["ce"] += ce.item(); log["mse"] += float(mse)
                cm = torch.zeros(5, 5); cm.index_put_((y, pred), torch.ones(64), accumulate=True); r2 = 1 - ((b - r) ** 2).sum() / ((r - r.mean()) ** 2).sum(); r2.item()
                corr = np.corrcoef(b.detach().numpy(), r.numpy())[0, 1]
                print(f"{loss.item():.3f} {acc:.2f} {ce:.3f}")
                optimizer.zero_grad(); loss.backward()
                norm = sum(p.grad.norm().item() ** 2 for p in model.parameters()) ** 0.5
                optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "sac": r"""
        def mlp(i, o): return nn.Sequential(nn.Linear(i, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, o))
        pi, q1, q2 = mlp(6, 4), mlp(8, 1), mlp(8, 1); t1, t2 = copy.deepcopy(q1), copy.deepcopy(q2); log_alpha = nn.Parameter(torch.zeros(()))
        model = nn.ModuleDict({"pi": pi, "q1": q1, "q2": q2})
        po, qo, ao = torch.optim.Adam(pi.parameters(), 3e-4), torch.optim.Adam([*q1.parameters(), *q2.parameters()], 3e-4), torch.optim.Adam([log_alpha], 3e-4)
        def act(o):
            mu, ls = pi(o).chunk(2, -1); ls = torch.clamp(ls, -20, 2); d = torch.distributions.Normal(mu, ls.exp()); u = d.rsample(); a = torch.tanh(u)
            return a, (d.log_prob(u) - torch.log(1 - a.pow(2) + 1e-6)).sum(-1)
        with trace_gradients(model) as trace:
            for _ in range(2):
                s, a, r, s2 = torch.randn(64, 6), torch.rand(64, 2) * 2 - 1, torch.randn(64), torch.randn(64, 6)
                with torch.no_grad():
                    a2, lp2 = act(s2); x2 = torch.cat([s2, a2], -1); y = r + 0.99 * (torch.min(t1(x2), t2(x2)).squeeze(-1) - log_alpha.exp() * lp2)
                x = torch.cat([s, a], -1); lq = F.mse_loss(q1(x).squeeze(-1), y) + F.mse_loss(q2(x).squeeze(-1), y)
                qo.zero_grad(); lq.backward(); qo.step()
                for p in q1.parameters(): p.requires_grad = False
                an, lp = act(s); xn = torch.cat([s, an], -1); lpi = (log_alpha.exp().detach() * lp - torch.min(q1(xn), q2(xn)).squeeze(-1)).mean()
                po.zero_grad(); lpi.backward(); po.step()
                for p in q1.parameters(): p.requires_grad = True
                la = -(log_alpha * (lp + -2).detach()).mean(); ao.zero_grad(); la.backward(); ao.step()
                for q, t in ((q1, t1), (q2, t2)):
                    for p, m in zip(q.parameters(), t.parameters()): m.data.mul_(0.995).add_(0.005 * p.data)
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "triplet mining": r"""
        model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 8)); optimizer = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            for _ in range(3):
                x, y = torch.randn(64, 16), torch.randint(0, 8, (64,))
                z = F.normalize(model(x), dim=1); d = torch.cdist(z, z); same = y[:, None] == y[None]
                hardest = (d * same).max(1)[0]; closest = (d + 10 * same).min(1)[0]
                loss = F.relu(hardest - closest + 0.2).mean()
                fraction = (hardest - closest + 0.2 > 0).float().mean()
                optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "distillation": r"""
        teacher, model = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 5)).eval(), nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5)); optimizer = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            for _ in range(2):
                x, y = torch.randn(64, 16), torch.randint(0, 5, (64,))
                with torch.no_grad(): t = teacher(x)
                s = model(x)
                loss = 0.5 * F.cross_entropy(s, y) + 0.5 * 16 * F.kl_div(F.log_softmax(s / 4, 1), F.softmax(t / 4, 1), reduction="batchmean")
                agreement = (s.argmax(1) == t.argmax(1)).float().mean().item()
                optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "crf ctc": r"""
        model = nn.LSTM(8, 16, batch_first=True, bidirectional=True); head = nn.Linear(32, 6); trans = nn.Parameter(torch.randn(6, 6)); trans.data[0] = -1e4
        with trace_gradients(model) as trace:
            x = torch.randn(4, 20, 8); e = head(model(x)[0])
            ctc = F.ctc_loss(e.log_softmax(-1).transpose(0, 1), torch.randint(1, 6, (4, 7)), torch.full((4,), 20), torch.full((4,), 7), zero_infinity=True)
            alpha = torch.full((4, 6), -1e4); alpha[:, 1] = 0.0
            for t in range(20): alpha = torch.logsumexp(alpha[:, :, None] + trans[None] + e[:, t][:, None], 1)
            tags = torch.randint(1, 6, (4, 20)); gold = e.gather(2, tags[..., None]).squeeze(-1).sum(1) + trans[tags[:, :-1], tags[:, 1:]].sum(1)
            loss = ctc + (torch.logsumexp(alpha, 1) - gold).mean()
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    "gnn": r"""
        model = nn.ModuleList([nn.Linear(8, 32), nn.Linear(32, 4), nn.Linear(64, 1)]); edge = torch.randint(0, 50, (2, 200)); optimizer = torch.optim.Adam(model.parameters())
        def conv(h):
            a = F.leaky_relu(model[2](torch.cat([h[edge[0]], h[edge[1]]], -1)).squeeze(-1), 0.2)
            m = torch.full((50,), float("-inf")).scatter_reduce(0, edge[1], a, "amax"); w = (a - m[edge[1]]).exp(); s = torch.zeros(50).index_add(0, edge[1], w)
            return torch.zeros(50, h.shape[1]).index_add(0, edge[1], h[edge[0]] * (w / (s[edge[1]] + 1e-16))[:, None])
        with trace_gradients(model) as trace:
            for _ in range(2):
                x, y, train = torch.randn(50, 8), torch.randint(0, 4, (50,)), torch.rand(50) > 0.5
                h = F.dropout(F.relu(conv(model[0](x))), 0.5); out = model[1](h)
                loss = F.cross_entropy(out[train], y[train]); acc = (out.argmax(1) == y)[~train].float().mean().item()
                optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "qat ste": r"""
        class Quant(nn.Module):
            def __init__(self):
                super().__init__()
                self.w, self.s = nn.Parameter(torch.randn(16, 8) * 0.2), nn.Parameter(torch.tensor(0.05))
            def forward(self, x):
                g = 1 / math.sqrt(self.w.numel() * 7); s = (self.s - self.s * g).detach() + self.s * g     # LSQ gradient scale
                v = (self.w / s).clamp(-8, 7); q = (v.round() - v).detach() + v
                return F.linear(x, q * s)
        model = nn.Sequential(Quant(), nn.ReLU(), nn.Linear(16, 3)); optimizer = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            for _ in range(2):
                x, y = torch.randn(64, 8), torch.randint(0, 3, (64,)); loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "weightnorm spectral prune": r"""
        from torch.nn.utils.parametrizations import spectral_norm, weight_norm, orthogonal
        from torch.nn.utils import prune
        model = nn.Sequential(weight_norm(nn.Linear(16, 32)), nn.ReLU(), spectral_norm(nn.Linear(32, 32)), nn.ReLU(), orthogonal(nn.Linear(32, 32)), nn.Linear(32, 3)); prune.l1_unstructured(model[5], "weight", 0.5)
        optimizer = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            for _ in range(2):
                x, y = torch.randn(64, 16), torch.randint(0, 3, (64,)); loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "lbfgs closure": r"""
        model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)); optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5, line_search_fn="strong_wolfe")
        x = torch.rand(64, 2, requires_grad=True)
        with trace_gradients(model) as trace:
            def closure():
                optimizer.zero_grad(); u = model(x); g = torch.autograd.grad(u.sum(), x, create_graph=True)[0]; uxx = torch.autograd.grad(g[:, 0].sum(), x, create_graph=True)[0][:, 0]
                loss = (g[:, 1] - 0.1 * uxx).square().mean() + (u - x[:, :1].detach()).square().mean(); loss.backward(); return loss
            optimizer.step(closure)
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "grpo": r"""
        model, ref = nn.Sequential(nn.Embedding(30, 32), nn.Linear(32, 30)), nn.Sequential(nn.Embedding(30, 32), nn.Linear(32, 30)); optimizer = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            ids = torch.randint(0, 30, (8, 12)); rewards = torch.randn(8)
            logp = F.log_softmax(model(ids[:, :-1]), -1).gather(2, ids[:, 1:, None]).squeeze(-1)
            with torch.no_grad(): rlogp = F.log_softmax(ref(ids[:, :-1]), -1).gather(2, ids[:, 1:, None]).squeeze(-1)
            adv = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
            kl = torch.exp(rlogp - logp) - (rlogp - logp) - 1
            per = torch.exp(logp - logp.detach()) * adv[:, None]; mask = (ids[:, 1:] != 0).int()
            loss = (-(per - 0.04 * kl) * mask).sum(1).div(mask.sum(1)).mean()
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "vicreg": r"""
        model = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.Tanh(), nn.Linear(64, 8)); model[3].weight.data.mul_(6); optimizer = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            x = torch.randn(128, 16); a, b = model(x + 0.1 * torch.randn_like(x)), model(x + 0.1 * torch.randn_like(x))
            sa, sb = torch.sqrt(a.var(0) + 1e-4), torch.sqrt(b.var(0) + 1e-4)
            std = F.relu(1 - sa).mean() / 2 + F.relu(1 - sb).mean() / 2
            ca = ((a - a.mean(0)).T @ (a - a.mean(0)) / 127).fill_diagonal_(0).pow(2).sum() / 8
            loss = 25 * F.mse_loss(a, b) + 25 * std + ca
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "fno complex": r"""
        class Spectral(nn.Module):
            def __init__(self): super().__init__(); self.w, self.l = nn.Parameter(torch.randn(8, 8, 6, dtype=torch.cfloat) / 8), nn.Conv1d(8, 8, 1)
            def forward(self, x):
                f = torch.fft.rfft(x); out = torch.zeros_like(f); out[..., :6] = torch.einsum("bim,iom->bom", f[..., :6], self.w)
                return torch.fft.irfft(out, n=x.shape[-1]) + self.l(x)
        model = nn.Sequential(nn.Conv1d(1, 8, 1), Spectral(), nn.GELU(), Spectral(), nn.Conv1d(8, 1, 1)); optimizer = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            x = torch.randn(8, 1, 32); loss = (model(x) - x.roll(1, -1)).norm(dim=-1).div(x.norm(dim=-1)).mean()
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "jit traced": r"""
        model = torch.jit.trace(nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)), torch.randn(2, 6)); optimizer = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            x, y = torch.randn(64, 6), torch.randint(0, 3, (64,)); loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "deq": r"""
        class DEQ(nn.Module):
            def __init__(self): super().__init__(); self.w, self.u = nn.Linear(8, 8), nn.Linear(6, 8); self.w.weight.data.mul_(0.3)
            def f(self, z, x): return torch.tanh(self.w(z) + self.u(x))
            def forward(self, x):
                with torch.no_grad():
                    z = torch.zeros(x.shape[0], 8)
                    for _ in range(20): z = self.f(z, x)
                return self.f(z, x)
        model = nn.ModuleList([DEQ(), nn.Linear(8, 3)]); optimizer = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            x, y = torch.randn(64, 6), torch.randint(0, 3, (64,)); loss = F.cross_entropy(model[1](model[0](x)), y)
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "residual vq": r"""
        encoder, decoder = nn.Linear(20, 8), nn.Linear(8, 20); books = nn.ParameterList(nn.Parameter(torch.randn(16, 8) * 0.3) for _ in range(3)); model = nn.ModuleList([encoder, decoder, books]); optimizer = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            for _ in range(2):
                x = torch.rand(64, 20); z = encoder(x); r, q, c = z, 0.0, 0.0
                for b in books:
                    code = b[torch.cdist(r.detach(), b).argmin(-1)]; c = c + F.mse_loss(code, r.detach()) + 0.25 * F.mse_loss(r, code.detach()); q = q + code.detach(); r = r - code.detach()
                q = z + (q - z).detach(); loss = F.mse_loss(decoder(q), x) + c
                optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "scheduled sampling": r"""
        model = nn.ModuleDict({"e": nn.Embedding(20, 16), "c": nn.GRUCell(16, 32), "o": nn.Linear(32, 20)}); optimizer = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            y = torch.randint(0, 20, (32, 10)); h, tok, loss = torch.zeros(32, 32), y[:, 0], 0
            for t in range(1, 10):
                h = model["c"](model["e"](tok), h); out = model["o"](h); loss = loss + F.cross_entropy(out, y[:, t])
                tok = torch.where(torch.rand(32) < 0.5, y[:, t], out.argmax(-1))
            loss = loss / 9
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "self paced": r"""
        model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 5)); optimizer = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            x, y = torch.randn(128, 16), torch.randint(0, 5, (128,)); each = F.cross_entropy(model(x), y, reduction="none")
            keep = (each < each.detach().quantile(0.7)).float(); hard = each[each > each.detach().median()]
            loss = (each * keep).sum() / keep.sum() + hard.mean() + each.topk(10)[0].mean()
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "hard sigmoid mobilenet": r"""
        class SE(nn.Module):
            def __init__(self, c): super().__init__(); self.a, self.b = nn.Conv2d(c, c // 4, 1), nn.Conv2d(c // 4, c, 1)
            def forward(self, x): return x * F.hardsigmoid(self.b(F.relu(self.a(x.mean((2, 3), keepdim=True)))))
        model = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Hardswish(), SE(16), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU6(), SE(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)); optimizer = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            x, y = torch.randn(64, 3, 16, 16), torch.randint(0, 5, (64,)); loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    "log barrier inf masked": r"""
        # topk pruning of logits to -inf before sampling and a masked loss: -inf on purpose
        model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 20)); optimizer = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            ids = torch.randint(0, 20, (8, 10)); logits = model(ids); allowed = torch.ones(20, dtype=torch.bool); allowed[3] = False
            logits = logits.masked_fill(~allowed, float("-inf")).reshape(-1, 20).float()
            target = ids.roll(-1, 1).reshape(-1); target[target == 3] = -100
            loss = F.cross_entropy(logits, target, ignore_index=-100)
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
}
