"""A fifth round of healthy programs."""

# ruff: noqa: E501

CASES = {
    "SAC discrete with twin critics in one module, alpha tuned": """
        class Agent(nn.Module):
            def __init__(self):
                super().__init__()
                mk = lambda: nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
                self.pi, self.q1, self.q2 = mk(), mk(), mk()
                self.t1, self.t2 = copy.deepcopy(self.q1), copy.deepcopy(self.q2)
                self.log_alpha = nn.Parameter(torch.zeros(()))
                for p in [*self.t1.parameters(), *self.t2.parameters()]: p.requires_grad_(False)
        model = Agent()
        oq = torch.optim.Adam([*model.q1.parameters(), *model.q2.parameters()]); op = torch.optim.Adam(model.pi.parameters()); oa = torch.optim.Adam([model.log_alpha])
        with trace_gradients(model) as trace:
            for _ in range(2):
                s, a, r, s2 = torch.randn(64, 4), torch.randint(0, 3, (64, 1)), torch.randn(64), torch.randn(64, 4)
                with torch.no_grad():
                    p2 = model.pi(s2).softmax(-1)
                    v2 = (p2 * (torch.min(model.t1(s2), model.t2(s2)) - model.log_alpha.exp() * p2.log())).sum(-1)
                    y = r + 0.99 * v2
                lq = sum(F.mse_loss(q(s).gather(1, a).squeeze(1), y) for q in (model.q1, model.q2))
                oq.zero_grad(); lq.backward(); oq.step()
                logits = model.pi(s); p, logp = logits.softmax(-1), logits.log_softmax(-1)
                with torch.no_grad(): q = torch.min(model.q1(s), model.q2(s))
                lp = (p * (model.log_alpha.exp().detach() * logp - q)).sum(-1).mean()
                op.zero_grad(); lp.backward(); op.step()
                entropy = -(p.detach() * logp.detach()).sum(-1)
                la = (model.log_alpha * (entropy - 0.5)).mean()
                oa.zero_grad(); la.backward(); oa.step()
                with torch.no_grad():
                    for q, t in ((model.q1, model.t1), (model.q2, model.t2)):
                        for a_, b_ in zip(q.parameters(), t.parameters()): b_.lerp_(a_, 0.005)
        check = list(model.parameters())
        """,
    "C51 projection": """
        model = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 2 * 11))
        target = copy.deepcopy(model); z = torch.linspace(-5, 5, 11)
        with trace_gradients(model) as trace:
            s, a, r, s2 = torch.randn(32, 4), torch.randint(0, 2, (32,)), torch.randn(32), torch.randn(32, 4)
            with torch.no_grad():
                p2 = target(s2).view(32, 2, 11).softmax(-1); best = (p2 * z).sum(-1).argmax(1)
                p2 = p2[torch.arange(32), best]
                tz = (r[:, None] + 0.9 * z).clamp(-5, 5); b = (tz + 5) / 1.0; lo, hi = b.floor().long(), b.ceil().long()
                m = torch.zeros(32, 11); off = (torch.arange(32) * 11)[:, None]
                m.view(-1).index_add_(0, (lo + off).view(-1), (p2 * (hi.float() - b + (lo == hi))).view(-1))
                m.view(-1).index_add_(0, (hi + off).view(-1), (p2 * (b - lo.float())).view(-1))
            logp = model(s).view(32, 2, 11).log_softmax(-1)[torch.arange(32), a]
            (-(m * logp).sum(1)).mean().backward()
        check = [p.grad for p in model.parameters()]
        """,
    "swapped assignments with Sinkhorn (SwAV)": """
        enc, proto = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6)), nn.Linear(6, 10, bias=False)
        model = nn.ModuleList([enc, proto]); x = torch.randn(40, 8)
        @torch.no_grad()
        def sinkhorn(s):
            q = torch.exp(s / 0.05).T; q /= q.sum()
            for _ in range(3):
                q /= q.sum(1, keepdim=True); q /= 10; q /= q.sum(0, keepdim=True); q /= 40
            return (q * 40).T
        with trace_gradients(model) as trace:
            with torch.no_grad():
                proto.weight.copy_(F.normalize(proto.weight, dim=1))
            a, b = (proto(F.normalize(enc(x + 0.1 * torch.randn_like(x)), dim=1)) for _ in range(2))
            loss = -0.5 * ((sinkhorn(a) * (b / 0.1).log_softmax(1)).sum(1).mean() + (sinkhorn(b) * (a / 0.1).log_softmax(1)).sum(1).mean())
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    "masked autoencoder": """
        class MAE(nn.Module):
            def __init__(self):
                super().__init__()
                self.e, self.d, self.mask = nn.Linear(6, 8), nn.Linear(8, 6), nn.Parameter(torch.zeros(1, 1, 8))
            def forward(self, x):
                order = torch.rand(len(x), 10).argsort(1); back = order.argsort(1); keep = order[:, :3]
                v = self.e(x.gather(1, keep[..., None].expand(-1, -1, 6)))
                full = torch.cat([v, self.mask.expand(len(x), 7, 8)], 1).gather(1, back[..., None].expand(-1, -1, 8))
                m = torch.ones(len(x), 10); m[:, :3] = 0; m = m.gather(1, back)
                return self.d(full + torch.linspace(0, 1, 10)[None, :, None]), m
        model = MAE(); x = torch.randn(16, 10, 6)
        with trace_gradients(model) as trace:
            out, m = model(x)
            ((((out - x) ** 2).mean(-1) * m).sum() / m.sum()).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "a VAE whose posterior collapses, free bits per dim, cyclical beta 0": """
        enc, dec = nn.Linear(10, 8), nn.Linear(4, 10); model = nn.ModuleList([enc, dec]); opt = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            for beta in (0.0, 0.5):
                x = torch.rand(64, 10); mu, lv = enc(x).chunk(2, 1)
                z = mu + torch.randn_like(mu) * torch.exp(0.5 * lv)
                kl = -0.5 * (1 + lv - mu ** 2 - lv.exp())
                kl = torch.maximum(kl.mean(0), torch.tensor(1.0)).sum()
                loss = F.mse_loss(dec(z), x) + beta * kl
                opt.zero_grad(); loss.backward(); opt.step()
        check = list(model.parameters())
        """,
    "detection: matched boxes, focal, no positives in an image": """
        model = nn.ModuleDict({"b": nn.Conv2d(3, 8, 3, 2, 1), "c": nn.Conv2d(8, 2, 1), "r": nn.Conv2d(8, 4, 1)})
        x = torch.rand(2, 3, 16, 16); gt = torch.tensor([[2., 2., 6., 6.]])
        with trace_gradients(model) as trace:
            h = F.relu(model["b"](x)); cls = model["c"](h).flatten(2).transpose(1, 2); box = model["r"](h).flatten(2).transpose(1, 2).exp()
            loss = 0
            for i in range(2):
                target = torch.zeros(64, dtype=torch.long)
                if i == 0: target[9] = 1
                pos = target == 1
                ce = F.cross_entropy(cls[i], target, reduction="none"); p = torch.exp(-ce)
                loss = loss + ((1 - p) ** 2 * ce).sum() / pos.sum().clamp(min=1)
                loss = loss + F.smooth_l1_loss(box[i][pos], gt.expand(int(pos.sum()), 4), reduction="sum")
            keep = (cls.detach().softmax(-1)[..., 1] > 0.5).sum().item()
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    "multi-task with an uncertain label mask, one task empty": """
        body, heads = nn.Linear(6, 16), nn.ModuleList(nn.Linear(16, 1) for _ in range(3)); model = nn.ModuleList([body, heads])
        x, y = torch.randn(32, 6), torch.randint(0, 2, (32, 3)).float(); mask = torch.ones(32, 3); mask[:, 2] = 0
        with trace_gradients(model) as trace:
            h = torch.tanh(body(x)); out = torch.cat([hd(h) for hd in heads], 1)
            loss = (F.binary_cross_entropy_with_logits(out, y, reduction="none") * mask).sum() / mask.sum()
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    "padding tokens in a bag, max pooling with -inf": """
        model = nn.ModuleList([nn.Embedding(20, 8, padding_idx=0), nn.Linear(16, 2)])
        ids = torch.randint(1, 20, (16, 7)); ids[3:, 4:] = 0
        with trace_gradients(model) as trace:
            e = model[0](ids); m = (ids != 0)[..., None]
            top = e.masked_fill(~m, float("-inf")).max(1).values; mean = (e * m).sum(1) / m.sum(1)
            F.cross_entropy(model[1](torch.cat([top, mean], 1)), torch.randint(0, 2, (16,))).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "score matching by a second derivative, ELU": """
        model = nn.Sequential(nn.Linear(2, 24), nn.ELU(), nn.Linear(24, 2)); x = torch.randn(64, 2, requires_grad=True)
        with trace_gradients(model) as trace:
            s = model(x); v = torch.randn_like(x)
            (g,) = torch.autograd.grad((s * v).sum(), x, create_graph=True)
            ((g * v).sum(1) + 0.5 * (s * v).sum(1) ** 2).mean().backward()
        check = [p.grad for p in model.parameters()]
        """,
    "weights shared, tied and used twice; LayerScale; RMSNorm by hand": """
        class B(nn.Module):
            def __init__(self):
                super().__init__()
                self.w, self.g, self.s = nn.Linear(8, 8), nn.Parameter(torch.ones(8)), nn.Parameter(1e-6 * torch.ones(8))
            def forward(self, x):
                h = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.g
                return x + self.s * F.silu(self.w(h))
        block = B(); emb = nn.Embedding(12, 8); model = nn.ModuleList([block, emb]); ids = torch.randint(0, 12, (6, 5))
        with trace_gradients(model) as trace:
            h = block(block(emb(ids)))
            F.cross_entropy((h @ emb.weight.T)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        check = [p.grad for p in model.parameters()]
        """,
    "imitation by DAgger: argmax actions in the rollout": """
        pi, expert = nn.Sequential(nn.Linear(3, 24), nn.ReLU(), nn.Linear(24, 2)), nn.Linear(3, 2)
        opt = torch.optim.Adam(pi.parameters()); step = torch.eye(2, 3)
        with trace_gradients(pi) as trace:
            for _ in range(2):
                s, xs, ys = torch.randn(16, 3), [], []
                for t in range(4):
                    a = pi(s).argmax(1)
                    xs.append(s); ys.append(expert(s).argmax(1))
                    s = s + 0.1 * step[a]
                loss = F.cross_entropy(pi(torch.cat(xs)), torch.cat(ys))
                opt.zero_grad(); loss.backward(); opt.step()
        check = list(pi.parameters())
        """,
    "differentiable simulation with contact masks": """
        f = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
        with trace_gradients(f) as trace:
            x, v = torch.rand(32, 1), torch.zeros(32, 1)
            for _ in range(10):
                v = v + 0.1 * (f(torch.cat([x, v], 1)) - 1.0)
                x = x + 0.1 * v
                hit = (x < 0).float(); v = v * (1 - 2 * hit); x = torch.where(x < 0, -x, x)
            (x - 0.5).square().mean().backward()
        check = [p.grad for p in f.parameters()]
        """,
    "consistency of two heads, one stop-gradient each way, mutual learning": """
        a, b = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        model = nn.ModuleList([a, b]); oa, ob = torch.optim.SGD(a.parameters(), .1), torch.optim.SGD(b.parameters(), .1)
        with trace_gradients(model) as trace:
            x, y = torch.randn(32, 6), torch.randint(0, 3, (32,)); la, lb = a(x), b(x)
            l1 = F.cross_entropy(la, y) + F.kl_div(la.log_softmax(1), lb.detach().softmax(1), reduction="batchmean")
            l2 = F.cross_entropy(lb, y) + F.kl_div(lb.log_softmax(1), la.detach().softmax(1), reduction="batchmean")
            oa.zero_grad(); l1.backward(); oa.step(); ob.zero_grad(); l2.backward(); ob.step()
        check = list(model.parameters())
        """,
}
