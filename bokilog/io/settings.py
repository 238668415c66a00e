"""From a TOML file, the environment and explicit values to one frozen dataclass of settings.

Decides where a setting may come from and which source wins. Later ones win:

    [cluster]            what all processes of a cluster share (`ClusterSettings`); a node takes
                         from it what it has a field for
    [sequencer]          and so on: one section per kind of process
    [nodes.NAME]         one process
    environment          BOKILOG_<SECTION>_<FIELD>, as in BOKILOG_STORAGE_SYNC=none
    explicit             what the caller says, such as `--set FIELD=VALUE`

Invariants: an unknown key is an error that names the nearest known one, wherever it stands; a value
has its field's type, or is refused by name; nothing here is kept: settings are read once, at the
start of a process, and are passed down. Relative paths in a file are relative to the file.

A field that is itself a dataclass of settings (those of a core inside those of its process) has no
table of its own: its fields are read as if they stood beside it. Ranges are the dataclass's own,
checked where it is made. Does not know any node's settings.
"""

from __future__ import annotations

import re
import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Final,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from bokilog.errors import InvalidSettings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")
SyncName = Literal["fdatasync", "none"]

ENVIRONMENT_PREFIX: Final = "BOKILOG"
NODES: Final = "nodes"
# The sections that a file may have; whoever adds a kind of process adds its own.
SECTIONS: Final = ("cluster", "sequencer", "storage", "engine", "host")
PORT_MAX: Final = 65_535
_SIZES: Final = {"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_SIZE = re.compile(r"(\d+)\s*([a-z]+)", re.IGNORECASE)
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_FORMS: Final = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """What the processes of one cluster on one machine share."""

    views_dir: Path = Path("views")
    """The view store (`io/file_views.py`)."""
    views_url: str = ""
    """The view store in etcd (`io/etcd_views.py`) instead: `etcd://HOST:PORT[,HOST:PORT...][/PREFIX]`,
    with a prefix of its own for each cluster; fixed at the first start."""
    run_dir: Path = Path("run")
    """Sockets, and a file per process that says that it is ready."""
    logs_dir: Path | None = None
    """Where processes write their logs; None: to standard error."""
    log_bytes_max: int = 16 << 20
    """A log file is rotated at this size: what an editor still opens."""
    log_files_count: int = 4
    """Log files kept per process, the current one included."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Nothing is logged per record at any level."""
    stop_timeout_s: float = 10.0
    """How long a process may take to stop in order before it gives up: it has nothing to lose but
    time, since what is acknowledged is safe already."""
    storage_nodes: int = 3
    """Three hold every record, so that one may be gone for good; further ones are spares."""
    sequencers: int = 1
    """With three, one may fail, and another one goes on; there may be more, or fewer, later."""
    function_nodes: int = 2
    """One per core of a small machine."""
    port: int = 7300
    """The first engine listens here, the next ones on the ports that follow."""
    sync: SyncName = "fdatasync"
    """What makes a `sync` LogBook durable; `none` (the operating system's memory is enough) is for
    tests and for measuring what syncs cost."""
    sync_delay_ms: float = 0.0
    """Added to every sync: measures how the cluster would do on a slower disk."""
    app: str = ""
    """What each function node runs functions of, as `module:app`; empty: there are only engines."""
    app_dir: str = ""
    """The folder that the app is imported from."""
    http_port: int = 7380
    """The first host's HTTP gateway listens here, the next ones on the ports that follow."""
    metrics_port: int = 0
    """Sequencers, storage nodes and engines serve their metrics from this port on, one each; hosts
    have theirs at their gateway. 0: nowhere."""

    def __post_init__(self) -> None:
        check_setting("log_bytes_max", self.log_bytes_max, least=4 << 10)
        check_setting("log_files_count", self.log_files_count, least=1, most=100)
        check_setting("stop_timeout_s", self.stop_timeout_s, least=0.1, most=600)
        check_setting("storage_nodes", self.storage_nodes, least=1, most=64)
        check_setting("sequencers", self.sequencers, least=1, most=7)
        check_setting("function_nodes", self.function_nodes, least=1, most=64)
        check_setting("port", self.port, least=1, most=PORT_MAX + 1 - self.function_nodes)
        check_setting("sync_delay_ms", self.sync_delay_ms, least=0, most=10_000)
        check_setting("metrics_port", self.metrics_port, least=0, most=PORT_MAX - 256)
        check_setting("http_port", self.http_port, least=1, most=PORT_MAX + 1 - self.function_nodes)


def check_setting(
    name: str, value: float, *, least: float, most: float | None = None, why: str = ""
) -> None:
    """Refuse a number outside `[least, most]`, naming it and the range; NaN is in no range."""
    if value >= least and (most is None or value <= most):
        return
    wanted = f"is not at least {least}" if most is None else f"is outside {least}..{most}"
    raise InvalidSettings(name, str(value), f"{wanted}{': ' if why else ''}{why}")


def check_app(app: str) -> None:
    """Refuse what names no app."""
    if not app.isprintable():
        raise InvalidSettings("app", repr(app), "holds what cannot be printed, or is not UTF-8")
    if not all(app.rpartition(":")[::2]):
        raise InvalidSettings("app", repr(app), "is not MODULE:NAME, as in shop:app")


def read_settings(
    kind: type[S],
    *,
    section: str,
    node: str | None = None,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    explicit: Mapping[str, object] | None = None,
) -> S:
    """The settings of one process.

    Args:
        kind: a frozen dataclass; fields of it called `node_id` get `node`.
        section: its section in the file and in the environment.
        node: the process's own table under `[nodes]`, which must say `role = "<section>"`.
        file: a TOML file, or None.
        environment: usually `os.environ`; None: no variables.
        explicit: field to value; texts are read like those of the environment.

    Raises:
        InvalidSettings: an unknown key, a value of another type or out of range, a missing value,
            an unknown node, or a file that cannot be read.
    """
    tables = _Tables(kind, section=section, file=file)
    values: dict[str, object] = {}
    if node is not None and "node_id" in tables.hints:
        values["node_id"] = node
    if file is not None:
        document = _load(file)
        values |= tables.shared(document)
        values |= tables.own(document.get(section, {}), place=f"[{section}] of {file}")
        if node is not None:
            values |= tables.node(document, node)
    for place, shared in (("cluster", True), (section, False)):
        values |= tables.environment(environment or {}, place=place, shared=shared)
    values |= tables.own(explicit or {}, place="the explicit settings", texts=True)
    return _make(kind, values, source="the environment" if file is None else str(file))


def nodes_in(file: Path) -> dict[str, str]:
    """The processes of a file: name to role, in the file's order.

    Raises as `read_settings`.
    """
    return {name: str(table.get("role")) for name, table in _node_tables(_load(file)).items()}


# --- pieces ---------------------------------------------------------------------------------------


class _Tables:
    """Reads tables of a file, or variables, against the fields of one dataclass."""

    def __init__(self, kind: type[object], *, section: str, file: Path | None) -> None:
        self.section = section
        self.file = file
        self.hints = _hints(kind)
        self.shared_hints = _hints(ClusterSettings)

    def own(
        self, table: object, *, place: str, texts: bool = False, skip: tuple[str, ...] = ()
    ) -> dict[str, object]:
        """The values of one table, each key of which must be a field."""
        if not isinstance(table, Mapping):
            raise InvalidSettings(place, repr(table), "is not a table of settings")
        return {
            key: self._value(key, value, hint=_known(key, self.hints, place=place), texts=texts)
            for key, value in table.items()
            if key not in skip
        }

    def shared(self, document: Mapping[str, object]) -> dict[str, object]:
        """What `[cluster]` says of this dataclass's fields; all its keys must be known ones."""
        table = document.get("cluster", {})
        place = f"[cluster] of {self.file}"
        if not isinstance(table, Mapping):
            raise InvalidSettings(place, repr(table), "is not a table of settings")
        for key in table:
            _known(key, self.shared_hints, place=place)
        ours = {key: value for key, value in table.items() if key in self.hints}
        return self.own(ours, place=place)

    def node(self, document: Mapping[str, object], node: str) -> dict[str, object]:
        """The values of `[nodes.NODE]`."""
        tables = _node_tables(document)
        table = tables.get(node)
        if table is None:
            known = ", ".join(tables) or "none"
            raise InvalidSettings("node", repr(node), f"is not in {self.file}: it has {known}")
        role = table.get("role")
        if role != self.section:
            problem = f"has the role {role!r} in {self.file}, not {self.section!r}"
            raise InvalidSettings("node", repr(node), problem)
        return self.own(table, place=f"[nodes.{node}] of {self.file}", skip=("role",))

    def environment(
        self, environment: Mapping[str, str], *, place: str, shared: bool
    ) -> dict[str, object]:
        """The values of the variables of one section."""
        prefix = f"{ENVIRONMENT_PREFIX}_{place.upper()}_"
        hints = self.shared_hints if shared else self.hints
        found: dict[str, object] = {}
        for variable, text in environment.items():
            if variable.startswith(prefix):
                key = variable.removeprefix(prefix).lower()
                hint = _known(key, hints, place="the environment", shown=prefix)
                if key in self.hints:
                    found[key] = self._value(key, text, hint=hint, texts=True)
        return found

    def _value(self, key: str, value: object, *, hint: object, texts: bool) -> object:
        made = _typed(key, value, hint=hint, texts=texts)
        if isinstance(made, Path) and self.file is not None:
            return self.file.absolute().parent / made.expanduser()
        return made


def _hints(kind: type[object]) -> dict[str, object]:
    """The settings of a dataclass and of those inside it: name to type."""
    found: dict[str, object] = {}
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and is_dataclass(hint):
            found |= _hints(hint)
        else:
            found[name] = hint
    return found


def _make(kind: type[S], values: Mapping[str, object], *, source: str) -> S:
    own: dict[str, object] = {}
    hints = get_type_hints(kind)
    for each in fields(kind):
        hint = hints[each.name]
        if isinstance(hint, type) and is_dataclass(hint):
            own[each.name] = _make(hint, values, source=source)
        elif each.name in values:
            own[each.name] = values[each.name]
        elif each.default is MISSING and each.default_factory is MISSING:
            raise InvalidSettings(each.name, "(nothing)", f"has no default: set it in {source}")
    return kind(**own)


def _known(key: str, hints: Mapping[str, object], *, place: str, shown: str = "") -> object:
    if key in hints:
        return hints[key]
    near = get_close_matches(key, hints, n=1, cutoff=0.5)
    shown_key = shown + (key.upper() if shown else key)
    nearest = [shown + (name.upper() if shown else name) for name in near]
    advice = f"did you mean {nearest[0]}?" if near else f"known are {', '.join(sorted(hints))}"
    raise InvalidSettings("setting", shown_key, f"is unknown (in {place}): {advice}")


def _typed(key: str, value: object, *, hint: object, texts: bool) -> object:
    """The value as its field's type has it, from TOML or, with `texts`, from text as well."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None or (value == "" and texts):
            return None
        (hint,) = (each for each in choices if each is not type(None))
        return _typed(key, value, hint=hint, texts=texts)
    if origin is Literal:
        if value in choices:
            return value
        raise InvalidSettings(key, repr(value), f"is none of {', '.join(map(str, choices))}")
    if origin is tuple:
        return _several(key, value, hint=choices[0], texts=texts)
    if hint is Path and isinstance(value, (str, Path)) and str(value):
        return Path(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(value, str):
        found = _from_text(key, value, hint=hint, texts=texts)
        if found is not None:
            return found
    wanted = next((form for kind, form in _FORMS.items() if kind is hint), "of its type")
    raise InvalidSettings(key, repr(value), f"is not {wanted}")


def _several(key: str, value: object, *, hint: object, texts: bool) -> tuple[object, ...]:
    if isinstance(value, str) and texts:
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)):
        raise InvalidSettings(key, repr(value), "is not a list")
    return tuple(_typed(key, item, hint=hint, texts=texts) for item in value)


def _from_text(key: str, text: str, *, hint: object, texts: bool) -> int | float | None:
    """A number or truth written as text; sizes such as "256 MiB" may be text in a file, too."""
    if hint is int and key.endswith(("_bytes", "_bytes_max")):
        match = _SIZE.fullmatch(text.strip())
        factor = _SIZES.get(match[2].lower()) if match else None
        if match and factor:
            return int(match[1]) * factor
    if not texts:
        return None
    try:
        if hint is bool and text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        if hint is int:
            return int(text)
        if hint is float:
            return float(text)
    except ValueError:
        pass
    return None


def _load(file: Path) -> dict[str, object]:
    try:
        document: dict[str, object] = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSettings("settings", str(file), f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InvalidSettings("settings", str(file), f"is no TOML: {error}") from None
    known = dict.fromkeys((*SECTIONS, NODES), object)
    for section in document:
        _known(section, known, place=str(file))
    return document


def _node_tables(document: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    tables = document.get(NODES, {})
    if not isinstance(tables, Mapping):
        raise InvalidSettings(NODES, repr(tables), "is not a table of nodes")
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise InvalidSettings(f"{NODES}.{name}", repr(table), "is not a table of settings")
    return dict(tables)
