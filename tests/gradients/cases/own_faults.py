"""Faults of the kinds that are reported most, in programs of our own.

A line that ends in `#! kind` is to be named; `#= kind` marks a second line that is right as well.
"""

# ruff: noqa: E501

CASES = {
    # gradients that are not recorded
    "no_grad around a penalty of a layer": """
        layer = nn.Linear(8, 8)
        model = nn.Sequential(nn.Linear(8, 8), layer)
        x = torch.randn(40, 8)
        with trace_gradients(model) as trace:
            y = model(x)
            with torch.no_grad():
                penalty = layer(y).abs().mean()  #! cut
            loss = (y - x).square().mean() + 0.1 * penalty
            loss.backward()
        """,
    "no_grad around the whole forward, in a training function": """
        model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ELU(), nn.Flatten(), nn.Linear(32, 2))
        x, y = torch.randn(20, 2, 10), torch.randint(0, 2, (20,))
        def predict(batch):
            with torch.no_grad():
                return model(batch)  #! cut
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            out = predict(x)
            F.cross_entropy(out, y).backward()
        """,
    "inference_mode as a decorator of the encoder": """
        class Autoencoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.down, self.up = nn.Linear(12, 3), nn.Linear(3, 12)
            @torch.inference_mode()
            def encode(self, x):
                return torch.tanh(self.down(x))  #! cut
            def forward(self, x):
                return self.up(self.encode(x).clone())
        model = Autoencoder()
        x = torch.rand(50, 12)
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            loss = F.mse_loss(model(x), x)
            loss.backward()
        """,
    "set_grad_enabled(is_train) with the wrong flag": """
        model = nn.Sequential(nn.Linear(5, 9), nn.SiLU(), nn.Linear(9, 1))
        x, y = torch.randn(33, 5), torch.randn(33, 1)
        phase = "Train"
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            with torch.set_grad_enabled(phase == "train"):
                out = model(x)  #! cut
                loss = F.mse_loss(out, y)
            loss.backward()
        """,
    "a grad mode left off by a function that returns early": """
        model = nn.Linear(4, 2)
        x, y = torch.randn(32, 4), torch.randint(0, 2, (32,))
        def evaluate():
            torch.set_grad_enabled(False)
            if model(x).argmax(1).eq(y).all():
                torch.set_grad_enabled(True)
        try:
            with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
                evaluate()
                loss = F.cross_entropy(model(x), y)  #! cut
                loss.backward()
        finally:
            torch.set_grad_enabled(True)
        """,
    "the backbone in no_grad, only the head learns": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
                self.head = nn.Linear(16, 3)
            def forward(self, x):
                with torch.no_grad():
                    h = self.backbone(x)  #! cut
                return self.head(h.flatten(1))
        model = Net()
        adam = torch.optim.Adam(model.parameters())
        with trace_gradients(model) as trace:
            for _ in range(2):
                x, y = torch.randn(16, 1, 9, 9), torch.randint(0, 3, (16,))
                loss = F.cross_entropy(model(x), y)
                adam.zero_grad()
                loss.backward()
                adam.step()
        """,
    # cuts in front of a layer that is trained
    "features detached between two parts": """
        encoder, decoder = nn.GRU(3, 6, batch_first=True), nn.Linear(6, 3)
        model = nn.ModuleList([encoder, decoder])
        x = torch.randn(10, 7, 3)
        with trace_gradients(model) as trace:
            code = encoder(x)[0]
            loss = F.mse_loss(decoder(code.detach()), x)  #! cut
            loss.backward()
        """,
    "binary code without a slope": """
        model = nn.ModuleDict({"enc": nn.Linear(10, 6), "dec": nn.Linear(6, 10)})
        x = torch.randn(64, 10)
        with trace_gradients(model) as trace:
            logits = model["enc"](x)
            bits = (logits > 0).float()  #! cut
            loss = F.mse_loss(model["dec"](bits), x)
            loss.backward()
        """,
    "hard attention by argmax": """
        class Pointer(nn.Module):
            def __init__(self):
                super().__init__()
                self.score, self.read = nn.Linear(5, 1), nn.Linear(5, 2)
            def forward(self, items):
                where = self.score(items).squeeze(-1).argmax(1)  #! cut
                return self.read(items[torch.arange(len(items)), where])
        model = Pointer()
        x, y = torch.randn(40, 6, 5), torch.randint(0, 2, (40,))
        with trace_gradients(model) as trace:
            F.cross_entropy(model(x), y).backward()
        """,
    "vector quantiser without straight-through": """
        model = nn.ModuleDict({"enc": nn.Linear(9, 4), "dec": nn.Linear(4, 9)})
        book = torch.randn(12, 4)
        x = torch.rand(64, 9)
        with trace_gradients(model) as trace:
            z = model["enc"](x)
            index = torch.cdist(z, book).argmin(1)  #! cut
            loss = F.mse_loss(model["dec"](book[index]), x)
            loss.backward()
        """,
    "top-k mask is all that passes": """
        model = nn.ModuleDict({"gate": nn.Linear(6, 8), "out": nn.Linear(8, 2)})
        x, y = torch.randn(32, 6), torch.randint(0, 2, (32,))
        with trace_gradients(model) as trace:
            where = model["gate"](x).topk(3, dim=1).indices  #! cut
            hot = torch.zeros(32, 8).scatter_(1, where, 1.0)
            F.cross_entropy(model["out"](hot), y).backward()
        """,
    "straight-through with the detach on the wrong half": """
        model = nn.ModuleDict({"enc": nn.Linear(8, 5), "dec": nn.Linear(5, 8)})
        x = torch.rand(64, 8)
        with trace_gradients(model) as trace:
            soft = torch.sigmoid(model["enc"](x))
            hard = (soft > 0.5).float()  #= cut
            code = hard - soft.detach() + soft.detach()  #! cut
            F.mse_loss(model["dec"](code), x).backward()
        """,
    "straight-through rounding without a detach": """
        model = nn.ModuleDict({"enc": nn.Linear(8, 5), "dec": nn.Linear(5, 8)})
        x = torch.rand(64, 8)
        with trace_gradients(model) as trace:
            z = 4 * model["enc"](x)
            code = z + (z.round() - z)  #! zeroed
            F.mse_loss(model["dec"](code), x).backward()
        """,
    # numbers
    "the sum of .item() is the loss": """
        model = nn.Linear(7, 1)
        x, y = torch.randn(48, 7), torch.randn(48, 1)
        with trace_gradients(model) as trace:
            total = 0.0
            for a, b in zip(x.split(12), y.split(12)):
                total += F.mse_loss(model(a), b).item()  #! cut
            loss = torch.tensor(total / 4, requires_grad=True)
            loss.backward()
        """,
    "math.exp of a tensor": """
        log_scale = nn.Parameter(torch.tensor(0.3))
        model = nn.Linear(4, 1)
        x, y = torch.randn(32, 4), torch.randn(32, 1)
        with trace_gradients(nn.ParameterList([log_scale, *model.parameters()])) as trace:
            scale = math.exp(log_scale)  #! cut
            loss = (model(x) - y).square().mean() / scale + scale
            loss.backward()
        """,
    "float() of a penalty": """
        model = nn.Sequential(nn.Linear(6, 12), nn.Sigmoid(), nn.Linear(12, 6))
        x = torch.rand(32, 6)
        with trace_gradients(model) as trace:
            code = model[:2](x)
            loss = F.mse_loss(model[2](code), x) + 0.01 * float(code.abs().mean())  #! cut
            loss.backward()
        """,
    "statistics of the code by NumPy": """
        model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 6))
        x = torch.rand(32, 6)
        with trace_gradients(model) as trace:
            code = model[:2](x)
            skew = np.abs(np.corrcoef(code.T.detach().numpy()) - np.eye(4)).mean()  #! cut
            loss = F.mse_loss(model[2](code), x) + torch.tensor(skew, dtype=torch.float32)
            loss.backward()
        """,
    "FloatTensor of losses": """
        model = nn.Linear(5, 3)
        x, y = torch.randn(40, 5), torch.randint(0, 3, (40,))
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            parts = [F.cross_entropy(model(a), b) for a, b in zip(x.split(20), y.split(20))]
            loss = torch.FloatTensor([parts[0], parts[1]]).mean()  #! cut
            loss.backward()
        """,
    "a loss through tolist": """
        model = nn.Linear(5, 1)
        x = torch.randn(16, 5)
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            scores = model(x).squeeze(1).tolist()  #! cut
            margin = [max(0.0, 1 - s) for s in scores]
            loss = torch.tensor(margin, requires_grad=True).mean()
            loss.backward()
        """,
    # cuts inside torch
    "weights of a hypernetwork as nn.Parameter": """
        class Hyper(nn.Module):
            def __init__(self):
                super().__init__()
                self.make = nn.Linear(3, 20)
            def forward(self, task, x):
                weight = nn.Parameter(self.make(task).view(4, 5))  #! cut
                return F.linear(x, weight)
        model = Hyper()
        with trace_gradients(model) as trace:
            model(torch.randn(3), torch.randn(32, 5)).square().mean().backward()
        """,
    "Variable around a result": """
        from torch.autograd import Variable
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh())
        head = nn.Linear(8, 1)
        both = nn.ModuleList([model, head])
        x = torch.randn(32, 5)
        with trace_gradients(both) as trace:
            h = model(x)
            h = Variable(h, requires_grad=True)  #! cut
            head(h).square().mean().backward()
        """,
    "vector_to_parameters": """
        from torch.nn.utils import vector_to_parameters
        main, make = nn.Linear(4, 3), nn.Linear(2, 15)
        model = nn.ModuleList([main, make])
        x = torch.randn(32, 4)
        with trace_gradients(model) as trace:
            vector = make(torch.randn(2))
            vector_to_parameters(vector, main.parameters())  #! cut
            main(x).square().mean().backward()
        """,
    "weight.data = ...": """
        main, make = nn.Linear(4, 3, bias=False), nn.Linear(2, 12)
        model = nn.ModuleList([main, make])
        x = torch.randn(32, 4)
        with trace_gradients(model) as trace:
            main.weight.data = make(torch.randn(2)).view(3, 4)  #! cut
            main(x).square().mean().backward()
        """,
    "copy_ into a weight under no_grad": """
        main, make = nn.Linear(4, 3, bias=False), nn.Linear(2, 12)
        model = nn.ModuleList([main, make])
        x = torch.randn(32, 4)
        with trace_gradients(model) as trace:
            generated = make(torch.randn(2)).view(3, 4)
            with torch.no_grad():
                main.weight.copy_(generated)  #! cut
            main(x).square().mean().backward()
        """,
    "state_dict for a step of gradient descent": """
        from torch.func import functional_call
        model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
        x, y = torch.randn(20, 3), torch.randn(20, 1)
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            weights = model.state_dict()  #! cut
            fast = {k: 0.9 * v for k, v in weights.items()}
            loss = F.mse_loss(functional_call(model, fast, (x,)), y)
            loss.backward()
        """,
    "Beta.sample in place of rsample": """
        model = nn.ModuleDict({"q": nn.Linear(6, 2), "p": nn.Linear(1, 6)})
        x = torch.rand(50, 6)
        with trace_gradients(model) as trace:
            a, b = F.softplus(model["q"](x)).chunk(2, 1)
            q = torch.distributions.Beta(a + 0.1, b + 0.1)
            z = q.sample()  #! cut
            kl = torch.distributions.kl_divergence(q, torch.distributions.Beta(1.0, 1.0)).mean()
            loss = F.mse_loss(model["p"](z), x) + 0.01 * kl
            loss.backward()
        """,
    "a reward of sampled actions, no log_prob": """
        model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
        obs = torch.randn(50, 4)
        table = torch.tensor([0.1, 0.7, 0.2])
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            action = torch.distributions.Categorical(logits=model(obs)).sample()  #! cut
            loss = -table[action].mean()
            loss.backward()
        """,
    "multinomial draw re-embedded": """
        model = nn.ModuleDict({"g": nn.Linear(6, 9), "d": nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 1))})
        with trace_gradients(model) as trace:
            p = model["g"](torch.randn(32, 6)).softmax(-1)
            token = torch.multinomial(p, 1).squeeze(1)  #! cut
            F.softplus(-model["d"](token)).mean().backward()
        """,
    "a reentrant checkpoint of data": """
        from torch.utils.checkpoint import checkpoint
        block, head = nn.Sequential(nn.Linear(5, 9), nn.Tanh()), nn.Linear(9, 2)
        model = nn.ModuleList([block, head])
        x, y = torch.randn(32, 5), torch.randint(0, 2, (32,))
        with trace_gradients(model) as trace:
            h = checkpoint(block, x, use_reentrant=True)  #! cut
            F.cross_entropy(head(h), y).backward()
        """,
    "aten called directly": """
        model = nn.Linear(6, 6)
        x = torch.rand(32, 6)
        with trace_gradients(model) as trace:
            y = model(x)
            rate = torch.ops.aten.gt.Scalar(y, 0.0).float().mean()  #! cut
            (F.mse_loss(y, x) + (rate - 0.1).square()).backward()
        """,
    "a custom Function whose backward returns None": """
        class Quantise(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return torch.round(x * 8) / 8
            @staticmethod
            def backward(ctx, g):
                return None
        model = nn.ModuleDict({"enc": nn.Linear(6, 4), "dec": nn.Linear(4, 6)})
        x = torch.rand(32, 6)
        with trace_gradients(model) as trace:
            code = Quantise.apply(model["enc"](x))  #! cut
            F.mse_loss(model["dec"](code), x).backward()
        """,
    "a scripted module with a threshold": """
        import importlib.util, pathlib, tempfile
        file = pathlib.Path(tempfile.mkdtemp()) / "scripted_count.py"
        file.write_text(chr(10).join([
            "import torch",
            "class Count(torch.nn.Module):",
            "    def forward(self, code):",
            "        return (code > 0.5).to(code.dtype).mean()",
        ]))
        spec = importlib.util.spec_from_file_location("scripted_count", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        count = torch.jit.script(module.Count())
        model = nn.Sequential(nn.Linear(5, 7), nn.Sigmoid(), nn.Linear(7, 5))
        x = torch.rand(32, 5)
        with trace_gradients(model) as trace:
            code = model[:2](x)
            rate = count(code)  #! cut
            loss = F.mse_loss(model[2](code), x) + 0.1 * rate
            loss.backward()
        """,
    "a gather of one process": """
        import socket
        import torch.distributed as dist
        store = dist.HashStore()
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        model = nn.Linear(6, 4)
        x = torch.randn(16, 6)
        try:
            with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
                z = F.normalize(model(x), dim=1)
                gathered = [torch.zeros_like(z) for _ in range(dist.get_world_size())]
                dist.all_gather(gathered, z)  #! cut
                every = torch.cat(gathered)
                loss = F.cross_entropy(every @ every.T, torch.arange(16))
                loss.backward()
        finally:
            dist.destroy_process_group()
        """,
    # derivatives without a graph
    "R1 penalty without create_graph": """
        model = nn.Sequential(nn.Linear(6, 12), nn.Softplus(), nn.Linear(12, 1))
        real = torch.randn(32, 6, requires_grad=True)
        with trace_gradients(model) as trace:
            score = model(real)
            (slope,) = torch.autograd.grad(score.sum(), real, retain_graph=True)  #! cut
            loss = F.softplus(-score).mean() + 5 * slope.square().sum(1).mean()
            loss.backward()
        """,
    "a gradient penalty from .grad": """
        model = nn.Sequential(nn.Linear(6, 12), nn.Softplus(), nn.Linear(12, 1))
        real = torch.randn(32, 6, requires_grad=True)
        with trace_gradients(model) as trace:
            score = model(real)
            score.sum().backward(retain_graph=True)
            penalty = real.grad.square().sum(1).mean()  #! cut
            loss = F.softplus(-score).mean() + penalty
            loss.backward()
        """,
    "hessian without create_graph": """
        scale = nn.Parameter(torch.tensor(1.5))
        point = torch.randn(3)
        with trace_gradients(nn.ParameterList([scale])) as trace:
            curvature = torch.autograd.functional.hessian(lambda p: (scale * p.sin()).sum(), point)  #! cut
            loss = scale.square() + curvature.diagonal().square().sum()
            loss.backward()
        """,
    # hooks
    "a hook that keeps numbers": """
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6))
        kept = {}
        def keep(module, args, out):
            kept["code"] = out.data  #! cut
        model[1].register_forward_hook(keep)
        x = torch.rand(32, 6)
        with trace_gradients(model) as trace:
            loss = F.mse_loss(model(x), x) + kept["code"].abs().mean()
            loss.backward()
        """,
    # zeros
    "nearest grid_sample": """
        model = nn.Linear(4, 6)
        image, y = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
        with trace_gradients(model) as trace:
            theta = model(torch.randn(16, 4)).view(-1, 2, 3)
            grid = F.affine_grid(theta, (16, 1, 8, 8), align_corners=False)
            warped = F.grid_sample(image, grid, mode="nearest", align_corners=False)  #! zeroed
            F.mse_loss(warped, y).backward()
        """,
    "division with rounding": """
        model = nn.ModuleDict({"a": nn.Linear(5, 4), "b": nn.Linear(4, 1)})
        x, y = torch.randn(32, 5), torch.randn(32, 1)
        with trace_gradients(model) as trace:
            level = torch.div(model["a"](x), 0.25, rounding_mode="floor")  #! zeroed
            F.mse_loss(model["b"](level), y).backward()
        """,
    "maximum with a constant that always wins": """
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
        x, y = torch.randn(32, 5), torch.rand(32, 1)
        with trace_gradients(model) as trace:
            width = torch.maximum(model(x), torch.tensor(10.0))  #! zeroed
            F.mse_loss(width.log(), y).backward()
        """,
    "one class": """
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
        x, y = torch.randn(32, 5), torch.zeros(32, dtype=torch.long)
        with trace_gradients(model) as trace:
            loss = F.cross_entropy(model(x), y)  #! zeroed
            loss.backward()
        """,
    "attention over one key": """
        class Pool(nn.Module):
            def __init__(self):
                super().__init__()
                self.q, self.k, self.v = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            def forward(self, x):
                weight = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), dim=-1)  #! zeroed
                return weight @ self.v(x)
        model = Pool()
        with trace_gradients(model) as trace:
            model(torch.randn(32, 1, 4)).square().mean().backward()
        """,
    "a product of two zeros": """
        class Factorised(nn.Module):
            def __init__(self):
                super().__init__()
                self.u, self.v = nn.Parameter(torch.zeros(5, 2)), nn.Parameter(torch.zeros(2, 3))
                self.bias = nn.Parameter(torch.zeros(3))
            def forward(self, x):
                weight = torch.mm(self.u, self.v)  #! zeroed
                return x @ weight + self.bias
        model = Factorised()
        with trace_gradients(model) as trace:
            F.mse_loss(model(torch.randn(32, 5)), torch.randn(32, 3)).backward()
        """,
    "half precision swallows the gradient": """
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
        x = torch.randn(64, 6)
        with trace_gradients(model) as trace:
            y = model(x)
            small = y.to(torch.float16)
            loss = small.to(torch.float32).square().mean() * 1e-8  #! zeroed
            loss.backward()
        """,
    "one entry of a clamped parameter": """
        gate = nn.Parameter(torch.tensor([0.4, 0.9, -0.2, 0.6]))
        model = nn.ParameterList([gate])
        x, y = torch.randn(64, 4), torch.randn(64)
        with trace_gradients(model) as trace:
            g = gate.clamp(0, 1)  #! zeroed
            F.mse_loss((x * g).sum(1), y).backward()
        """,
    "the output is a sigmoid that is saturated": """
        model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
        x, y = 1e4 * torch.rand(64, 3) + 1e4, torch.rand(64, 1)
        model[2].weight.data.abs_()
        model[0].weight.data.abs_()
        with trace_gradients(model) as trace:
            out = model(x)  #! zeroed
            F.mse_loss(out, y).backward()
        """,
    "tanh far out": """
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        model[0].bias.data.fill_(50.0)
        x, y = torch.randn(64, 3), torch.rand(64, 1)
        with trace_gradients(model[:2]) as trace:
            h = model[0](x)
            a = torch.tanh(h)  #! zeroed
            F.mse_loss(model[2](a), y).backward()
        """,
    "ReLU6 beyond 6": """
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU6(), nn.Linear(4, 1))
        model[0].bias.data.fill_(90.0)
        x, y = torch.randn(64, 3), torch.rand(64, 1)
        with trace_gradients(model) as trace:
            loss = F.mse_loss(model(x), y)  #! zeroed
            loss.backward()
        """,
    "a dead unit on the output": """
        model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3), nn.ReLU())
        model[2].bias.data[1] = -8.0
        x, y = torch.randn(128, 6), torch.rand(128, 3)
        with trace_gradients(model) as trace:
            out = model(x)  #! zeroed
            F.mse_loss(out, y).backward()
        """,
    "floor of a learned length": """
        model = nn.Linear(4, 1)
        x = torch.randn(64, 4)
        with trace_gradients(model) as trace:
            length = torch.floor(10 * torch.sigmoid(model(x)))  #! zeroed
            loss = (length - 5).square().mean()
            loss.backward()
        """,
    "rounded output in the loss, beside another loss": """
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        x, y = torch.randn(64, 4), torch.randint(0, 5, (64, 1)).float()
        with trace_gradients(model) as trace:
            out = model(x)
            loss = 0.1 * F.mse_loss(out, y) + F.l1_loss(out.round(), y)  #! zeroed
            loss.backward()
        """,
    "everything is overwritten": """
        model = nn.Linear(4, 3)
        x = torch.randn(32, 4)
        with trace_gradients(model) as trace:
            out = model(x) * 1.0
            out[:, :] = 0.5  #! zeroed
            out.square().mean().backward()
        """,
    # not finite
    "sqrt of a distance to itself": """
        model = nn.Linear(4, 2)
        x = torch.randn(32, 4)
        with trace_gradients(model) as trace:
            z = model(x)
            d = ((z[:, None] - z[None]) ** 2).sum(-1)
            d = torch.sqrt(d)  #! not finite
            d.mean().backward()
        """,
    "entropy with log of 0": """
        model = nn.Linear(4, 3)
        model.weight.data.mul_(500)
        x = torch.randn(32, 4)
        with trace_gradients(model) as trace:
            p = torch.softmax(model(x), 1)
            logs = p.log()  #! not finite
            entropy = -(p * logs).sum(1).mean()
            (-entropy).backward()
        """,
    "std of one value": """
        model = nn.Linear(4, 3)
        x = torch.randn(1, 4)
        with trace_gradients(model) as trace:
            z = model(x)
            spread = z.std(dim=0)  #! not finite
            (z.square().mean() + (1 - spread).clamp(min=0).mean()).backward()
        """,
    "atan2 at the origin": """
        xy = nn.Parameter(torch.zeros(5, 2))
        with trace_gradients(nn.ParameterList([xy])) as trace:
            angle = torch.atan2(xy[:, 1], xy[:, 0])  #! zeroed
            (angle - 1).square().mean().backward()
        """,
    "division by a norm of 0": """
        model = nn.Linear(4, 3, bias=False)
        x = torch.randn(16, 4)
        x[3] = 0
        with trace_gradients(model) as trace:
            z = model(x)
            length = z.norm(dim=1, keepdim=True)
            unit = z / length  #! not finite
            unit[torch.arange(16) != 3].sum().backward()
        """,
    "exp overflows": """
        model = nn.Linear(4, 2)
        model.weight.data.mul_(400)
        x = torch.randn(64, 4)
        with trace_gradients(model) as trace:
            mu, logvar = model(x).chunk(2, 1)
            var = logvar.exp()  #! not finite
            kl = 0.5 * (var + mu.square() - 1 - logvar).mean()
            kl.backward()
        """,
    "0 times infinity in a mask": """
        model = nn.Linear(4, 6)
        x = torch.randn(8, 4)
        keep = torch.ones(8, 6)
        keep[:, 4:] = 0
        with trace_gradients(model) as trace:
            penalty = (1 - keep) * float("-inf")  #! not finite
            scores = model(x) + penalty
            scores.softmax(1).square().sum().backward()
        """,
    "softmax over a row of -inf": """
        q = nn.Linear(4, 4)
        x, valid = torch.randn(6, 5, 4), torch.ones(6, 5, dtype=torch.bool)
        valid[2] = False
        with trace_gradients(q) as trace:
            scores = q(x) @ x.transpose(1, 2)
            scores = scores.masked_fill(~valid[:, None, :], float("-inf"))
            weight = torch.softmax(scores, -1)  #! not finite
            out = (weight @ x)[valid]
            out.square().mean().backward()
        """,
    "NaN in the targets": """
        model = nn.Linear(4, 1)
        x, y = torch.randn(32, 4), torch.randn(32, 1)
        y[5] = float("nan")
        with trace_gradients(model) as trace:
            loss = F.mse_loss(model(x), y)  #! not finite
            loss.backward()
        """,
    "NaN in a weight": """
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
        model[2].weight.data[0, 3] = float("nan")
        x = torch.randn(32, 4)
        with trace_gradients(model) as trace:
            hidden = model[:2](x)
            out = model[2](hidden)  #! not finite
            out.square().mean().backward()
        """,
    "mean over an empty selection": """
        model = nn.Linear(4, 1)
        x = torch.randn(32, 4)
        with trace_gradients(model) as trace:
            out = model(x).squeeze(1)
            loss = out.square().mean() + out[x[:, 0] > 99].mean()  #! not finite
            loss.backward()
        """,
    "power of a negative number": """
        model = nn.Linear(4, 1)
        x = torch.randn(32, 4)
        with trace_gradients(model) as trace:
            out = model(x)
            loss = torch.where(out > 0, out ** 1.5, out.abs()).mean()  #! not finite
            loss.backward()
        """,
    # frozen, missed, not optimized
    "everything is frozen by a helper": """
        model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
        def freeze(module):
            for p in module.parameters():
                p.requires_grad_(False)
        freeze(model)
        x, y = torch.randint(0, 10, (32, 3)), torch.randint(0, 2, (32,))
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            loss = F.cross_entropy(model(x), y)
            loss.backward()  #! cut
        """,
    "a detached term among three": """
        model = nn.Sequential(nn.Linear(6, 4), nn.Softplus(), nn.Linear(4, 6))
        x = torch.rand(32, 6)
        with trace_gradients(model) as trace:
            code = model[:2](x)
            terms = [F.mse_loss(model[2](code), x)]
            terms.append(code.mean().detach())  #! cut
            terms.append(1e-3 * sum(p.square().sum() for p in model.parameters()))
            torch.stack(terms).sum().backward()
        """,
    "a mean squared error of counts": """
        model = nn.Sequential(nn.Linear(6, 4), nn.Tanh())
        x = torch.randn(64, 6)
        with trace_gradients(model) as trace:
            code = model(x)
            count = code.gt(0).sum(0)  #! cut
            loss = code.square().mean() + F.mse_loss(count / 64, torch.full((4,), 0.2))
            loss.backward()
        """,
}
