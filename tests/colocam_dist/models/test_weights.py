from __future__ import annotations

import hashlib
import importlib.util
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from colocam_dist.errors import WeightsError
from colocam_dist.models import build_encoder, load_encoder_weights, weights
from colocam_dist.models.encoders.resnet import ResNet
from colocam_dist.models.encoders.timm_pyramid import import_timm


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_of(encoder: torch.nn.Module) -> float:
    return sum(value.double().abs().sum().item() for value in encoder.state_dict().values())


@pytest.fixture
def public_file(tmp_path) -> Path:
    """A file like torchvision's old ones: a head we do not use, and no step counters."""
    state = {k: v for k, v in ResNet("resnet18").state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "public.pth"
    torch.save({**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, path)
    return path


class Host:
    """A web server of this machine that answers every request with the same bytes."""

    def __init__(self) -> None:
        self.body, self.promised, self.status, self.requests = b"", None, 200, 0
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.requests += 1
                self.send_response(host.status)
                self.send_header("Content-Length", str(host.promised or len(host.body)))
                self.end_headers()
                self.wfile.write(host.body)

            def log_message(self, *_: object) -> None:
                """Keep the test's output clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def host():
    server = Host()
    yield server
    server.close()


def test_none_keeps_random_weights():
    encoder = ResNet("resnet18")
    before = digest_of(encoder)
    assert load_encoder_weights(encoder, "none") == "resnet18: random weights"
    assert digest_of(encoder) == before


def test_path_loads_everything_but_the_head(public_file):
    encoder = ResNet("resnet18")
    line = load_encoder_weights(encoder, str(public_file), sha256=sha256(public_file)[:8].upper())
    assert line == f"resnet18: {public_file} (sha256 {sha256(public_file)})"
    stored = torch.load(public_file, weights_only=True)
    own = encoder.state_dict()
    assert all(torch.equal(own[name], value) for name, value in stored.items() if not name.startswith("fc."))


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_state_may_lie_under_a_key(tmp_path, key):
    source = ResNet("resnet18")
    torch.save({key: source.state_dict(), "epoch": 3}, tmp_path / "best.pth")
    encoder = ResNet("resnet18")
    load_encoder_weights(encoder, str(tmp_path / "best.pth"))
    assert digest_of(encoder) == digest_of(source)


def test_what_stays_random_is_said(tmp_path):
    state = {k: v for k, v in build_encoder("vgg16").state_dict().items() if not k.startswith("conv6.")}
    torch.save(state, tmp_path / "vgg.pth")
    assert "left random: conv6.weight, conv6.bias" in load_encoder_weights(
        build_encoder("vgg16"), str(tmp_path / "vgg.pth")
    )


@pytest.mark.parametrize("wanted", ["0" * 64, "deadbeef"])
def test_wrong_checksum_shows_both(public_file, wanted):
    encoder = ResNet("resnet18")
    before = digest_of(encoder)
    with pytest.raises(WeightsError) as caught:
        load_encoder_weights(encoder, str(public_file), sha256=wanted)
    assert (caught.value.got, caught.value.wanted) == (sha256(public_file), wanted)
    assert digest_of(encoder) == before


@pytest.mark.parametrize("wanted", ["abc", "xyzxyzxyz", "0" * 65])
def test_not_a_checksum(public_file, wanted):
    with pytest.raises(WeightsError, match="8 to 64 hex digits"):
        load_encoder_weights(ResNet("resnet18"), str(public_file), sha256=wanted)


def test_checksum_without_a_file():
    with pytest.raises(WeightsError, match="no file whose checksum"):
        load_encoder_weights(ResNet("resnet18"), "none", sha256="0" * 64)


def change_name(state):
    state["layer1.0.conv9.weight"] = state.pop("layer1.0.conv1.weight")


def change_shape(state):
    state["layer4.1.conv2.weight"] = torch.zeros(512, 512, 1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_name, r"missing layer1.0.conv1.weight; unknown layer1.0.conv9.weight"),
        (change_shape, r"layer4.1.conv2.weight is \(512, 512, 1, 1\) instead of \(512, 512, 3, 3\)"),
    ],
)
def test_unfit_files_change_nothing(public_file, change, message):
    state = torch.load(public_file, weights_only=True)
    change(state)
    torch.save(state, public_file)
    encoder = ResNet("resnet18")
    before = digest_of(encoder)
    with pytest.raises(WeightsError, match=message):
        load_encoder_weights(encoder, str(public_file))
    assert digest_of(encoder) == before


def test_another_encoders_file_is_refused_in_short(public_file):
    with pytest.raises(WeightsError, match=r"do not fit encoder vgg16(.|\n)*and \d+ more"):
        load_encoder_weights(build_encoder("vgg16"), str(public_file))


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil"),)


@pytest.mark.parametrize("content", [b"this is no weight file", b"", b"PK\x03\x04 half an archive"])
def test_damaged_files(tmp_path, content):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read"):
        load_encoder_weights(ResNet("resnet18"), str(tmp_path / "file.pth"))


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Evil()}, "evil.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_encoder_weights(ResNet("resnet18"), "evil.pth")
    assert not Path("evil").exists()
    torch.load("evil.pth", weights_only=False)
    assert Path("evil").exists()  # the file was dangerous indeed


def test_truncated_file(public_file):
    public_file.write_bytes(public_file.read_bytes()[:-5000])
    with pytest.raises(WeightsError, match="cannot be read"):
        load_encoder_weights(ResNet("resnet18"), str(public_file))


def test_a_tensor_is_no_state_dict(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(WeightsError, match="holds no state_dict"):
        load_encoder_weights(ResNet("resnet18"), str(tmp_path / "tensor.pth"))


def test_missing_file():
    with pytest.raises(WeightsError, match="no such weight file"):
        load_encoder_weights(ResNet("resnet18"), "nowhere/resnet.pth")


@pytest.fixture
def published(monkeypatch, host, public_file):
    """resnet18's published file, on our host under a name with its own hash."""
    name = f"resnet18-{sha256(public_file)[:8]}.pth"
    older = "resnet18-0ld0ld00.pth"
    monkeypatch.setitem(weights.PUBLIC_URLS, "resnet18", (f"{host.url}/{name}", f"{host.url}/{older}"))
    host.body = public_file.read_bytes()
    return name


def test_download_once_and_reuse(published, host, tmp_path):
    cache = tmp_path / "cache"
    encoder = ResNet("resnet18")
    line = load_encoder_weights(encoder, "imagenet", cache=cache)
    assert str(cache / published) in line
    assert [path.name for path in cache.iterdir()] == [published]
    assert (cache / published).stat().st_mode & 0o777 == 0o644
    assert digest_of(encoder) == pytest.approx(
        digest_of_state(torch.load(cache / published, weights_only=True)), rel=1e-12
    )
    load_encoder_weights(ResNet("resnet18"), "imagenet", cache=cache)
    assert host.requests == 1


def digest_of_state(state: dict[str, torch.Tensor]) -> float:
    return sum(value.double().abs().sum().item() for name, value in state.items() if not name.startswith("fc."))


def test_default_cache_is_torch_hubs(published, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    load_encoder_weights(ResNet("resnet18"), "imagenet")
    assert (tmp_path / "hub" / "checkpoints" / published).is_file()


def test_older_name_in_the_cache_is_used(monkeypatch, host, public_file, tmp_path):
    older = f"resnet18-{sha256(public_file)[:8]}.pth"
    urls = (f"{host.url}/resnet18-00000000.pth", f"{host.url}/{older}")
    monkeypatch.setitem(weights.PUBLIC_URLS, "resnet18", urls)
    public_file.rename(tmp_path / older)
    assert older in load_encoder_weights(ResNet("resnet18"), "imagenet", cache=tmp_path)
    assert host.requests == 0


def test_damaged_cache_is_refused_not_replaced(published, host, tmp_path):
    (tmp_path / published).write_bytes(b"half a file")
    with pytest.raises(WeightsError, match="delete the file"):
        load_encoder_weights(ResNet("resnet18"), "imagenet", cache=tmp_path)
    assert (tmp_path / published).read_bytes() == b"half a file"
    assert host.requests == 0


def test_wrong_download_leaves_nothing(published, host, tmp_path):
    host.body = b"<html>please log in</html>"
    cache = tmp_path / "cache"
    with pytest.raises(WeightsError, match="wrong SHA-256") as caught:
        load_encoder_weights(ResNet("resnet18"), "imagenet", cache=cache)
    assert caught.value.got == hashlib.sha256(host.body).hexdigest()
    assert caught.value.wanted == published.split("-")[1][:8]
    assert list(cache.iterdir()) == []


def test_broken_transfer_leaves_nothing(published, host, tmp_path):
    host.promised = len(host.body) + 1000
    cache = tmp_path / "cache"
    with pytest.raises(WeightsError, match=r"broke off|cannot be downloaded"):
        load_encoder_weights(ResNet("resnet18"), "imagenet", cache=cache)
    assert list(cache.iterdir()) == []


def test_refused_and_offline_say_what_to_put_where(published, host, tmp_path):
    host.status = 404
    for _ in range(2):
        with pytest.raises(WeightsError, match="cannot be downloaded") as caught:
            load_encoder_weights(ResNet("resnet18"), "imagenet", cache=tmp_path / "cache")
        assert f"put it at {tmp_path / 'cache' / published}" in str(caught.value)
        assert list((tmp_path / "cache").iterdir()) == []
        host.server.server_close()  # nobody listens the second time


def test_names_of_published_files_end_with_a_hash():
    for urls in weights.PUBLIC_URLS.values():
        for url in urls:
            assert len(bytes.fromhex(weights._hash_in_name(Path(url)))) == 4


def test_published_names_are_torchvisions(torchvision_models):
    """The URLs we download from are those of the installed torchvision's first ImageNet weights."""
    enums = {
        "resnet18": torchvision_models.ResNet18_Weights,
        "resnet50": torchvision_models.ResNet50_Weights,
        "vgg16": torchvision_models.VGG16_Weights,
        "inceptionv3": torchvision_models.Inception_V3_Weights,
    }
    assert {name: enum.IMAGENET1K_V1.url for name, enum in enums.items()} == {
        name: urls[0] for name, urls in weights.PUBLIC_URLS.items() if not name.startswith("vit_")
    }


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs the extra `timm`")
def test_published_transformers_are_deits():
    """The URLs of the vision transformers are those that the installed timm gives for DeiT's own files."""
    timm = import_timm()
    for size in ("tiny", "small", "base"):
        settings = timm.models.get_pretrained_cfg(f"deit_{size}_patch16_224.fb_in1k")
        assert weights.PUBLIC_URLS[f"vit_{size}"] == (settings.url,)


def test_lite0_package_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r'-e "\.\[pretrained\]" -c constraints\.txt'):
        load_encoder_weights(build_encoder("efficientnet_lite0"), "imagenet")


def test_lite0_package_with_another_file(monkeypatch, tmp_path):
    spec = importlib.machinery.ModuleSpec(weights.LITE0_PACKAGE, None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    file = tmp_path / weights.LITE0_FILE
    file.parent.mkdir()
    file.write_bytes(b"other weights")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(WeightsError, match=f"wanted: {weights.LITE0_SHA256}"):
        load_encoder_weights(build_encoder("efficientnet_lite0"), "imagenet")
