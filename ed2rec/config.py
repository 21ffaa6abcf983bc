"""Settings: presets and YAML in, validated and frozen values out; a mistake names its place and the nearest match.

    settings = resolve("demo", ["training.epochs=3"])
    variant = resolve(["small", "wo-user"])

Later sources win: the defaults in settings.py, then each preset (which may `extends:` another), then a file, then each
`--set group.key=value`. A preset that holds nothing but one difference (a row of the paper's ablations) goes on top of
any other. To add a setting, add one line with its docstring to its group there: `--set`, presets, the
saved copy and `explain` follow from it. Nothing below the command line ever receives a Settings object, only plain
values.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ed2rec.baseline_settings import FLOORS, LEARNED
from ed2rec.errors import ConfigError
from ed2rec.settings import Settings

__all__ = [
    "MODELS", "Settings", "as_preset", "changed", "check_model", "differences", "explain", "for_model", "keys_set",
    "nearest", "preset_names", "presets", "resolve", "what_is_read",
]  # fmt: skip

PRESETS = Path(__file__).parent / "presets"
MODELS = ("ed2", *LEARNED, *FLOORS)
OF_MACHINES = ("device", "bf16", "compile", "report_to", "cache")


def resolve(
    preset: str | Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    file: Path | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Settings:
    """Merge the sources, later ones winning, and validate.

    preset: names in `presets()`, the later on top of the earlier ("small", "small,wo-user" or a list of them); None for
    the plain defaults. overrides: "group.key=value", the value read as YAML; a key without its group ("epochs") is
    looked for in the groups of the model. file: YAML with the same groups. extra: dotted keys that command-line options
    of their own stand for ("seed"). Raises ConfigError with one line: the source, the key and what is allowed.
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    sources = [source for name in preset_names(preset) for source in _preset_chain(name)]
    if file is not None:
        sources.append((str(file), _read(file)))
    sources += [(f"--set {text}", _parse_override(text)) for text in overrides]
    sources += [(f"--{key}", _nested(key, value)) for key, value in (extra or {}).items()]
    model = str(next((tree["model"] for _, tree in reversed(sources) if "model" in tree), Settings().model))
    for source, tree in sources:
        for key, value in _leaves(tree):
            key = _with_group(key, model, source)
            if _check_key(key, value, source, model):
                origin[key] = source
                _put(values, key, value)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_describe(error, origin)) from None


def groups_of(model: str) -> list[str]:
    """The groups of settings that a model reads: a baseline its own and, where it is trained, `baseline`; ed2 the
    others."""
    groups = [name for name, field in Settings.model_fields.items() if isinstance(field.default, BaseModel)]
    if model in (*FLOORS, *LEARNED):
        return [name for name in groups if name == model or (name == "baseline" and model in LEARNED)]
    return [name for name in groups if name not in ("baseline", *FLOORS, *LEARNED)]


def what_is_read(settings: Settings) -> dict[str, Any]:
    """All that decides what the run becomes, in JSON's types: what is in no group, and the groups that its model reads.
    A setting that another model gained changes nothing."""
    groups = groups_of(settings.model)
    whole = settings.model_dump(mode="json")
    return {name: value for name, value in whole.items() if name in groups or not isinstance(value, dict)}


def for_model(
    model: str | None,
    preset: str | Sequence[str] | None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
) -> list[str]:
    """The presets of a training whose user asked for `model`, by that or by an override, or gave a file that names one:
    a learned baseline's own comes first.

    ConfigError for a preset, an override or a file that is another model's, for an override that a baseline would not
    read, and for a preset of which the file leaves nothing. (`resolve` takes those: a driver may set the same for
    several models, and a run's file holds the settings of all.) An override `model=` stands above a file, as any other
    does.
    """
    given = preset_names(preset)
    own = {name: differences(name) for name in given}
    named = [(name, str(values["model"])) for name, values in own.items() if "model" in values]
    written = _read(file) if file is not None else {}
    in_file = written.get("model")
    in_set = next((tree["model"] for tree in map(_parse_override, reversed(overrides)) if "model" in tree), None)
    if model and in_set and in_set != model:
        raise ConfigError(f"--set model={in_set} is another model than --model {model}: leave one of the two out")
    if model and not in_set and in_file not in (None, model):
        check_model(model)
        raise ConfigError(f"{file} is for {in_file}, not for {model}: leave one of the two out (--set model={model} "
                          f"beside or in place of --model takes what {file} sets otherwise)")  # fmt: skip
    wanted = str(model or in_set or in_file or (named[-1][1] if named else "ed2"))
    check_model(wanted)
    check_presets(given, wanted)
    _check_left_over(own, written, str(file), wanted)
    for text in overrides if wanted in (*FLOORS, *LEARNED) else ():
        key, known = text.partition("=")[0].strip(), [name for name, _ in _fields(Settings)]
        if key in known and not _reads(wanted, key):
            closest = nearest(key, [name for name in known if _reads(wanted, name)])
            raise ConfigError(f"--set {text}: {wanted} does not read {key}{closest}")
    if wanted not in (*FLOORS, *LEARNED):
        return given
    for name, values in own.items():
        if other := [key for key in values if not _reads(wanted, key)]:
            raise ConfigError(f"preset {name} sets {other[0]}, which {wanted} does not have: leave the preset out")
    return [wanted, *given] if wanted in LEARNED else given


