from bokilog.storage_nodes.sweeps import Sweeps


def test_a_paused_sweep_goes_on_where_it_was() -> None:
    sweeps: Sweeps[str] = Sweeps()
    sweeps.add("a", 5)
    sweeps.add("b", 7)
    assert sweeps.current() == ("a", 5, b"")
    sweeps.pause("a", b"key")
    sweeps.add("a", 9)
    sweeps.add("a", 3)
    assert sweeps.current() == ("a", 9, b"key")
    sweeps.finish("a")
    assert sweeps.current() == ("b", 7, b"")
    sweeps.finish("b")
    assert sweeps.current() is None


def test_a_cursor_is_not_handed_to_another_sweep() -> None:
    sweeps: Sweeps[str] = Sweeps()
    sweeps.add("a", 5)
    sweeps.add("b", 7)
    sweeps.forget(["a"])  # deleted while its sweep was in hand
    sweeps.pause("a", b"key")
    assert sweeps.current() == ("b", 7, b"")
    assert (list(sweeps), len(sweeps)) == (["b"], 1)
