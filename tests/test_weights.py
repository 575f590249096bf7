"""Weights: what is saved comes back, what does not fit is refused by name, the Hub is checked."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_hub import COMMIT, REPO, FakeHub
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from moises_light import weights
from moises_light.config import Config, configs
from moises_light.model import MoisesLight

CARD = {"steps": 12, "sdr": {"validation": {"vocals": 1.5}}, "notes": "Größe"}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoints but those a test makes, and no settings of the one who runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "package" / "weights.py"))
    for name in ("CHECKPOINTS", "REPO", "REVISION", "SHA256"):
        monkeypatch.delenv(f"MOISES_LIGHT_{name}", raising=False)


@pytest.fixture
def saved(tiny_model: MoisesLight, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    weights.save(tiny_model, path, {"card": CARD})
    return path


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def rewrite(
    path: Path, tensors: Mapping[str, Tensor | None] | None = None, **fields: str | None
) -> None:
    """Change tensors and header fields of a file; `None` takes one away."""
    with safe_open(path, framework="pt") as file:
        content = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    content = {**content, **(tensors or {})}
    fields = {**header(path), **fields}
    save_file(
        {key: x for key, x in content.items() if x is not None},
        path,
        {key: text for key, text in fields.items() if text is not None},
    )


# --------------------------------------------------------------------------- save and load


def test_what_is_saved_comes_back(tiny_model: MoisesLight, saved: Path) -> None:
    checkpoint = weights.load(saved)
    assert checkpoint.config == tiny_model.config
    assert checkpoint.metadata == {"preset": "", "card": CARD}
    wanted = tiny_model.state_dict()
    assert checkpoint.state_dict.keys() == wanted.keys()
    for key, x in checkpoint.state_dict.items():
        torch.testing.assert_close(x, wanted[key], rtol=0, atol=0)


def test_a_loaded_network_gives_the_same_output_in_eval(
    tiny_model: MoisesLight, saved: Path
) -> None:
    loaded = MoisesLight.from_pretrained(saved)
    assert not loaded.training
    x = torch.randn(1, 2, 3000, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(x), tiny_model(x), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_stored_for_matrices_and_read_as_float32(
    tiny_model: MoisesLight, tmp_path: Path, dtype: torch.dtype
) -> None:
    path = tmp_path / "half.safetensors"
    weights.save(tiny_model, path, dtype=dtype)
    read = weights.load(path).state_dict
    for key, x in tiny_model.state_dict().items():
        assert read[key].dtype == (torch.float32 if x.is_floating_point() else x.dtype)
        exact = x.ndim < 2
        torch.testing.assert_close(read[key], x if exact else x.to(dtype).float(), rtol=0, atol=0)


def test_double_precision_is_stored_as_single(tiny_model: MoisesLight, tmp_path: Path) -> None:
    wanted = {key: x.clone() for key, x in tiny_model.state_dict().items()}
    weights.save(tiny_model.double(), tmp_path / "a.safetensors")
    read = weights.load(tmp_path / "a.safetensors").state_dict
    torch.testing.assert_close(read, wanted, rtol=0, atol=0)


def test_the_header_describes_the_network_in_text(tiny_model: MoisesLight, saved: Path) -> None:
    fields = header(saved)
    assert fields["format"] == "moises-light-studio/1"
    assert Config(**json.loads(fields["config"])) == tiny_model.config
    assert json.loads(fields["card"]) == CARD


def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    tiny_model: MoisesLight, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def disk_full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(ValueError, match=r"tiny\.safetensors cannot be written: No space left"):
        weights.save(tiny_model, saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_file_that_cannot_be_written_is_told_by_its_own_name(
    tiny_model: MoisesLight, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved / "a.safetensors"
    with pytest.raises(ValueError, match=r"a\.safetensors cannot be written: \w") as error:
        weights.save(tiny_model, path)
    assert ".part" not in str(error.value)

    def too_large(*_: object) -> bytes:
        raise SafetensorError("HeaderTooLarge")

    monkeypatch.setattr(weights, "to_bytes", too_large)
    with pytest.raises(ValueError, match=r"b\.safetensors cannot be written: HeaderTooLarge"):
        weights.save(tiny_model, saved.with_name("b.safetensors"))


def test_a_name_may_be_as_long_as_a_file_system_allows(
    tiny_model: MoisesLight, tmp_path: Path
) -> None:
    path = tmp_path / f"{'日' * 80}.safetensors"  # 252 of 255 bytes
    weights.save(tiny_model, path)
    assert list(tmp_path.iterdir()) == [path]


def test_save_refuses_what_load_would(tiny_model: MoisesLight, tmp_path: Path) -> None:
    path = tmp_path / "compiled.safetensors"
    with pytest.raises(ValueError, match="would not fit the network of its config") as error:
        weights.save(torch.compile(tiny_model), path)
    assert "missing first_conv" in str(error.value)
    assert not path.exists()


def test_save_refuses_what_is_not_finite(tiny_model: MoisesLight, tmp_path: Path) -> None:
    with torch.no_grad():
        tiny_model.source_head.weight[0, 0] = 1e6
    weights.save(tiny_model, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"not finite as torch\.float16.*source_head\.weight"):
        weights.save(tiny_model, tmp_path / "b.safetensors", dtype=torch.float16)
    with torch.no_grad():
        tiny_model.source_head.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"not finite.*source_head\.weight"):
        weights.save(tiny_model, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"sdr": 1}, "metadata has sdr; it may have preset and card"),
        ({"preset": "paper_small"}, "the network is not paper_small"),
        ({"preset": "tiny"}, "no preset is called 'tiny'"),
        ({"card": "text"}, "card is str; give a dict"),
        ({"card": {"sdr": float("nan")}}, "card does not fit into JSON"),
        ({"card": {"path": Path("a")}}, "card does not fit into JSON"),
    ],
)
def test_save_refuses_metadata_that_it_would_lose(
    tiny_model: MoisesLight, tmp_path: Path, metadata: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        weights.save(tiny_model, tmp_path / "a.safetensors", metadata)
    assert list(tmp_path.iterdir()) == []


def test_load_names_every_tensor_that_does_not_fit(saved: Path) -> None:
    rewrite(
        saved,
        {
            "source_head.bias": None,
            "final_conv.bn.weight": None,
            "extra.weight": torch.zeros(1),
            "source_head.weight": torch.zeros(3, 1),
            "first_conv.conv.bias": torch.full((4,), float("inf")),
            "first_conv.bn.num_batches_tracked": torch.zeros(()),
            "first_conv.bn.weight": torch.zeros(4, dtype=torch.float64),
        },
    )
    with pytest.raises(ValueError, match="does not fit the network of its config") as error:
        weights.load(saved)
    for phrase in (
        "missing source_head.bias",
        "missing final_conv.bn.weight",
        "unknown extra.weight",
        "source_head.weight has shape [3, 1] instead of [16, 4, 1, 1]",
        "first_conv.conv.bias is not finite",
        "first_conv.bn.num_batches_tracked is torch.float32 instead of torch.int64",
        "first_conv.bn.weight is torch.float64 instead of torch.float32",
    ):
        assert phrase in str(error.value)


def _config_with(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        values = {**json.loads(header(path)["config"]), **changes}
        kept = {key: value for key, value in values.items() if value is not None}
        rewrite(path, config=json.dumps(kept))

    return change


def deep(path: Path) -> None:
    """So many transformers that the last one's gain, 2.0**1025, is no float, and tensors enough."""
    rewrite(path, {f"x{i}": torch.zeros(1) for i in range(520)})
    _config_with(n_rope=513)(path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b""), "cannot be read as safetensors"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cannot be read as safetensors"),
        (lambda path: path.write_bytes(b"\x80\x02}q\x00."), "cannot be read as safetensors"),
        (lambda path: path.unlink(), "there is no file"),
        (lambda path: rewrite(path, format=None), "has format None instead of"),
        (lambda path: rewrite(path, format="moises-light-studio/2"), "has format '.*/2' instead"),
        (lambda path: rewrite(path, config=None), "no config in its header that is JSON"),
        (lambda path: rewrite(path, config="{"), "no config in its header that is JSON"),
        (lambda path: rewrite(path, config="[" * 9999), "no config in its header that is JSON"),
        (lambda path: rewrite(path, card="[]"), "card in its header that is no JSON object"),
        (lambda path: rewrite(path, preset="paper_small"), "its config is another"),
        (
            lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n"),
            "not the file itself but a pointer to it; fetch it with `git lfs pull`",
        ),
        (_config_with(dropout=0.1), "config of another version: unknown dropout"),
        (_config_with(n_rope=None), "config of another version: missing n_rope"),
        (_config_with(G=5), "impossible config: G=5 is not divisible"),
        (_config_with(G=4.0), "impossible config: G=4.0; it must be a whole number"),
        (_config_with(sources=7), "impossible config"),
        (_config_with(n_enc=10**6), "too few for the 3000002 layers"),
        (_config_with(G=2**20, ff_mult=2**20), "describes a network that is too large"),
        (deep, "describes a network that is too large"),
        (_config_with(G=4 * 10**30), "impossible config: G=40+; choose at most 1048576"),
        (_config_with(n_fft=2 * 10**12), "n_fft=2000000000000; choose at most 1048576"),
        (_config_with(sample_rate=10**400), r"sample_rate=10+\.\.\.0+; choose at most 1048576"),
        (_config_with(audio_channels=10**7), "audio_channels=10000000; choose at most 64"),
        (_config_with(sources=[f"s{i}" for i in range(65)]), "has 65 names; give at most 64"),
    ],
)
def test_load_refuses_a_file_that_is_not_whole(
    saved: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(saved)
    with pytest.raises(ValueError, match=words):
        weights.load(saved)


# --------------------------------------------------------------------------- the reference


@pytest.fixture
def reference(tiny_model: MoisesLight) -> dict[str, Tensor]:
    """A state dict as the reference package lays it out."""
    return {
        "stft_window": torch.hann_window(512),
        "freq_pad": torch.zeros(1, 4, 257 - 128, 1),
        **tiny_model.state_dict(),
    }


def test_from_reference_drops_two_buffers_and_keeps_the_rest(
    tiny_model: MoisesLight, reference: dict[str, Tensor]
) -> None:
    ours = weights.from_reference(reference, tiny_model.config)
    assert (
        ours.keys()
        == tiny_model.state_dict().keys()
        == reference.keys()
        - {
            "stft_window",
            "freq_pad",
        }
    )
    assert all(ours[key] is reference[key] for key in ours)


def test_from_reference_names_every_key_that_does_not_fit(
    tiny_config: Config, reference: dict[str, Tensor]
) -> None:
    del reference["source_head.bias"], reference["freq_pad"]
    reference |= {
        "module.weight": torch.zeros(1),
        "first_conv.conv.bias": torch.zeros(9),
        "epoch": 3,  # type: ignore[dict-item]
    }
    with pytest.raises(ValueError, match="does not fit the network of its config") as error:
        weights.from_reference(reference, tiny_config)
    for phrase in (
        "missing source_head.bias",
        "missing freq_pad",
        "unknown module.weight",
        "unknown epoch",
        "first_conv.conv.bias has shape [9] instead of [4]",
    ):
        assert phrase in str(error.value)
    assert str(error.value).count(";") == 4


def test_from_reference_refuses_a_window_that_ours_would_not_have(
    tiny_config: Config, reference: dict[str, Tensor]
) -> None:
    reference["stft_window"] = torch.hamming_window(512)
    with pytest.raises(ValueError, match="stft_window has values of its own"):
        weights.from_reference(reference, tiny_config)


def test_from_reference_knows_the_presets_by_their_shapes() -> None:
    for preset in ("paper_small", "fullband_small_wide"):
        config = configs[preset]
        reference = {
            "stft_window": torch.hann_window(config.win_size),
            "freq_pad": torch.zeros(1, 4, config.n_bins - config.freq_dim, 1),
            **MoisesLight(**config).state_dict(),
        }
        assert len(weights.from_reference(reference)) == len(reference) - 2
        del reference["source_head.bias"]
        with pytest.raises(ValueError, match=f"of {preset}: missing source_head.bias$"):
            weights.from_reference(reference)


# --------------------------------------------------------------------------- find


def save_preset(preset: str, folder: Path, card: dict[str, Any] | None = None) -> Path:
    path = folder / f"{preset}.safetensors"
    weights.save(MoisesLight(**configs[preset]), path, {"preset": preset, "card": card or {}})
    return path


def test_the_given_folder_goes_before_the_environment_before_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / "given", tmp_path / "environment", tmp_path / "checkpoints"]
    for place in places:
        place.mkdir()
        (place / "paper_small.safetensors").touch()
    assert weights.find("paper_small") == places[2] / "paper_small.safetensors"
    monkeypatch.setenv("MOISES_LIGHT_CHECKPOINTS", str(places[1]))
    assert weights.find("paper_small") == places[1] / "paper_small.safetensors"
    assert weights.find("paper_small", "given") == places[0] / "paper_small.safetensors"


