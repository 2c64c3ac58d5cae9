"Networks: other shapes, other devices of use, and what must not change under a caller's feet."
import numpy as np, pytest, torch
from wakekit.core import ConfigError
from wakekit.data.mel import FeatureConfig
from wakekit.learn.config import ModelConfig
from wakekit.learn.models import ARCHS, CausalConv, StreamingModel, Tape, WakeModel, model_size

CONFIGS = [ModelConfig(arch=arch, channels=16, dilations=d, stride=s, kernel=k) for arch in ARCHS for d, s, k in [((1, 2), 2, 5), ((3,), 1, 3), ((1, 1, 2), 4, 2)]]


pytestmark = pytest.mark.usefixtures("one_thread")


def heard(config, seed=0):
    "A model whose batch norms have seen something"
    torch.manual_seed(seed)
    model = WakeModel(config)
    for m in model.modules():
        if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)): m.momentum = None
    with torch.no_grad(): model(torch.randn(2, 32_000)*.05)
    return model.eval()


@torch.no_grad()
def stream_all(stream, pcm, steps):
    state, out, at = torch.zeros(1, stream.state_size), [], 0
    while at < pcm.shape[1]:
        n = steps[len(out)%len(steps)]*stream.model.step_samples
        score, state = stream(pcm[:, at:at + n], state)
        out.append(score[0])
        at += n
    return torch.cat(out)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_streaming_is_offline(config):
    model = heard(config)
    stream = StreamingModel(model)
    step, field = model.step_samples, model.receptive_field
    pcm = torch.randn(1, (field//step + 60)*step)*.05
    late = -field%step  # begin the offline windows where they end on a step of the stream
    offline = torch.sigmoid(model(pcm[:, late:])[0]).detach()
    for steps in ([1], [3, 1, 7], [1000]):
        scores = stream_all(stream, pcm, steps)
        assert len(scores) == pcm.shape[1]//step
        assert (scores[(late + field)//step - 1:] - offline).abs().max() < 1e-4 < offline.std()
        assert (scores - stream_all(stream, pcm, [2])).abs().max() < 1e-5


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_receptive_field_is_exact(config):
    model = heard(config)
    n = model.receptive_field
    x = torch.randn(1, n)*.05
    assert model(x).shape == (1, 1) and model(torch.randn(1, n + model.step_samples)).shape == (1, 2)
    y = torch.cat([torch.randn(1, 3)*.05, x], 1)
    assert torch.allclose(model(y[:, 3:]), model(x))
    z = x.clone()
    z[:, -1] += .5
    assert (model(z) - model(x)).abs().max() > 0
    with pytest.raises(RuntimeError): model(x[:, 1:])


def test_an_unknown_arch_names_those_there_are():
    with pytest.raises(ConfigError, match="tcn, bcresnet"): WakeModel(ModelConfig(arch="lstm"))


def test_measuring_leaves_the_model_as_it_was():
    model = WakeModel(ModelConfig(channels=16, dilations=(1,)))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    a, b = model_size(model), model_size(model.eval())
    assert a == b and not model.training
    model.train()
    model_size(model)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_size_counts_streamed_steps(config):
    model = WakeModel(config)
    size, macs = model_size(model), []
    hooks = [m.register_forward_hook(lambda m, _, out: macs.append(out.shape[1:].numel()*m.weight[0].numel())) for m in model.net.modules() if isinstance(m, (torch.nn.Conv1d, torch.nn.Conv2d))]
    seconds = 4  # any number of them
    model.eval().net(torch.zeros(1, config.features.n_mels, seconds*100), Tape())
    for h in hooks: h.remove()
    assert sum(macs) == seconds*size["macs_per_s"]
    assert size["parameters"] == sum(p.numel() for p in model.parameters())
    assert size["receptive_field_ms"] == model.receptive_field*1000//16_000


def test_the_stream_has_weights_of_its_own_and_the_front_end_of_the_export():
    model = heard(CONFIGS[0])
    stream = StreamingModel(model)
    assert stream.model.features.exporting and not model.features.exporting
    pcm, zero = torch.randn(1, 3200)*.05, torch.zeros(1, stream.state_size)
    before = stream(pcm, zero)[0].clone()
    with torch.no_grad():
        for p in model.parameters(): p.add_(1)
    assert torch.equal(stream(pcm, zero)[0], before)
    assert not zero.any()  # the caller's state is not written to


def test_zero_is_a_quiet_room():
    stream = StreamingModel(heard(CONFIGS[0]))
    with torch.no_grad():
        room = torch.randn(1, 16_000)*1e-4
        first, state = stream(room[:, :8000//320*320], torch.zeros(1, stream.state_size))
        again, _ = stream(room[:, :8000//320*320], state)
        cold, _ = stream(room[:, :8000//320*320], -stream.quiet)
    assert (first - again).abs().max() < (cold - again).abs().max()


def test_a_tape_keeps_rows_apart_and_shapes_whole():
    state = torch.arange(2*14.).reshape(2, 14)
    tape = Tape(state)
    a, b = tape(torch.zeros(2, 3, 1), 2), tape(torch.zeros(2, 2, 4, 5), 1)
    assert a.shape == (2, 3, 3) and b.shape == (2, 2, 4, 6) and tape.at == 14
    assert a[1, :, :2].flatten().tolist() == state[1, :6].tolist() and b[0, ..., 0].flatten().tolist() == state[0, 6:].tolist()
    assert tape.flat.shape == (2, 14)


def test_a_chunk_shorter_than_the_context_is_remembered():
    conv = CausalConv(2, 2, kernel=4, dilation=3).eval()
    x, state, out = torch.randn(1, 2, 30), torch.zeros(1, 2*conv.context), []
    for t in range(30):
        tape = Tape(state)
        out.append(conv(x[..., t:t + 1], tape))
        state = tape.flat
    assert torch.allclose(torch.cat(out, -1)[..., conv.context:], conv(x), atol=1e-6)


def test_other_front_ends():
    model = heard(ModelConfig(channels=8, dilations=(1,), features=FeatureConfig(n_mels=20)))
    assert model(torch.zeros(1, model.receptive_field)).shape == (1, 1) and np.isfinite(model_size(model)["macs_per_s"])


def test_a_network_whose_weights_are_kept_can_be_heard_while_it_learns():
    "Nothing of the body needs a gradient; norms count all the same"
    model = WakeModel(ModelConfig()).train()
    model.net.requires_grad_(False)
    seen = model.net.stem_norm[0].num_batches_tracked.item()
    assert not model.net(torch.randn(2, 40, 300)).requires_grad and model.net.stem_norm[0].num_batches_tracked.item() == seen + 1
