import re
from pathlib import Path

import pytest
import yaml

from ed2rec import config
from ed2rec.config import Settings, as_preset, differences, explain, for_model, presets, resolve, what_is_read
from ed2rec.errors import ConfigError


def refusal(**given) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(**given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_sources_the_defaults_hold():
    assert resolve() == Settings()


@pytest.mark.parametrize("name", presets())
def test_every_preset_that_ships_resolves(name):
    resolve(name)


def test_there_are_presets_to_test():
    assert {"default", "demo"} <= set(presets())


def test_later_sources_win(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "PRESETS", tmp_path)
    (tmp_path / "base.yaml").write_text("training: {epochs: 1, lr: 0.1}\nseed: 1\n")
    (tmp_path / "mine.yaml").write_text("extends: base\ntraining: {epochs: 2}\n")
    (tmp_path / "file.yml").write_text("decoding: {beam: 3}\ntraining: {lr: 0.3}\n")
    found = resolve("mine", ["decoding.beam=4"], tmp_path / "file.yml", {"seed": 9})
    assert (found.training.epochs, found.training.lr, found.decoding.beam, found.seed) == (2, 0.3, 4, 9)


def test_presets_go_on_top_of_one_another_in_their_order():
    small, both = resolve("small"), resolve(["small", "wo-user"])
    assert both.indexer.users == () and both.training == small.training and both.backbone == small.backbone
    assert resolve("small,wo-user") == resolve(["small,wo-user"]) == both
    assert resolve(["wo-user", "small"]) == small  # the later wins
    assert "no preset 'wo-usr'; the nearest is 'wo-user'" in refusal(preset="small,wo-usr")


VARIANTS = sorted(set(presets()) - {"default", "demo", "small"})


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_what_it_names_and_keeps_the_rest_of_any_preset(name):
    changes = differences(name)
    assert changes
    for base in ("default", "small", "demo"):
        before, after = (flat(resolve(preset)) for preset in (base, f"{base},{name}"))
        assert {key for key in after if after[key] != before[key]} <= changes.keys()
        assert all(after[key] == value for key, value in changes.items())


def flat(settings: Settings) -> dict[str, object]:
    """Dotted key → plain value."""
    tree = settings.model_dump(mode="json")
    groups = {name: value for name, value in tree.items() if isinstance(value, dict)}
    single = {name: value for name, value in tree.items() if name not in groups}
    return single | {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}


def test_a_preset_of_which_a_file_leaves_nothing_is_refused(tmp_path):
    """A run's config has every key, so that a preset below it would be lost without a word; a file with a few leaves
    the rest of it, or sets the same."""
    file = tmp_path / "config.yaml"
    file.write_text(resolve("small").to_yaml())
    with pytest.raises(ConfigError, match=r"--preset wo-user would change nothing: .*config.yaml stands above it and"):
        for_model(None, "wo-user", file)
    assert for_model(None, "small", file) == ["small"]
    file.write_text("training: {lr: 0.1}")
    assert for_model(None, "small,wo-user", file) == ["small", "wo-user"]


def test_the_resolved_copy_reads_back_to_the_same_settings(tmp_path):
    settings = resolve("demo", ["indexer.items=[4, 32, 256, 256]", "training.lr=1e-4", "encoding.cache=null"])
    (tmp_path / "config.yaml").write_text(settings.to_yaml())
    assert resolve(file=tmp_path / "config.yaml") == settings


def test_a_preset_that_names_a_pretrained_llm_keeps_all_its_layers():
    """`medium`, on which `gpu` stands, has two layers, of `tiny`."""
    named = [resolve(name).backbone for name in presets()]
    assert {b.layers for b in named if b.name != "tiny"} == {None}


def test_values_are_read_as_yaml():
    found = resolve(overrides=["training.lr=1e-4", "indexer.users=[]", "training.dense=false", "backbone.layers=null"])
    assert found.training.lr == 1e-4 and found.indexer.users == ()
    assert found.training.dense is False and found.backbone.layers is None


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        resolve().seed = 3


@pytest.mark.parametrize(
    ("key", "nearest"), [("training.epoch", "training.epochs"), ("epoch", "training.epochs"), ("sed", "seed")]
)
def test_an_unknown_key_names_its_place_itself_and_the_nearest_match(key, nearest, tmp_path):
    assert refusal(overrides=[f"{key}=3"]) == f"--set {key}=3: unknown setting '{key}'; the nearest is '{nearest}'"
    group, _, name = key.rpartition(".")
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump({group: {name: 3}} if group else {name: 3}))
    assert refusal(file=file) == f"{file}: unknown setting '{key}'; the nearest is '{nearest}'"


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("training.frozen_tail=2", "training.frozen_tail = 2, allowed: a number >= 0 and <= 1"),
        ("backbone.layers=0", "backbone.layers = 0, allowed: a whole number >= 1"),
        ("training.lr=fast", "training.lr = 'fast', allowed: a number > 0 and <= 1"),
        ("decoding.normalise=row", "decoding.normalise = 'row', allowed: 'level' or 'vocabulary'"),
        ("indexer.items=[4, many]", "indexer.items = 'many', allowed: a valid integer"),
    ],
)
def test_a_bad_value_is_shown_with_what_is_allowed(text, allowed):
    message = refusal(overrides=[text])
    assert message.startswith(f"--set {text}: ") and allowed in message