def check_presets(names: Sequence[str], model: str) -> None:
    """ConfigError where one of the presets is another model's."""
    for name in names:
        if (of := differences(name).get("model", model)) != model:
            raise ConfigError(f"preset {name} is for {of}, not for {model}: leave one of the two out")


def _check_left_over(given: Mapping[str, Mapping[str, Any]], tree: Mapping[str, Any], file: str, model: str) -> None:
    """ConfigError for a preset (name → what it sets) that the tree of a file, which stands above it, undoes altogether,
    as the config of a run does, which has every key."""
    written = {_with_group(key, model, file): value for key, value in _leaves(tree)}
    for name, values in given.items():
        undone = [key for key, value in values.items() if key in written and written[key] != value]
        if undone and values.keys() <= written.keys():
            raise ConfigError(f"--preset {name} would change nothing: {file} stands above it and has {undone[0]} = "
                              f"{written[undone[0]]!r}; leave one of the two out, or set what the preset sets by --set"
                              )  # fmt: skip


def check_model(model: str) -> None:
    """ConfigError for a name that is no model's."""
    if model not in MODELS:
        raise ConfigError(f"no model {model!r}{nearest(model, MODELS)}; there are: {', '.join(MODELS)}")


def presets() -> list[str]:
    """Names of the presets that ship with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset_names(given: str | Sequence[str] | None) -> list[str]:
    """ "a,b", ["a,b"] or ["a", "b"] → ["a", "b"]."""
    texts = [given] if isinstance(given, str) else given or []
    return [name.strip() for text in texts for name in text.split(",")]


def differences(preset: str) -> dict[str, Any]:
    """Dotted key → value of everything that the preset, with those it extends, sets."""
    return {key: value for _, tree in _preset_chain(preset) for key, value in _leaves(tree)}


def keys_set(overrides: Sequence[str], model: str) -> set[str]:
    """Dotted keys of the settings that `--set` texts name, those without their group too."""
    return {_with_group(key, model, f"--set {text}") for text in overrides for key, _ in _leaves(_parse_override(text))}


def changed(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with other values at dotted keys. ConfigError where a value is out of range."""
    tree = settings.model_dump()
    for key, value in values.items():
        _put(tree, key, value)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_describe(error, {})) from None


def as_preset(settings: Settings, also: Iterable[str] = ()) -> str:
    """YAML of a preset: the model, all that differs from the defaults, what its own preset names, the keys in `also`.

    Neither the seed nor what belongs to a machine (devices, trackers, caches). Read as a file or on top of the model's
    own preset, it comes to the same settings.
    """
    also = {*also, *(differences(settings.model) if settings.model in presets() else ())}
    default = dict(_leaves(Settings().model_dump(mode="json")))
    tree: dict[str, Any] = {"model": settings.model}
    for key, value in _leaves(what_is_read(settings)):
        kept = key != "seed" and key.rpartition(".")[2] not in OF_MACHINES
        if kept and (key in also or value != default[key]):
            _put(tree, key, value)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def explain() -> Iterator[tuple[str, str, str]]:
    """(dotted key, default, meaning) of every setting, in the order of the file: the table in the docs."""
    for key, field in _fields(Settings):
        default = yaml.safe_dump(_plain(field.default), default_flow_style=True).removesuffix("\n").removesuffix("...")
        yield key, default.strip(), " ".join((field.description or "").split())


