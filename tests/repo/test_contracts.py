"""The import contracts of pyproject.toml cover the modules that exist.

A module in a folder of cores is pure unless it is named here as a shell: a new core cannot be
forgotten, and a new shell is a line that somebody wrote and somebody reads.
"""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]

# Folder of cores, to the modules in it that do I/O, wait, or compose what does.
SHELLS = {
    "bokilog": {"__init__", "pytest_plugin", "sync"},
    "bokilog/sequencer": {
        *("__init__", "__main__", "node", "own_disk", "settings"),
        *("brought", "ceilings", "member_node"),
    },
    "bokilog/storage_nodes": {
        *("__init__", "__main__", "node", "settings"),
        *("checkpoints", "cold_store", "index_store", "memory_store", "rocks_store"),
    },
    "bokilog/functions/engine": {"__init__", "__main__", "node", "process_settings", "settings"},
    "bokilog/functions": {"__init__", "__main__", "books", "host_metrics", "node", "replay"},
    "bokilog/functions/calls": {
        *("__init__", "call", "finding", "node", "running", "spawning", "yielded"),
    },
    "bokilog/functions/gateway": {
        *("__init__", "calls", "events", "log_api", "problems", "requests", "server", "settings"),
    },
    "bokilog/functions/runtime": {
        *("__init__", "options", "runner"),
        # The user's side and the worker's: they wait, run the user's code, or stand upon what does.
        *("app", "caller", "context", "function", "loading", "local", "output"),
        *("generator_thread", "outside", "process_caller", "references", "rehearsal", "run_call"),
        *("spare", "streaming", "template", "tracing", "values", "worker"),
        *("durable", "forked", "outgoing", "signature"),
        # The host's side, without its core.
        *("connections", "host", "membership", "neighbours", "process_settings", "processes"),
        *("local_calls", "settings", "shown", "worker_watch"),
    },
    "bokilog/client": {
        *("__init__", "admin", "codecs", "connect", "follow", "logbook", "node", "opening", "sync"),
        *("changes", "living", "reads", "routing"),
    },
}


def contract(name: str) -> dict[str, list[str]]:
    (found,) = [each for each in CONTRACTS if each["name"].startswith(name)]
    return dict(found)


def cores(folder: str) -> set[str]:
    modules = {file.stem for file in (ROOT / folder).glob("*.py")} - SHELLS[folder]
    return {f"{folder.replace('/', '.')}.{module}" for module in modules}


@pytest.mark.parametrize("folder", sorted(SHELLS))
def test_every_core_is_under_the_contract_of_purity(folder: str) -> None:
    listed = contract("Cores reach no I/O")["source_modules"]
    package = folder.replace("/", ".")
    assert cores(folder) == {name for name in listed if name.rpartition(".")[0] == package}, (
        "name the module in the purity contract of pyproject.toml, or as a shell in this file"
    )


def test_the_contract_of_purity_covers_no_other_folder() -> None:
    listed = contract("Cores reach no I/O")["source_modules"]
    assert set(listed) == set().union(*map(cores, SHELLS))
    assert sorted(listed) == listed


@pytest.mark.parametrize(
    ("library", "sites"),
    [
        ("msgpack", ["bokilog.codec"]),
        ("rocksdict", ["bokilog.storage_nodes.rocks_store"]),
        # The second is the bare server that the gateway is measured against.
        ("aiohttp", ["bokilog.functions.gateway.*", "bokilog.bench.bare_http"]),
        ("aetcd", ["bokilog.io.etcd_views"]),
        ("obstore", ["bokilog.io.object_store"]),
        ("cronsim", ["bokilog.functions.calls.schedules"]),
    ],
)
def test_a_library_has_one_import_site(library: str, sites: list[str]) -> None:
    ignored = [f"{site} -> {library}" for site in sites]
    assert contract(f"One import site for {library}")["ignore_imports"] == ignored
