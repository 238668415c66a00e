"""A totally ordered, tagged, durable log shared by functions.

Begin with `help(bokilog.open)` and `help(bokilog.connect)`; `help(bokilog.LogBook)` has the calls
on records, `help(bokilog.Log)` those on LogBooks, `help(bokilog.App)` functions, and `dir(bokilog)`
all names, the errors among them. `bokilog.sync` is the same without an event loop.

Decides only what is public at the top level and where it lives. Every name is imported when it is
first used (PEP 562), so `import bokilog` costs no event loop, no codec and no storage engine, and
makes no import cycle. The list of them stands here twice, for programs and for type checkers, which
run no code; tests/repo/test_public_names.py holds the two together. Knows nothing of what they do.
"""

from importlib import import_module

__version__ = "0.1.0"

TYPE_CHECKING = False  # as typing has it; importing typing would cost more than all of this file
if TYPE_CHECKING:
    from bokilog.call_errors import (
        AppFailed as AppFailed,
        CallCancelled as CallCancelled,
        CallTimeout as CallTimeout,
        CallTooDeep as CallTooDeep,
        FunctionFailed as FunctionFailed,
        InvalidArguments as InvalidArguments,
        ResultUnusable as ResultUnusable,
        UnknownCall as UnknownCall,
        UnknownFunction as UnknownFunction,
        WorkerLost as WorkerLost,
    )
    from bokilog.client.admin import ClientLog as ClientLog
    from bokilog.client.connect import connect as connect
    from bokilog.client.logbook import ClientLogBook as ClientLogBook
    from bokilog.errors import (
        AppendUnknown as AppendUnknown,
        BackupUnusable as BackupUnusable,
        BokilogError as BokilogError,
        Closed as Closed,
        ConditionFailed as ConditionFailed,
        CorruptJournal as CorruptJournal,
        CorruptRecord as CorruptRecord,
        DataError as DataError,
        DataLost as DataLost,
        DecodeError as DecodeError,
        DirectoryInUse as DirectoryInUse,
        FormatTooNew as FormatTooNew,
        HistoryChanged as HistoryChanged,
        InvalidCondition as InvalidCondition,
        InvalidData as InvalidData,
        InvalidKey as InvalidKey,
        InvalidName as InvalidName,
        InvalidRange as InvalidRange,
        InvalidSettings as InvalidSettings,
        InvalidTag as InvalidTag,
        InvalidToken as InvalidToken,
        InvalidUnit as InvalidUnit,
        KeyReused as KeyReused,
        LocalProtocolError as LocalProtocolError,
        LogBookConflict as LogBookConflict,
        NodeUnreachable as NodeUnreachable,
        NotPrimary as NotPrimary,
        NotReady as NotReady,
        NotSupported as NotSupported,
        Overloaded as Overloaded,
        ReadOnly as ReadOnly,
        ReadTimeout as ReadTimeout,
        RecordTooLarge as RecordTooLarge,
        RemoteProtocolError as RemoteProtocolError,
        Sealed as Sealed,
        TagsEnded as TagsEnded,
        TooManyConditions as TooManyConditions,
        TooManyTags as TooManyTags,
        Trimmed as Trimmed,
        UnavailableError as UnavailableError,
        UnitMalformed as UnitMalformed,
        UnitTooLarge as UnitTooLarge,
        UnknownLogBook as UnknownLogBook,
        UsageError as UsageError,
        WrongLoop as WrongLoop,
        WrongTerm as WrongTerm,
    )
    from bokilog.functions.calls.call import Call as Call
    from bokilog.functions.runtime.app import App as App
    from bokilog.functions.runtime.context import Context as Context
    from bokilog.logbook import (
        Log as Log,
        LogBook as LogBook,
        Session as Session,
    )
    from bokilog.record import (
        CaughtUp as CaughtUp,
        Entry as Entry,
        Page as Page,
        Record as Record,
        Trim as Trim,
    )
    from bokilog.shapes.embedded import open as open