def test_a_clone_finds_its_checkpoints_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoints" / "paper_small.safetensors"
    path.parent.mkdir()
    path.touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert weights.find("paper_small") == path


def test_a_preset_without_weights_says_so_and_names_those_with() -> None:
    with pytest.raises(weights.MissingWeights, match="No preset has weights here"):
        weights.find("paper_large")
    save_preset("paper_small", Path("checkpoints"))
    with pytest.raises(weights.MissingWeights) as error:
        weights.find("paper_large")
    text = str(error.value)
    assert text.startswith("paper_large has no weights: there is no paper_large.safetensors in ")
    assert "MOISES_LIGHT_REPO names no repository" in text
    assert text.endswith("Presets with weights: paper_small")


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no preset is called 'papersmall'.*paper_small"):
        weights.find("papersmall")
    with pytest.raises(ValueError, match=r"neither a preset \(paper_large, .*\) nor a"):
        weights.load_pretrained("papersmall")
    with pytest.raises(weights.MissingWeights, match="there is no file"):
        weights.load_pretrained(tmp_path / "absent.safetensors")


def test_a_network_under_the_name_of_another_is_refused(
    tiny_model: MoisesLight, tmp_path: Path
) -> None:
    weights.save(tiny_model, tmp_path / "paper_small.safetensors")
    with pytest.raises(ValueError, match="describes another network than paper_small"):
        weights.load_pretrained("paper_small", tmp_path)
    assert weights.load_pretrained(tmp_path / "paper_small.safetensors").config == tiny_model.config