def _preset_chain(name: str, seen: tuple[str, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    """The preset and those it extends, the most basic first."""
    path = PRESETS / f"{name}.yaml"
    if name not in presets():
        raise ConfigError(f"no preset {name!r}{nearest(name, presets())}; there are: {', '.join(presets())}")
    if name in seen:
        raise ConfigError(f"preset {' → '.join([*seen, name])} extends itself: remove one `extends:`")
    tree = _read(path)
    base = tree.pop("extends", None)
    return [*(_preset_chain(str(base), (*seen, name)) if base else []), (f"preset {name}", tree)]


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read settings from {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{path} must hold groups of settings (key: value), not a {type(tree).__name__}")
    return tree or {}


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: write group.key=value, for example --set training.epochs=3")
    try:
        return _nested(key.strip(), yaml.safe_load(value))
    except yaml.YAMLError:
        raise ConfigError(
            f"--set {text}: {value!r} is not a YAML value; quote it, or write 3, 1e-4 or [a, b]"
        ) from None


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *groups, name = key.split(".")
    for group in groups:
        values = values.setdefault(group, {})
    values[name] = value


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _reads(model: str, key: str) -> bool:
    """Whether a setting, known or not, stands in a group of the model or in none."""
    return "." not in key or key.split(".")[0] in groups_of(model)


def _with_group(key: str, model: str, source: str) -> str:
    """ "epochs" → "baseline.epochs" for a baseline, "training.epochs" for ed2: where one group of the model has it.
    ConfigError where several have."""
    if "." in key or key in Settings.model_fields:
        return key
    known = dict(_fields(Settings))
    found = [full for group in groups_of(model) if (full := f"{group}.{key}") in known]
    if len(found) > 1:
        raise ConfigError(f"{source}: {key!r} may be {' or '.join(found)}: write one of them")
    return found[0] if found else key


def _check_key(key: str, value: Any, source: str, model: str) -> bool:
    """Whether the key takes a value; False for a group that is left empty, ConfigError for anything unknown, with the
    nearest that the model reads."""
    known = [name for name, _ in _fields(Settings)]
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside and value not in (None, {}):
        raise ConfigError(f"{source}: {key!r} is a group: set one of its values, for example {inside[0]}")
    if not inside and key not in known:
        own = [name for name in known if _reads(model, name)]
        other = f"; {model} reads {', '.join(own)}" if model in FLOORS else nearest(key, known)  # a few: all of them
        raise ConfigError(f"{source}: unknown setting {key!r}{nearest(key, own) or other}")
    return not inside


def plain(name: str) -> str:
    """A printed name as the command line spells it: "S3-Rec" is s3rec, "ED²" ed2."""
    return "".join(filter(str.isalnum, name.replace("²", "2"))).lower()


def nearest(given: str, known: Sequence[str]) -> str:
    """ "; the nearest is …", or nothing where none is near."""
    if same := [name for name in known if plain(name) == plain(given)]:
        return f"; the nearest is {same[0]!r}"
    # A key typed without its group ("epochs") is compared with the last parts as well.
    tails = {name.rpartition(".")[2]: name for name in reversed(known)}
    close = difflib.get_close_matches(given, known, n=1) or [
        tails[tail] for tail in difflib.get_close_matches(given.rpartition(".")[2], list(tails), n=1)
    ]
    return f"; the nearest is {close[0]!r}" if close else ""


def _describe(error: ValidationError, origin: Mapping[str, str]) -> str:
    """The first mistake as one line: where, what was given, what is allowed."""
    first = error.errors()[0]
    key = _key_of(first["loc"])
    of_key = [mistake for mistake in error.errors() if _key_of(mistake["loc"]) == key]
    allowed = " or ".join(dict.fromkeys(str(mistake["msg"]).removeprefix("Input should be ") for mistake in of_key))
    allowed = allowed.replace("a valid tuple", "a list, such as [a, b]")
    others = {_key_of(mistake["loc"]) for mistake in error.errors()} - {key}
    more = f" (also wrong: {', '.join(sorted(others))})" if others else ""
    return f"{origin.get(key, 'settings')}: {key} = {first['input']!r}, allowed: {_range(key) or allowed}{more}"


def _key_of(location: Sequence[int | str]) -> str:
    """The setting that a pydantic location points into: it goes on below the field for unions and sequences."""
    known = {name for name, _ in _fields(Settings)}
    path = [str(part) for part in location]
    return next((".".join(path[:n]) for n in range(len(path), 0, -1) if ".".join(path[:n]) in known), ".".join(path))


def _range(key: str) -> str:
    """ "a number >= 0 and < 1", from the limits of the field; "" where it has none."""
    field = dict(_fields(Settings)).get(key)
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = [f"{signs[name]} {value:g}" for rule in (field.metadata if field else ())
              for name in signs if (value := getattr(rule, name, None)) is not None]  # fmt: skip
    whole = field is not None and field.annotation in (int, int | None)
    return f"{'a whole number' if whole else 'a number'} {' and '.join(limits)}" if limits else ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