_HOME = {
    "AppFailed": "bokilog.call_errors",
    "CallCancelled": "bokilog.call_errors",
    "CallTimeout": "bokilog.call_errors",
    "CallTooDeep": "bokilog.call_errors",
    "FunctionFailed": "bokilog.call_errors",
    "InvalidArguments": "bokilog.call_errors",
    "ResultUnusable": "bokilog.call_errors",
    "UnknownCall": "bokilog.call_errors",
    "UnknownFunction": "bokilog.call_errors",
    "WorkerLost": "bokilog.call_errors",
    "ClientLog": "bokilog.client.admin",
    "connect": "bokilog.client.connect",
    "ClientLogBook": "bokilog.client.logbook",
    "AppendUnknown": "bokilog.errors",
    "BackupUnusable": "bokilog.errors",
    "BokilogError": "bokilog.errors",
    "Closed": "bokilog.errors",
    "ConditionFailed": "bokilog.errors",
    "CorruptJournal": "bokilog.errors",
    "CorruptRecord": "bokilog.errors",
    "DataError": "bokilog.errors",
    "DataLost": "bokilog.errors",
    "DecodeError": "bokilog.errors",
    "DirectoryInUse": "bokilog.errors",
    "FormatTooNew": "bokilog.errors",
    "HistoryChanged": "bokilog.errors",
    "InvalidCondition": "bokilog.errors",
    "InvalidData": "bokilog.errors",
    "InvalidKey": "bokilog.errors",
    "InvalidName": "bokilog.errors",
    "InvalidRange": "bokilog.errors",
    "InvalidSettings": "bokilog.errors",
    "InvalidTag": "bokilog.errors",
    "InvalidToken": "bokilog.errors",
    "InvalidUnit": "bokilog.errors",
    "KeyReused": "bokilog.errors",
    "LocalProtocolError": "bokilog.errors",
    "LogBookConflict": "bokilog.errors",
    "NodeUnreachable": "bokilog.errors",
    "NotPrimary": "bokilog.errors",
    "NotReady": "bokilog.errors",
    "NotSupported": "bokilog.errors",
    "Overloaded": "bokilog.errors",
    "ReadOnly": "bokilog.errors",
    "ReadTimeout": "bokilog.errors",
    "RecordTooLarge": "bokilog.errors",
    "RemoteProtocolError": "bokilog.errors",
    "Sealed": "bokilog.errors",
    "TagsEnded": "bokilog.errors",
    "TooManyConditions": "bokilog.errors",
    "TooManyTags": "bokilog.errors",
    "Trimmed": "bokilog.errors",
    "UnavailableError": "bokilog.errors",
    "UnitMalformed": "bokilog.errors",
    "UnitTooLarge": "bokilog.errors",
    "UnknownLogBook": "bokilog.errors",
    "UsageError": "bokilog.errors",
    "WrongLoop": "bokilog.errors",
    "WrongTerm": "bokilog.errors",
    "Call": "bokilog.functions.calls.call",
    "App": "bokilog.functions.runtime.app",
    "Context": "bokilog.functions.runtime.context",
    "Log": "bokilog.logbook",
    "LogBook": "bokilog.logbook",
    "Session": "bokilog.logbook",
    "CaughtUp": "bokilog.record",
    "Entry": "bokilog.record",
    "Page": "bokilog.record",
    "Record": "bokilog.record",
    "Trim": "bokilog.record",
    "open": "bokilog.shapes.embedded",
}

_LINKED = ("client", "functions", "sequencer", "storage_nodes")


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if name == "sync":
        return import_module("bokilog.sync")
    if home is None:
        raise AttributeError(f"module 'bokilog' has no attribute {name!r}")
    try:
        value: object = getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        if error.name in {f"bokilog.{folder}" for folder in _LINKED}:
            # A ZIP of the repository, or a checkout without symbolic links.
            raise ImportError(
                f"{error.name} is missing: in this copy of the repository the symbolic links "
                f"bokilog/{{{','.join(_LINKED)}}} were lost; clone it with git, or install a wheel"
            ) from error
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
