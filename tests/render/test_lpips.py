"""LPIPS from weight files as they are passed round: by hand, from every kind, never from a damaged one."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.numpy import save_file  # noqa: E402

from render.train import lpips  # noqa: E402
from render.train.lpips import NETS, SCALE, SHIFT, Lpips, LpipsError, wanted  # noqa: E402
from server.core.errors import VisavisError  # noqa: E402


def weights(name: str) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """Random ones; of the linear layers none is negative, as in the published."""
    rng = np.random.default_rng(0)
    out = {key: rng.normal(0, 0.1, shape).astype(np.float32) for key, shape in wanted(name).items()}
    return {key: np.abs(a) if key.startswith("lin") else a for key, a in out.items()}


def packaged(name: str) -> dict[str, "torch.Tensor"]:
    """As the package's state_dict names them, its doubles and constants among them."""
    slices = {layer.index: k for k, layers in enumerate(NETS[name], 1) for layer in layers}
    out = {"scaling_layer.shift": torch.tensor(SHIFT), "scaling_layer.scale": torch.tensor(SCALE)}
    for key, a in weights(name).items():
        kind, index, rest = key.split(".", 2)
        named = f"net.slice{slices[int(index)]}.{index}.{rest}" if kind == "features" else key
        out[named] = torch.from_numpy(a)
        if kind != "features":
            out[f"lins.{kind[3:]}.{index}.{rest}"] = torch.from_numpy(a)
    return out


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alex.pth"
    torch.save(packaged("alex"), path)
    return path


def pictures(*shape: int) -> list["torch.Tensor"]:
    rng = torch.Generator().manual_seed(1)
    return [torch.rand(3, *shape, generator=rng) for _ in range(2)]


def by_modules(name: str, x: "torch.Tensor", y: "torch.Tensor") -> float:
    """The formula once more, with torch's own modules stacked as torchvision stacks them."""
    w, taps = {k: torch.from_numpy(a) for k, a in weights(name).items()}, []
    nn = torch.nn
    for layers in NETS[name]:
        stack: list[torch.nn.Module] = []
        for layer in layers:
            if layer.pooled:
                stack.append(nn.MaxPool2d(layer.pooled, 2))
            conv = nn.Conv2d(layer.into, layer.out, layer.side, layer.stride, layer.padding)
            conv.load_state_dict({k: w[f"features.{layer.index}.{k}"] for k in ("weight", "bias")})
            stack += [conv, nn.ReLU()]
        taps.append(nn.Sequential(*stack))
    total = 0.0
    with torch.no_grad():
        a, b = ((2 * v - 1 - torch.tensor(SHIFT)[:, None, None]) / torch.tensor(SCALE)[:, None, None] for v in (x, y))
        a, b = a[None], b[None]
        for k, stack_ in enumerate(taps):
            a, b = stack_(a), stack_(b)
            off = (nn.functional.normalize(a, dim=1) - nn.functional.normalize(b, dim=1)) ** 2
            total += float((off * w[f"lin{k}.model.1.weight"]).sum(1).mean())
    return total


@pytest.mark.parametrize("name", NETS)
def test_the_distance_is_the_published_formula(name: str, tmp_path: Path) -> None:
    torch.save(packaged(name), tmp_path / "all.pth")
    net = Lpips.of_files([tmp_path / "all.pth"])
    x, y = pictures(40, 48)
    assert net.name == name
    assert float(net(x, y)) == pytest.approx(by_modules(name, x, y), rel=1e-5)
    assert float(net(x, x)) == 0


def test_every_kind_of_file_says_the_same(file: Path, tmp_path: Path) -> None:
    x, y = pictures(64, 64)
    whole = float(Lpips.of_files([file])(x, y))
    parts = weights("alex")
    save_file({k: a for k, a in parts.items() if k.startswith("features")}, tmp_path / "alexnet.safetensors")
    torch.save({k: torch.from_numpy(a) for k, a in parts.items() if k.startswith("lin")}, tmp_path / "lin.pth")
    both = [tmp_path / "alexnet.safetensors", tmp_path / "lin.pth"]
    assert float(Lpips.of_files(both)(x, y)) == whole
    with pytest.raises(LpipsError, match=r"lacks features\.0\.weight: the net's own weights .* name both"):
        Lpips.of_files(both[1:])


def test_small_and_black_pictures_have_finite_gradients(file: Path) -> None:
    net = Lpips.of_files([file])
    for x, y in (pictures(9, 5), [torch.zeros(3, 40, 40), torch.ones(3, 40, 40)]):
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(net(x, y), x)
        assert gradient.isfinite().all()
        assert gradient.any()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _shape(path: Path) -> None:
    torch.save(packaged("alex") | {"net.slice1.0.weight": torch.zeros(64, 3, 5, 5)}, path)


def _nan(path: Path) -> None:
    torch.save(packaged("alex") | {"net.slice1.0.bias": torch.full((64,), torch.nan)}, path)


def _negative(path: Path) -> None:
    torch.save(packaged("alex") | {"lin0.model.1.weight": -torch.ones(1, 64, 1, 1)}, path)


def _other(path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, path)


def _list(path: Path) -> None:
    torch.save([torch.zeros(3)], path)


class Evil:
    def __reduce__(self) -> object:
        return (exec, ("raise SystemExit('ran')",))


def _evil(path: Path) -> None:
    torch.save({"lin1.model.1.weight": Evil()}, path)


def _gone(path: Path) -> None:
    path.unlink(missing_ok=True)


BROKEN = {
    _cut: "Copy or download it again",
    _shape: "is \\(64, 3, 5, 5\\), not \\(64, 3, 11, 11\\)",
    _nan: "not finite",
    _negative: "not negative",
    _other: "no linear layers",
    _list: "no names",
    _evil: "Nothing was run",
    _gone: "is not a file",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda f: f.__name__)
def test_other_files_are_refused_in_a_sentence(damage: object, file: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(file.read_bytes())
    damage(path)  # type: ignore[operator]
    with pytest.raises(VisavisError, match=BROKEN[damage]) as told:  # type: ignore[index]
        Lpips.of_files([path])
    assert str(told.value).endswith(".")


def test_a_file_that_is_too_large_is_not_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lpips, "MAX_BYTES", 1000)
    with pytest.raises(LpipsError, match="larger"):
        Lpips.of_files([file])