def test_several_bad_values_are_all_named():
    assert "also wrong: training.lr" in refusal(overrides=["seed=-1", "training.lr=7"])


def test_a_bad_value_is_blamed_on_the_source_that_gave_it(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("decoding: {beam: 0}\n")
    assert refusal(file=file, overrides=["seed=3"]).startswith(f"{file}: decoding.beam = 0")


def test_a_group_is_not_a_value_and_an_empty_group_is_nothing(tmp_path):
    assert "is a group" in refusal(overrides=["training=3"])
    file = tmp_path / "my.yaml"
    file.write_text("training:\ndecoding: {}\n")
    assert resolve(file=file) == Settings()


@pytest.mark.parametrize("text", ["seed", "=3", "training.lr={"])
def test_a_malformed_override_is_refused_with_an_example(text):
    assert text in refusal(overrides=[text])


def test_an_unknown_preset_lists_those_there_are():
    assert refusal(preset="dem") == f"no preset 'dem'; the nearest is 'demo'; there are: {', '.join(presets())}"
    assert "no preset '../demo'" in refusal(preset="../demo")


def test_presets_that_extend_each_other_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "PRESETS", tmp_path)
    (tmp_path / "a.yaml").write_text("extends: b\n")
    (tmp_path / "b.yaml").write_text("extends: a\n")
    assert "a → b → a extends itself" in refusal(preset="a")


@pytest.mark.parametrize(("text", "fault"), [("- a\n", "not a list"), ("a: [", "is not YAML"), ("\x00", "is not YAML")])
def test_a_file_that_is_no_settings_file_is_refused(tmp_path, text, fault):
    file = tmp_path / "my.yaml"
    file.write_text(text)
    assert fault in refusal(file=file)
    assert "No such file" in refusal(file=tmp_path / "absent.yaml")


def test_every_setting_is_documented_where_it_is_declared():
    rows = list(explain())
    assert len(rows) == len({key for key, _, _ in rows}) > 20
    assert not [key for key, _, meaning in rows if len(meaning) < 10]


def test_every_documented_default_is_accepted_by_set():
    assert resolve(overrides=[f"{key}={default}" for key, default, _ in explain()]) == Settings()


def test_no_preset_names_a_machine():
    files = list(Path(config.__file__).parent.glob("presets/*.yaml"))
    assert files and not [file for file in files if re.search(r"/(home|work|tmp|root)/", file.read_text())]


def test_what_is_read_tells_protocols_apart_and_not_settings_of_other_models():
    by_time, other = (resolve(extra={"model": "sasrec", **more}) for more in ({"split": "global-time"}, {}))
    assert what_is_read(by_time) != what_is_read(other)
    assert what_is_read(other) == what_is_read(resolve(extra={"model": "sasrec", "training.epochs": 3}))
    assert what_is_read(other).keys() == {"model", "seed", "split", "baseline", "sasrec"}


def test_a_preset_made_of_settings_keeps_the_protocol(tmp_path):
    by_time = resolve(extra={"model": "sasrec", "split": "global-time"})
    (tmp_path / "best.yaml").write_text(as_preset(by_time))
    assert resolve(file=tmp_path / "best.yaml") == by_time


FOUR, THREE, FIVE = [256] * 4, [256] * 3, [256] * 5
DIFFERENCES = {
    "wo-user": {"indexer.users": []},
    "wo-dynamic": {"training.refreshes": 0},
    "wo-mgtr": {"regulator.beta1": 0.0, "regulator.beta2": 0.0},
    "wo-exploit": {"tasks.use": "alignment"},
    "wo-um": {"indexer.users": [], "regulator.beta1": 0.0, "regulator.beta2": 0.0},
    "3-ed2": {"indexer.items": THREE, "indexer.users": THREE},
    "5-ed2": {"indexer.items": FIVE, "indexer.users": FIVE},
    "static": {"training.refreshes": 0},
    "d-lsh": {"indexer.kind": "lsh"},
    "s-lsh": {"indexer.kind": "lsh", "training.refreshes": 0},
    "figure4": {"indexer.items": [4, 32, 256, 256]},
    "latent-gaussian": {"indexer.latent": "gaussian"},
    "latent-none": {"indexer.latent": "none"},
    "suffix-on": {"indexer.separate": False},
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_an_ablation_changes_what_the_paper_takes_away_and_nothing_else(name):
    """Tables 2 and 3, figure 4, appendices I, J and K, on the default base of four levels of 256 codes."""
    base, changed = (flat(resolve(presets)) for presets in (["default"], ["default", name]))
    assert base["indexer.items"] == base["indexer.users"] == FOUR
    assert {key: changed[key] for key in changed if changed[key] != base[key]} == DIFFERENCES[name]


def test_the_paper_s_own_choices_have_names_too():
    """The default base has them already; on another one they are a difference like the rest."""
    assert resolve(["default", "4-ed2"]) == resolve(["default", "latent-vmf"]) == resolve("default")
    base, four = (flat(resolve(presets)) for presets in (["small"], ["small", "4-ed2"]))
    assert {key: four[key] for key in four if four[key] != base[key]} == {"indexer.items": FOUR, "indexer.users": FOUR}
    assert resolve(["default", "latent-none", "latent-vmf"]).indexer.latent == "vmf"
