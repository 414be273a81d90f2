"""Faults from public reports: the comment names the report."""

# ruff: noqa: E501

CASES = {
    # LZGMatrix/BOP19_CDPN_2019ICCV#4 'A question about training' https://github.com/LZGMatrix/BOP19_CDPN_2019ICCV/issues/4 ; wonbeomjang/mobile-hair-segmentation-pytorch#3
    "argmax turned into the prediction, whole loss": r"""
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5))
        x, y = torch.randn(64, 6), torch.rand(64)
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            logits = model(x)
            coordinate = logits.argmax(dim=1).float() / 4  #! cut
            loss = F.mse_loss(coordinate, y)
            loss.backward()
        """,
    # roman-vygon/triplet_loss_kws#6 'Torch autograd expects Variable with requires_grad set to True' https://github.com/roman-vygon/triplet_loss_kws/issues/6
    "loss rebuilt from .item() numbers with requires_grad=True to silence the error": r"""
        model = nn.Linear(6, 3)
        x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with trace_gradients(model) as trace:
            losses = []
            for a, b in zip(x.split(16), y.split(16)):
                losses.append(F.cross_entropy(model(a), b).item())  #! cut
            loss = torch.tensor(losses, requires_grad=True).mean()
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    # HuXiaoling/TopoLoss#8 https://github.com/HuXiaoling/TopoLoss/issues/8 ; delira-dev/delira#40 ; utiasSTARS/liegroups#4
    "loss term computed in NumPy/SciPy": r"""
        import scipy.ndimage
        model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
        x = torch.rand(4, 1, 16, 16)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        def smoothness(image):
            array = image.detach().cpu().numpy()  #! cut
            edges = scipy.ndimage.sobel(array, axis=-1)
            return torch.from_numpy(edges).abs().mean()
        with trace_gradients(model) as trace:
            out = model(x)
            loss = F.mse_loss(out, x) + 0.5 * smoothness(out)
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    # TinyLLaVA/TinyLLaVA_Factory#17 https://github.com/TinyLLaVA/TinyLLaVA_Factory/issues/17 ; soda-inria/tabicl#17
    "@torch.no_grad on the encoder's forward, head is trained": r"""
        class Encoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 16)
            @torch.no_grad()
            def forward(self, x):
                h = torch.relu(self.first(x))  #! cut
                return self.second(h)  #= cut
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder, self.head = Encoder(), nn.Linear(16, 3)
            def forward(self, x):
                return self.head(self.encoder(x))
        model = Net()
        x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
        optimizer = torch.optim.AdamW(model.parameters())
        with trace_gradients(model) as trace:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        check = [p.detach().clone() for p in model.parameters()]
        """,
    # pytorch/pytorch#1339 'Backprop through argmax' https://github.com/pytorch/pytorch/issues/1339
    "argmax between two modules, token re-embedded": r"""
        generator, critic = nn.Linear(8, 20), nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 1))
        model = nn.ModuleDict({"generator": generator, "critic": critic})
        noise = torch.randn(64, 8)
        with trace_gradients(model) as trace:
            token = generator(noise).argmax(-1)  #! cut
            score = critic(token)
            loss = F.softplus(-score).mean()
            loss.backward()
        """,
    # fangwei123456/spikingjelly#564 'Dynamic Threshold' https://github.com/fangwei123456/spikingjelly/issues/564
    "spiking network, Heaviside without surrogate, membrane read-out": r"""
        class SNN(nn.Module):
            def __init__(self):
                super().__init__()
                self.w1, self.w2 = nn.Linear(10, 32), nn.Linear(32, 3)
                self.threshold = nn.Parameter(torch.tensor(1.0))
            def forward(self, x):
                v1, v2 = torch.zeros(x.shape[0], 32), torch.zeros(x.shape[0], 3)
                for _ in range(5):
                    v1 = 0.9 * v1 + self.w1(x)
                    spike = (v1 >= self.threshold).float()  #! cut
                    v1 = v1 * (1 - spike)
                    v2 = 0.9 * v2 + self.w2(spike)
                return v2
        model = SNN()
        x, y = torch.rand(64, 10), torch.randint(0, 3, (64,))
        with trace_gradients(model) as trace:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        """,
    # pytorch/pytorch#7705 'rsample().detach() and sample() yields different gradients' https://github.com/pytorch/pytorch/issues/7705 ; nicola-decao/s-vae-pytorch#9
    "Normal.sample() in a VAE: the reconstruction does not reach the encoder": r"""
        encoder, decoder = nn.Linear(20, 8), nn.Linear(4, 20)
        model = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
        x = torch.rand(64, 20)
        with trace_gradients(model) as trace:
            mu, logvar = encoder(x).chunk(2, dim=1)
            q = torch.distributions.Normal(mu, (0.5 * logvar).exp())
            z = q.sample()  #! cut
            reconstruction = F.mse_loss(decoder(z), x)
            kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).mean()
            loss = reconstruction + 0.1 * kl
            loss.backward()
        """,
    # variant of F14
    "straight-through with the sign turned: the slope cancels": r"""
        encoder, decoder = nn.Linear(20, 16), nn.Linear(16, 20)
        model = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
        x = torch.rand(64, 20)
        with trace_gradients(model) as trace:
            soft = torch.sigmoid(encoder(x))
            hard = (soft > 0.5).float()
            code = soft - (soft - hard)  #! zeroed
            loss = F.mse_loss(decoder(code), x)
            loss.backward()
            reach = gradient_reach({"reconstruction": F.mse_loss(decoder(torch.sigmoid(encoder(x)) - (torch.sigmoid(encoder(x)) - hard)), x)}, model)
        check = [p.grad for p in model.parameters()]
        """,
    # lucidrains/vector-quantize-pytorch#33 'zero for second residual grad' https://github.com/lucidrains/vector-quantize-pytorch/issues/33 ; facebookresearch/encodec#25
    "residual VQ: residual - straight-through output, gradient cancels exactly": r"""
        encoder = nn.Linear(20, 4)
        model = encoder
        books = [torch.randn(32, 4) for _ in range(2)]
        x = torch.rand(64, 20)
        def quantise(r, book):
            hard = book[torch.cdist(r, book).argmin(-1)]
            commitment = F.mse_loss(r, hard)
            return r + (hard - r).detach(), commitment
        with trace_gradients(model) as trace:
            residual = encoder(x)
            losses = []
            for book in books:
                quantised, commitment = quantise(residual, book)
                residual = residual - quantised  #! zeroed
                losses.append(commitment)
            reach = gradient_reach({"first": losses[0], "second": losses[1]}, encoder)
            losses[1].backward()
        check = [p.grad for p in model.parameters()]
        """,
    # MAML threads, cf. allenai/savn#9, facebookresearch/higher#10 https://github.com/facebookresearch/higher/issues/10
    "functional_call with model.state_dict(), whose values are detached": r"""
        from torch.func import functional_call
        model = nn.Linear(6, 3)
        x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            weights = {name: w * 1.0 for name, w in model.state_dict().items()}  #! cut
            loss = F.cross_entropy(functional_call(model, weights, (x,)), y)
            loss.backward()
        """,
    # pytorch/pytorch#31984 https://github.com/pytorch/pytorch/issues/31984
    "derivative loss without create_graph": r"""
        model = nn.Sequential(nn.Linear(3, 30), nn.Tanh(), nn.Linear(30, 1))
        x = torch.randn(100, 3, requires_grad=True)
        y, dy = torch.sin(x).sum(1, keepdim=True), torch.cos(x).detach()
        with trace_gradients(model) as trace:
            out = model(x)
            slope = torch.autograd.grad(out.sum(), x, retain_graph=True)[0]  #! cut
            loss = F.mse_loss(out, y.detach()) + F.mse_loss(slope, dy)
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    # pytorch/pytorch#103509 'Getting the gradient of the gradient' https://github.com/pytorch/pytorch/issues/103509
    "torch.autograd.functional.jacobian without create_graph": r"""
        model = nn.Sequential(nn.Linear(3, 30), nn.Tanh(), nn.Linear(30, 1))
        x = torch.randn(3)
        with trace_gradients(model) as trace:
            jacobian = torch.autograd.functional.jacobian(model, x)  #! cut
            loss = model(x).square().sum() + jacobian.square().sum()
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    # Hiyuur/SR-TOD#5 'Gradient Flow in Learnable Threshold Implementation' https://github.com/Hiyuur/SR-TOD/issues/5
    "learnable threshold behind torch.sign": r"""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.threshold = nn.Conv2d(1, 4, 3, padding=1), nn.Parameter(torch.tensor(0.05))
                self.head = nn.Linear(4, 2)
            def forward(self, x, difference):
                mask = (torch.sign(difference - self.threshold) + 1) * 0.5  #! zeroed
                features = self.conv(x)
                features = features + features * mask
                return self.head(features.mean((2, 3)))
        model = Net()
        x, d = torch.randn(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
        with trace_gradients(model) as trace:
            loss = F.cross_entropy(model(x, d), torch.randint(0, 2, (16,)))
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    # Lightning-AI/litgpt#1229 'Gradients in GPT module of the finetuning/lora.py script are always zero' https://github.com/Lightning-AI/litgpt/issues/1229 ; Guitaricet/relora#18
    "LoRA with A and B both zero": r"""
        class LoRA(nn.Module):
            def __init__(self):
                super().__init__()
                self.base = nn.Linear(8, 8).requires_grad_(False)
                self.a, self.b = nn.Parameter(torch.zeros(8, 2)), nn.Parameter(torch.zeros(2, 8))
            def forward(self, x):
                return self.base(x) + x @ self.a @ self.b  #! zeroed
        model = LoRA()
        x = torch.randn(64, 8)
        with trace_gradients(model) as trace:
            loss = F.mse_loss(model(x), torch.randn(64, 8))
            reach = gradient_reach({"loss": loss}, model)
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    # FluxML/Flux.jl#1546 'Softmax stucks the network' https://github.com/FluxML/Flux.jl/issues/1546
    "softmax over an output of size 1, MSE": r"""
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1), nn.Softmax(dim=1))
        x, y = torch.randn(64, 6), torch.rand(64, 1)
        with trace_gradients(model) as trace:
            out = model(x)  #! zeroed
            loss = F.mse_loss(out, y)
            reach = gradient_reach({"loss": loss}, model)
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    # DLR-RM/stable-baselines3#620 https://github.com/DLR-RM/stable-baselines3/issues/620
    "log_std head clamped; a unit is out of range on all rows": r"""
        model = nn.Linear(6, 6)
        model.bias.data[4] = 40.0
        x, action = torch.randn(64, 6), torch.randn(64, 3)
        with trace_gradients(model) as trace:
            mu, log_std = model(x).chunk(2, -1)
            log_std = torch.clamp(log_std, -20, 2)  #! zeroed
            loss = -torch.distributions.Normal(mu, log_std.exp()).log_prob(action).sum(-1).mean()
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    # https://discuss.pytorch.org/t/simple-custom-qat-backward-function/138095 'Simple custom QAT backward function'
    "quantiser with round and no straight-through": r"""
        class QLinear(nn.Linear):
            def forward(self, x):
                scale = self.weight.abs().max() / 7
                w = torch.round(self.weight / scale).clamp(-8, 7) * scale.detach()  #! zeroed
                return F.linear(x, w, self.bias)
        model = nn.Sequential(QLinear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
        with trace_gradients(model) as trace:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    # https://www.codegenes.net/blog/pytorch-dead-relu
    "ReLU on the output layer, dead": r"""
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1), nn.ReLU())
        model[2].bias.data.fill_(-10.0)
        x, y = torch.randn(64, 6), torch.rand(64, 1)
        with trace_gradients(model) as trace:
            loss = F.mse_loss(model(x), y)  #! zeroed
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    # albrateanu/LYT-Net#16 'histogram_loss has no gradient' https://github.com/albrateanu/LYT-Net/issues/16, #17
    "torch.histc as a histogram loss": r"""
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.Sigmoid())
        x, y = torch.randn(64, 6), torch.rand(64, 8)
        error = None
        with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
            p = model(x)
            histogram = torch.histc(p, bins=10, min=0, max=1)  #! cut
            loss = F.mse_loss(p, y) + F.l1_loss(histogram / 512, torch.histc(y, bins=10, min=0, max=1) / 512)
            loss.backward()
        """,
    # yuval-reshef/StreamVC#3 'Zero Gradient from Feature Loss' https://github.com/yuval-reshef/StreamVC/issues/3
    "feature-matching loss: the difference is detached, accumulated in place with a mask": r"""
        model = nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(), nn.Linear(16, 6))
        critic = nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(), nn.Linear(16, 1))
        x, mask = torch.randn(64, 6), (torch.rand(64, 1) > 0.2).float()
        def feature_loss(real, fake):
            loss = torch.tensor(0.0)
            for r, f in zip(real, fake):
                loss += ((f - r).abs().detach() * mask).mean()  #! cut
            return loss
        with trace_gradients(model) as trace:
            fake = model(x)
            loss = F.mse_loss(fake, x) + feature_loss([critic[:2](x)], [critic[:2](fake)])
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    # Categorical.sample threads; cf. shariqiqbal2810/MAAC#20
    "reward of a sampled action used as the loss beside a regulariser": r"""
        model = nn.Linear(6, 3)
        obs, reward = torch.randn(64, 6), torch.tensor([0.0, 0.5, 1.0])
        with trace_gradients(model) as trace:
            dist = torch.distributions.Categorical(logits=model(obs))
            action = dist.sample()  #! cut
            loss = -reward[action].mean() + 1e-3 * model.weight.square().sum()
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    # AgentTorch/AgentTorch#32 'Break of gradient chain' https://github.com/AgentTorch/AgentTorch/issues/32
    "the only path of a learnable rate goes through a mask": r"""
        model = nn.Linear(4, 1)
        people = torch.randn(200, 4)
        draw, severity = torch.rand(200), torch.rand(200, requires_grad=False)
        scale = nn.Parameter(torch.tensor(1.0))
        with trace_gradients(model) as trace:
            p = torch.sigmoid(model(people)).squeeze(1)
            infected = (draw < p)  #! cut
            deaths = (infected * severity * 0.1).sum()
            loss = (scale * deaths - 3.0).square()
            loss.backward()
        """,
    # pytorch/pytorch#187297 https://github.com/pytorch/pytorch/issues/187297 ; #52248
    "torch.where with sqrt of negative numbers": r"""
        model = nn.Linear(6, 1)
        x = torch.randn(64, 6)
        with trace_gradients(model) as trace:
            a = model(x)
            root = torch.sqrt(a)  #! not finite
            loss = torch.where(a > 0, root, a).mean()
            loss.backward()
        """,
    # pytorch/pytorch#15131 https://github.com/pytorch/pytorch/issues/15131
    "NaN in the data, its row left out of the loss": r"""
        k = nn.Parameter(torch.tensor([0.01]))
        x, y = torch.tensor([1.0, 2, 3, float("nan")]), torch.tensor([1.0, 2, 3, 4])
        model = None
        with trace_gradients() as trace:
            mean = k * x  #! not finite
            log_prob = torch.distributions.Normal(mean, 1.0, validate_args=False).log_prob(y)  #= not finite
            loss = -log_prob[:-1].mean()
            loss.backward()
        """,
    # naver/roma#9 https://github.com/naver/roma/issues/9 ; papagina/RotationContinuity#11 ; kornia/kornia#4228
    "geodesic rotation loss: acos of a clamped trace at 1": r"""
        angle = nn.Parameter(torch.zeros(8))
        model = None
        with trace_gradients() as trace:
            c, s = angle.cos(), angle.sin()
            rotation = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
            cosine = (rotation.diagonal(dim1=-2, dim2=-1).sum(-1) / 2).clamp(-1, 1)
            loss = torch.acos(cosine).mean()  #! not finite
            loss.backward()
        """,
    # pytorch/pytorch#41508 https://github.com/pytorch/pytorch/issues/41508
    "nn.MultiheadAttention, a row with everything masked": r"""
        layer = nn.MultiheadAttention(8, 2, batch_first=True)
        model = layer
        x = torch.randn(4, 5, 8)
        padding = torch.zeros(4, 5, dtype=torch.bool)
        padding[1] = True
        with trace_gradients(model) as trace:
            out, _ = layer(x, x, x, key_padding_mask=padding)  #! not finite
            keep = ~padding
            loss = (out[keep] - x[keep]).square().mean()
            loss.backward()
        """,
    # log(softmax) threads, cf. AITIAL/OpenWhiz#50
    "log of a softmax that underflows": r"""
        model = nn.Linear(6, 4)
        model.weight.data.mul_(300)
        x, y = torch.randn(64, 6), torch.randint(0, 4, (64,))
        with trace_gradients(model) as trace:
            p = model(x).softmax(-1)
            logp = torch.log(p)  #! not finite
            loss = F.nll_loss(logp, y)
            loss.backward()
        """,
    # fastino-ai/GLiNER2#155 https://github.com/fastino-ai/GLiNER2/pull/155
    "clamp(max=1-1e-6) is a no-op in bfloat16; log1p(-1)": r"""
        logit = nn.Parameter(torch.tensor([30.0, 0.0, 1.0], dtype=torch.bfloat16))
        model = None
        with trace_gradients() as trace:
            p = torch.sigmoid(logit)
            log_survival = torch.log1p(-p.clamp(max=1.0 - 1e-6))  #! not finite
            loss = 1 - torch.exp(log_survival.sum())
            loss.backward()
        """,
    # pow at 0 threads
    "x ** 0.5 and focal-like pow at 0": r"""
        w = nn.Parameter(torch.tensor([0.0, 1.0, 2.0]))
        model = None
        with trace_gradients() as trace:
            loss = (w.abs() ** 0.5).sum()  #! not finite
            loss.backward()
        """,
    # junyanz/pytorch-CycleGAN-and-pix2pix#822 https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix/issues/822
    "perceptual term: features of the fake under no_grad (nn.Module inside the block)": r"""
        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
        vgg = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).requires_grad_(False).eval()
        x = torch.rand(4, 3, 16, 16)
        with trace_gradients(model) as trace:
            fake = model(x)
            with torch.no_grad():
                real_features, fake_features = vgg(x), vgg(fake)  #! cut
                perceptual = F.mse_loss(fake_features, real_features)
            loss = F.l1_loss(fake, x) + 0.1 * perceptual
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    # myscience/open-genie#6 https://github.com/myscience/open-genie/issues/6
    "features recorded by a forward hook that detaches them": r"""
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6))
        probe = nn.Sequential(nn.Linear(6, 8), nn.Tanh()).requires_grad_(False)
        seen = []
        probe[0].register_forward_hook(lambda m, i, out: seen.append(out.detach()))  #! cut
        x = torch.randn(64, 6)
        with trace_gradients(model) as trace:
            fake = model(x)
            probe(fake); probe(x)
            loss = F.mse_loss(fake, x) + F.mse_loss(seen[0], seen[1])
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    # NVlabs/diff-dope#1 https://github.com/NVlabs/diff-dope/issues/1
    "silhouette loss on render > 0": r"""
        model = nn.Sequential(nn.Linear(6, 64))
        x, target = torch.randn(8, 6), (torch.rand(8, 64) > 0.5).float()
        with trace_gradients(model) as trace:
            render = model(x)
            mask = torch.where(render > 0, 1.0, 0.0)  #! cut
            loss = 1e-3 * render.square().mean() + F.l1_loss(mask, target)
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    # any user of torch.jit.script
    "the cut stands in a torch.jit.script function": r"""
        import importlib.util, tempfile, pathlib
        source = pathlib.Path(tempfile.mkdtemp()) / "scripted_frequency.py"
        source.write_text("import torch\n@torch.jit.script\ndef frequency(code):\n    return (code > 0).float().mean()\n")
        spec = importlib.util.spec_from_file_location("scripted_frequency", source); m = importlib.util.module_from_spec(spec); spec.loader.exec_module(m)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6))
        x = torch.randn(64, 6)
        with trace_gradients(model) as trace:
            out = model(x)
            loss = F.mse_loss(out, x) + m.frequency(out)  #! cut
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    # engichang1467/Open-Rig3R#35 https://github.com/engichang1467/Open-Rig3R/issues/35
    "half precision, gradient underflows to 0 without a scaler": r"""
        model = nn.Linear(6, 6)
        x = torch.randn(64, 6)
        with trace_gradients(model) as trace:
            out = model(x).half()
            loss = (out * 1.0).float().square().mean() * 1e-7  #! zeroed
            reach = gradient_reach({"loss": loss}, model)
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    # roman-vygon/triplet_loss_kws#6
    "loss.requires_grad = True to silence the error, in front of it an argmax": r"""
        model = nn.Linear(6, 3)
        x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
        with trace_gradients(model) as trace:
            loss = (model(x).argmax(1) != y).float().mean()  #! cut
            loss.requires_grad = True
            loss.backward()
        """,
    # same
    "loss.detach().requires_grad_(): the same by hand": r"""
        model = nn.Linear(6, 3)
        x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
        with trace_gradients(model) as trace:
            loss = F.cross_entropy(model(x), y)
            loss = loss.detach().requires_grad_(True)  #! cut
            loss.backward()
        """,
    # allenai/savn#9 'load the params into the model state-dict' https://github.com/allenai/savn/issues/9
    "weights made by a network and loaded by load_state_dict": r"""
        main, hyper = nn.Linear(4, 3), nn.Linear(2, 12)
        model = nn.ModuleDict({"main": main, "hyper": hyper})
        x = torch.randn(64, 4)
        with trace_gradients(model) as trace:
            weight = hyper(torch.randn(2)).view(3, 4)
            main.load_state_dict({"weight": weight, "bias": torch.zeros(3)})  #! cut
            loss = main(x).square().mean()
            loss.backward()
        """,
    # edreisMD/ConVIRT-pytorch#7 'Text encoder in no_grad block?' https://github.com/edreisMD/ConVIRT-pytorch/issues/7
    "auxiliary loss of a module under no_grad, added to the loss": r"""
        image, text = nn.Linear(6, 4), nn.Linear(5, 4)
        model = nn.ModuleDict({"image": image, "text": text})
        a, b = torch.randn(64, 6), torch.randn(64, 5)
        with trace_gradients(model) as trace:
            za = F.normalize(image(a), dim=-1)
            with torch.no_grad():
                zb = F.normalize(text(b), dim=-1)  #! cut
            logits = za @ zb.T / 0.1
            loss = F.cross_entropy(logits, torch.arange(64)) + F.cross_entropy(logits.T, torch.arange(64))
            loss.backward()
        """,
    # the project's forum post
    "KL penalty on a hard count (the project's own case) through a frequency module of nn.Module type": r"""
        class Frequency(nn.Module):
            def forward(self, code):
                return (code > 0).float().mean(0)  #! cut
        class SAE(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder, self.decoder, self.frequency = nn.Linear(20, 8), nn.Linear(8, 20), Frequency()
            def forward(self, x):
                code = torch.relu(self.encoder(x))
                return self.decoder(code), self.frequency(code)
        model = SAE()
        x = torch.rand(64, 20)
        with trace_gradients(model) as trace:
            out, rate = model(x)
            rate = rate.clamp(1e-3, 1 - 1e-3)
            kl = (0.05 * torch.log(0.05 / rate) + 0.95 * torch.log(0.95 / (1 - rate))).sum()
            loss = F.mse_loss(out, x) + kl
            loss.backward()
        check = [p.grad for p in model.parameters()]
        """,
    # set_grad_enabled threads
    "torch.set_grad_enabled(False) left on by an evaluation cell": r"""
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
        torch.set_grad_enabled(False)
        try:
            with contextlib.suppress(RuntimeError), trace_gradients(model) as trace:
                loss = F.cross_entropy(model(x), y)  #! cut
                loss.backward()
        finally:
            torch.set_grad_enabled(True)
        """,
}