def test_available_reads_cards_and_leaves_out_what_cannot_be_used(
    tiny_model: MoisesLight, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_preset("paper_small", tmp_path, CARD)
    (tmp_path / "paper_large.safetensors").write_bytes(b"broken")
    weights.save(tiny_model, tmp_path / "fullband_small.safetensors")
    found = weights.available(tmp_path)
    assert found == {"paper_small": weights.Info(path, configs["paper_small"], CARD)}
    assert "paper_large.safetensors cannot be read as safetensors" in caplog.text
    assert "describes another network than fullband_small" in caplog.text


# --------------------------------------------------------------------------- the Hub

FIND = """
import sys, time
time.sleep = lambda seconds: None  # the client waits between attempts
from moises_light import weights
try:
    print(weights.find("paper_small", sys.argv[1]))
except ValueError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """The folder that the stand-in Hub serves, with a file of made-up bytes."""
    folder = tmp_path / "remote"
    folder.mkdir()
    (folder / "paper_small.safetensors").write_bytes(b"weights" * 1000)
    return folder


def find_in_process(url: str, tmp_path: Path, **environment: str) -> str:
    """What `find` prints in a process of its own: the client reads HF_ENDPOINT when imported."""
    digest = hashlib.sha256(b"weights" * 1000).hexdigest()
    kept = {key: os.environ[key] for key in ("PATH", "SYSTEMROOT") if key in os.environ}
    settings = {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "HF_ENDPOINT": url,
        "HF_HOME": str(tmp_path / "hub"),
        "HF_TOKEN": "hf_not_to_be_sent",
        "MOISES_LIGHT_REPO": REPO,
        "MOISES_LIGHT_REVISION": COMMIT,
        "MOISES_LIGHT_SHA256": f"paper_small={digest}",
    }
    result = subprocess.run(
        [sys.executable, "-c", FIND, str(tmp_path / "no checkpoints")],
        env={**kept, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return result.stdout.strip()


@pytest.mark.hub
def test_a_pinned_file_is_downloaded_once_and_then_works_without_the_hub(
    remote: Path, tmp_path: Path
) -> None:
    with FakeHub(remote) as hub:
        path = Path(find_in_process(hub.url, tmp_path))
        assert path.read_bytes() == b"weights" * 1000
        assert {method for method, _, _ in hub.requests} == {"HEAD", "GET"}
        assert not any(has_token for _, _, has_token in hub.requests)
    assert Path(find_in_process(hub.url, tmp_path)) == path  # the server is down
    assert Path(find_in_process(hub.url, tmp_path, HF_HUB_OFFLINE="1")) == path


@pytest.mark.hub
def test_a_file_that_is_not_what_is_pinned_is_not_loaded(remote: Path, tmp_path: Path) -> None:
    with FakeHub(remote) as hub:
        wrong = f"paper_small={'0' * 64}"
        text = find_in_process(hub.url, tmp_path, MOISES_LIGHT_SHA256=wrong)
        assert text.startswith("ValueError")
        assert f"instead of {'0' * 64} and is not loaded" in text
        # a file that went bad in the cache is noticed too
        path = Path(find_in_process(hub.url, tmp_path))
        path.resolve().write_bytes(b"weighty" * 1000)
        assert "and is not loaded; delete" in find_in_process(hub.url, tmp_path)


@pytest.mark.hub
def test_what_the_hub_does_not_have_is_said_in_a_sentence(remote: Path, tmp_path: Path) -> None:
    (remote / "paper_small.safetensors").unlink()
    with FakeHub(remote) as hub:
        where = f"{REPO} on the Hub at {COMMIT}"
        text = find_in_process(hub.url, tmp_path)
        assert text == f"MissingWeights {where} has no paper_small.safetensors"
        text = find_in_process(hub.url, tmp_path, MOISES_LIGHT_REVISION="f" * 40)
        assert text.startswith("MissingWeights paper_small.safetensors could not be downloaded")
        text = find_in_process(hub.url, tmp_path, MOISES_LIGHT_REPO="someone/else")
        assert text.startswith("MissingWeights paper_small.safetensors could not be downloaded")


@pytest.mark.hub
@pytest.mark.parametrize("offline", ["", "1"])
def test_without_hub_and_cache_it_says_what_to_do(
    remote: Path, tmp_path: Path, offline: str
) -> None:
    with FakeHub(remote) as hub:
        pass  # its port is free again, nobody answers there
    text = find_in_process(hub.url, tmp_path, HF_HUB_OFFLINE=offline)
    assert text.startswith("MissingWeights paper_small.safetensors is not on this machine and")
    assert f"cannot be reached; connect, or put the file in {tmp_path / 'no checkpoints'}" in text


@pytest.mark.hub
def test_without_a_pinned_hash_nothing_is_asked_of_the_hub(remote: Path, tmp_path: Path) -> None:
    with FakeHub(remote) as hub:
        for name in ("MOISES_LIGHT_SHA256", "MOISES_LIGHT_REVISION"):
            text = find_in_process(hub.url, tmp_path, **{name: ""})
            assert text.startswith("MissingWeights paper_small has no weights")
            assert "set MOISES_LIGHT_REVISION to a commit and MOISES_LIGHT_SHA256 to" in text
        assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("REVISION", "main", "MOISES_LIGHT_REVISION is 'main'; give a commit, 40 hex digits"),
        ("SHA256", "0" * 64, "MOISES_LIGHT_SHA256 holds '0+'; give <preset>="),
        ("SHA256", "tiny=" + "0" * 64, "with a preset among paper_large"),
        ("SHA256", "paper_small=0", "MOISES_LIGHT_SHA256 holds 'paper_small=0'"),
    ],
)
def test_pins_that_pin_nothing_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv("MOISES_LIGHT_REPO", REPO)
    monkeypatch.setenv(f"MOISES_LIGHT_{name}", value)
    with pytest.raises(ValueError, match=words):
        weights.find("paper_small")


def test_weights_on_the_hub_count_as_available_before_they_are_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights, "PINS", {"paper_small": weights.Pin(COMMIT, "0" * 64)})
    assert weights.available() == {}
    monkeypatch.setenv("MOISES_LIGHT_REPO", "nobody/nothing")
    assert weights.available() == {"paper_small": weights.Info(None, configs["paper_small"], {})}


def test_publish_sends_weights_and_cards_in_one_commit_and_returns_the_pins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    sent: list[tuple[str, list[str]]] = []

    class Api:
        def __init__(self, token: str | None):
            assert token == "hf_mine"

        def create_repo(self, repo: str, exist_ok: bool) -> None:
            assert exist_ok

        def create_commit(self, repo: str, operations: list[Any], commit_message: str) -> Any:
            sent.append((repo, [operation.path_in_repo for operation in operations]))
            return huggingface_hub.CommitInfo(
                commit_url="https://huggingface.co/someone/weights/commit/x",
                commit_message=commit_message,
                commit_description="",
                oid=COMMIT,
            )

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(weights.MissingWeights, match="nothing is published: no weights for any"):
        weights.publish(REPO, folder=tmp_path, token="hf_mine")
    path = save_preset("paper_small", tmp_path)
    path.with_suffix(".md").write_text("# paper_small\n")
    with pytest.raises(weights.MissingWeights, match="no weights for paper_large in"):
        weights.publish(REPO, ["paper_small", "paper_large"], tmp_path, "hf_mine")
    pins = weights.publish(REPO, folder=tmp_path, token="hf_mine")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert pins == {"paper_small": weights.Pin(COMMIT, digest)}
    assert sent == [(REPO, ["paper_small.safetensors", "paper_small.md"])]
